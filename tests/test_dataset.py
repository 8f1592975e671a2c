"""Reading tracking datasets from folders: frames, boxes, sentences, and what is said of bad rows."""

import doctest
import json
import pickle

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from modeling_pjvlt.data import load_tracking_dataset, text
from modeling_pjvlt.data.dataset import TrackingDataset
from modeling_pjvlt.data.pairs.cropping import SequenceFrame, Window, cut
from modeling_pjvlt.data.pairs.sources import SequencePairs

FEATURES = Features(
    {
        "sequence": Value("string"),
        "frame": Value("int32"),
        "image": Image(),
        "box": List(Value("float32"), length=4),
        "visible": Value("bool"),
        "text": Value("string"),
    }
)


def draw_image(number: int) -> np.ndarray:
    """A frame that tells its number."""
    frame = np.zeros((24, 32, 3), np.uint8)
    frame[:, : int(number) + 1] = (10 * int(number), 200, 30)
    return frame


def rows(**changes) -> dict[str, list]:
    """Two sequences, of three and of two frames."""
    table = {
        "sequence": ["dog-1"] * 3 + ["cat, left"] * 2,
        "frame": [0, 1, 2, 300, 301],
        "image": [PILImage.fromarray(draw_image(i)) for i in range(5)],
        "box": [[float(i), 2.0, 10.0, 8.0] for i in range(5)],
        "visible": [True, False, True, True, True],
        "text": ["white dog, running"] * 3 + [""] * 2,
    }
    return {**table, **changes}


@pytest.fixture
def parquet(isolated_cache):
    folder = isolated_cache / "parquet"
    (folder / "data").mkdir(parents=True)
    Dataset.from_dict(rows(), features=FEATURES).to_parquet(folder / "data" / "train-00000.parquet")
    return folder


@pytest.fixture
def image_folder(isolated_cache):
    """A user's own images and a metadata file."""
    folder = isolated_cache / "images"
    (folder / "train").mkdir(parents=True)
    lines = []
    for number in range(4):
        PILImage.fromarray(draw_image(number)).save(folder / "train" / f"{number}.png")
        lines.append(
            {
                "file_name": f"{number}.png",
                "sequence": "mine",
                "frame": number,
                "x": number,
                "y": 1,
                "w": 9,
                "h": 5,
                "text": "my dog",
            }
        )
    (folder / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_examples_in_the_docstrings_are_true():
    assert doctest.testmod(text).failed == 0


def test_parquet_folder_reads_as_sequences(parquet):
    dataset = load_tracking_dataset(str(parquet))
    assert [(s.name, len(s)) for s in dataset] == [("dog-1", 3), ("cat, left", 2)]
    dog, cat = dataset
    assert dog.text == "white dog, running" and cat.text == "the target"
    assert dog.visible.tolist() == [True, False, True]
    np.testing.assert_array_equal(cat.boxes, [[3, 2, 10, 8], [4, 2, 10, 8]])
    np.testing.assert_array_equal(cat.frame(1), draw_image(4))
    with pytest.raises(IndexError, match="no frame 2 in sequence 'cat, left'"):
        cat.frame(2)


def test_image_folder_with_metadata_needs_no_code(image_folder):
    (mine,) = load_tracking_dataset(str(image_folder))
    assert (mine.name, mine.text, len(mine)) == ("mine", "my dog", 4)
    np.testing.assert_array_equal(mine.boxes[3], [3, 1, 9, 5])
    np.testing.assert_array_equal(mine.frame(2), draw_image(2))
    assert mine.visible.all()


def test_image_folder_with_csv_reads_the_same(image_folder):
    (listed,) = load_tracking_dataset(str(image_folder))
    (image_folder / "train" / "metadata.jsonl").unlink()
    lines = [f"{number}.png,mine,{number},{number},1,9,5,my dog" for number in range(4)]
    header = "file_name,sequence,frame,x,y,w,h,text"
    (image_folder / "train" / "metadata.csv").write_text("\n".join([header, *lines]))
    (mine,) = load_tracking_dataset(str(image_folder))
    assert (mine.name, mine.text, mine.boxes.tolist()) == (listed.name, listed.text, listed.boxes.tolist())
    np.testing.assert_array_equal(mine.frame(3), listed.frame(3))


def test_image_folder_streams(image_folder):
    (listed,) = load_tracking_dataset(str(image_folder))
    (streamed,) = load_tracking_dataset(str(image_folder), streaming=True)
    np.testing.assert_array_equal(streamed.frame(3), listed.frame(3))
    assert streamed.boxes.tolist() == listed.boxes.tolist()


def test_box_may_be_unknown_and_image_that_of_the_row_before():
    changes = {"box": [[1.0, 2.0, 3.0, 4.0], None, None, [3.0, 2.0, 10.0, 8.0], [4.0, 2.0, 10.0, 8.0]]}
    changes["image"] = [rows()["image"][0], None, None, None, rows()["image"][4]]
    dog, cat = TrackingDataset(Dataset.from_dict(rows(**changes, visible=[True] * 5), features=FEATURES))
    assert dog.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]] and dog.visible.tolist() == [
        True,
        False,
        False,
    ]
    for sequence, index, number in ((dog, 2, 0), (cat, 0, 0), (cat, 1, 4)):
        np.testing.assert_array_equal(sequence.frame(index), draw_image(number))


