"""Clips made of photographs: what a folder may hold, and that boxes are where the pixels are."""

import json
import pickle
import re
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from modeling_pjvlt.cli.train import main as train
from modeling_pjvlt.data.pairs.cropping import PairCropper
from modeling_pjvlt.data.pairs.mixture import PairCollator, TrackingPairs
from modeling_pjvlt.data.pairs.sources import PhotographPairs
from modeling_pjvlt.data.synthetic import photograph_clips
from modeling_pjvlt.data.synthetic.compositing import project, surrounded, warp
from modeling_pjvlt.data.synthetic.photograph_clips import KINDS, PhotographClip, colour_word
from modeling_pjvlt.data.synthetic.photograph_text import describe, vocabulary
from modeling_pjvlt.data.synthetic.photographs import PhotographFolder, Target, rectangle
from modeling_pjvlt.loss_pjvlt import check_labels

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from contact_sheet import main as contact_sheet

WIDTH, HEIGHT = 160, 120
GREY = Image.new("RGB", (90, 70), (60, 60, 60))
OBJECT = (60, 40, 40, 30)  # x, y, w, h of the red rectangle in every image


def draw_photograph(seed):
    """Dull blocks of colour, and a red rectangle."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(30, 110, (HEIGHT // 10, WIDTH // 10, 3)).astype(np.uint8)
    image = Image.fromarray(blocks).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    x, y, w, h = OBJECT
    ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=(230, 20, 20))
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images: one with a box, one with a polygon and a box that it replaces, one with regions."""
    root = tmp_path_factory.mktemp("photographs")
    for name in ("images/train", "labels/train", "polygons/train", "segments/train"):
        (root / name).mkdir(parents=True)
    for seed, name in enumerate("abc"):
        draw_photograph(seed).save(root / "images" / "train" / f"{name}.png")
    x, y, w, h = OBJECT
    box = f"{(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}"
    (root / "labels/train/a.txt").write_text(f"1 {box}\n")
    (root / "labels/train/b.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    corners = " ".join(f"{px / WIDTH} {py / HEIGHT}" for px, py in rectangle(OBJECT))
    (root / "polygons/train/b.txt").write_text(f"1 {corners}\n")
    segments = np.zeros((HEIGHT, WIDTH), np.uint8)
    segments[y : y + h, x : x + w] = 7
    Image.fromarray(segments).save(root / "segments/train/c.png")
    (root / "classes.tsv").write_text("0\tcat\tanimal\n1\tfire engine\tvehicle\n2\n")  # the last one has no name
    return root


@pytest.fixture(scope="module")
def photographs(folder):
    return PhotographFolder([folder])


def test_objects_come_from_boxes_polygons_and_regions(photographs):
    assert len(photographs) == 3 and photographs.labelled == [0, 1, 2]
    for index in range(3):
        target = photographs.objects(index)[-1]
        np.testing.assert_allclose(target.box, OBJECT, atol=1.01)
    assert [(t.name, t.family) for t in photographs.objects(1)] == [("fire engine", "vehicle")]
    assert photographs.objects(2)[0].name == ""


@pytest.fixture
def boxed(tmp_path):
    """Two images of a table of boxes; each shows a red rectangle, and the second one a blue one, too."""
    rows = []
    for number in range(2):
        image = draw_photograph(number)
        objects = [{"box": OBJECT, "phrases": ["a fast red engine"], "category": "vehicles"}]
        if number:
            ImageDraw.Draw(image).rectangle((110, 80, 139, 109), fill=(30, 60, 250))
            objects.append({"box": [110, 80, 30, 30], "phrases": ["the blue ball"], "category": "other"})
        image.save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"file": f"{number}.png", "objects": objects}))
    draw_photograph(2).save(tmp_path / "not_in_the_table.png")
    (tmp_path / "boxes.jsonl").write_text("\n".join(rows))
    return tmp_path


