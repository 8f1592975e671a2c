"""Photographs for training clips: any folder of images, with or without labelled objects.

Optional files of such a folder:

- `labels/*.txt`: boxes in YOLO's format (class, centre x, centre y, width, height as fractions of the image);
- `polygons/*.txt`: outlines (class, then x and y of each corner as fractions); they replace the boxes of an image;
- `segments/*.png`: regions, each of one grey value;
- `classes.tsv`: lines of index, name and supercategory of a class, separated by tabs;
- `boxes.jsonl`: boxes and phrases (see `data/boxed_images.py`), which replace all of the above: only the images of its
  training split are used.

Images lie in the folder itself or in `images/`; the other folders repeat the tree of `images/`.
A target is an outline in an image: that of a labelled object, or a random shape over a textured part. So a few hundred
photographs give any number of targets.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...pixels_pjvlt import rgb_image, upright_image, upright_size
from ..boxed_images import TABLE, BoxedObject, read_boxes
from ..converters.sources import IMAGE_SUFFIXES, natural_key
from ..image_cache import CACHE_BYTES, ImageCache

LONGEST_SIDE = 480  # pixels; larger images are shrunk to it when they are read
MIN_SIDE = 14  # pixels; smaller labelled objects are left out
MAX_SHARE = 0.7  # of the image; larger labelled objects are left out


@dataclass(frozen=True)
class Target:
    """Something in an image. outline: (k, 2) x, y of its corners in pixels of the image as it is read.

    name, family: its class and the supercategory; empty if unknown. phrases: what people call it. boxed: only its box
    is known, and the outline just fills it, so it is not cut out of its image.
    """

    outline: np.ndarray
    name: str = ""
    family: str = ""
    phrases: tuple[str, ...] = ()
    boxed: bool = False

    @property
    def box(self) -> np.ndarray:
        """x, y, w, h in pixels."""
        low, high = self.outline.min(axis=0), self.outline.max(axis=0)
        return np.concatenate([low, high - low])


@dataclass(frozen=True)
class Photograph:
    """An image file and its labels.

    labels: its objects, with their outlines as fractions of the image. segments: file of its regions.
    """

    path: Path
    labels: tuple[Target, ...] = ()
    segments: Path | None = None


def _stored_bytes(image: Image.Image) -> int:
    """The memory of an RGB image: Pillow needs four bytes for a pixel."""
    return image.width * image.height * 4


def superellipse(box, corners: int = 24, power: float = 0.5) -> np.ndarray:
    """(corners, 2) points of a rounded rectangle that touches all sides of a box (x, y, w, h).

    A `power` of 1 gives an ellipse, a smaller one squarer corners.
    """
    angle = np.arange(corners) * 2 * np.pi / corners
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x, y, w, h = box
    return np.sign(unit) * np.abs(unit) ** power * (w / 2, h / 2) + (x + w / 2, y + h / 2)


def rectangle(box) -> np.ndarray:
    """(4, 2) corners of a box (x, y, w, h)."""
    x, y, w, h = box
    return np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], dtype=np.float64)


class PhotographFolder:
    """The photographs of some folders, read when they are needed.

    Args:
        folders: see the module's docstring.
        cache_bytes: decoded images that a process keeps.
        labelled_share: share of clips whose target is a labelled object, if there are any. The target of the others is
            a random shape, which looks the same in both frames, so a tracker learns to keep the first box.

    Raises `FileNotFoundError` for a folder that is not there or holds no image, `ValueError` for labels that cannot
    be read.
    """

    def __init__(self, folders, cache_bytes: int = CACHE_BYTES, labelled_share: float = 0.5):
        self.photographs = [photograph for folder in folders for photograph in read_folder(Path(folder))]
        self.labelled_share = labelled_share
        self._cache = ImageCache(cache_bytes, _stored_bytes)

    def __len__(self) -> int:
        return len(self.photographs)

    def image(self, index: int) -> Image.Image:
        """An RGB image, at most `LONGEST_SIDE` pixels wide and high. Raises `ValueError` naming one that is broken."""
        return self._cache.get(index, lambda: read_image(self.photographs[index].path))

    def objects(self, index: int) -> list[Target]:
        """The labelled objects and regions of an image that are neither tiny nor nearly as large as it."""
        photograph, image = self.photographs[index], self.image(index)
        size = np.array(image.size)
        targets = [replace(label, outline=label.outline * size) for label in photograph.labels]
        if photograph.segments is not None:
            targets += [Target(outline * size) for outline in _regions(photograph.segments)]
        return [t for t in targets if t.box[2:].min() >= MIN_SIDE and t.box[2:].prod() <= MAX_SHARE * size.prod()]

    @cached_property
    def labelled(self) -> list[int]:
        """Indices of the photographs with objects or regions."""
        return [i for i, p in enumerate(self.photographs) if p.labels or p.segments is not None]

    def draw_region(self, rng: np.random.Generator, index: int) -> Target:
        """A random shape over a part of the image: of eight random parts, the one with the most contrast."""
        image = self.image(index)
        size = np.array(image.size)
        grey = np.asarray(image.convert("L").reduce(4), np.float32)
        boxes = []
        for _ in range(8):
            side = size.min() * np.exp(rng.uniform(np.log(0.1), np.log(0.55)))
            stretch = np.exp(np.clip(0.35 * rng.standard_normal(), -1, 1))
            extent = np.clip(side * np.array([stretch, 1 / stretch]), MIN_SIDE, 0.9 * size)
            boxes.append(np.concatenate([rng.uniform(0, 1, 2) * (size - extent), extent]))
        box = max(boxes, key=lambda b: _contrast(grey, b / 4))
        shape = rng.random()
        if shape < 0.35:
            return Target(rectangle(box))
        if shape < 0.65:
            return Target(superellipse(box, power=rng.uniform(0.5, 1)))
        return Target(_blob(rng, box))


def _contrast(grey: np.ndarray, box) -> float:
    x, y, w, h = (max(int(v), 0) for v in box)
    return float(grey[y : y + h + 1, x : x + w + 1].std())


def _blob(rng: np.random.Generator, box) -> np.ndarray:
    """(32, 2) outline of a bumpy shape that touches all sides of a box."""
    angle = np.arange(32) * 2 * np.pi / 32
    radius = 1 + sum(rng.uniform(-0.25, 0.25) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / (high - low) * box[2:] + box[:2]


def read_image(path: Path) -> Image.Image:
    """An RGB image, shrunk to `LONGEST_SIDE`. Raises `ValueError` naming a file that cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # decodes a large JPEG at 1/2, 1/4 or 1/8 of its size
            image = rgb_image(upright_image(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"The image {path} cannot be read: {error}") from error
    longest = max(image.size)
    if longest > LONGEST_SIDE:
        size = tuple(max(round(side * LONGEST_SIDE / longest), 1) for side in image.size)
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2)
    return image