def test_a_choice_of_rows_shows_its_own_images(parquet):
    chosen = load_tracking_dataset(str(parquet)).rows.select([1, 2, 4])
    sequences = list(TrackingDataset(chosen))
    assert [len(sequence) for sequence in sequences] == [2, 1]
    for sequence, index, number in ((sequences[0], 0, 1), (sequences[0], 1, 2), (sequences[1], 0, 4)):
        assert np.array_equal(sequence.frame(index), draw_image(number))


def test_a_dataset_for_another_process_does_not_take_its_images_along(isolated_cache):
    noise = [np.random.default_rng(i).integers(0, 256, (200, 300, 3), np.uint8) for i in range(5)]
    (isolated_cache / "data").mkdir()
    table = rows(image=[PILImage.fromarray(pixels) for pixels in noise])
    Dataset.from_dict(table, features=FEATURES).to_parquet(isolated_cache / "data" / "train-0.parquet")
    dataset = load_tracking_dataset(str(isolated_cache))
    assert np.array_equal(dataset[1].frame(1), noise[4])
    sent = pickle.dumps(dataset)
    assert len(sent) < noise[0].nbytes and np.array_equal(pickle.loads(sent)[1].frame(1), noise[4])


def test_image_that_no_row_has_is_reported():
    table = Dataset.from_dict(rows(image=[None, *rows()["image"][1:]]), features=FEATURES)
    with pytest.raises(
        ValueError, match="1 rows have no image, and no row before them has one: sequence 'dog-1', frame 0"
    ):
        TrackingDataset(table)[0]


def test_phone_image_is_turned_upright(tmp_path):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.fromarray(draw_image(2)).save(tmp_path / "turned.png", exif=exif)
    table = Dataset.from_dict(rows(image=[str(tmp_path / "turned.png")] * 5), features=FEATURES)
    np.testing.assert_array_equal(TrackingDataset(table)[0].frame(0), np.rot90(draw_image(2), -1))


def test_16_bit_image_keeps_its_brightness(tmp_path):
    levels = np.tile(np.arange(40, 240, 5, dtype=np.uint16), (30, 1))
    PILImage.fromarray(levels * 257).save(tmp_path / "thermal.png")
    features = {"image": Image(), "box": List(Value("float32"), length=4)}
    table = {"image": [str(tmp_path / "thermal.png")], "box": [[1.0, 1.0, 5.0, 5.0]]}
    (sequence,) = TrackingDataset(Dataset.from_dict(table, features=Features(features)))
    np.testing.assert_array_equal(sequence.frame(0), np.dstack([levels] * 3))
    crop = cut(SequenceFrame(sequence, 0), Window(0, 0, 16, 16), 16)  # as for training
    np.testing.assert_array_equal(crop[1].numpy(), levels[:16, :16])


