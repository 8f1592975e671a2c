"""Reading tracking datasets from folders: frames, boxes, sentences, and what is said of bad rows."""

import doctest
import json
import pickle

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from modeling_pjvlt.data import load_tracking_dataset, text
from modeling_pjvlt.data.crops import SequenceFrame
from modeling_pjvlt.data.dataset import TrackingDataset
from modeling_pjvlt.data.sampling import SequencePairs

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


def picture(number: int) -> np.ndarray:
    """A frame that tells its number."""
    frame = np.zeros((24, 32, 3), np.uint8)
    frame[:, : int(number) + 1] = (10 * int(number), 200, 30)
    return frame


def rows(**changes) -> dict[str, list]:
    """Two sequences, of three and of two frames."""
    table = {
        "sequence": ["dog-1"] * 3 + ["cat, left"] * 2,
        "frame": [0, 1, 2, 300, 301],
        "image": [PILImage.fromarray(picture(i)) for i in range(5)],
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
    """A user's own pictures and a metadata file."""
    folder = isolated_cache / "pictures"
    (folder / "train").mkdir(parents=True)
    lines = []
    for number in range(4):
        PILImage.fromarray(picture(number)).save(folder / "train" / f"{number}.png")
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
    np.testing.assert_array_equal(cat.frame(1), picture(4))
    with pytest.raises(IndexError, match="frame 2 of sequence 'cat, left'"):
        cat.frame(2)


def test_picture_folder_with_metadata_needs_no_code(image_folder):
    (mine,) = load_tracking_dataset(str(image_folder))
    assert (mine.name, mine.text, len(mine)) == ("mine", "my dog", 4)
    np.testing.assert_array_equal(mine.boxes[3], [3, 1, 9, 5])
    np.testing.assert_array_equal(mine.frame(2), picture(2))
    assert mine.visible.all()


def test_picture_folder_with_csv_reads_the_same(image_folder):
    (listed,) = load_tracking_dataset(str(image_folder))
    (image_folder / "train" / "metadata.jsonl").unlink()
    lines = [f"{number}.png,mine,{number},{number},1,9,5,my dog" for number in range(4)]
    header = "file_name,sequence,frame,x,y,w,h,text"
    (image_folder / "train" / "metadata.csv").write_text("\n".join([header, *lines]))
    (mine,) = load_tracking_dataset(str(image_folder))
    assert (mine.name, mine.text, mine.boxes.tolist()) == (listed.name, listed.text, listed.boxes.tolist())
    np.testing.assert_array_equal(mine.frame(3), listed.frame(3))


def test_picture_folder_streams(image_folder):
    (listed,) = load_tracking_dataset(str(image_folder))
    (streamed,) = load_tracking_dataset(str(image_folder), streaming=True)
    np.testing.assert_array_equal(streamed.frame(3), listed.frame(3))
    assert streamed.boxes.tolist() == listed.boxes.tolist()


def test_box_may_be_unknown_and_picture_that_of_the_row_before():
    changes = {"box": [[1.0, 2.0, 3.0, 4.0], None, None, [3.0, 2.0, 10.0, 8.0], [4.0, 2.0, 10.0, 8.0]]}
    changes["image"] = [rows()["image"][0], None, None, None, rows()["image"][4]]
    dog, cat = TrackingDataset(Dataset.from_dict(rows(**changes, visible=[True] * 5), features=FEATURES))
    assert dog.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]] and dog.visible.tolist() == [
        True,
        False,
        False,
    ]
    for sequence, index, number in ((dog, 2, 0), (cat, 0, 0), (cat, 1, 4)):
        np.testing.assert_array_equal(sequence.frame(index), picture(number))


def test_a_choice_of_rows_shows_its_own_pictures(parquet):
    chosen = load_tracking_dataset(str(parquet)).rows.select([1, 2, 4])
    sequences = list(TrackingDataset(chosen))
    assert [len(sequence) for sequence in sequences] == [2, 1]
    for sequence, index, number in ((sequences[0], 0, 1), (sequences[0], 1, 2), (sequences[1], 0, 4)):
        assert np.array_equal(sequence.frame(index), picture(number))


def test_a_dataset_for_another_process_does_not_take_its_pictures_along(isolated_cache):
    noise = [np.random.default_rng(i).integers(0, 256, (200, 300, 3), np.uint8) for i in range(5)]
    (isolated_cache / "data").mkdir()
    table = rows(image=[PILImage.fromarray(pixels) for pixels in noise])
    Dataset.from_dict(table, features=FEATURES).to_parquet(isolated_cache / "data" / "train-0.parquet")
    dataset = load_tracking_dataset(str(isolated_cache))
    assert np.array_equal(dataset[1].frame(1), noise[4])
    sent = pickle.dumps(dataset)
    assert len(sent) < noise[0].nbytes and np.array_equal(pickle.loads(sent)[1].frame(1), noise[4])


