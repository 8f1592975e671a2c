"""Photographs with labelled objects: COCO 2017, and folders in the layout of YOLO. Each object is a sequence."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...pixels_pjvlt import ORIENTATION, upright_size
from ..frames import DECODING_ERRORS
from .sources import (
    IMAGE_SUFFIXES,
    Benchmark,
    ImageFile,
    NotFound,
    Reference,
    SourceSequence,
    all_lines,
    has_area,
    natural_key,
)

COCO_SPLITS = {"train": "train2017", "val": "val2017"}
YOLO_SPLITS = {"train": ("train", "train2017"), "val": ("val", "val2017", "valid")}


def category_words(category: str, supercategory: str) -> str:
    """Category and supercategory as one text; a word that is both comes once.

    >>> category_words("dog", "animal"), category_words("person", "person")
    ('dog animal', 'person')
    """
    return " ".join(dict.fromkeys(word for word in (category, supercategory) if word))


def _objects(name: str, image: ImageFile, objects: list[tuple[str, list[float], str, str]]) -> list[SourceSequence]:
    """A sequence of one frame for each (number, box, category, supercategory)."""
    sequences = []
    for number, box, category, supercategory in objects:
        boxes = np.array([box], np.float32)
        text = category_words(category, supercategory)
        sequences.append(
            SourceSequence(f"{name}-{number}", [image], boxes, has_area(boxes), text, category, numbers=[0])
        )
    return sequences


def find_coco(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    annotations = root / "annotations" / f"instances_{COCO_SPLITS[split]}.json"
    if not annotations.is_file():
        if any((root / "annotations").glob("instances_*2017.json")):
            return []
        raise NotFound(f"no annotations in {root}: looked for annotations/instances_train2017.json")
    try:
        content = json.loads(annotations.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{annotations} is not a JSON file ({error})") from error
    for name in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ValueError(f"{annotations}: expected a list `{name}`")
    names = {c.get("id"): (c.get("name") or "", c.get("supercategory") or "") for c in content.get("categories") or []}
    images = {str(image.get("id")): image for image in content["images"]}
    folder = root / COCO_SPLITS[split]
    annotated: dict[str, _CocoImage] = {}
    for row, annotation in enumerate(content["annotations"]):
        if not annotation.get("iscrowd", 0):
            key = str(annotation.get("image_id"))
            annotated.setdefault(key, _CocoImage(images.get(key), [], [])).add(annotation, row, names)
    return [
        Reference(f"{int(key):012d}" if key.isdecimal() else key, folder, annotated[key])
        for key in sorted(annotated, key=natural_key)
    ]


@dataclass(frozen=True)
class _CocoImage:
    """An image: its entry in the list or None, its objects (see [`_objects`]), and notes on unusable ones."""

    listed: dict | None
    objects: list[tuple]
    notes: list[str]

    def add(self, annotation: dict, row: int, names: dict) -> None:
        """Add an object. Some tools leave ids out or repeat them; then its row in the list is the number."""
        number = annotation.get("id")
        if number is None or number in (o[0] for o in self.objects):
            number = f"row{row}"
        try:
            box = np.array(annotation.get("bbox"), np.float64)
        except (TypeError, ValueError):
            box = np.zeros(0)
        if box.shape == (4,) and np.isfinite(box).all():
            self.objects.append((number, box.tolist(), *names.get(annotation.get("category_id"), ("", ""))))
        else:
            self.notes.append(f"annotation {number}: expected `bbox` [x, y, w, h], got {annotation.get('bbox')!r}")


def read_coco(reference: Reference) -> list[SourceSequence]:
    image: _CocoImage = reference.details
    if image.listed is None:
        raise ValueError(f"{len(image.objects) + len(image.notes)} annotations of an image that is not listed")
    if not image.objects:
        raise ValueError("; ".join(image.notes))
    file_name = image.listed.get("file_name")
    path = reference.folder / str(file_name)
    if not path.is_file():
        raise ValueError(f"there is no image {file_name}")
    listed_size = image.listed.get("width"), image.listed.get("height")
    objects = [(number, _upright_box(path, box, listed_size), *words) for number, box, *words in image.objects]
    sequences = _objects(reference.name, ImageFile(path), sorted(objects, key=lambda o: natural_key(str(o[0]))))
    sequences[0].notes.extend(image.notes)
    return sequences


def _upright_box(path: Path, box: list[float], listed_size: tuple) -> list[float]:
    """The box in the upright image, if the listed size shows that it was drawn on the image as stored."""
    try:
        with Image.open(path) as image:
            stored, upright, orientation = image.size, upright_size(image), image.getexif().get(ORIENTATION, 1)
    except DECODING_ERRORS:  # reported when its bytes are read
        return box
    if listed_size != stored or stored == upright:
        return box
    x, y, w, h = box
    (width, height), mirrored_x, mirrored_y = upright, orientation in (6, 7), orientation in (7, 8)
    return [width - y - h if mirrored_x else y, height - x - w if mirrored_y else x, h, w]


def find_yolo(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    if not (root / "images").is_dir() or not (root / "labels").is_dir():
        raise NotFound(f"no images in {root}: looked for images/train/*.jpg and labels/train/*.txt")
    classes = _read_yolo_classes(class_map or root / "classes.tsv")
    folders = {part: root / "images" / part for part in YOLO_SPLITS[split]}
    if not any((root / "images" / part).is_dir() for parts in YOLO_SPLITS.values() for part in parts):
        folders = {"": root / "images"} if split == "train" else {}
    references = []
    for part, folder in folders.items():
        if not folder.is_dir():
            continue
        labels = root / "labels" / part
        images = {p.stem: p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
        stems = images.keys() | {p.stem for p in labels.glob("*.txt")}
        references += [
            Reference(stem, folder, (images.get(stem), labels / f"{stem}.txt", classes))
            for stem in sorted(stems, key=natural_key)
        ]
    return references


def _read_yolo_classes(path: Path) -> dict[int, tuple[str, str]]:
    """Classes from lines of index, name and supercategory, separated by tabs, or from lines of one name each.

    In the second form, empty lines count too. Empty if there is no file. Raises `ValueError` naming the first line of
    neither form.
    """
    if not path.is_file():
        return {}
    lines = [line.split("\t") for line in all_lines(path)]
    if all(len(parts) == 1 for parts in lines):
        return {number: (parts[0].strip(), "") for number, parts in enumerate(lines)}
    classes = {}
    for number, (index, *names) in enumerate(lines, start=1):
        if index.strip().isdecimal() and names:
            classes[int(index)] = (names[0].strip(), names[1].strip() if len(names) > 1 else "")
        elif index or names:
            expected = "expected `number<TAB>class` or `number<TAB>class<TAB>supercategory`"
            line = "\t".join((index, *names))
            raise ValueError(f"{path}, line {number}: {expected}, got {line!r}")
    return classes


def read_yolo(reference: Reference) -> list[SourceSequence]:
    """Each label line holds class, centre x and y, width and height, as fractions of the upright image."""
    path, labels, classes = reference.details
    if path is None:
        raise ValueError("labels, but no image")
    if not labels.is_file():
        raise ValueError("an image, but no labels")
    try:
        with Image.open(path) as image:
            width, height = upright_size(image)
    except OSError as error:
        raise ValueError(f"{path.name} is not an image ({error})") from error
    objects = []
    for number, line in enumerate(all_lines(labels), start=1):
        if not line:
            continue
        try:
            category, cx, cy, w, h = (float(v) for v in line.split())
            category = int(category)
        except (ValueError, OverflowError):  # the latter for a class of inf
            raise ValueError(f"{labels.name}, line {number}: expected class, cx, cy, w, h, got {line!r}") from None
        box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
        objects.append((len(objects), box, *classes.get(category, ("", ""))))
    return _objects(reference.name, ImageFile(path), objects)


COCO = Benchmark(
    title="COCO 2017",
    homepage="https://cocodataset.org/",
    citation="""@inproceedings{lin2014microsoft,
  title={Microsoft {COCO}: Common Objects in Context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva and
    Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle={ECCV}, year={2014}
}""",
    splits=("train", "val"),
    sequences_per_shard=3000,
    find=find_coco,
    read=read_coco,
)

YOLO = Benchmark(
    title="Photographs in the layout of YOLO",
    homepage="",
    citation="",
    splits=("train", "val"),
    sequences_per_shard=3000,
    find=find_yolo,
    read=read_yolo,
    takes_class_map=True,
)
