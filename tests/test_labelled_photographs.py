"""Converting photographs with labels: turned ones, and files of COCO and YOLO that differ from the official ones."""

import json

import numpy as np
import pytest
from PIL import Image

from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.converters import convert

BOX = [10, 20, 30, 40]  # of the target in the upright image, 100 wide and 200 high
TURNS = {3: 2, 6: 1, 8: -1}  # EXIF orientations, and by how many quarters the image is stored turned


def phone_photograph(orientation):
    """The stored image, its EXIF, and the box of the target in it."""
    upright = np.full((200, 100, 3), 60, np.uint8)
    x, y, w, h = BOX
    upright[y : y + h, x : x + w] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation in (5, 7):
        stored = upright.swapaxes(0, 1) if orientation == 5 else upright.swapaxes(0, 1)[::-1, ::-1]
    else:
        stored = np.rot90(upright, TURNS.get(orientation, 0))
    rows, columns = np.nonzero(stored[..., 0] == 255)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    return Image.fromarray(np.ascontiguousarray(stored)), exif, [int(value) for value in box]


def check_target(sequence):
    """The box is where the target is seen."""
    np.testing.assert_allclose(sequence.boxes[0], BOX, atol=0.01)
    assert sequence.frame(0).shape == (200, 100, 3) and sequence.frame(0)[40, 25].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_yolo_labels_are_fractions_of_the_upright_image(orientation, isolated_cache):
    for name in ("images", "labels"):
        (isolated_cache / "in" / name).mkdir(parents=True)
    image, exif, _ = phone_photograph(orientation)
    image.save(isolated_cache / "in" / "images" / "a.png", exif=exif)
    (isolated_cache / "in" / "labels" / "a.txt").write_text("\n0 0.25 0.2 0.3 0.2\n\n")
    report = convert("yolo", isolated_cache / "in", isolated_cache / "out", progress=False)["train"]
    assert report.skipped == []
    (sequence,) = load_tracking_dataset(str(isolated_cache / "out"))
    check_target(sequence)


def test_yolo_line_that_is_no_label_is_named(isolated_cache):
    for name in ("images", "labels"):
        (isolated_cache / "in" / name).mkdir(parents=True)
    for name, line in {"a": "0 0.25 0.2 0.3", "b": "0 0.25 x 0.3 0.2", "c": "inf 0.5 0.5 0.2 0.2"}.items():
        Image.new("L", (8, 6)).save(isolated_cache / "in" / "images" / f"{name}.png")
        (isolated_cache / "in" / "labels" / f"{name}.txt").write_text(f"\n{line}\n")
    report = convert("yolo", isolated_cache / "in", isolated_cache / "out", progress=False)["train"]
    assert [(name, why.split(":")[0]) for name, why in report.skipped] == [
        ("a", "a.txt, line 2"),
        ("b", "b.txt, line 2"),
        ("c", "c.txt, line 2"),
    ]


def convert_coco(folder, images, annotations, image=None, **saved):
    """Annotations of one image file, a.png, as a dataset; returns its sequences by name, and what was left out."""
    (folder / "in" / "annotations").mkdir(parents=True)
    (folder / "in" / "train2017").mkdir()
    (image or Image.new("L", (100, 200), 60)).save(folder / "in" / "train2017" / "a.png", **saved)
    content = {"categories": [{"id": 1, "name": "thing"}], "images": images, "annotations": annotations}
    (folder / "in" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    report = convert("coco", folder / "in", folder / "out", progress=False)["train"]
    return {sequence.name: sequence for sequence in load_tracking_dataset(str(folder / "out"))}, report.skipped


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_coco_boxes_are_of_the_image_whose_size_is_listed(orientation, isolated_cache):
    image, exif, stored_box = phone_photograph(orientation)
    sizes = {"upright": (100, 200, BOX)} | ({"stored": (200, 100, stored_box)} if orientation > 4 else {})
    for name, (width, height, box) in sizes.items():
        listed = [{"id": 1, "file_name": "a.png", "width": width, "height": height}]
        annotations = [{"id": 7, "image_id": 1, "category_id": 1, "bbox": box}]
        (sequence,) = convert_coco(isolated_cache / name, listed, annotations, image, exif=exif)[0].values()
        check_target(sequence)


GOOD = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX}
ODD = {  # changes of a second annotation; the names of the sequences, and what is said
    "no box": ({"bbox": ...}, ["000000000001-1"], "annotation 2: expected `bbox` [x, y, w, h], got None"),
    "null as box": ({"bbox": None}, ["000000000001-1"], "annotation 2: expected `bbox`"),
    "empty box": ({"bbox": []}, ["000000000001-1"], "got []"),
    "words as box": ({"bbox": ["a", 1, 2, 3]}, ["000000000001-1"], "got ['a', 1, 2, 3]"),
    "NaN in a box": ({"bbox": [float("nan"), 1, 2, 3]}, ["000000000001-1"], "got [nan, 1, 2, 3]"),
    "no id": ({"id": ...}, ["000000000001-1", "000000000001-row1"], None),
    "id twice": ({"id": 1}, ["000000000001-1", "000000000001-row1"], None),
    "no category": ({"category_id": ...}, ["000000000001-1", "000000000001-2"], None),
    "text as image id": ({"image_id": "1"}, ["000000000001-1", "000000000001-2"], None),
    "no image id": ({"image_id": ...}, ["000000000001-1"], "1 annotations of an image that is not listed"),
    "image that is not listed": ({"image_id": 5}, ["000000000001-1"], "1 annotations of an image that is not listed"),
}


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_annotation_of_coco_leaves_the_others(kind, isolated_cache):
    change, names, told = ODD[kind]
    odd = {name: value for name, value in {**GOOD, "id": 2, **change}.items() if value is not ...}
    sequences, skipped = convert_coco(isolated_cache, [{"id": 1, "file_name": "a.png"}], [GOOD, odd])
    assert sorted(sequences) == names
    assert (told is None and skipped == []) or told in skipped[0][1]


def test_names_of_images_may_stand_for_their_numbers(isolated_cache):
    annotation = {**GOOD, "image_id": "street"}
    sequences, skipped = convert_coco(isolated_cache, [{"id": "street", "file_name": "a.png"}], [annotation])
    assert list(sequences) == ["street-1"] and skipped == []


def test_file_that_is_not_of_coco_says_what_it_lacks(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text("[]")
    with pytest.raises(ValueError, match=r"coco: .*instances_train2017.json: expected a list `images`"):
        convert("coco", tmp_path, tmp_path / "out", progress=False)
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{")
    with pytest.raises(ValueError, match=r"coco: .*instances_train2017\.json is not a JSON file"):
        convert("coco", tmp_path, tmp_path / "out", progress=False)
