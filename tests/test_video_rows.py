"""Datasets with a row per video: frames in any order, and what is said of boxes that do not fit."""

import av
import numpy as np
import pytest
from datasets import Dataset, Features, List, Value, Video

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.dataset import VideoTrackingDataset
from modeling_pjvlt.data.frames import VideoFrames
from modeling_pjvlt.data.pairs.cropping import PairCropper
from modeling_pjvlt.data.pairs.mixture import TrackingPairs
from modeling_pjvlt.data.pairs.sources import SequencePairs
from modeling_pjvlt.data.pairs.streamed import StreamedPairs
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

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


def raw(clip, **changes) -> Dataset:
    """The table with columns of whatever type the values have."""
    return Dataset.from_dict(table(clip, **changes)).cast_column("video", Video())


def test_frames_come_in_any_order(clip):
    (sequence,) = read(clip)
    assert (sequence.name, sequence.text, len(sequence)) == ("clip", "grey, all of it", FRAMES)
    assert sequence.visible.sum() == FRAMES - 1 and sequence.boxes[7].tolist() == [7, 5, 12, 10]
    expected = list(read_frames(clip))
    for index in [0, 1, 2, 60, 5, 89, 88, 89, 30, 31, 31, 0]:
        np.testing.assert_array_equal(sequence.frame(index), expected[index])


KINDS = {  # of containers and codecs: suffix, codec, its options; B-frames, and a key frame every 12 frames
    "MPEG-4 in AVI": (".avi", "mpeg4", {"bf": "2", "g": "12"}),
    "H.264 in AVI, without presentation times": (".avi", "libx264", {"bf": "2", "g": "12"}),
    "program stream": (".mpg", "mpeg2video", {"bf": "2", "g": "12"}),
    "transport stream": (".ts", "libx264", {"bf": "2", "g": "12"}),
    "open groups": (".ts", "libx264", {"x264-params": "keyint=12:open-gop=1:bframes=3"}),
    "refreshed without key frames": (".ts", "libx264", {"x264-params": "keyint=20:intra-refresh=1"}),
    "WebM": (".webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "12"}),
}


def write_kind(path, codec, options, frames=FRAMES):
    """Noise that moves by a pixel a frame, so that no two frames are alike."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1)).reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("as_bytes", [False, True], ids=["file", "bytes"])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_the_reader_whatever_the_container(kind, as_bytes, tmp_path):
    suffix, *how = KINDS[kind]
    path = write_kind(tmp_path / f"clip{suffix}", *how)
    expected = list(read_frames(path))
    assert len(expected) == FRAMES
    for first in (47, 0):  # what is found out depends on where one begins
        frames = VideoFrames(path.read_bytes() if as_bytes else path, FRAMES)
        for index in [first, 44, 45, 3, 88, 89, 12, 11, 24, 70]:
            np.testing.assert_array_equal(frames.open(index), expected[index])


class CountingContainer:
    """A PyAV container that counts the packets it gives."""

    def __init__(self, container, counts):
        self.container, self.counts = container, counts

    def __getattr__(self, name):
        return getattr(self.container, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.container.close()

    def demux(self, stream):
        for packet in self.container.demux(stream):
            self.counts[-1] += 1
            yield packet


@pytest.mark.parametrize("kind", ["MPEG-4 in AVI", "program stream", "transport stream", "WebM"])
def test_a_frame_costs_no_more_than_from_its_key_frame_on(kind, tmp_path, monkeypatch):
    suffix, codec, options = KINDS[kind]
    frames = VideoFrames(write_kind(tmp_path / f"clip{suffix}", codec, options, 240), 240)
    counts, open_container = [], frames._container
    monkeypatch.setattr(frames, "_container", lambda: CountingContainer(open_container(), counts))
    counts.append(0)
    frames.open(0)
    for index in (200, 100, 230, 37):
        counts.append(0)
        frames.open(index)
    assert max(counts[1:]) < 100


def test_video_of_a_streamed_repository_is_read_by_its_address(clip):
    import fsspec

    fsspec.filesystem("memory").pipe("/pjvlt/clip.mp4", clip.read_bytes())
    (sequence,) = read("memory://pjvlt/clip.mp4")
    np.testing.assert_array_equal(sequence.frame(60), list(read_frames(clip))[60])


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
        ({"boxes": None}, "'clip' has none"),
        ({"boxes": [[1.0, 1.0, 5.0, None]]}, r"'clip', frame 0: \[1.0, 1.0, 5.0, None\]"),
        (
            {"visible": None},
            "1 rows have a value of `visible` that is not a list of true and false.*: sequence 'clip'",
        ),
        ({"video": None}, "1 rows have no video: sequence 'clip'"),
        ({"sequence": None}, "1 rows have no name in the column 'sequence': row 0"),
        ({"visible": [True]}, "`visible` and `boxes` of different length: sequence 'clip'"),
    ],
)
def test_bad_boxes_are_listed_by_sequence_and_frame(clip, changes, message):
    with pytest.raises(ValueError, match=message):
        list(read(clip, **changes))


def test_box_of_an_absent_target_may_be_missing(clip):
    boxes = [None if n == 7 else [float(n), 5.0, 12.0, 10.0] for n in range(FRAMES)]
    (sequence,) = read(clip, boxes=boxes)
    assert np.flatnonzero(~sequence.visible).tolist() == [3, 7] and sequence.boxes[8].tolist() == [8, 5, 12, 10]


def test_what_is_missing_in_visible_follows_the_box_and_words_are_read(clip):
    boxes, visible = [[1.0, 1.0, 5.0, 5.0], [1.0, 1.0, 5.0, 5.0], None], [None, False, None]
    (sequence,) = read(clip, boxes=boxes, visible=visible)
    assert sequence.visible.tolist() == [True, False, False]
    (sequence,) = VideoTrackingDataset(raw(clip, boxes=boxes, visible=["yes", "no", None]))
    assert sequence.visible.tolist() == [True, False, False]
    without = read(clip, boxes=boxes, visible=visible, text=None)
    assert without[0].text == "the target"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [1.0, 1.0, 5.0, 5.0]}, r"'boxes' must hold lists of boxes \[x, y, w, h\], got list<item: double>"),
        ({"boxes": [["a", "b", "c", "d"]]}, "'boxes' must hold lists of boxes .* got list<item: list<item: string>>"),
        ({"boxes": 5}, "'boxes' must hold lists of boxes .* got int64"),
        ({"visible": True}, "`visible` that is not a list of true and false, one for each box: sequence 'clip'"),
        ({"visible": ["maybe"] * FRAMES}, "`visible` that is not a list of true and false"),
    ],
)
def test_columns_of_other_types_are_refused_in_words(clip, changes, message):
    with pytest.raises(ValueError, match=message):
        list(VideoTrackingDataset(raw(clip, **changes)))


def test_boxes_as_text_are_refused(clip):
    with pytest.raises(ValueError, match=r"'boxes' must hold lists of boxes \[x, y, w, h\], got text: '\[\[1"):
        list(VideoTrackingDataset(raw(clip, boxes="[[1, 2, 3, 4]]")))


def test_broken_video_is_named(clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"Sequence 'clip', frame 0: the image cannot be decoded"):
        read(path)[0].frame(0)