def test_columns_can_be_mapped_and_sentences_come_from_a_file(isolated_cache):
    folder = isolated_cache / "other"
    folder.mkdir()
    table = Dataset.from_dict(rows(), features=FEATURES).rename_columns({"box": "bbox", "sequence": "video"})
    table.to_parquet(folder / "train.parquet")
    (folder / "said.tsv").write_text("cat, left\tgrey cat, asleep\r\n\ndog-1\t\n")
    columns = {"box": "bbox", "sequence": "video"}
    for streaming in (False, True):
        dataset = load_tracking_dataset(
            str(folder), columns=columns, sentences=folder / "said.tsv", streaming=streaming
        )
        assert [s.text for s in dataset] == ["the target", "grey cat, asleep"]
    with pytest.raises(ValueError, match="'box' to 'rectangle', but the columns are video, frame"):
        load_tracking_dataset(str(folder), columns={"box": "rectangle"})


def test_images_without_sequences_are_sequences_of_one_frame():
    table = Dataset.from_dict(rows(), features=FEATURES).remove_columns(["sequence", "frame"])
    assert [(s.name, len(s)) for s in TrackingDataset(table)] == [(str(i), 1) for i in range(5)]


def test_category_stands_in_for_a_missing_sentence(caplog):
    table = Dataset.from_dict(rows(), features=FEATURES).add_column("category", ["dog"] * 3 + ["cat"] * 2)
    assert [s.text for s in TrackingDataset(table)] == ["white dog, running", "cat"]
    assert [r.message for r in caplog.records if "sequences have no sentence" in r.message] == [
        "1 of 2 sequences have no sentence: 1 are called by their class, 0 'the target'."
    ]


def test_a_sentence_of_ones_own_is_not_counted_as_missing(caplog):
    table = Dataset.from_dict(rows(text=["the target"] * 3 + [""] * 2), features=FEATURES)
    table = table.add_column("category", ["dog"] * 3 + ["cat"] * 2)
    assert [s.text for s in TrackingDataset(table)] == ["the target", "cat"]
    assert "1 of 2 sequences have no sentence: 1 are called by their class, 0 'the target'." in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame": [0, 2, 1, 300, 301]}, "not sorted by frame: sequence 'dog-1', frame 1"),
        ({"frame": [0, 1, 2, 300, 300]}, "repeat the frame before them: sequence 'cat, left', frame 300"),
        ({"sequence": ["a", "b", "a", "b", "b"]}, "come in several pieces: \\['a', 'b'\\]"),
        ({"sequence": ["a", None, "b", "b", "b"]}, "1 rows have no name in the column 'sequence': row 1"),
        ({"box": [[0.0, 0.0, float("nan"), 1.0]] + [[0.0] * 4] * 4}, "not finite: sequence 'dog-1', frame 0"),
    ],
)
def test_bad_rows_are_listed_by_sequence_and_row(changes, message):
    with pytest.raises(ValueError, match=message):
        list(TrackingDataset(Dataset.from_dict(rows(**changes), features=FEATURES)))


def test_missing_values_mean_unknown():
    unknown = rows(box=[None, *rows()["box"][1:]], visible=[None, None, False, None, None], text=[None] * 5)
    dog, cat = TrackingDataset(Dataset.from_dict(unknown, features=FEATURES))
    assert dog.visible.tolist() == [False, True, False] and cat.visible.all()
    assert (dog.text, cat.text) == ("the target", "the target")