def test_a_table_of_boxes_gives_objects_and_what_people_call_them(boxed):
    photographs = PhotographFolder([boxed], labelled_share=1.0)
    assert [len(photographs.objects(i)) for i in range(len(photographs))] == [1, 2]
    target = photographs.objects(1)[0]
    np.testing.assert_allclose(target.box, OBJECT, atol=1e-4)
    assert target.phrases == ("a fast red engine",) and target.name == "engine"
    clips = [PhotographClip(photographs, seed, num_frames=1, kind="pasted") for seed in range(20)]
    assert {clip.kind for clip in clips} == {"camera"}  # what is around the object in its box is not pasted
    assert sum(clip.text in {"a fast red engine", "the blue ball"} for clip in clips) > 10


def test_without_random_shapes_every_target_and_every_twin_is_an_object(boxed, monkeypatch):
    monkeypatch.setattr(PhotographClip, "_set_distractors", lambda clip, rng, target: None)
    monkeypatch.setattr(PhotographClip, "_set_occluder", lambda clip, rng: setattr(clip, "_occluder", None))
    monkeypatch.setattr(PhotographFolder, "draw_region", lambda *args: pytest.fail("a random shape was drawn"))
    pairs = PhotographPairs(PhotographFolder([boxed], labelled_share=1.0), wrong_text_share=0.0, no_text_share=0.0)
    boxes = set()
    for seed in range(15):
        for pair in pairs.draw_twins(np.random.default_rng(seed)):
            boxes.add(tuple(pair.search_box.round(1)))
    assert len(boxes) > 20


def test_a_table_whose_image_is_broken_is_refused(boxed):
    (boxed / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png"):
        PhotographFolder([boxed])


def test_targets_grow_with_the_height_of_the_frames(boxed):
    photographs, sides = PhotographFolder([boxed]), []
    for height in (120, 240):
        clip = PhotographClip(photographs, seed=1, num_frames=1, frame_height=height, difficulty=0.0)
        assert clip.size[0] <= height and clip.size[1] <= height * 4 / 3
        sides.append(np.sqrt(clip.boxes[0, 2:].prod()))
    assert sides[1] > 1.2 * sides[0]


def test_any_folder_of_images_will_do(tmp_path):
    draw_photograph(0).save(tmp_path / "plain.jpg")
    photographs = PhotographFolder([tmp_path])
    assert photographs.labelled == []
    clip = PhotographClip(photographs, seed=3, num_frames=2)
    assert clip.frame(1).shape == (*clip.size, 3)


def test_large_images_are_shrunk_and_few_are_kept(tmp_path):
    for number in range(3):
        Image.new("RGB", (1000, 600), (number, 0, 0)).save(tmp_path / f"{number}.png")
    photographs = PhotographFolder([tmp_path], cache_bytes=480 * 288 * 4)
    assert [photographs.image(i).size for i in (0, 1, 2, 0)] == [(480, 288)] * 4
    assert list(photographs._cache) == [0]
    assert len(pickle.loads(pickle.dumps(photographs))) == 3  # for workers that `spawn`


@pytest.mark.parametrize(("suffix", "exif"), [("jpg", True), ("png", True), ("jpg", False)])
def test_labels_lie_on_the_upright_photograph(tmp_path, suffix, exif):
    upright = np.zeros((200, 100, 3), np.uint8)
    upright[20:80, 10:40] = 255
    orientation = Image.Exif()
    orientation[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)) if exif else upright)
    stored.save(tmp_path / f"phone.{suffix}", **({"exif": orientation} if exif else {}))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "phone.txt").write_text("0 0.25 0.25 0.3 0.3\n")
    folder = PhotographFolder([tmp_path])
    (target,) = folder.objects(0)
    x, y, w, h = target.box.round().astype(int)
    pixels = np.asarray(folder.image(0))
    assert pixels.shape == (200, 100, 3) and pixels[y + 2 : y + h - 2, x + 2 : x + w - 2].min() > 230
    assert pixels[y + h + 3 :].max() < 25


