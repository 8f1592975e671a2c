"""Miniatures of the seven benchmarks: a few tiny images each, laid out on disk as the authors do, warts included.

Each builder writes below a root folder and returns what converting that folder must give.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from miniatures_common import (
    LARGER,
    SMALL,
    Box,
    Miniature,
    Row,
    Split,
    Video,
    box_lines,
    encoded_image,
    make_row,
    some_boxes,
    truncated_image,
    write_file,
    zip_bytes,
)

NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)  # what TNL2K and OTB99 write where the target is absent


def _write_lasot(
    root: Path,
    name: str,
    sentence: str,
    boxes: Sequence[Box],
    occluded: Iterable[int] = (),
    outside: Iterable[int] | None = (),
    end: str = "\n",
    broken: int | None = None,
    flat: bool = False,
) -> Video:
    """One sequence of LaSOT. `occluded`, `outside`, `broken`: frame numbers, which begin at 1; None: no such file."""
    category = name.rpartition("-")[0]
    folder = root / name if flat else root / category / name
    numbers = range(1, len(boxes) + 1)
    rows = []
    for number, box in zip(numbers, boxes, strict=True):
        hidden = number in occluded or number in (outside or ())
        row = make_row(name, number, box, hidden)
        write_file(folder / "img" / f"{number:08d}.jpg", truncated_image() if number == broken else row.image)
        if number != broken:
            rows.append(row)
    write_file(folder / "groundtruth.txt", box_lines(boxes, end=end))
    write_file(folder / "nlp.txt", sentence)
    for file, hidden in (("full_occlusion.txt", occluded), ("out_of_view.txt", outside)):
        if hidden is not None:
            write_file(folder / file, ",".join(str(int(number in hidden)) for number in numbers) + "\n")
    return Video(name, sentence.strip(), category, tuple(rows))


def build_lasot(root: Path, flat: bool = False, lists: bool = False) -> Miniature:
    """LaSOT. `flat`: without folders of categories. `lists`: with files that swap train and test."""
    negative = some_boxes(5, {1: (1, 1, -1, -1), 4: (1125, 730, 155, -10)})
    train = [
        _write_lasot(
            root, "airplane-2", "white airplane, on the runway\n", some_boxes(4), [2], [3], "\r\n", flat=flat
        ),
        _write_lasot(root, "airplane-3", "  airplane that lands \r\n", some_boxes(5), [4], broken=2, flat=flat),
        _write_lasot(root, "airplane-10", "black airplane", some_boxes(4), [1, 4], None, flat=flat),
        _write_lasot(root, "bird-1", "", negative, flat=flat),
    ]
    test = [
        _write_lasot(root, "airplane-1", "white airplane, flying, over trees\n", negative, [3], flat=flat),
        _write_lasot(root, "airplane-9", "airplane on the left\n", some_boxes(3), [1, 2], [2, 3], flat=flat),
        _write_lasot(root, "airplane-13", "\n", some_boxes(3), flat=flat),
        _write_lasot(root, "airplane-15", "small airplane\n", some_boxes(3), flat=flat),
    ]
    category = root if flat else root / "airplane"
    for number in (1, 2):  # a sequence without its boxes
        write_file(category / "airplane-11" / "img" / f"{number:08d}.jpg", encoded_image("airplane-11", number))
    write_file(root / "airplane.zip", b"PK\x03\x04 left behind")
    write_file(category / "airplane-2.zip", b"PK\x03\x04 left behind")
    write_file(category / ".DS_Store", b"\x00\x00\x00\x01Bud1")
    write_file(category / "airplane-2" / "img" / ".DS_Store", b"\x00\x00\x00\x01Bud1")
    write_file(category / "airplane-2" / "img" / "._00000001.jpg", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    skipped = ("airplane-3", r"\b0*2\b"), ("airplane-11", r"groundtruth\.txt")
    splits = {"train": Split(tuple(train), skipped), "test": Split(tuple(test))}
    if lists:
        splits = {"train": splits["test"], "test": splits["train"]}
        write_file(root / "training_set.txt", "".join(f"{video.name}\n" for video in test))
        write_file(root / "testing_set.txt", "".join(f"{video.name}\n" for video in train) + "airplane-11\n")
    return Miniature("lasot", root, splits)


def build_lasotext(root: Path) -> Miniature:
    """The extension of LaSOT: as LaSOT, all of it test."""
    videos = (
        _write_lasot(root, "atv-1", "green atv, jumping\n", some_boxes(4), [2], [3]),
        _write_lasot(root, "atv-2", "", some_boxes(3, {0: (1, 1, -1, -1)})),
        _write_lasot(root, "atv-10", "atv\r\n", some_boxes(4), [3], None, "\r\n", broken=4),
        _write_lasot(root, "wingsuit-1", "man in a wingsuit, above the valley", some_boxes(3), outside=[1]),
    )
    write_file(root / "atv" / "atv-3" / "nlp.txt", "atv without boxes")
    write_file(root / "atv" / "atv-3" / "img" / "00000001.jpg", encoded_image("atv-3", 1))
    write_file(root / "atv.zip", b"PK\x03\x04 left behind")
    skipped = ("atv-3", r"groundtruth\.txt"), ("atv-10", r"\b0*4\b")
    return Miniature("lasotext", root, {"test": Split(videos, skipped)})


def _write_got10k(
    folder: Path,
    boxes: Sequence[Box | None],
    classes: tuple[str, str, str, str] | None = None,
    text: str = "",
    absent: Sequence[int] | None = None,
    cover: Sequence[int] | None = None,
    larger_from: int = 99,
) -> Video:
    """One sequence of GOT-10k; frames begin at 1, and the images of those from `larger_from` on are larger.

    classes: object, motion, major and root class. absent, cover: lines of the label files, which may be too few.
    """
    rows = []
    for number, box in enumerate(boxes, start=1):
        gone = absent is not None and number <= len(absent) and absent[number - 1] == 1
        covered = cover[number - 1] if cover is not None and number <= len(cover) else None
        size = LARGER if number >= larger_from else SMALL
        row = make_row(folder.name, number, box, gone or covered == 0, covered, size=size)
        write_file(folder / f"{number:08d}.jpg", row.image)
        rows.append(row)
    write_file(folder / "groundtruth.txt", box_lines((box for box in boxes if box is not None), number=".4f"))
    for file, labels in (("absence.label", absent), ("cover.label", cover), ("cut_by_image.label", absent)):
        if labels is not None:
            write_file(folder / file, "".join(f"{label}\n" for label in labels))
    if classes is not None:
        write_file(folder / "meta_info.ini", _META_INFO.format(*classes))
    return Video(folder.name, text, classes[0] if classes else "", tuple(rows))


_META_INFO = """[METAINFO]
url: https://youtu.be/b0ZnfLI8YPw
begin: 00:00:27
end: 00:00:37
anno_fps: 10Hz
object_class: {0}
motion_class: {1}
major_class: {2}
root_class: {3}
motion_adverb: slowly
resolution: (1920, 1080)
"""


def build_got10k(root: Path) -> Miniature:
    """GOT-10k. Test sequences have nothing but images and their first box."""
    bear, person = ("brown bear", "walking", "bear", "animal"), ("person", "uneven jumping", "person", "person")
    part, train = root / "train", "GOT-10k_Train_{:06d}"
    no_width = some_boxes(5, {3: (4, 4, 0, 6)})
    videos = (
        _write_got10k(
            part / train.format(1), no_width, bear, "brown bear walking bear animal", [0, 1, 0, 0, 0], [8, 0, 0, 7, 3]
        ),
        _write_got10k(
            part / train.format(2),
            some_boxes(4),
            person,
            "person uneven jumping",
            [0] * 4,
            [8, 8, 1, 0],
            larger_from=3,
        ),
        _write_got10k(
            part / train.format(3), some_boxes(5), bear, "brown bear walking bear animal", [0, 0, 0, 1, 0], [8, 0, 6]
        ),
    )
    write_file(part / "list.txt", "".join(train.format(number) + "\n" for number in (1, 2, 3, 4)))
    skipped = (train.format(3), r"cover\.label has 3 values for 5 frames$"), (train.format(4), train.format(4))
    part, name = root / "val", "GOT-10k_Val_000001"
    coach = ("coach", "moving", "vehicle", "vehicle")
    val = _write_got10k(part / name, some_boxes(3), coach, "coach moving vehicle", [0, 0, 1], [8, 4, 0])
    write_file(part / "list.txt", f"{name}\n")
    part, names = root / "test", ["GOT-10k_Test_000001", "GOT-10k_Test_000002"]
    test = tuple(_write_got10k(part / name, [*some_boxes(1), None, None]) for name in names)
    write_file(part / "list.txt", "\n".join(names))
    splits = {"train": Split(videos, skipped), "val": Split((val,)), "test": Split(test)}
    return Miniature("got10k", root, splits)


def _write_trackingnet(part: Path, name: str, boxes: Sequence[Box | None], said: str = "", as_zip: bool = False):
    """One sequence of TrackingNet; frames begin at 0. A zip holds them in the order of their names as text."""
    rows = tuple(make_row(name, number, box) for number, box in enumerate(boxes))
    write_file(part / "anno" / f"{name}.txt", box_lines((box for box in boxes if box is not None), number=""))
    if as_zip:
        files = sorted((f"{row.frame}.jpg", row.image) for row in rows)
        write_file(part / "zips" / f"{name}.zip", zip_bytes(dict(files)))
    else:
        for row in rows:
            write_file(part / "frames" / name / f"{row.frame}.jpg", row.image)
    return Video(name, said, said, rows)


def build_trackingnet(root: Path) -> Miniature:
    """TrackingNet, with a file of classes, in which one sequence is missing, beside the root."""
    partly_outside = some_boxes(4, {1: (-3.5, 10.25, 20.5, 8), 2: (30, -2.25, 12.5, 9.75), 3: (4, 5, 0, 3)})
    first_part, second_part = root / "TRAIN_0", root / "TRAIN_1"
    train = (
        _write_trackingnet(second_part, "0-6LB4FqxoE_0", some_boxes(3), "car", as_zip=True),
        _write_trackingnet(first_part, "A1RSx6j_ra0_4", some_boxes(12), "dog"),
        _write_trackingnet(second_part, "A1RSx6j_ra0_10", partly_outside, "dog", as_zip=True),
        _write_trackingnet(first_part, "zz-9_1", partly_outside),
    )
    cut = zip_bytes({f"{number}.jpg": encoded_image("cut", number) for number in range(3)})
    write_file(second_part / "anno" / "M1cut_0.txt", box_lines(some_boxes(3)))
    write_file(second_part / "zips" / "M1cut_0.zip", cut[: len(cut) // 2])
    write_file(first_part / "anno" / "M2lost_0.txt", box_lines(some_boxes(3)))
    test = (
        _write_trackingnet(root / "TEST", "--Zx_0", [*some_boxes(1), None, None], "person"),
        _write_trackingnet(root / "TEST", "--Zx_1", [*some_boxes(1), None], "person", as_zip=True),
    )
    skipped = ("M1cut_0", "M1cut_0"), ("M2lost_0", "M2lost_0")
    class_map = root.with_name(f"{root.name}_classes.tsv")
    write_file(class_map, "".join(f"{video.name}\t{video.category}\n" for video in train + test if video.category))
    return Miniature("trackingnet", root, {"train": Split(train, skipped), "test": Split(test)}, class_map)


_COCO_CLASSES = {18: ("dog", "animal"), 1: ("person", "person"), 62: ("chair", "furniture")}


def _write_coco(root: Path, split: str, annotations: Iterable[tuple], images: Iterable[int], lost: Iterable[int] = ()):
    """One split of COCO. annotations: (image, annotation, class, box, crowd). `lost`: images without a file."""
    part = f"{split}2017"
    for image in images:
        if image not in lost:
            write_file(root / part / f"{image:012d}.jpg", encoded_image(part, image))
    write_file(root / "annotations" / f"instances_{part}.json", json.dumps(_coco_json(annotations, images)))
    videos, shown = [], None
    for image, number, kind, box, crowd in sorted(annotations):
        if crowd or image in lost:
            continue
        (row,) = (make_row(part, image, box),)
        row = Row(0, None if image == shown else row.image, box, row.visible)
        category, above = _COCO_CLASSES[kind]
        text = category if category == above else f"{category} {above}"
        videos.append(Video(f"{image:012d}-{number}", text, category, (row,)))
        shown = image
    return Split(tuple(videos), tuple((f"{image:012d}", "") for image in lost))


def _coco_json(annotations: Iterable[tuple], images: Iterable[int]) -> dict:
    width, height = SMALL
    return {
        "info": {"description": "COCO 2017 in miniature"},
        "licenses": [{"id": 1, "name": "a licence"}],
        "images": [
            {"license": 1, "file_name": f"{image:012d}.jpg", "height": height, "width": width, "id": image}
            for image in images
        ],
        "annotations": [
            {
                "segmentation": {"counts": [1], "size": [height, width]} if crowd else [[1, 1, 5, 1, 5, 5]],
                "area": box[2] * box[3],
                "iscrowd": crowd,
                "image_id": image,
                "bbox": list(box),
                "category_id": kind,
                "id": number,
            }
            for image, number, kind, box, crowd in annotations
        ],
        "categories": [
            {"supercategory": above, "id": kind, "name": name} for kind, (name, above) in _COCO_CLASSES.items()
        ],
    }


def build_coco(root: Path) -> Miniature:
    """COCO: a sequence for each object; entries in no order, one image without objects, one without its file."""
    train = [  # image, annotation, class, box, crowd
        (25, 7, 18, (2.25, 3.5, 10.0, 8.75), 0),
        (9, 1042, 1, (1.0, 1.0, 7.5, 20.0), 0),
        (9, 900100002, 62, (0.0, 0.0, 30.0, 20.0), 1),
        (9, 31, 18, (5.0, 5.0, 12.25, 9.0), 0),
        (30, 55, 1, (0.0, 0.0, 9.0, 9.0), 0),
        (30, 56, 18, (3.0, 0.0, 9.0, 9.0), 0),
        (25, 8, 62, (4.0, 6.0, 0.0, 5.5), 0),
        (9, 200, 62, (11.0, 2.0, 6.0, 6.0), 0),
        (574823, 12, 1, (0.5, 0.5, 16.0, 16.0), 0),
    ]
    val = [(139, 3, 62, (6.0, 4.0, 9.5, 9.5), 0), (139, 1, 1, (2.0, 2.0, 8.0, 8.0), 0)]
    splits = {
        "train": _write_coco(root, "train", train, [574823, 25, 77, 9, 30], lost=[30]),
        "val": _write_coco(root, "val", val, [139]),
    }
    return Miniature("coco", root, splits)


def _write_tnl2k(
    folder: Path, sentence: str, images: Sequence[str], boxes: Sequence[Box], empty: Sequence[str] = ()
) -> Video:
    """One sequence of TNL2K. `images`, `empty`: file names; those of `empty` have no bytes."""
    rows = []
    for name in images:
        frame = int("".join(c for c in Path(name).stem if c.isdigit()))
        encoded = encoded_image(folder.name, frame, kind="PNG" if name.endswith(".png") else "JPEG")
        write_file(folder / "imgs" / name, b"" if name in empty else encoded)
        rows.append((name, frame, encoded))
    write_file(folder / "groundtruth.txt", box_lines(boxes))
    write_file(folder / "language.txt", sentence)
    kept = tuple(
        Row(frame, encoded, box, box[2] > 0 and box[3] > 0)
        for (name, frame, encoded), box in zip(rows, boxes, strict=False)
        if name not in empty
    )
    return Video(folder.name, sentence.strip(), "", kept)


def build_tnl2k(root: Path) -> Miniature:
    """TNL2K, with folders at one and at two levels, and names that say "train" or "test" of another split."""
    part, deeper = root / "TNL2K_train_subset", root / "TNL2K_train_subset" / "TNL2k_train_subset_p1"
    five = [f"{number:05d}.png" for number in range(1, 6)]
    train = (
        _write_tnl2k(
            deeper / "Arrow_Video_ZZ04_done", "the arrow, above the grass\n", five, some_boxes(5, {2: NO_BOX})
        ),
        _write_tnl2k(part / "Assassin_video_2-Done", "", [f"{n:05d}i.jpg" for n in (54, 55, 56)], some_boxes(3)),
        _write_tnl2k(
            deeper / "Assassin_video_10-Done", "the man, who runs\r\n", [f"{n:08d}.jpg" for n in (7, 8)], some_boxes(2)
        ),
    )
    _write_tnl2k(part / "Boy_video_03-Done", "the boy", five[:2], [])
    write_file(part / "Assassin_video_2-Done" / "imgs" / "Thumbs.db", b"\xd0\xcf\x11\xe0")
    write_file(deeper / "TNL2k_train_subset_p1.zip", b"PK\x03\x04 left behind")
    part = root / "TNL2K_test_subset"
    sword = [f"{number:08d}.jpg" for number in (491, 493, 494)]
    test = (
        _write_tnl2k(part / "advSamp_Baseball_game_002-Done", "the batter in white", five, some_boxes(4, {0: NO_BOX})),
        _write_tnl2k(part / "advSamp_Baseball_game_010-Done", " the ball ", five[:3], some_boxes(4)),
        _write_tnl2k(part / "test_015_Sord_video_Q01_done", "the sword\n", sword, some_boxes(3)),
        _write_tnl2k(part / "train_video_01_done", "the train, on rails", five[:4], some_boxes(4), empty=[five[1]]),
    )
    write_file(part / "test_015_Sord_video_Q01_done" / "imgs" / "00000492.pn_error", b"")
    write_file(part / "revised_annotations" / "train_video_01_done.txt", box_lines(some_boxes(4)))
    splits = {
        "train": Split(train, (("Boy_video_03-Done", "groundtruth|box"),)),
        "test": Split(
            test,
            (
                ("advSamp_Baseball_game_002-Done", r"(?=.*\b5\b)(?=.*\b4\b)"),
                ("advSamp_Baseball_game_010-Done", r"(?=.*\b3\b)(?=.*\b4\b)"),
                ("train_video_01_done", r"\b0*2\b"),
            ),
        ),
    }
    return Miniature("tnl2k", root, splits)


def _write_otb99(
    root: Path,
    split: str,
    query: str,
    sentence: str,
    boxes: Sequence[Box],
    images: Iterable[int] | None = None,
    first: int = 1,
    folder: str | None = None,
    boxes_file: str = "groundtruth_rect.txt",
    boxes_text: str | None = None,
    digits: int = 4,
) -> Video:
    """One target of OTB99: its query, video and boxes, of which the first belongs to the image `first`.

    images: numbers of all images, by default as many as boxes. folder: of the video, by default as the query.
    boxes_text: the whole file of boxes, by default with commas.
    """
    folder = folder or query
    video = root / "OTB_videos" / folder
    numbers = range(first, first + len(boxes))
    for number in images or numbers:
        write_file(video / "img" / f"{number:0{digits}d}.jpg", encoded_image(folder, number))
    write_file(video / boxes_file, boxes_text or box_lines(boxes))
    write_file(root / f"OTB_query_{split}" / f"{query}.txt", sentence)
    rows = tuple(make_row(folder, number, box) for number, box in zip(numbers, boxes, strict=True))
    return Video(query, sentence.strip(), "", rows)


def build_otb99(root: Path, long_david: bool = False) -> Miniature:
    """OTB99, the part of OTB-100 with sentences. `long_david`: with the 770 images of the first release of David."""
    four, mixed = some_boxes(4), box_lines(some_boxes(3), "\t") + box_lines(some_boxes(4)[3:])
    whole = {"boxes": some_boxes(471), "images": range(1, 771)} if long_david else {"boxes": four}
    train = (
        _write_otb99(root, "train", "David", "the face of a man, in the dark\n", first=300, **whole),
        _write_otb99(
            root, "train", "Fleetface", "face", four, folder="FleetFace", boxes_text=box_lines(four, end="\r\n")
        ),
        _write_otb99(root, "train", "Football1", "player\n", four, images=range(1, 7)),
        *(
            _write_otb99(
                root, "train", f"Jogging-{n}", said, boxes, folder="Jogging", boxes_file=f"groundtruth_rect.{n}.txt"
            )
            for n, said, boxes in (
                (1, "left woman, in black\r\n", four),
                (2, "right woman", some_boxes(4, {1: NO_BOX})),
            )
        ),
    )
    write_file(root / "OTB_query_train" / "Matrix.txt", "man in black, without a video")
    blank = box_lines(four, " ")
    test = (
        _write_otb99(root, "test", "BlurCar1", "car", four, range(1, 251), 247, boxes_text=mixed),
        _write_otb99(root, "test", "BlurCar3", "car, ahead", four, range(1, 7), 3, boxes_text=box_lines(four, "\t")),
        _write_otb99(root, "test", "BlurCar4", "", four, range(1, 22), 18, boxes_text=blank),
        _write_otb99(root, "test", "Board", "circuit board, held up", four, digits=5),
        _write_otb99(root, "test", "Human4", "man", some_boxes(4, {3: NO_BOX})),
        _write_otb99(root, "test", "Skating2-1", "woman in red", four),
        _write_otb99(root, "test", "Skating2-2", "man in black", four[::-1], boxes_file="groundtruth_rect.2.txt"),
    )
    write_file(root / "OTB_videos" / "Human4" / "groundtruth_rect1.txt", "")
    write_file(root / "OTB_videos" / "Skating2-2" / "groundtruth_rect.1.txt", blank)
    write_file(root / "OTB_videos" / "Unasked" / "img" / "0001.jpg", encoded_image("Unasked", 1))
    write_file(root / "OTB_videos" / "Unasked" / "groundtruth_rect.txt", box_lines(some_boxes(1)))
    skipped = ("Football1", r"(?=.*\b6\b)(?=.*\b4\b)"), ("Matrix", "video")
    splits = {"train": Split(train, skipped), "test": Split(test)}
    return Miniature("otb99", root, splits)


BUILDERS: dict[str, Callable[[Path], Miniature]] = {
    "lasot": build_lasot,
    "lasotext": build_lasotext,
    "got10k": build_got10k,
    "trackingnet": build_trackingnet,
    "coco": build_coco,
    "tnl2k": build_tnl2k,
    "otb99": build_otb99,
}
