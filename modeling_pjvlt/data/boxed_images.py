"""Images with boxes and phrases.

A folder of boxed images holds `boxes.jsonl`, one image a line:

    {"file": "dog.jpg", "objects": [{"box": [x, y, w, h], "phrases": ["a brown dog"], "category": "animals"}, ...]}

`file` is relative to the folder, or to `images/` if that exists; boxes are in pixels of the upright image. `phrases`
are what people call the object; without any, its phrase is "the CATEGORY". `group` marks an object that shares its
phrases with others ("two dogs"), so they do not identify it. Left out are images whose `split` ("train" where it is
missing) is not the one that is read, objects of the category "scene", and objects with `pseudo`, whose boxes a
detector made. `width` and `height` of an image are optional and save opening it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
from PIL import Image

from ..pixels_pjvlt import rgb_image, upright_image
from .image_cache import CACHE_BYTES, ImageCache

TABLE = "boxes.jsonl"
MIN_SIDE = 12  # pixels; smaller objects are left out
MAX_SHARE = 0.85  # of the image; larger objects are left out, because the image cuts them off
SCENERY = "scene"  # a category of places, not of objects


@dataclass(frozen=True)
class BoxedObject:
    """One object. box: (4,) xywh in image pixels. name: the last word of its shortest phrase, or of its category."""

    box: np.ndarray
    phrases: tuple[str, ...]
    category: str
    name: str


class BoxedImages:
    """The images of some folders and their objects; images are decoded on demand and cached, up to `cache_bytes`.

    Raises `FileNotFoundError` for a folder without `boxes.jsonl`, and `ValueError` for a line that cannot be read
    (with file and number), or if no object is left.
    """

    def __init__(self, folders: Sequence[str | Path], cache_bytes: int = CACHE_BYTES, split: str = "train"):
        self.paths: list[Path] = []
        self.objects: list[list[BoxedObject]] = []  # of each image, at least one
        for folder in folders:
            for path, objects in read_boxes(Path(folder), split):
                self.paths.append(path)
                self.objects.append(objects)
        if not self.paths:
            raise ValueError(f"No image of the split {split!r} in {', '.join(map(str, folders))} has an object.")
        self._cache = ImageCache(cache_bytes, attrgetter("nbytes"))

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8. Raises `ValueError` naming an image that cannot be decoded."""
        return self._cache.get(index, lambda: read_pixels(self.paths[index]))


def read_pixels(path: Path) -> np.ndarray:
    """An image, upright: (H, W, 3) uint8. Raises `ValueError` naming one that cannot be decoded."""
    try:
        with Image.open(path) as image:
            return np.array(rgb_image(upright_image(image)))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"The image {path} cannot be decoded: {error}") from error


def read_boxes(folder: Path, split: str = "train") -> list[tuple[Path, list[BoxedObject]]]:
    """The images of one split of a folder, each with its objects that are neither tiny nor nearly as large as it."""
    table = folder / TABLE
    if not table.is_file():
        raise FileNotFoundError(f"{folder} holds no {TABLE}, which lists the boxes of its images.")
    root = folder / "images" if (folder / "images").is_dir() else folder
    images = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if row.get("split", "train") != split:
                continue
            objects = [o for o in map(_read_object, row["objects"]) if o is not None]
            path = root / row["file"].removeprefix("images/")
            area = row["width"] * row["height"] if "width" in row else _area(path)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"{table}, line {number}: {error!r}; expected the fields of {TABLE}.") from error
        objects = [o for o in objects if o.box[2:].min() >= MIN_SIDE and o.box[2:].prod() <= MAX_SHARE * area]
        if objects:
            images.append((path, objects))
    return images


def _area(path: Path) -> int:
    with Image.open(path) as image:
        return image.width * image.height


def _read_object(row: dict) -> BoxedObject | None:
    """An object; None for scenery and for a box that a detector made."""
    category = row.get("category", "")
    if category == SCENERY or row.get("pseudo"):
        return None
    phrases = () if "group" in row else tuple(row.get("phrases") or ((f"the {category}",) if category else ()))
    box = np.array(row["box"], np.float32)
    if box.shape != (4,):
        raise ValueError(f"a box must be x, y, w, h, got {row['box']}")
    shortest = min(row.get("phrases") or [category], key=len)
    return BoxedObject(box, phrases, category, shortest.split()[-1].lower() if shortest else "")


__all__ = ["TABLE", "BoxedImages", "BoxedObject", "read_boxes"]