def test_16_bit_photograph_keeps_its_brightness(tmp_path):
    Image.fromarray(np.full((40, 50), 70 * 257, np.uint16)).save(tmp_path / "thermal.png")
    assert np.unique(PhotographFolder([tmp_path]).image(0)).tolist() == [70]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images/x.png", b"no image", "x.png cannot be read"),
        ("labels/x.txt", b"1 0.5 0.5 0.1\n", "labels/x.txt has a line that is not a label"),
        ("labels/x.txt", b"inf 0.5 0.5 0.1 0.1\n", "labels/x.txt has a line that is not a label"),
        ("polygons/x.txt", b"1 0.5 0.5 0.1\n", "polygons/x.txt has a line that is not a polygon"),
    ],
)
def test_bad_files_are_named(tmp_path, file, content, message):
    (tmp_path / "images").mkdir()
    draw_photograph(0).save(tmp_path / "images" / "x.png")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        PhotographFolder([tmp_path]).image(0)


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no image"):
        PhotographFolder([tmp_path])
    with pytest.raises(FileNotFoundError, match="is not there"):
        PhotographFolder([tmp_path / "missing"])


def test_warp_shows_the_image_where_the_matrix_puts_it():
    image = draw_photograph(0)
    same = warp(image, np.eye(3), (0, 0, WIDTH, HEIGHT))
    np.testing.assert_array_equal(np.asarray(same), np.asarray(image))
    shifted = warp(image, np.array([[1, 0, 10], [0, 1, -5], [0, 0, 1.0]]), (30, 10, 90, 70))
    np.testing.assert_array_equal(np.asarray(shifted), np.asarray(image)[15:75, 20:80])
    quarter = np.asarray(warp(image, np.diag([0.25, 0.25, 1]), (0, 0, 40, 30)), np.float32)
    wanted = np.asarray(image.reduce(4), np.float32)
    assert np.abs(quarter - wanted)[1:-1, 1:-1].max() <= 1


def test_an_image_goes_on_as_another_one():
    image = draw_photograph(0)
    wide = np.asarray(surrounded(image, GREY, (30, 20)))
    assert wide.shape == (HEIGHT + 40, WIDTH + 60, 3)
    np.testing.assert_array_equal(
        wide[40:HEIGHT, 50 : WIDTH + 10], np.asarray(image)[20 : HEIGHT - 20, 20 : WIDTH - 20]
    )
    for border in (wide[:20], wide[-20:], wide[:, :30], wide[:, -30:]):
        assert (border == 60).all()
    np.testing.assert_array_equal(
        np.asarray(surrounded(image, GREY, (0, 0)))[20:-20, 20:-20], np.asarray(image)[20:-20, 20:-20]
    )


def test_most_large_targets_stand_in_a_whole_frame(photographs):
    clips = [PhotographClip(photographs, seed, kind="camera", times=(0, 9)) for seed in range(60)]
    whole = [clip for clip in clips if clip._background.size != clip.photographs.image(clip._number).size]
    assert 0.6 <= len(whole) / len(clips) <= 0.9


@given(st.integers(0, 10_000), st.sampled_from(KINDS))
@example(675, "pasted")  # its lowest corner lies beside the frame
def test_boxes_hold_the_target_and_nothing_else(seed, kind):
    """At difficulty 0, without distractors, the target is the only red thing in the clip."""
    red = PhotographFolder.__new__(PhotographFolder)
    red.image = lambda index: draw_photograph(index)
    red.draw_region = lambda rng, index: Target(rectangle(OBJECT))
    red.labelled, red.photographs = [], [None]
    with patch.object(photograph_clips, "surrounded", lambda image, _, margin: surrounded(image, GREY, margin)):
        clip = PhotographClip(red, seed, num_frames=40, kind=kind, difficulty=0.0)
    clip._layers = [layer for layer in clip._layers if layer.target.box.tolist() == list(OBJECT)][-1:]
    if kind == "pasted":  # over a background that is not red
        clip._background = Image.new("RGB", clip._background.size, (60, 60, 60))
    else:
        clip._layers = []
    clip._blur = clip._smear = clip._noise = 0.0
    clip._quality, clip._grey = None, False
    clip._gain, clip._gamma = np.ones_like(clip._gain), np.ones_like(clip._gamma)
    for index in (0, 25):
        pixels = clip.frame(index).astype(int)
        rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1] > 90)
        x, y, w, h = clip.boxes[index]
        if min(w, h) < 6 or not clip.visible[index]:
            continue
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_allclose(seen, (x, y, x + w, y + h), atol=2.1)


