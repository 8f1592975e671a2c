"""What the miniatures of the benchmarks are made of: images, boxes, files, and what converting must give.

Colours of an image tell its number and its sequence, so no two images of a miniature have the same bytes. All
coordinates are multiples of 1/4: float32 holds them exactly.
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]

SMALL, LARGER = (32, 24), (48, 36)  # width and height


@dataclass(frozen=True)
class Row:
    """What one row must hold. `image`: bytes of the file, None where a row shares the image of the row before."""

    frame: int
    image: bytes | None
    box: Box | None
    visible: bool
    cover: int | None = None


@dataclass(frozen=True)
class Video:
    """What one sequence must be."""

    name: str
    text: str
    category: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Split:
    """What one split must be.

    skipped: (name, pattern) for each entry of the report: the name is part of the first string, the pattern is found
    in both strings joined by ": ".
    """

    videos: tuple[Video, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of the report."""
        rows = [row for video in self.videos for row in video.rows]
        return {
            "sequences": len(self.videos),
            "frames": len(rows),
            "absent": sum(row.box is not None and not row.visible for row in rows),
            "without_text": sum(not video.text for video in self.videos),
        }


@dataclass(frozen=True)
class Miniature:
    """A benchmark on disk, and what converting it must give."""

    benchmark: str
    root: Path
    splits: dict[str, Split]
    class_map: Path | None = None


@cache
def encoded_image(name: str, number: int, size: tuple[int, int] = SMALL, kind: str = "JPEG") -> bytes:
    """An encoded image whose colours tell the number, and at its left edge the sequence."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:] = (number % 16 * 17, number // 16 % 16 * 17, number // 256 % 6 * 50)
    pixels[:, :8] = np.frombuffer(zlib.crc32(name.encode()).to_bytes(4), np.uint8)[:3]
    return _encode(pixels, kind)


@cache
def truncated_image() -> bytes:
    """The first half of a JPEG: its header is whole, about half of its pixels are there, the end mark is not."""
    noise = np.random.default_rng(0).integers(0, 256, (*SMALL[::-1], 3), dtype=np.uint8)
    whole = _encode(noise, "JPEG")
    return whole[: len(whole) // 2]


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def some_boxes(count: int, changes: Mapping[int, Box] | None = None) -> list[Box]:
    """Boxes that differ from one another. `changes`: other boxes, by position."""
    boxes = [(float(3 + i), 2.5 + i % 3, 9.0 + i % 5, 8.25) for i in range(count)]
    for position, box in (changes or {}).items():
        boxes[position] = box
    return boxes


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def box_lines(boxes: Iterable[Box], separator: str = ",", number: str = "g", end: str = "\n") -> str:
    """A text with a line per box. `number`: how a value is formatted."""
    return "".join(separator.join(format(value, number) for value in box) + end for box in boxes)


def make_row(
    name: str, frame: int, box: Box | None, hidden: bool = False, cover: int | None = None, **encoding
) -> Row:
    """The row of a frame: visible where the box has an area, unless it is hidden. `encoding`: of its image."""
    visible = box is not None and box[2] > 0 and box[3] > 0 and not hidden
    return Row(frame, encoded_image(name, frame, **encoding), box, visible, cover)


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of files by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()
