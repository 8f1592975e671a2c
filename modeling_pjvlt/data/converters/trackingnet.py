"""TrackingNet: twelve training parts and a test part, frames as folders or zip archives, no class names."""

from pathlib import Path

from .sources import (
    Benchmark,
    NotFound,
    Reference,
    SourceSequence,
    first_box_only,
    has_area,
    list_images,
    list_zipped_images,
    match_lengths,
    natural_key,
    read_boxes,
    read_class_map,
    require_images,
)


def find(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    parts = [p.parent for p in root.glob("*/anno")]
    parts = [part for part in parts if part.name == "TEST" or part.name.startswith("TRAIN_")]
    if not parts:
        raise NotFound(f"no part in {root}: looked for TRAIN_0/anno/*.txt and TEST/anno/*.txt")
    classes = read_class_map(class_map)
    references = [
        Reference(path.stem, part, classes.get(path.stem, ""))
        for part in parts
        if (part.name == "TEST") == (split == "test")
        for path in part.glob("anno/[!.]*.txt")
    ]
    if split == "train" and references and not any(reference.details for reference in references):
        reason = "no --class_map was given" if class_map is None else f"{class_map} names none of them"
        raise ValueError(
            f"the {len(references)} training sequences in {root} have no sentence without their classes, "
            f"and {reason}: a file of lines ID<TAB>class, such as pytracking's "
            "ltr/data_specs/trackingnet_classmap.txt. To convert the test part alone: --splits test."
        )
    return sorted(references, key=lambda reference: natural_key(reference.name))


def read(reference: Reference) -> list[SourceSequence]:
    """The target is visible wherever its box has an area; test sequences have only the first box."""
    part, notes = reference.folder, []
    boxes = read_boxes(part / "anno" / f"{reference.name}.txt")
    archive = part / "zips" / f"{reference.name}.zip"
    images = list_images(part / "frames" / reference.name)
    if not images and archive.is_file():
        images = list_zipped_images(archive)
    require_images(images)
    if part.name == "TEST" and len(boxes) == 1:
        boxes = first_box_only(images, boxes)
    else:
        images, boxes = match_lengths(images, boxes, notes)
    category = reference.details
    return [SourceSequence(reference.name, images, boxes, has_area(boxes), category, category, notes=notes)]


TRACKINGNET = Benchmark(
    title="TrackingNet",
    homepage="https://tracking-net.org/",
    citation="""@inproceedings{muller2018trackingnet,
  title={{TrackingNet}: A Large-Scale Dataset and Benchmark for Object Tracking in the Wild},
  author={M{\\"u}ller, Matthias and Bibi, Adel and Giancola, Silvio and Alsubaihi, Salman and Ghanem, Bernard},
  booktitle={ECCV}, year={2018}
}""",
    splits=("train", "test"),
    sequences_per_shard=16,
    find=find,
    read=read,
    takes_class_map=True,
)
