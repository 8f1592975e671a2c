"""LaSOT and its extension, LaSOText: category folders, a sentence and two absence flags for each sequence."""

from pathlib import Path

from .sources import (
    Benchmark,
    NotFound,
    Reference,
    SourceSequence,
    filled_lines,
    fit_flags,
    has_area,
    list_images,
    match_lengths,
    natural_key,
    read_boxes,
    read_flags,
    read_text,
    require_images,
    sequence_folders,
)

# Protocol II of the LaSOT paper tests on 280 sequences, four of each category. Source: testing_set.txt of
# https://github.com/HengLan/LaSOT_Evaluation_Toolkit
TESTING_SET = Path(__file__).with_name("lasot_testing_set.txt")
ABSENCE = ("full_occlusion.txt", "out_of_view.txt")


def official_testing_set() -> set[str]:
    """Names of the 280 test sequences."""
    lines = (line.split() for line in TESTING_SET.read_text(encoding="utf-8").splitlines())
    return {f"{category}-{number}" for category, *numbers in lines for number in numbers}


def _is_of_split(root: Path, split: str):
    """A function that says whether a name is of the split: by the lists in `root`, or else by the official one."""
    files = {part: root / f"{part}ing_set.txt" for part in ("train", "test")}
    listed = {part: set(filled_lines(file)) for part, file in files.items() if file.is_file()}
    if split in listed:
        return listed[split].__contains__
    testing = listed["test"] if "test" in listed else official_testing_set()
    return testing.__contains__ if split == "test" else lambda name: name not in testing


def _folders(root: Path) -> list[Path]:
    """Sequence folders such as `airplane-1`, in `airplane` or in `root` itself, even without ground truth."""
    named = {p for pattern in ("*-*", "*/*-*") for p in root.glob(pattern) if p.is_dir() and (p / "img").is_dir()}
    folders = sorted(named | set(sequence_folders(root, "groundtruth.txt")), key=lambda p: natural_key(p.name))
    if not folders:
        raise NotFound(f"no sequence in {root}: looked for CATEGORY/CATEGORY-1/groundtruth.txt and .../img")
    return folders


def find_lasot(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    wanted = _is_of_split(root, split)
    return [Reference(folder.name, folder) for folder in _folders(root) if wanted(folder.name)]


def find_lasotext(root: Path, split: str, class_map: Path | None) -> list[Reference]:
    return [Reference(folder.name, folder) for folder in _folders(root)]


def read(reference: Reference) -> list[SourceSequence]:
    """A frame shows the target unless it is fully occluded or out of view, and its box has an area."""
    folder, notes = reference.folder, []
    boxes = read_boxes(folder / "groundtruth.txt")
    images, boxes = match_lengths(require_images(list_images(folder / "img")), boxes, notes)
    visible = has_area(boxes)
    for name in ABSENCE:
        visible &= fit_flags(read_flags(folder / name), len(boxes), 0, name, notes) == 0
    category = reference.name.rsplit("-", 1)[0]
    text = read_text(folder / "nlp.txt")
    return [SourceSequence(reference.name, images, boxes, visible, text, category, notes=notes)]


LASOT = Benchmark(
    title="LaSOT",
    homepage="http://vision.cs.stonybrook.edu/~lasot/",
    citation="""@inproceedings{fan2019lasot,
  title={{LaSOT}: A High-quality Benchmark for Large-scale Single Object Tracking},
  author={Fan, Heng and Lin, Liting and Yang, Fan and Chu, Peng and Deng, Ge and Yu, Sijia and Bai, Hexin and Xu, Yong
    and Liao, Chunyuan and Ling, Haibin},
  booktitle={CVPR}, year={2019}
}""",
    splits=("train", "test"),
    sequences_per_shard=2,
    find=find_lasot,
    read=read,
)

LASOTEXT = Benchmark(
    title="LaSOText",
    homepage="http://vision.cs.stonybrook.edu/~lasot/",
    citation="""@article{fan2021lasot,
  title={{LaSOT}: A High-quality Large-scale Single Object Tracking Benchmark},
  author={Fan, Heng and Bai, Hexin and Lin, Liting and Yang, Fan and Chu, Peng and Deng, Ge and Yu, Sijia and Harshit
    and Huang, Mingzhen and Liu, Juehuan and Xu, Yong and Liao, Chunyuan and Yuan, Lin and Ling, Haibin},
  journal={International Journal of Computer Vision}, year={2021}
}""",
    splits=("test",),
    sequences_per_shard=2,
    find=find_lasotext,
    read=read,
)
