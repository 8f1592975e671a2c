"""Folders of frames with a box file and a sentence: TNL2K, OTB99-Lang, and your own data in this layout."""

import re
from pathlib import Path

import numpy as np

from .sources import (
    Benchmark,
    ImageFile,
    NotFound,
    Reference,
    SourceSequence,
    has_area,
    list_images,
    match_lengths,
    natural_key,
    read_boxes,
    read_text,
    require_images,
    sequence_folders,
)

# OTB-2015 annotates these from a later frame on (http://cvlab.hanyang.ac.kr/tracker_benchmark/datasets.html).
OTB_FIRST_FRAMES = {"David": 300, "BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18}
ANNOTATIONS = ("groundtruth_rect.txt", "groundtruth.txt")
SENTENCES = ("language.txt", "nlp.txt")
_TARGET = re.compile(r"(.+)[-.](\d+)$")  # Jogging-1, Jogging.1


def find_tnl2k(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    """The sequences of a split, which the name of a folder above them says."""
    folders = [p.parent for depth in range(4) for p in root.glob("/".join(["*"] * depth + ["imgs"])) if p.is_dir()]
    if not folders:
        raise NotFound(f"no sequence in {root}: looked for TNL2K_train_subset/NAME/imgs and TNL2K_test_subset/...")
    of_split = [f for f in folders if _split_by_folders(root, f) == split]
    if not of_split and not any(_split_by_folders(root, f) for f in folders):
        raise NotFound(f"cannot tell train from test in {root}: no folder above the sequences is named after either")
    return [Reference(f.name, f) for f in sorted(of_split, key=lambda f: natural_key(f.name))]


def _split_by_folders(root: Path, folder: Path) -> str | None:
    above = [root.name, *folder.relative_to(root).parts[:-1]]
    for name in reversed(above):
        for split in ("train", "test"):
            if split in name.lower():
                return split
    return None


def read_tnl2k(reference: Reference) -> list[SourceSequence]:
    """A box without an area means that the target is absent."""
    folder, notes = reference.folder, []
    boxes = read_boxes(folder / "groundtruth.txt")
    images, boxes = match_lengths(require_images(list_images(folder / "imgs")), boxes, notes)
    text = read_text(folder / "language.txt")
    return [SourceSequence(reference.name, images, boxes, has_area(boxes), text, notes=notes)]


def find_otb99(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    """One sequence for each query file; its video may be named in another case, or without the target's number."""
    videos = root / "OTB_videos"
    if not videos.is_dir() or not any(root.glob("OTB_query_*")):
        raise NotFound(f"no queries in {root}: looked for OTB_query_train, OTB_query_test and OTB_videos")
    folders = {folder.name.lower(): folder for folder in videos.iterdir() if folder.is_dir()}
    references = []
    for path in sorted((root / f"OTB_query_{split}").glob("[!.]*.txt"), key=lambda p: natural_key(p.stem)):
        numbered = _TARGET.match(path.stem)
        folder, target = folders.get(path.stem.lower()), None
        if numbered:
            target = int(numbered.group(2))
            folder = folder or folders.get(numbered.group(1).lower())
        references.append(Reference(path.stem, folder or videos / path.stem, (path, target)))
    return references


def read_otb99(reference: Reference) -> list[SourceSequence]:
    folder, (query, target) = reference.folder, reference.details
    if not folder.is_dir():
        raise ValueError("there is a query, but no video of this name")
    names = ["groundtruth_rect.txt"] if target is None else [f"groundtruth_rect.{target}.txt", "groundtruth_rect.txt"]
    path = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    return [_read_folder(reference.name, folder, path, read_text(query))]


def _read_folder(name: str, folder: Path, boxes_path: Path, text: str) -> SourceSequence:
    notes: list[str] = []
    boxes = read_boxes(boxes_path)
    images = next((listed for part in ("img", "imgs", "") if (listed := list_images(folder / part))), [])
    images = _from_first_annotated(folder.name, require_images(images), boxes)
    images, boxes = match_lengths(images, boxes, notes)
    return SourceSequence(name, images, boxes, has_area(boxes), text, notes=notes)


def _from_first_annotated(video: str, images: list[ImageFile], boxes: np.ndarray) -> list[ImageFile]:
    """The images from the first box on, where OTB starts later and there are more images than boxes."""
    first = OTB_FIRST_FRAMES.get(video)
    if first is None or len(images) <= len(boxes):
        return images
    return [image for image in images if image.number is None or image.number >= first]


def find_folders(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    """Every folder with a box file, whatever the name of the split."""
    folders = sorted(
        {folder for name in ANNOTATIONS for folder in sequence_folders(root, name)}, key=lambda f: natural_key(f.name)
    )
    if not folders:
        raise NotFound(f"no sequence in {root}: looked for NAME/{ANNOTATIONS[0]} or NAME/{ANNOTATIONS[1]}")
    return [Reference(folder.name, folder) for folder in folders]


def read_folder(reference: Reference) -> list[SourceSequence]:
    folder = reference.folder
    boxes_path = next(folder / name for name in ANNOTATIONS if (folder / name).is_file())
    text = next((text for name in SENTENCES if (text := read_text(folder / name))), "")
    return [_read_folder(reference.name, folder, boxes_path, text)]


TNL2K = Benchmark(
    title="TNL2K",
    homepage="https://sites.google.com/view/langtrackbenchmark/",
    citation="""@inproceedings{wang2021towards,
  title={Towards More Flexible and Accurate Object Tracking with Natural Language: Algorithms and Benchmark},
  author={Wang, Xiao and Shu, Xiujun and Zhang, Zhipeng and Jiang, Bo and Wang, Yaowei and Tian, Yonghong and
    Wu, Feng},
  booktitle={CVPR}, year={2021}
}""",
    splits=("train", "test"),
    sequences_per_shard=8,
    find=find_tnl2k,
    read=read_tnl2k,
)

OTB99 = Benchmark(
    title="OTB99-Lang",
    homepage="https://github.com/QUVA-Lab/lang-tracker",
    citation="""@inproceedings{li2017tracking,
  title={Tracking by Natural Language Specification},
  author={Li, Zhenyang and Tao, Ran and Gavves, Efstratios and Snoek, Cees G. M. and Smeulders, Arnold W. M.},
  booktitle={CVPR}, year={2017}
}""",
    splits=("train", "test"),
    sequences_per_shard=16,
    find=find_otb99,
    read=read_otb99,
)

FOLDERS = Benchmark(
    title="Folders of frames",
    homepage="",
    citation="",
    splits=("train", "val", "test"),
    sequences_per_shard=8,
    find=find_folders,
    read=read_folder,
    one_split=True,
)
