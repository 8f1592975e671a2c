"""What is said of data before anything is trained or tracked: names, splits, columns."""

import json
import logging

import pytest
from datasets import Dataset
from PIL import Image
from test_dataset import FEATURES, draw_image

from modeling_pjvlt.cli.train import main as train
from modeling_pjvlt.data import load_tracking_dataset


@pytest.fixture(autouse=True)
def alone(isolated_cache, monkeypatch):
    monkeypatch.chdir(isolated_cache)
    return isolated_cache


def write(folder, splits=("train",), **renamed):
    """A dataset of two sequences of two frames, with other names for its columns."""
    table = {
        "sequence": ["a", "a", "b", "b"],
        "frame": [0, 1, 0, 1],
        "image": [draw_image(value) for value in range(4)],
        "box": [[1.0, 1.0, 8.0, 8.0]] * 4,
        "visible": [True] * 4,
        "text": ["dog", "dog", "cat", "cat"],
    }
    (folder / "data").mkdir(parents=True)
    rows = Dataset.from_dict(table, features=FEATURES).rename_columns(renamed)
    for split in splits:
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"box": "bbox"}, r"no column 'box' \(nor x, y, w and h\).*: --columns box=bbox "),
        ({"image": "img"}, r"no column 'image';.*--columns image=img "),
        ({"box": "bbox", "image": "img"}, r"no column 'image' and no 'box' .*--columns image=img box=bbox"),
        ({"box": "rectangular"}, r"no column 'box'.*--columns box=NAME "),
    ],
)
def test_missing_column_is_named_with_the_file_and_the_mend(alone, renamed, message, streaming):
    folder = write(alone / "mine", **renamed)
    with pytest.raises(ValueError, match=r"^.*mine/data/train-00000-of-00001\.parquet: there is " + message):
        load_tracking_dataset(folder, streaming=streaming)


def test_bad_rows_are_known_before_the_first_step(alone, recipe, capsys):
    folder = alone / "mine" / "train"
    folder.mkdir(parents=True)
    lines = [
        {"file_name": f"{n}.png", "sequence": "s", "frame": n, "box": [1, 1, 4, 4][: 4 - (n == 1)]} for n in (0, 1)
    ]
    for line in lines:
        Image.fromarray(draw_image(1)).save(folder / line["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert train(["--config", str(recipe), "--dataset_name", str(folder.parent)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "train/metadata.jsonl: 1 rows have a box that is not four numbers" in error and "frame 1" in error
    assert not (alone / "run").exists()


def test_box_of_another_kind_is_named(alone):
    folder = alone / "mine" / "data"
    folder.mkdir(parents=True)
    Dataset.from_dict({"image": ["x"], "box": [7]}).to_parquet(folder / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"parquet: .*'box' must hold lists of four numbers x, y, w, h, got int64"):
        load_tracking_dataset(str(folder.parent))


def test_columns_are_mapped_in_training_and_one_of_the_same_name_makes_way(alone, recipe, capsys):
    folder = write(alone / "mine", text="caption", box="bbox")
    start = ["--config", str(recipe), "--max_train_steps", "1", "--dataset_name", folder]
    assert train([*start, "--columns", "box=bbox", "text=caption"]) == 0
    assert "mine (split train): 2 sequences, 4 frames" in capsys.readouterr().out
    assert train([*start, "--columns", "box:bbox"]) == 2
    assert "--columns takes OURS=THEIRS, such as box=bbox, got 'box:bbox'" in capsys.readouterr().err
    for streaming in (False, True):
        mapped = load_tracking_dataset(
            folder,
            columns={"box": "bbox", "visible": "visible", "text": "sequence", "sequence": "caption"},
            streaming=streaming,
        )
        assert [(s.name, s.text) for s in mapped] == [("dog", "a"), ("cat", "b")]


def test_sentences_under_another_name_are_pointed_out(alone, caplog):
    with caplog.at_level(logging.WARNING):
        load_tracking_dataset(write(alone / "mine", text="caption"))
    assert "no column 'text', but one called 'caption'; to use it: --columns text=caption" in caplog.text


@pytest.mark.parametrize("layout", ["data", "flat"])
def test_the_only_split_is_taken_and_another_one_is_not(alone, layout, caplog):
    folder = write(alone / "mine", splits=["validation"])
    if layout == "flat":
        (alone / "mine" / "data" / "validation-00000-of-00001.parquet").rename(alone / "mine" / "validation.parquet")
    with caplog.at_level(logging.WARNING):
        found = load_tracking_dataset(folder)
    assert found.split == "validation" and len(found) == 2
    assert "its only split is 'validation', which is used" in caplog.text
    with pytest.raises(ValueError, match="has no split 'test': choose one of validation"):
        load_tracking_dataset(folder, "test")


def test_preferred_split_is_taken_among_several(alone):
    folder = write(alone / "mine", splits=["train", "test", "old"])
    assert load_tracking_dataset(folder).split == "train"
    assert load_tracking_dataset(folder, preferred_split="test").split == "test"
    with pytest.raises(ValueError, match="no split 'validation', and several others: choose one of"):
        load_tracking_dataset(folder, preferred_split="validation")


def test_name_of_nothing_is_said_before_the_hub_is_asked_once(alone, hub, caplog):
    write(alone / "mine")
    with caplog.at_level(logging.WARNING), pytest.raises(FileNotFoundError, match=r"^mne: there is neither a folder"):
        load_tracking_dataset("mne")
    assert (
        "mne is not a folder here, so the Hub is asked for a dataset of that name. Did you mean mine?" in caplog.text
    )
    assert len([request for request in hub.requests if "mne" in request]) == 1


@pytest.mark.parametrize("name", ["./mne", "some/where/mine", "/nowhere/mine"])
def test_path_of_nothing_is_not_asked_of_the_hub(alone, hub, name):
    write(alone / "mine")
    with pytest.raises(FileNotFoundError, match=f"^{name}: there is no such folder"):
        load_tracking_dataset(name)
    assert hub.requests == []


def test_folder_without_data_says_what_was_looked_for(alone):
    (alone / "mine").mkdir()
    (alone / "mine" / "notes.bin").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"found neither data/SPLIT.* nor images with a metadata.csv"):
        load_tracking_dataset(str(alone / "mine"))
