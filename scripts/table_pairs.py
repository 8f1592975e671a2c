"""Training pairs that `reproduce_tables.py` draws once and gives to every variant."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAIRS_IN_FILE = 320


@contextmanager
def drawn_once(folder: Path) -> Iterator[None]:
    """Within it, training pairs are drawn once and read from `folder` by all who come later.

    All variants of a seed see the same pairs, and drawing one takes longer than training on it. Pixels are kept as
    bytes; the variant that draws them reads them back too, so that all see the same.
    """
    import torch

    from modeling_pjvlt.data.sampling import TrackingPairs

    draw, held = TrackingPairs.__getitem__, {"path": None, "samples": None}
    pictures = ("pixel_values", "template_pixel_values")

    def draw_file(pairs: TrackingPairs, path: Path, indices: range) -> None:
        samples, cropper = [draw(pairs, index) for index in indices], pairs.cropper
        columns = {name: [sample[name] for sample in samples] for name in samples[0]}
        for name in pictures:
            levels = (torch.stack(columns[name]) + cropper.shift) / cropper.scale
            columns[name] = levels.round().clamp(0, 255).to(torch.uint8)
        columns["labels"] = torch.stack(columns["labels"])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        torch.save(columns, partial)
        os.replace(partial, path)

    def read(pairs: TrackingPairs, index: int) -> dict:
        if not 0 <= index < len(pairs):
            raise IndexError(f"sample {index} of {len(pairs)}")
        first = index // PAIRS_IN_FILE * PAIRS_IN_FILE
        indices = range(first, min(first + PAIRS_IN_FILE, len(pairs)))
        path = folder / f"{pairs.epoch}-{indices.start}-{indices.stop}.pt"
        if held["path"] != path:
            if not path.exists():
                draw_file(pairs, path, indices)
            held.update(path=path, samples=torch.load(path, weights_only=True))
        sample = {name: column[index - first] for name, column in held["samples"].items()}
        for name in pictures:
            sample[name] = sample[name] * pairs.cropper.scale - pairs.cropper.shift
        return sample

    TrackingPairs.__getitem__ = read
    try:
        yield
    finally:
        TrackingPairs.__getitem__ = draw
