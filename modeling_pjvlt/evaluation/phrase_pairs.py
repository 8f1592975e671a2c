"""Does the phrase select the object in real images? Two objects of one kind that only their phrases distinguish.

python -m modeling_pjvlt.evaluation.phrase_pairs pairs_val.jsonl --model outputs/mine

A table of phrase pairs is JSON lines: `file` (in `images/` beside the table, or beside it), `box` and `other` (x, y,
w, h in pixels), and `phrases` that mean the object in `box`. The search region shows both objects, the template is
hidden, and the longest phrase has to make the score higher at `box` than at `other`: the best of the cells next to the
middle of each, of which those next to both middles belong to the nearer one. Equal scores count as half a pair, so
that a score that ignores the phrase is right in 50 %.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import DEFAULT_CHECKPOINT
from ..command_parser import MODEL_HELP, checkpoint
from ..data.pairs.cropping import Window, cut
from ..image_processing_pjvlt import hidden_template
from ..modeling_pjvlt import PJVLTModel
from ..processing_pjvlt import PJVLTProcessor

MARGIN = 1.25  # side of the search region over the longer side of the rectangle around both boxes
BATCH = 16


@dataclass(frozen=True)
class PhrasePair:
    """Two objects of an image. box, other: (4,) xywh in pixels. phrase: means the object in `box`."""

    path: Path
    box: np.ndarray
    other: np.ndarray
    phrase: str


def read_phrase_pairs(table: str | Path) -> list[PhrasePair]:
    """The pairs of a table. Raises `FileNotFoundError`, or `ValueError` naming the first bad line."""
    table, pairs = Path(table), []
    root = table.parent / "images" if (table.parent / "images").is_dir() else table.parent
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            boxes = np.array([row["box"], row["other"]], float).reshape(2, 4)
            pairs.append(PhrasePair(root / row["file"], *boxes, max(row["phrases"], key=len)))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{table}, line {number} is not a phrase pair: {error!r}") from error
    return pairs


@torch.inference_mode()
def choices(model: PJVLTModel, processor: PJVLTProcessor, pairs: list[PhrasePair]) -> Iterator[float]:
    """For each pair, 1 if the score is higher at `box` than at `other`, 0 if it is lower, and 0.5 if it is equal."""
    images, device = processor.image_processor, model.device
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        windows = [_window(pair) for pair in batch]
        crops = torch.stack([_crop(p, w, images.search_size) for p, w in zip(batch, windows, strict=True)])
        templates = hidden_template(images)[None].expand(len(batch), -1, -1, -1)
        tokens = processor.encode_text([pair.phrase for pair in batch]).to(device)
        pixels = {
            "pixel_values": images.normalize_crops(crops.float()).to(device),
            "template_pixel_values": images.normalize_crops(templates.float()).to(device),
        }
        scores = model(**pixels, **tokens).score_map[:, 0].cpu()
        for pair, window, score in zip(batch, windows, scores, strict=True):
            box, other = _peaks(score, pair, window)
            yield (1 + np.sign(box - other)) / 2


def phrase_accuracy(model: PJVLTModel, processor: PJVLTProcessor, pairs: list[PhrasePair]) -> float:
    """Share of pairs, in [0, 1], in which the phrase chooses its box."""
    return float(np.mean(list(choices(model, processor, pairs))))


def _window(pair: PhrasePair) -> Window:
    """A square around both boxes."""
    low = np.minimum(pair.box[:2], pair.other[:2])
    high = np.maximum(pair.box[:2] + pair.box[2:], pair.other[:2] + pair.other[2:])
    side = max(int(np.ceil((high - low).max() * MARGIN)), 1)
    left, top = ((low + high) / 2 - side / 2).round().astype(int).tolist()
    return Window(left, top, side, side)


def _crop(pair: PhrasePair, window: Window, size: int) -> torch.Tensor:
    with Image.open(pair.path) as image:
        pixels = np.array(image.convert("RGB"))
    return cut(pixels, window, size)


def _peaks(scores: torch.Tensor, pair: PhrasePair, window: Window) -> tuple[float, float]:
    """The highest scores (G, G) in the cells next to the middle of `box`, and of `other`.

    A cell next to both counts for the one whose middle is nearer, and for both at the same distance.
    """
    grid, corner, side = len(scores), (window.left, window.top), (window.width, window.height)
    middles = [(box[:2] + box[2:] / 2 - corner) / side * grid for box in (pair.box, pair.other)]
    middles = np.array(middles)[:, None, None]  # (2, 1, 1, 2), in cells
    cells = np.stack(np.meshgrid(np.arange(grid), np.arange(grid)), axis=-1)  # (G, G, 2), column and row
    near = (np.abs(cells - middles.astype(int).clip(0, grid - 1)) <= 1).all(axis=-1)  # (2, G, G)
    distance = np.linalg.norm(cells + 0.5 - middles, axis=-1)
    near &= ~(near[::-1] & (distance[::-1] < distance))
    box, other = (float(scores[torch.from_numpy(own)].max()) for own in near)
    return box, other


def main(argv: list[str] | None = None) -> int:
    """Print the accuracy on a table."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_pjvlt.evaluation.phrase_pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", help="a table of phrase pairs (.jsonl)")
    parser.add_argument("--model", type=checkpoint, default=DEFAULT_CHECKPOINT, help=MODEL_HELP)
    args = parser.parse_args(argv)
    try:
        pairs = read_phrase_pairs(args.table)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    model, processor = PJVLTModel.from_pretrained(args.model).eval(), PJVLTProcessor.from_pretrained(args.model)
    chosen = list(choices(model, processor, pairs))
    print(f"the phrase chooses its box in {100 * np.mean(chosen):.1f} % of {len(chosen)} pairs (chance: 50 %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
