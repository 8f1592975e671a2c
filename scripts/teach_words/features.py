"""Maps of the stem, computed once and kept on disk, so that a step of training costs no stem.

Two folders: `pairs` holds samples of `pjvlt-train`'s mixture, `images` crops of boxed images with all their objects.
Each holds its maps as `.npy` files in half precision, which are read where they lie, and `rows.jsonl`, which is
written last: a folder without it is made again.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.data.boxed_images import BoxedImages, BoxedObject
from modeling_pjvlt.data.pairs.cropping import Window, cut
from modeling_pjvlt.data.pairs.mixture import TrackingPairs
from modeling_pjvlt.data.text import swap_left_right
from modeling_pjvlt.files_pjvlt import replacing_folder, write_text

BATCH = 16
ROWS, MADE_FROM = "rows.jsonl", "made_from.json"
CROPS = {"search": "pixel_values", "template": "template_pixel_values"}
MAX_SHOWN = 4  # objects that a region is drawn around
MARGIN = 1.05, 1.6  # side of the region over the longer side of the rectangle around them, least and most
SHIFT, STRETCH = 0.08, 0.12  # of the region, in sides; its width is multiplied by up to e^±STRETCH
LIGHT = 0.2  # brightness is multiplied by up to 1 ± LIGHT
ALL_SHARE = 0.25  # of the regions are drawn around all objects
MIN_REGION = 24  # pixels


def stem_digest(model: PJVLTModel) -> str:
    """Changes with any weight of the stem."""
    digest = hashlib.sha256()
    for name, value in model.embeddings.stem.state_dict().items():
        digest.update(name.encode() + value.float().numpy().tobytes())
    return digest.hexdigest()


class PhraseCrops(Dataset):
    """Crops of boxed images around several of their objects, by index; `seed` and index decide a crop.

    Each is `pixel_values` (3, S, S) uint8, `brightness`, and the objects whose middle it shows: `boxes`, lists of cx,
    cy, w, h in fractions of the crop, their `phrases`, and their `kinds` (categories). Objects without phrases are
    left out, and images that have fewer than two with them.
    """

    def __init__(self, images: BoxedImages, size: int, views: int, seed: int = 0):
        self.images, self.size, self.seed = images, size, seed
        described = [[o for o in objects if o.phrases] for objects in images.objects]
        self.objects = [(i, objects) for i, objects in enumerate(described) if len(objects) > 1]
        if not self.objects:
            raise ValueError("No image has two objects with phrases.")
        self.length = views * len(self.objects)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        number, objects = self.objects[index % len(self.objects)]
        rng = np.random.default_rng([self.seed, index])
        window = self._window(rng, objects)
        mirror = bool(rng.random() < 0.5)
        row = {"boxes": [], "phrases": [], "kinds": []}
        for known in objects:
            x, y, w, h = known.box.tolist()
            x, y = (x + w / 2 - window.left) / window.width, (y + h / 2 - window.top) / window.height
            if not (0 < x < 1 and 0 < y < 1):
                continue
            row["boxes"].append([1 - x if mirror else x, y, w / window.width, h / window.height])
            row["phrases"].append([swap_left_right(p) if mirror else p for p in known.phrases])
            row["kinds"].append(known.category)
        pixels = cut(self.images.pixels(number), window, self.size, mirror)
        return {"pixel_values": pixels, "brightness": 1 + LIGHT * rng.uniform(-1, 1), **row}

    def _window(self, rng: np.random.Generator, objects: list[BoxedObject]) -> Window:
        chosen = rng.permutation(len(objects))[: int(rng.integers(2, MAX_SHOWN + 1))]
        boxes = np.array([o.box for o in objects])
        if rng.random() >= ALL_SHARE:
            boxes = boxes[chosen]
        low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        height = max((high - low).max() * rng.uniform(*MARGIN), MIN_REGION)
        sides = np.array([height * np.exp(rng.uniform(-STRETCH, STRETCH)), height]).round()
        corner = (low + high) / 2 + rng.uniform(-SHIFT, SHIFT, 2) * height - sides / 2
        return Window(*corner.round().astype(int).tolist(), *sides.astype(int).tolist())


class StoredMaps:
    """What `store` wrote: the stem's maps by name, and a row for each crop."""

    def __init__(self, folder: Path):
        self.maps = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        self.rows = [json.loads(line) for line in (folder / ROWS).read_text(encoding="utf-8").splitlines()]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, name: str, numbers: list[int]) -> tuple[Tensor, ...]:
        """The last map of the crop `name` (`search` or `template`), and its finer one where there is one."""
        maps = [self.maps[key] for key in (name, f"{name}_fine") if key in self.maps]
        return tuple(torch.from_numpy(part[numbers].astype(np.float32)) for part in maps)