@lru_cache(maxsize=4096)
def _regions(path: Path) -> list[np.ndarray]:
    """Outlines (k, 2) of the regions of a segmentation, as fractions of the image: left edge down, right edge up."""
    values = np.asarray(upright_image(Image.open(path)))
    height, width = values.shape[:2]
    outlines = []
    for value in np.unique(values):
        rows, columns = np.nonzero(values == value)
        if len(rows) < MIN_SIDE**2:
            continue
        first = np.flatnonzero(np.diff(rows, prepend=-1))  # of each row's run of pixels
        last = np.append(first[1:], len(rows)) - 1
        step = max(len(first) // 24, 1)
        left = np.stack([columns[first], rows[first] + 0.5], axis=1)[::step]
        right = np.stack([columns[last] + 1, rows[last] + 0.5], axis=1)[::step]
        outlines.append(np.concatenate([left, right[::-1]]) / (width, height))
    return outlines


def read_folder(folder: Path) -> list[Photograph]:
    """The photographs of a folder, sorted by path; those of `boxes.jsonl` in its order."""
    if (folder / TABLE).is_file():
        return [_boxed_photograph(path, objects) for path, objects in read_boxes(folder)]
    root = folder / "images" if (folder / "images").is_dir() else folder
    paths = sorted(
        (p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: natural_key(str(p))
    )
    if not paths:
        reason = "holds no image" if folder.is_dir() else "is not there"
        raise FileNotFoundError(f"The folder of photographs {folder} {reason}.")
    classes = _read_classes(folder / "classes.tsv")
    photographs = []
    for path in paths:
        inside = path.relative_to(root).with_suffix("")
        segments = folder / "segments" / inside.with_suffix(".png")
        segments = segments if segments.is_file() else None
        photographs.append(Photograph(path, _read_labels(folder, inside, classes), segments))
    return photographs


def _boxed_photograph(path: Path, objects: list[BoxedObject]) -> Photograph:
    try:
        with Image.open(path) as image:
            size = np.array(upright_size(image))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"The image {path} cannot be read: {error}") from error
    labels = (Target(superellipse(o.box) / size, o.name, phrases=o.phrases, boxed=True) for o in objects)
    return Photograph(path, tuple(labels))


def _read_classes(path: Path) -> dict[int, tuple[str, str]]:
    """Name and supercategory of the classes, by number; lines without a number and a name are ignored."""
    classes = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        number, *names = [part.strip() for part in line.split("\t")]
        if number.isdigit() and names:
            classes[int(number)] = (names[0], names[1] if len(names) > 1 else "")
    return classes


def _read_labels(folder: Path, inside: Path, classes: dict[int, tuple[str, str]]) -> tuple[Target, ...]:
    for kind in ("polygons", "labels"):
        path = folder / kind / inside.with_suffix(".txt")
        if path.is_file():
            lines = path.read_text().splitlines()
            return tuple(_read_label(path, line, kind, classes) for line in lines if line.strip())
    return ()


def _read_label(path: Path, line: str, kind: str, classes: dict[int, tuple[str, str]]) -> Target:
    try:
        number, *values = (float(v) for v in line.split())
        numbers = np.array(values)
        if kind == "polygons":
            outline = numbers.reshape(-1, 2)
        else:
            x, y, w, h = numbers
            outline = superellipse((x - w / 2, y - h / 2, w, h))
        return Target(outline, *classes.get(int(number), ("", "")))
    except (ValueError, OverflowError) as error:  # the latter for a class of inf
        raise ValueError(f"{path} has a line that is not a {kind[:-1]}: {line[:60]!r}") from error


__all__ = ["Photograph", "PhotographFolder", "Target", "read_folder"]
