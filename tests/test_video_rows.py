"""Datasets with a row per video: frames in any order, and what is said of boxes that do not fit."""

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value, Video

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.dataset import VideoTrackingDataset
from modeling_pjvlt.data.sampling import PairCropper, SequencePairs, TrackingPairs
from modeling_pjvlt.data.streamed_pairs import StreamedPairs
from modeling_pjvlt.video_pjvlt import VideoWriter, read_frames

FRAMES = 90
FEATURES = Features(
    {
        "sequence": Value("string"),
        "video": Video(),
        "boxes": List(List(Value("float32"))),
        "text": Value("string"),
        "visible": List(Value("bool")),
    }
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video with several key frames and frames that refer to later ones, whose grey tells the frame's number."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, fps=30) as writer:
        for number in range(FRAMES):
            writer.write(np.full((48, 64, 3), 20 + 2 * number, np.uint8))
    return path


def table(clip, **changes):
    boxes = [[float(n), 5.0, 12.0, 10.0] for n in range(FRAMES)]
    visible = [n != 3 for n in range(FRAMES)]
    row = {"sequence": "clip", "video": str(clip), "boxes": boxes, "text": "grey, all of it", "visible": visible}
    return {name: [value] for name, value in {**row, **changes}.items()}


def read(clip, **changes):
    return VideoTrackingDataset(Dataset.from_dict(table(clip, **changes), features=FEATURES))


def test_frames_come_in_any_order(clip):
    (sequence,) = read(clip)
    assert (sequence.name, sequence.text, len(sequence)) == ("clip", "grey, all of it", FRAMES)
    assert sequence.visible.sum() == FRAMES - 1 and sequence.boxes[7].tolist() == [7, 5, 12, 10]
    expected = list(read_frames(clip))
    for index in [0, 1, 2, 60, 5, 89, 88, 89, 30, 31, 31, 0]:
        np.testing.assert_array_equal(sequence.frame(index), expected[index])


def test_rows_go_through_parquet_and_yield_pairs(clip, isolated_cache):
    folder = isolated_cache / "videos" / "data"
    folder.mkdir(parents=True)
    data = {**table(clip), "video": [{"bytes": clip.read_bytes(), "path": "clip.mp4"}]}
    Dataset.from_dict(data, features=FEATURES).to_parquet(folder / "train-00000-of-00001.parquet")
    (sequence,) = sequences = load_tracking_dataset(str(folder.parent))
    (streamed,) = load_tracking_dataset(str(folder.parent), streaming=True)
    np.testing.assert_array_equal(sequence.frame(40), streamed.frame(40))
    cropper = PairCropper(PJVLTImageProcessor(template_size=16, search_size=32))
    drawn = TrackingPairs(SequencePairs(sequences, max_gap=20), cropper, length=4)[3]
    stream = load_tracking_dataset(str(folder.parent), streaming=True)
    (sample,) = StreamedPairs({"clip": stream}, cropper, length=1, batch_size=1, buffer_size=2)
    assert drawn["pixel_values"].shape == sample["pixel_values"].shape == (3, 32, 32)
    assert sample["text"] == "grey, all of it"


def test_a_path_with_a_colon_is_a_file(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take:1.mp4").symlink_to(clip)
    np.testing.assert_array_equal(read("take:1.mp4")[0].frame(60), read(clip)[0].frame(60))


def test_number_of_frames_and_boxes_must_agree(clip):
    (sequence,) = read(clip, boxes=[[1.0, 1.0, 5.0, 5.0]] * 5, visible=[True] * 5)
    with pytest.raises(
        ValueError, match=r"Sequence 'clip', frame 2: .*the video has 90 frames, but there are 5 boxes"
    ):
        sequence.frame(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[1.0, 1.0, 5.0, 5.0], [1.0, 2.0]]}, r"1 boxes are not four finite numbers.*'clip', frame 1"),
        ({"boxes": [[1.0, 1.0, 5.0, float("nan")]]}, "'clip', frame 0"),
        ({"boxes": []}, "'clip' has none"),
        ({"visible": [True]}, "`visible` and `boxes` of different length: sequence 'clip'"),
    ],
)
def test_bad_boxes_are_listed_by_sequence_and_frame(clip, changes, message):
    with pytest.raises(ValueError, match=message):
        list(read(clip, **changes))


def test_broken_video_is_named(clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"Sequence 'clip', frame 0: the picture cannot be decoded"):
        read(path)[0].frame(0)
