"""The types that benchmarks are read into, and readers of their small files: boxes, flags, sentences."""

import itertools
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...video_pjvlt import natural_key, sort_frames

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_NUMBER = re.compile(r"(\d+)(?!.*\d)")  # the last run of digits in a file's name
_DECIMAL = re.compile(r"\d+\.\d+")
MAX_FRAME_NUMBER = 2**31 - 1  # of a row's `frame`; names that are times in nanoseconds are larger


def _valid_text(name: str) -> str:
    """A file name as text that a table can hold; it may be no valid UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class ImageFile:
    """An encoded image: a file, or a member of a zip archive."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The file name, without folders."""
        return _valid_text(Path(self.member or self.path).name)

    @property
    def number(self) -> int | None:
        """The frame number in the file name, or None: no digits, a decimal number (a time), or too large."""
        stem = Path(self.name).stem
        digits = None if _DECIMAL.fullmatch(stem) else _NUMBER.search(stem)
        number = int(digits.group()) if digits else None
        return None if number is None or number > MAX_FRAME_NUMBER else number


@dataclass
class SourceSequence:
    """One target of one video, as its authors annotated it.

    boxes: (n, 4) xywh, rows of NaN where unknown. visible: (n,) bool. cover: (n,) int or None; -1 where unknown.
    numbers: of the frames; by default those in the images' names. notes: what was left out, and why.
    """

    name: str
    images: list[ImageFile]
    boxes: np.ndarray
    visible: np.ndarray
    text: str = ""
    category: str = ""
    cover: np.ndarray | None = None
    numbers: list[int] | None = None
    notes: list[str] = field(default_factory=list)

    def frame_numbers(self) -> list[int]:
        """The numbers in the images' names if all have one and they ascend, else 0, 1, 2, …"""
        numbers = self.numbers or [image.number for image in self.images]
        if None not in numbers and all(a < b for a, b in itertools.pairwise(numbers)):
            return numbers
        return list(range(len(self.images)))


@dataclass(frozen=True)
class Reference:
    """Where one sequence is, before it is read. `details` is what the benchmark's `read` needs to know."""

    name: str
    folder: Path
    details: Any = None

    def __post_init__(self):
        object.__setattr__(self, "name", _valid_text(self.name))


class NotFound(FileNotFoundError):
    """The folder contains no data of this benchmark."""


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read.

    title, homepage, citation: for the dataset card. splits: in the order in which they are written.
    sequences_per_shard: how many make a Parquet file of a few hundred megabytes. find: lists the sequences of a split,
    which may be none; raises [`NotFound`] naming what it looked for. read: reads one sequence, or several that share
    images; raises `ValueError` that says why it cannot be used. has_cover: rows have GOT-10k's `cover`. one_split: the
    folder has no splits; all of it becomes the requested one, by default the first. takes_class_map: classes can come
    from a file of the user's.
    """

    title: str
    homepage: str
    citation: str
    splits: tuple[str, ...]
    sequences_per_shard: int
    find: Callable[[Path, str, Path | None], list[Reference]]
    read: Callable[[Reference], list[SourceSequence]]
    has_cover: bool = False
    one_split: bool = False
    takes_class_map: bool = False


def list_images(folder: Path) -> list[ImageFile]:
    """Images of a folder in frame order; ignores hidden files and files that are no images."""
    if not folder.is_dir():
        return []
    paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    return _in_order(ImageFile(path) for path in paths)


def list_zipped_images(archive: Path) -> list[ImageFile]:
    """Images in a zip archive, in frame order. Raises `ValueError` for a broken archive."""
    try:
        with zipfile.ZipFile(archive) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{archive.name} is not a complete zip archive ({error})") from error
    images = [n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES and not Path(n).name.startswith(".")]
    return _in_order(ImageFile(archive, name) for name in images)


def _in_order(images: Iterable[ImageFile]) -> list[ImageFile]:
    images = list(images)
    places = {name: place for place, name in enumerate(sort_frames({image.name for image in images}))}
    return sorted(images, key=lambda image: places[image.name])


def read_text(path: Path) -> str:
    """The sentence in a file, its lines joined; empty if there is no such file."""
    return " ".join(filled_lines(path)) if path.is_file() else ""


def read_boxes(path: Path, dtype: type = np.float32) -> np.ndarray:
    """(n, 4) boxes of a text file: four numbers a line, separated by commas, semicolons, tabs or spaces.

    A polygon of eight numbers x1, y1, …, x4, y4, as in VOT, becomes the axis-aligned box around it. A line without a
    number, where the target is absent, becomes a row of NaN. Raises `ValueError` for a file that is missing or empty,
    and one that names the first bad line.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    boxes = []
    for number, line in enumerate(_frame_lines(path), start=1):
        try:
            box = [float(part) for part in re.split(r"\s*[,;]\s*|\s+", line.rstrip(" ,;\t"))] if line else [np.nan] * 4
        except ValueError:
            box = []
        if len(box) == 8:
            corners = np.reshape(box, (4, 2))
            box = [*corners.min(axis=0), *np.ptp(corners, axis=0)]
        if len(box) != 4:
            raise ValueError(f"{path.name}, line {number}: expected four numbers, got {line!r}")
        boxes.append(box)
    if not boxes:
        raise ValueError(f"{path.name} is empty")
    return np.array(boxes, dtype)