def test_image_without_bytes_and_path_is_a_missing_one():
    loose = {"bytes": Value("binary"), "path": Value("string")}
    table = Dataset.from_dict(rows(), features=FEATURES).cast_column("image", Image(decode=False))
    images = [{"bytes": None, "path": None} if i == 1 else table[i]["image"] for i in range(5)]
    table = Dataset.from_dict(rows(image=images), features=Features({**FEATURES, "image": loose}))
    dog, _ = TrackingDataset(table)
    np.testing.assert_array_equal(dog.frame(1), draw_image(0))


def test_boxes_of_the_wrong_length_are_listed():
    loose = Features({**FEATURES, "box": List(Value("float32"))})
    table = Dataset.from_dict(rows(box=[[1.0] * 4, [1.0] * 3, [1.0] * 4, [1.0] * 4, [1.0] * 5]), features=loose)
    with pytest.raises(
        ValueError, match=r"2 rows have a box that is not four numbers.*'dog-1', frame 1.*'cat, left', frame 301"
    ):
        list(TrackingDataset(table))


def write_csv(folder, columns, row, count=4):
    """A folder of images with a metadata.csv; `row(i)` gives the values of a row."""
    for number in range(count):
        PILImage.fromarray(draw_image(number)).save(folder / f"{number}.png")
    lines = [f"file_name,{columns}", *(f"{number}.png,{row(number)}" for number in range(count))]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("streaming", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("sequence,frame,x,y,w,h,text", lambda i: f"a,{i}," + (",,," if i == 2 else f"{i},1,9,5") + ",red dog"),
        ("sequence,frame,box,text", lambda i: f"a,{i}," + ("" if i == 2 else f'"[{i}, 1, 9, 5]"') + ",red dog"),
        ("sequence,frame,x,y,w,h,text,visible", lambda i: f"a,{i},{i},1,9,5,red dog,{'no' if i == 2 else 'Yes'}"),
        ("sequence,frame,x,y,w,h,text,visible", lambda i: f"a,{i},{i},1,9,5,red dog,{'False' if i == 2 else 'True'}"),
        ("sequence,frame,x,y,w,h,text,visible", lambda i: f"a,{i},{i},1,9,5,red dog,{int(i != 2)}"),
    ],
    ids=["no box", "box as text", "yes and no", "true and false", "1 and 0"],
)
def test_csv_of_any_habit_reads_the_same(columns, row, streaming, isolated_cache):
    write_csv(isolated_cache, columns, row)
    (sequence,) = load_tracking_dataset(str(isolated_cache), streaming=streaming)
    assert (sequence.name, sequence.text) == ("a", "red dog")
    assert sequence.visible.tolist() == [True, True, False, True]
    assert sequence.boxes[[0, 1, 3]].tolist() == [[0, 1, 9, 5], [1, 1, 9, 5], [3, 1, 9, 5]]


@pytest.mark.parametrize("streaming", [False, True], ids=["read", "streamed"])
def test_numbers_may_be_words(streaming, isolated_cache):
    write_csv(isolated_cache, "sequence,x,y,w,h,text,category", lambda i: f"{i // 2},1,1,9,5,{23 if i < 2 else ''},7")
    first, second = load_tracking_dataset(str(isolated_cache), streaming=streaming)
    assert [(s.name, s.text, s.category) for s in (first, second)] == [("0", "23", "7"), ("1", "7", "7")]


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        (
            "frame,x,y,w,h",
            lambda i: f"frame_{i},1,1,9,5",
            "'frame' must hold numbers, got .*'frame_0'.*order of the rows",
        ),
        ("frame,x,y,w,h", lambda i: f"{i if i else ''},1,1,9,5", "1 rows have no frame number"),
        ("x,y,w,h", lambda i: "1,1,9," + ("5" if i else ""), "1 rows lack some of x, y, w, h: sequence '0'"),
        ("x,y,w,h", lambda i: "1,1,9,high", "x, y, w, h must hold numbers, got 'h' string"),
        ("box", lambda i: '"1 2 3 4"', r"4 rows have a box that is not \[x, y, w, h\]"),
        ("box", lambda i: '"[1, 2, 3]"', "4 rows have a box that is not four numbers"),
        ("box", lambda i: "5", "'box' must hold lists of four numbers x, y, w, h, got int64"),
        (
            "x,y,w,h,visible",
            lambda i: "1,1,9,5,maybe",
            "4 rows have a value of `visible` that is neither true nor false",
        ),
        ("x,y,w,h,cover", lambda i: "1,1,9,5,all", "'cover' must hold whole numbers, got string"),
    ],
)
def test_columns_of_other_things_are_refused_in_words(columns, row, message, isolated_cache):
    write_csv(isolated_cache, columns, row)
    with pytest.raises(ValueError, match=message):
        list(load_tracking_dataset(str(isolated_cache)))


