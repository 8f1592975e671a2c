"""GOT-10k: one folder per split, classes of object and motion instead of sentences, a visible share per frame."""

import re
from pathlib import Path

import numpy as np

from .sources import (
    Benchmark,
    NotFound,
    Reference,
    SourceSequence,
    filled_lines,
    first_box_only,
    fit_flags,
    has_area,
    list_images,
    match_lengths,
    natural_key,
    read_boxes,
    read_flags,
    require_images,
)

CLASSES = ("object_class", "motion_class", "major_class", "root_class")


def find(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    folder = root / split
    if not folder.is_dir():
        if any((root / other).is_dir() for other in GOT10K.splits):
            return []
        raise NotFound(
            f"none of {', '.join(GOT10K.splits)} in {root}: looked for train/list.txt and train/GOT-10k_Train_000001"
        )
    listed = folder / "list.txt"
    if listed.is_file():
        names = filled_lines(listed)
    else:
        names = [p.name for p in folder.iterdir() if p.is_dir()]
    return [Reference(name, folder / name, split) for name in sorted(names, key=natural_key)]


def _read_classes(path: Path) -> dict[str, str]:
    """The lines `name: value` of a `meta_info.ini`; empty if there is no such file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    pairs = (re.split(r"\s*[:=]\s*", line.strip(), maxsplit=1) for line in lines)
    return {pair[0]: " ".join(pair[1].split()) for pair in pairs if len(pair) == 2}


def read(reference: Reference) -> list[SourceSequence]:
    """A frame shows the target unless it is marked absent, its visible share is 0, or its box has no area."""
    folder, notes = reference.folder, []
    if not folder.is_dir():
        raise ValueError("listed in list.txt, but there is no such folder")
    images, boxes = require_images(list_images(folder)), read_boxes(folder / "groundtruth.txt")
    cover = None
    if reference.details == "test" and len(boxes) == 1:
        boxes = first_box_only(images, boxes)
        visible = has_area(boxes)
    else:
        images, boxes = match_lengths(images, boxes, notes)
        absent = fit_flags(read_flags(folder / "absence.label"), len(boxes), 0, "absence.label", notes)
        cover = fit_flags(read_flags(folder / "cover.label"), len(boxes), -1, "cover.label", notes)
        visible = has_area(boxes) & (absent == 0) & (cover != 0)
    classes = _read_classes(folder / "meta_info.ini")
    words = dict.fromkeys(classes[name] for name in CLASSES if classes.get(name))
    category = classes.get("object_class", "")
    cover = np.full(len(boxes), -1) if cover is None else cover
    return [SourceSequence(reference.name, images, boxes, visible, " ".join(words), category, cover, notes=notes)]


GOT10K = Benchmark(
    title="GOT-10k",
    homepage="http://got-10k.aitestunion.com/",
    citation="""@article{huang2021got10k,
  title={{GOT-10k}: A Large High-Diversity Benchmark for Generic Object Tracking in the Wild},
  author={Huang, Lianghua and Zhao, Xin and Huang, Kaiqi},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence}, year={2021}
}""",
    splits=("train", "val", "test"),
    sequences_per_shard=40,
    find=find,
    read=read,
    has_cover=True,
)