@given(st.integers(0, 10_000))
def test_a_frame_depends_on_the_seed_and_its_time_alone(photographs, seed):
    long = PhotographClip(photographs, seed, num_frames=9)
    short = PhotographClip(photographs, seed, times=(0, 7))
    assert (long.text, long.kind, long.size) == (short.text, short.kind, short.size)
    np.testing.assert_array_equal(long.boxes[7], short.boxes[1])
    np.testing.assert_array_equal(long.boxes[0], short.boxes[0])
    later = long.frame(8)
    np.testing.assert_array_equal(later, PhotographClip(photographs, seed, num_frames=9).frame(8))


def test_a_clip_is_labelled_for_every_frame(photographs):
    clip = PhotographClip(photographs, seed=5, num_frames=12)
    assert clip.boxes.shape == (12, 4) and clip.boxes.dtype == np.float32
    assert clip.visible.shape == (12,) and len(clip) == 12
    with pytest.raises(IndexError):
        clip.frame(12)
    with pytest.raises(ValueError, match="kind must be"):
        PhotographClip(photographs, 0, kind="video")
    with pytest.raises(ValueError, match="num_frames"):
        PhotographClip(photographs, 0, num_frames=0)


def test_sentences_say_what_is_known(photographs):
    texts = [PhotographClip(photographs, seed, times=(0,)).text for seed in range(60)]
    said = " ".join(texts).split()
    assert {"fire", "engine", "vehicle", "red", "target"} <= set(said)
    assert colour_word(draw_photograph(0), Target(rectangle(OBJECT))) == "red"


def test_sentences_name_the_target_and_then_make_up_a_scene():
    rng = np.random.default_rng(0)
    texts = {describe(rng, "brown", "dog") for _ in range(200)}
    assert "brown dog" in texts and len(texts) > 100
    assert all(re.match(r"((the|a) )?brown dog\b", text) for text in texts)
    nameless = {describe(rng) for _ in range(100)}
    assert "the target" in nameless and any(text.startswith("object ") for text in nameless)
    assert {word for text in texts | nameless for word in text.split()} <= {*vocabulary(), "dog"}


def test_pairs_show_the_target_in_both_frames(photographs):
    pairs = PhotographPairs(photographs, wrong_text_share=0.0, no_text_share=1.0)
    for seed in range(20):
        pair = pairs.draw(np.random.default_rng(seed))
        for frame, (x, y, w, h) in ((pair.template, pair.template_box), (pair.search, pair.search_box)):
            assert w > 0 and h > 0 and x >= 0 and y >= 0
            assert x + w <= frame.shape[1] + 1e-3 and y + h <= frame.shape[0] + 1e-3
        assert pair.text == "the target"


def test_another_target_of_a_clip_is_in_the_open(photographs):
    found = 0
    for seed in range(30):
        clip = PhotographClip(photographs, seed, num_frames=2)
        other = clip.draw_other(np.random.default_rng(seed))
        if other is None:
            continue
        found += 1
        boxes, text = other
        assert boxes.shape == clip.boxes.shape and text
        for (x, y, w, h), (left, top, width, height) in zip(boxes, clip.boxes, strict=True):
            across = min(x + w, left + width) - max(x, left)
            down = min(y + h, top + height) - max(y, top)
            assert across <= 0 or down <= 0 or across * down < 0.3 * w * h
            assert x >= 0 and y >= 0 and x + w <= clip.size[1] + 1e-3 and y + h <= clip.size[0] + 1e-3
    assert found >= 10