def read_flags(path: Path) -> np.ndarray | None:
    """Integers of a file, separated by commas, spaces or lines; None if there is no such file.

    Raises `ValueError` naming the first line that holds anything else, or nothing at all.
    """
    if not path.is_file():
        return None
    flags = []
    for number, line in enumerate(_frame_lines(path), start=1):
        try:
            flags += [int(float(part)) for part in re.split(r"\s*,\s*|\s+", line.rstrip(" ,\t"))]
        except ValueError:
            raise ValueError(f"{path.name}, line {number}: expected whole numbers, got {line[:60]!r}") from None
    return np.array(flags, np.int64)


def fit_flags(flags: np.ndarray | None, length: int, missing: int, name: str, notes: list[str]) -> np.ndarray:
    """Flags for `length` frames: `missing` where the file has none. Another number of flags than frames is noted."""
    if flags is None:
        return np.full(length, missing)
    if len(flags) != length:
        notes.append(f"{name} has {len(flags)} values for {length} frames")
    return np.append(flags[:length], np.full(max(length - len(flags), 0), missing))


def match_lengths(images: list[ImageFile], boxes: np.ndarray, notes: list[str]) -> tuple[list[ImageFile], np.ndarray]:
    """As many images as boxes; what is too many at the end is left out and noted."""
    if len(images) != len(boxes):
        notes.append(f"{len(images)} images, but {len(boxes)} boxes: those too many at the end are left out")
    length = min(len(images), len(boxes))
    return images[:length], boxes[:length]


def has_area(boxes: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each box is wider and higher than 0."""
    return (np.nan_to_num(boxes[:, 2:]) > 0).all(axis=1)


def first_box_only(images: list[ImageFile], boxes: np.ndarray) -> np.ndarray:
    """Boxes of a test set that gives only the first one; the others are unknown, rows of NaN."""
    return np.vstack([boxes[:1], np.full((len(images) - 1, 4), np.nan, np.float32)])


def sequence_folders(root: Path, annotation: str) -> list[Path]:
    """Folders with this annotation file, up to three levels below `root`, in natural order."""
    folders = [p.parent for depth in range(4) for p in root.glob("/".join(["*"] * depth + [annotation]))]
    return sorted(folders, key=lambda folder: natural_key(folder.name))


def require_images(images: list[ImageFile]) -> list[ImageFile]:
    """The images. Raises `ValueError` if there are none."""
    if not images:
        raise ValueError("no images")
    return images


def read_class_map(path: Path | None) -> dict[str, str]:
    """Classes by sequence from lines `sequence<TAB>class` of a file. Raises `ValueError` for a line without a tab."""
    if path is None:
        return {}
    classes = {}
    for number, line in enumerate(filled_lines(path), start=1):
        name, tab, category = line.partition("\t")
        if not tab:
            raise ValueError(f"--class_map: {path}, line {number}: expected `sequence<TAB>class`, got {line!r}")
        classes[name.strip()] = category.strip()
    return classes


def filled_lines(path: Path) -> list[str]:
    """Stripped lines that are not empty."""
    return [line for line in all_lines(path) if line]


def _frame_lines(path: Path) -> list[str]:
    """One line per frame: lines of separators become empty, and empty lines at the end are dropped.

    If every second line is empty, the file has doubled line ends, and these lines are dropped too.
    """
    lines = ["" if not line.strip(" ,;\t") else line for line in all_lines(path)]
    if len(lines) > 4 and not any(lines[1::2]) and all(lines[::2]):
        return lines[::2]
    return lines


def all_lines(path: Path) -> list[str]:
    """Stripped lines up to the last one that is not empty."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")  # what Windows editors wrote when these benchmarks were made
    return [line.strip() for line in text.rstrip().splitlines()]
