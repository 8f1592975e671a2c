"""Training pairs that `reproduce_tables.py` draws once and uses for every variant."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

from modeling_pjvlt.files_pjvlt import replacing

PAIRS_IN_FILE = 320
TENSORS = ("pixel_values", "template_pixel_values", "brightness", "labels")


class DrawnOnce(Dataset):
    """The samples of `pairs`, drawn when they are first needed, and read from `folder` afterwards.

    All variants of a seed use the same pairs, and drawing a pair takes longer than training on it.
    """

    def __init__(self, pairs: Dataset, folder: Path):
        self.pairs, self.folder = pairs, folder
        self._held: tuple[Path, list[dict]] | None = None  # the last file that was read, and its samples

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        first = index // PAIRS_IN_FILE * PAIRS_IN_FILE
        indices = range(first, min(first + PAIRS_IN_FILE, len(self)))
        path = self.folder / f"{indices.start}-{indices.stop}.safetensors"
        if self._held is None or self._held[0] != path:
            if not path.exists():
                self._draw(path, indices)
            self._held = path, self._read(path)
        return self._held[1][index - first]

    def _draw(self, path: Path, indices: range) -> None:
        samples = [self.pairs[index] for index in indices]
        tensors = {name: torch.stack([sample[name] for sample in samples]) for name in TENSORS}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file(tensors, partial, {"text": json.dumps([sample["text"] for sample in samples])})

    @staticmethod
    def _read(path: Path) -> list[dict]:
        with safe_open(path, "pt") as file:
            columns = [file.get_tensor(name) for name in TENSORS]
            texts = json.loads(file.metadata()["text"])
        return [
            {**dict(zip(TENSORS, values, strict=True)), "text": text}
            for *values, text in zip(*columns, texts, strict=True)
        ]
