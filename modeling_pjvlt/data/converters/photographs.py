"""Photographs with labelled objects: COCO 2017, and folders in the layout of YOLO. Each object is a sequence."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from .sources import (
    PICTURE_SUFFIXES,
    Benchmark,
    NotFound,
    PictureFile,
    Reference,
    SourceSequence,
    all_lines,
    has_area,
    natural_key,
)

COCO_SPLITS = {"train": "train2017", "val": "val2017"}
YOLO_SPLITS = {"train": ("train", "train2017"), "val": ("val", "val2017", "valid")}


def category_words(category: str, supercategory: str) -> str:
    """Category and supercategory, each once.

    >>> category_words("dog", "animal"), category_words("person", "person")
    ('dog animal', 'person')
    """
    return " ".join(dict.fromkeys(word for word in (category, supercategory) if word))


def _objects(
    name: str, picture: PictureFile, objects: list[tuple[str, list[float], str, str]]
) -> list[SourceSequence]:
    """A sequence of one frame for each (number, box, category, supercategory)."""
    sequences = []
    for number, box, category, supercategory in objects:
        boxes = np.array([box], np.float32)
        text = category_words(category, supercategory)
        sequences.append(
            SourceSequence(f"{name}-{number}", [picture], boxes, has_area(boxes), text, category, numbers=[0])
        )
    return sequences


def find_coco(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    annotations = root / "annotations" / f"instances_{COCO_SPLITS[split]}.json"
    if not annotations.is_file():
        if any((root / "annotations").glob("instances_*2017.json")):
            return []
        raise NotFound(f"no annotations in {root}: looked for annotations/instances_train2017.json")
    content = json.loads(annotations.read_text(encoding="utf-8"))
    names = {c["id"]: (c["name"], c.get("supercategory", "")) for c in content["categories"]}
    objects: dict[int, list] = {}
    for a in sorted(content["annotations"], key=lambda a: a["id"]):
        if not a.get("iscrowd", 0):
            objects.setdefault(a["image_id"], []).append((a["id"], a["bbox"], *names.get(a["category_id"], ("", ""))))
    files = {image["id"]: image["file_name"] for image in content["images"]}
    folder = root / COCO_SPLITS[split]
    return [
        Reference(f"{number:012d}", folder, (files[number], objects[number]))
        for number in sorted(objects)
        if number in files
    ]


def read_coco(reference: Reference) -> list[SourceSequence]:
    file_name, objects = reference.details
    path = reference.folder / file_name
    if not path.is_file():
        raise ValueError(f"no picture {file_name}")
    return _objects(reference.name, PictureFile(path), objects)


def find_yolo(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    if not (root / "images").is_dir() or not (root / "labels").is_dir():
        raise NotFound(f"no pictures in {root}: looked for images/train/*.jpg and labels/train/*.txt")
    classes = _read_yolo_classes(class_map or root / "classes.tsv")
    folders = {part: root / "images" / part for part in YOLO_SPLITS[split]}
    if not any((root / "images" / part).is_dir() for parts in YOLO_SPLITS.values() for part in parts):
        folders = {"": root / "images"} if split == "train" else {}
    references = []
    for part, folder in folders.items():
        if not folder.is_dir():
            continue
        labels = root / "labels" / part
        pictures = {p.stem: p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES}
        stems = pictures.keys() | {p.stem for p in labels.glob("*.txt")}
        references += [
            Reference(stem, folder, (pictures.get(stem), labels / f"{stem}.txt", classes))
            for stem in sorted(stems, key=natural_key)
        ]
    return references


def _read_yolo_classes(path: Path) -> dict[int, tuple[str, str]]:
    """Lines of index, name and supercategory, apart by tabs; or one name a line, where an empty one counts, too.

    Nothing where there is no file.
    """
    if not path.is_file():
        return {}
    lines = [line.split("\t") for line in all_lines(path)]
    if all(len(parts) == 1 for parts in lines):
        return {number: (parts[0].strip(), "") for number, parts in enumerate(lines)}
    lines = [parts for parts in lines if parts != [""]]
    return {int(parts[0]): (parts[1].strip(), parts[2].strip() if len(parts) > 2 else "") for parts in lines}


def read_yolo(reference: Reference) -> list[SourceSequence]:
    """Lines of class, centre x and y, width and height as fractions of the picture."""
    path, labels, classes = reference.details
    if path is None:
        raise ValueError("labels, but no picture")
    if not labels.is_file():
        raise ValueError("a picture, but no labels")
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except OSError as error:
        raise ValueError(f"{path.name} is no picture ({error})") from error
    objects = []
    for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines()):
        parts = line.split()
        if len(parts) != 5:
            raise ValueError(f"{labels.name}, line {number + 1}: expected class, cx, cy, w, h, got {line!r}")
        cx, cy, w, h = (float(v) for v in parts[1:])
        box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
        objects.append((number, box, *classes.get(int(parts[0]), ("", ""))))
    return _objects(reference.name, PictureFile(path), objects)


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
)