def store_pairs(folder: Path, pairs: TrackingPairs, count: int, made_from: dict, **tools) -> StoredMaps:
    """The maps of the first `count` samples, `search` and `template`; rows with `text` and `labels`."""
    loader = DataLoader(
        Subset(pairs, range(count)), BATCH, collate_fn=_stack_pairs, num_workers=tools.pop("num_workers")
    )
    return _stored(folder, loader, count, {**made_from, "pairs": count}, **tools)


def store_crops(folder: Path, crops: PhraseCrops, made_from: dict, **tools) -> StoredMaps:
    """The maps of all crops, `search`; rows with `boxes`, `phrases` and `kinds`."""
    loader = DataLoader(crops, BATCH, collate_fn=_stack_crops, num_workers=tools.pop("num_workers"))
    return _stored(folder, loader, len(crops), {**made_from, "crops": len(crops)}, **tools)


def _stack_pairs(samples: list[dict]) -> tuple[dict[str, Tensor], list[dict]]:
    batch = {name: torch.stack([s[name] for s in samples]) for name in (*CROPS.values(), "brightness")}
    return batch, [{"text": s["text"], "labels": s["labels"].tolist()} for s in samples]


def _stack_crops(samples: list[dict]) -> tuple[dict[str, Tensor], list[dict]]:
    light = torch.tensor([[s["brightness"]] for s in samples], dtype=torch.float32)
    batch = {"pixel_values": torch.stack([s["pixel_values"] for s in samples]), "brightness": light}
    return batch, [{name: s[name] for name in ("boxes", "phrases", "kinds")} for s in samples]


@torch.no_grad()
def _stored(
    folder: Path, loader: DataLoader, count: int, made_from: dict, model: PJVLTModel, processor: PJVLTProcessor
) -> StoredMaps:
    """Read the folder, or make it if it is not complete. Raises `ValueError` if it was made from something else."""
    if (folder / ROWS).is_file():
        if json.loads((folder / MADE_FROM).read_text(encoding="utf-8")) != made_from:
            raise ValueError(f"{folder} was made from another stem, other data or other settings: delete it")
        return StoredMaps(folder)
    with replacing_folder(folder) as partial:
        maps: dict[str, np.memmap] = {}
        rows = []
        for batch, batch_rows in tqdm(loader, desc=folder.name, unit="batch", disable=None):
            for name, part in _maps(model, processor, batch):
                if name not in maps:
                    maps[name] = open_memmap(partial / f"{name}.npy", "w+", np.float16, (count, *part.shape[1:]))
                maps[name][len(rows) : len(rows) + len(part)] = part.numpy()
            rows += batch_rows
        for part in maps.values():
            part.flush()
        write_text(partial / MADE_FROM, json.dumps(made_from))
        write_text(partial / ROWS, "".join(json.dumps(row) + "\n" for row in rows))
    return StoredMaps(folder)


def _maps(model: PJVLTModel, processor: PJVLTProcessor, batch: dict) -> Iterator[tuple[str, Tensor]]:
    for (name, crops), factors in zip(CROPS.items(), batch["brightness"].unbind(1), strict=False):
        levels = (batch[crops] * factors.view(-1, 1, 1, 1)).round_().clamp_(0, 255)
        features = model.embeddings.features(processor.image_processor.normalize_crops(levels))
        for key, part in zip((name, f"{name}_fine"), features, strict=True):
            if part is not None:
                yield key, part