def test_picture_that_no_row_has_is_reported():
    table = Dataset.from_dict(rows(image=[None, *rows()["image"][1:]]), features=FEATURES)
    with pytest.raises(
        ValueError, match="1 rows have no picture, nor has a row before them: sequence 'dog-1', frame 0"
    ):
        TrackingDataset(table)[0]


def test_phone_picture_is_turned_upright(tmp_path):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.fromarray(picture(2)).save(tmp_path / "turned.png", exif=exif)
    table = Dataset.from_dict(rows(image=[str(tmp_path / "turned.png")] * 5), features=FEATURES)
    np.testing.assert_array_equal(TrackingDataset(table)[0].frame(0), np.rot90(picture(2), -1))


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


def test_pictures_without_sequences_are_sequences_of_one_frame():
    table = Dataset.from_dict(rows(), features=FEATURES).remove_columns(["sequence", "frame"])
    assert [(s.name, len(s)) for s in TrackingDataset(table)] == [(str(i), 1) for i in range(5)]


def test_category_stands_in_for_a_missing_sentence(caplog):
    table = Dataset.from_dict(rows(), features=FEATURES).add_column("category", ["dog"] * 3 + ["cat"] * 2)
    assert [s.text for s in TrackingDataset(table)] == ["white dog, running", "cat"]
    assert [r.message for r in caplog.records if "sequences have no sentence" in r.message] == [
        "1 of 2 sequences have no sentence: 1 are called by their class, 0 'the target'."
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame": [0, 2, 1, 300, 301]}, "not sorted by frame: sequence 'dog-1', frame 1"),
        ({"frame": [0, 1, 2, 300, 300]}, "repeat the frame before them: sequence 'cat, left', frame 300"),
        ({"sequence": ["a", "b", "a", "b", "b"]}, "come in several pieces: \\['a', 'b'\\]"),
        ({"box": [[0.0, 0.0, float("nan"), 1.0]] + [[0.0] * 4] * 4}, "not finite: sequence 'dog-1', frame 0"),
    ],
)
def test_bad_rows_are_listed_by_sequence_and_row(changes, message):
    with pytest.raises(ValueError, match=message):
        list(TrackingDataset(Dataset.from_dict(rows(**changes), features=FEATURES)))


def test_boxes_of_the_wrong_length_are_listed():
    loose = Features({**FEATURES, "box": List(Value("float32"))})
    table = Dataset.from_dict(rows(box=[[1.0] * 4, [1.0] * 3, [1.0] * 4, [1.0] * 4, [1.0] * 5]), features=loose)
    with pytest.raises(
        ValueError, match=r"2 rows have a box that is not four numbers.*'dog-1', frame 1.*'cat, left', frame 301"
    ):
        list(TrackingDataset(table))


@pytest.mark.parametrize("column", ["image", "box"])
def test_missing_column_is_named(column):
    table = Dataset.from_dict(rows(), features=FEATURES).remove_columns([column])
    with pytest.raises(ValueError, match=f"no column '{column}'"):
        list(TrackingDataset(table))


def test_broken_picture_is_named(isolated_cache):
    path = isolated_cache / "broken.png"
    PILImage.fromarray(picture(0)).save(path)
    path.write_bytes(path.read_bytes()[:40])
    table = Dataset.from_dict(rows(image=[str(path)] * 5), features=FEATURES)
    with pytest.raises(ValueError, match="Sequence 'dog-1', frame 1: the picture cannot be decoded"):
        TrackingDataset(table)[0].frame(1)


def frame_number(frame: SequenceFrame) -> int:
    """Which of the five pictures this is; its box tells."""
    return int(frame.sequence.boxes[frame.index][0])


def test_pairs_come_from_one_sequence_and_from_visible_frames():
    source = SequencePairs(TrackingDataset(Dataset.from_dict(rows(), features=FEATURES)))
    drawn = [source.draw(np.random.default_rng(seed)) for seed in range(40)]
    numbers = {(frame_number(p.template), frame_number(p.search)) for p in drawn}
    assert numbers == {(a, b) for group in ((0, 2), (3, 4)) for a in group for b in group}
    for pair in drawn:
        np.testing.assert_array_equal(pair.template.sequence.frame(pair.template.index), picture(pair.template_box[0]))


def test_pairs_keep_to_the_gap():
    source = SequencePairs(TrackingDataset(Dataset.from_dict(rows(), features=FEATURES)), max_gap=1)
    drawn = [source.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert all(abs(p.template_box[0] - p.search_box[0]) <= 1 for p in drawn)


def test_nothing_visible_is_an_error_and_not_an_endless_search():
    hidden = TrackingDataset(Dataset.from_dict(rows(visible=[False] * 5), features=FEATURES))
    with pytest.raises(ValueError, match="no visible target"):
        SequencePairs(hidden).draw(np.random.default_rng(0))
