"""Images with boxes and phrases as training pairs: what is read, and what the template and the phrase then tell."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.data.boxed_images import BoxedImages
from modeling_pjvlt.data.pairs.boxed_images import BoxedImagePairs
from modeling_pjvlt.data.pairs.cropping import PairCropper
from modeling_pjvlt.data.pairs.mixture import TrackingPairs

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 230)}
PLACES = {"red": [10, 20, 24, 30], "green": [60, 30, 30, 24]}


def write_image(folder, name, colours, **row):
    """An image with a rectangle of each colour, and its line of the table."""
    pixels = np.full((96, 120, 3), 120, np.uint8)
    objects = []
    for colour in colours:
        x, y, w, h = PLACES.get(colour, [70, 60, 30, 30])
        pixels[y : y + h, x : x + w] = COLOURS[colour]
        objects.append({"box": [x, y, w, h], "phrases": [f"a {colour} block"], "category": "things"})
    Image.fromarray(pixels).save(folder / "images" / name)
    return {"file": name, "width": 120, "height": 96, "objects": objects, **row}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    rows = [
        write_image(tmp_path, "one.png", ["red", "green"], split="train"),
        write_image(tmp_path, "two.png", ["blue"]),
        write_image(tmp_path, "three.png", ["blue", "red"], split="val"),
    ]
    rows[0]["objects"] += [
        {"box": [0, 0, 120, 96], "phrases": ["the whole image"], "category": "things"},
        {"box": [5, 5, 4, 4], "phrases": ["a speck"], "category": "things"},
        {"box": [40, 40, 30, 30], "phrases": ["a field"], "category": "scene"},
    ]
    (tmp_path / "boxes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def colour_inside(frame, box):
    x, y, w, h = (int(v) for v in box)
    return tuple(int(v) for v in frame[y + h // 2, x + w // 2])


def test_only_objects_that_can_be_targets_of_the_training_part_are_read(folder):
    images = BoxedImages([folder])
    assert [path.name for path in images.paths] == ["one.png", "two.png"]
    assert [[o.phrases[0] for o in objects] for objects in images.objects] == [
        ["a red block", "a green block"],
        ["a blue block"],
    ]


@pytest.mark.parametrize("seed", range(8))
def test_twins_share_their_image_and_only_the_phrase_tells_their_boxes(folder, seed):
    one, two = BoxedImagePairs(BoxedImages([folder]), words_share=1.0).draw_twins(np.random.default_rng(seed))
    assert one.search is two.search and one.surroundings is two.surroundings
    assert {one.text, two.text} == {"a red block", "a green block"}
    for pair in (one, two):
        assert colour_inside(pair.search, pair.search_box) == COLOURS[pair.text.split()[1]]
        assert pair.template is None or colour_inside(pair.template, pair.template_box) in COLOURS.values()
    assert (one.template is None) == (two.template is None)


def test_a_template_of_the_same_kind_comes_from_another_image(folder):
    source = BoxedImagePairs(
        BoxedImages([folder]), 0.0, kind_share=1.0, absent_share=0.0, wrong_text_share=0.0, no_text_share=0.0
    )
    pairs = [source.draw(np.random.default_rng(seed)) for seed in range(30)]
    assert any(pair.template is not pair.search for pair in pairs)
    for pair in pairs:
        assert colour_inside(pair.search, pair.search_box) == COLOURS[pair.text.split()[1]]


def test_an_absent_target_is_not_in_the_search_image(folder):
    table = folder / "boxes.jsonl"
    table.write_text(table.read_text().replace("a blue block", "a blue ball"))
    source = BoxedImagePairs(BoxedImages([folder]), 0.0, 0.0, 1.0, 0.0, 0.0)
    absent = [p for p in (source.draw(np.random.default_rng(seed)) for seed in range(40)) if not p.present]
    assert len(absent) > 5
    for pair in absent:
        wanted = COLOURS[pair.text.split()[1]]
        assert not (pair.search == np.array(wanted)).all(axis=-1).any()


def test_wrong_and_missing_phrases_come_at_their_share(folder):
    def texts(wrong, none):
        source = BoxedImagePairs(BoxedImages([folder]), 0.0, 0.0, 0.0, wrong, none)
        return [source.draw(np.random.default_rng(seed)) for seed in range(20)]

    assert {pair.text for pair in texts(0.0, 1.0)} == {"the target"}
    wrong = [colour_inside(p.search, p.search_box) != COLOURS[p.text.split()[1]] for p in texts(1.0, 0.0)]
    assert 5 < sum(wrong) < 20  # drawn of all objects, so some are right by chance


def test_samples_depend_on_their_number_alone_and_decode_an_image_once(folder, monkeypatch):
    cropper = PairCropper(PJVLTImageProcessor(template_size=16, search_size=32), degrade_probability=0.5)

    def samples(order):
        pairs = TrackingPairs(BoxedImagePairs(BoxedImages([folder])), cropper, length=6, seed=3, twins=True)
        return {i: pairs[i] for i in order}

    forth, back = samples(range(6)), samples(reversed(range(6)))
    for i in range(6):
        assert forth[i]["text"] == back[i]["text"]
        for name in ("pixel_values", "template_pixel_values", "labels"):
            assert np.array_equal(forth[i][name], back[i][name])
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *args: opened.append(path) or original(path, *args))
    images = BoxedImages([folder])
    for _ in range(3):
        images.pixels(0), images.pixels(1)
    assert len(opened) == 2
    small = BoxedImages([folder], cache_bytes=1)
    small.pixels(0), small.pixels(1), small.pixels(0)
    assert len(opened) == 5
    assert len(pickle.loads(pickle.dumps(small))) == 2  # for workers that `spawn`


def test_what_cannot_be_read_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"boxes\.jsonl"):
        BoxedImages([tmp_path / "images"])
    (folder / "boxes.jsonl").write_text('\n{"file": "one.png", "objects": [{"box": [1, 2, 3]}]}\n')
    with pytest.raises(ValueError, match=r"line 2.*x, y, w, h"):
        BoxedImages([folder])
    (folder / "boxes.jsonl").write_text('{"file": "one.png", "width": 9, "height": 9, "objects": []}\n')
    with pytest.raises(ValueError, match="has an object"):
        BoxedImages([folder])
    (folder / "images" / "one.png").write_bytes(b"")
    row = {"file": "one.png", "width": 99, "height": 99, "objects": [{"box": [1, 2, 30, 30], "category": "a"}]}
    (folder / "boxes.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"one\.png cannot be decoded"):
        BoxedImages([folder]).pixels(0)


def test_an_image_is_seen_upright(folder):
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turned by 90 degrees
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(folder / "images" / "one.png", exif=orientation)
    assert BoxedImages([folder]).pixels(0).shape == (60, 40, 3)