@pytest.mark.parametrize("column", ["image", "box"])
def test_missing_column_is_named(column):
    table = Dataset.from_dict(rows(), features=FEATURES).remove_columns([column])
    with pytest.raises(ValueError, match=f"no column '{column}'"):
        list(TrackingDataset(table))


def test_broken_image_is_named(isolated_cache):
    path = isolated_cache / "broken.png"
    PILImage.fromarray(draw_image(0)).save(path)
    path.write_bytes(path.read_bytes()[:40])
    table = Dataset.from_dict(rows(image=[str(path)] * 5), features=FEATURES)
    with pytest.raises(ValueError, match="Sequence 'dog-1', frame 1: the image cannot be decoded"):
        TrackingDataset(table)[0].frame(1)


def frame_number(frame: SequenceFrame) -> int:
    """Which of the five images this is; its box tells."""
    return int(frame.sequence.boxes[frame.index][0])


def test_pairs_come_from_one_sequence_and_from_visible_frames():
    source = SequencePairs(TrackingDataset(Dataset.from_dict(rows(), features=FEATURES)))
    drawn = [source.draw(np.random.default_rng(seed)) for seed in range(40)]
    numbers = {(frame_number(p.template), frame_number(p.search)) for p in drawn}
    assert numbers == {(a, b) for group in ((0, 2), (3, 4)) for a in group for b in group}
    for pair in drawn:
        np.testing.assert_array_equal(
            pair.template.sequence.frame(pair.template.index), draw_image(pair.template_box[0])
        )


def test_pairs_keep_to_the_gap():
    source = SequencePairs(TrackingDataset(Dataset.from_dict(rows(), features=FEATURES)), max_gap=1)
    drawn = [source.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert all(abs(p.template_box[0] - p.search_box[0]) <= 1 for p in drawn)


def test_small_boxes_and_excluded_sequences_are_not_drawn():
    boxes = [[0, 0, 60, 51], [1, 0, 50, 90], [2, 0, 51, 51], [3, 0, 90, 49], [4, 0, 70, 70]]
    table = TrackingDataset(Dataset.from_dict(rows(box=boxes, visible=[True] * 5), features=FEATURES))
    drawn = [SequencePairs(table, min_box_side=50).draw(np.random.default_rng(seed)) for seed in range(40)]
    assert {frame_number(p.search) for p in drawn} == {0, 2, 4}
    other = SequencePairs(table, excluded=[table.names[0]])
    assert {other.draw(np.random.default_rng(seed)).template.sequence.name for seed in range(20)} == {table.names[1]}
    with pytest.raises(ValueError, match="no visible target wider and higher than 500 pixels"):
        SequencePairs(table, min_box_side=500).draw(np.random.default_rng(0))


def test_nothing_visible_is_an_error_and_not_an_endless_search():
    hidden = TrackingDataset(Dataset.from_dict(rows(visible=[False] * 5), features=FEATURES))
    with pytest.raises(ValueError, match="no visible target"):
        SequencePairs(hidden).draw(np.random.default_rng(0))