def test_another_target_lies_where_its_pixels_are(tmp_path):
    for number in range(2):  # an image of two objects, with a box for each
        image = draw_photograph(number)
        ImageDraw.Draw(image).rectangle((110, 80, 139, 109), fill=(30, 60, 250))
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        image.save(tmp_path / f"images/{number}.png")
        lines = [f"0 {80 / WIDTH} {55 / HEIGHT} {40 / WIDTH} {30 / HEIGHT}"]
        lines += [f"1 {125 / WIDTH} {95 / HEIGHT} {30 / WIDTH} {30 / HEIGHT}"]
        (tmp_path / f"labels/{number}.txt").write_text("\n".join(lines))
    (tmp_path / "classes.tsv").write_text("0\tengine\n1\tball\n")
    photographs, right = PhotographFolder([tmp_path]), []
    for seed in range(80):
        clip = PhotographClip(photographs, seed, num_frames=1, kind="camera", difficulty=0.0)
        boxes, text = clip.draw_other(np.random.default_rng(seed)) or (None, "")
        if "ball" not in text and "engine" not in text:
            continue
        x, y, w, h = boxes[0]
        red, _, blue = clip.frame(0)[int(y + h / 2), int(x + w / 2)].astype(int)
        right.append((blue > red) if "ball" in text else (red > blue))
    assert len(right) >= 10 and np.mean(right) > 0.8  # some clips are grey, and a distractor may lie over the middle


def test_twins_are_two_targets_of_the_same_images_or_one_both_ways(photographs, monkeypatch):
    pairs = PhotographPairs(photographs, wrong_text_share=0.0, no_text_share=0.0)
    one, two = pairs.draw_twins(np.random.default_rng(0))
    assert one.template is two.template and one.search is two.search
    assert not np.array_equal(one.search_box, two.search_box)
    spoiled = PhotographPairs(photographs, wrong_text_share=1.0).draw_twins(np.random.default_rng(0))
    assert [pair.text for pair in spoiled] == [two.text, one.text]
    monkeypatch.setattr(PhotographClip, "draw_other", lambda *args: None)
    one, two = pairs.draw_twins(np.random.default_rng(0))
    assert one.template is two.search and one.search is two.template and one.text == two.text
    assert np.array_equal(one.template_box, two.search_box)


def test_projection_of_points():
    matrix = np.array([[2, 0, 1], [0, 2, 0], [0.5, 0, 1]])
    np.testing.assert_allclose(project(matrix, np.array([[2.0, 3.0]])), [[2.5, 3.0]])


def test_training_reads_folders_of_photographs(recipe, folder, tmp_path, capsys):
    flags = ["--config", str(recipe), "--max_train_steps", "2"]
    data = ["--dataset_name", "photographs", "procedural", "--dataset_weights", "3", "1"]
    assert train([*flags, *data, "--photographs", str(folder)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and all(line["loss"] > 0 for line in lines)
    capsys.readouterr()
    for wrong, message in (
        (data, "--photographs need each other"),
        (["--photographs", str(folder)], "--photographs need each other"),
        ([*data, "--photographs", str(tmp_path / "none")], "none is not there"),
        ([*data, "--photographs", str(folder), "--photograph_difficulty", "2"], "between 0 and 1"),
    ):
        assert train([*flags, "--overwrite_output_dir", "true", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_contact_sheet_shows_pairs(folder, tmp_path, capsys):
    sheet = tmp_path / "sheets" / "sheet.png"
    contact_sheet(["--photographs", str(folder), "--output_file", str(sheet), "--rows", "2", "--columns", "3"])
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape[0] > 2 * 512 and pixels.shape[1] > 3 * 768
    output = capsys.readouterr().out
    assert "6 pairs of photographs" in output
    assert "up to 10% of the generated pairs have a sentence about something else" in output
    bare = tmp_path / "bare.png"
    honest = ["--wrong_text_share", "0", "--no_text_share", "0"]
    contact_sheet(["--photographs", str(folder), "--output_file", str(bare), "--rows", "1", "--columns", "1", *honest])
    assert Image.open(bare).height == 512 and "On purpose" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        contact_sheet(["--photographs", str(tmp_path / "none"), "--output_file", str(sheet), "--rows", "0"])


def test_samples_are_what_the_model_takes(photographs, tiny_processor):
    pairs = TrackingPairs(PhotographPairs(photographs), PairCropper(tiny_processor.image_processor), 4)
    batch = PairCollator(tiny_processor)([pairs[i] for i in range(4)])
    check_labels(batch["labels"])
    assert batch["pixel_values"].shape[0] == 4 and batch["pixel_values"].dtype.is_floating_point
