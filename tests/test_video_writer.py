import numpy as np
import pytest
from test_video import flat_frames, grey_levels, write_video

from modeling_pjvlt import video_writer_pjvlt
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import ENCODERS, VideoWriter


def test_odd_sizes_are_padded_by_repeating_the_edge(tmp_path):
    frame = np.full((47, 63, 3), 100, np.uint8)
    (decoded,) = read_frames(write_video(tmp_path / "odd.mp4", [frame]))
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - 100).max() <= 3


def test_mpeg4_replaces_a_missing_h264_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(video_writer_pjvlt, "ENCODERS", {"no_such_encoder": {}, "mpeg4": ENCODERS["mpeg4"]})
    assert grey_levels(read_frames(write_video(tmp_path / "clip.mp4", flat_frames(4)))) == [10, 20, 30, 40]


@pytest.mark.parametrize("fps", [12.5, 25, 30000 / 1001, 59.94])
def test_evenly_spaced_times_are_written_as_their_rate(tmp_path, fps):
    path = write_video(tmp_path / "source.mp4", flat_frames(20), fps)
    with VideoWriter(tmp_path / "copy.mp4", fps) as writer:
        for frame in read_frames(path).timed():
            writer.write(frame.image, frame.time)
    assert read_frames(writer.path).fps == pytest.approx(fps, rel=1e-4)
    assert read_frames(writer.path).num_frames == 20


@pytest.mark.parametrize("num_frames", [0, 3, 80])
def test_error_while_writing_leaves_nothing_behind(tmp_path, num_frames):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for frame in flat_frames(1) * num_frames:
            writer.write(frame)
        # The encoder holds the first frames back, so that only many of them make a file that can be left behind.
        assert len([path for path in tmp_path.rglob("*.mp4") if path.is_file()]) == (num_frames == 80)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_error_while_writing_keeps_an_existing_file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="frame 1 is 64x40, the first one 64x48"), VideoWriter(path, 25) as writer:
        writer.write(flat_frames(1)[0])
        writer.write(flat_frames(1, height=40)[0])
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_video_appears_only_when_complete_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "clip.mp4"
    with VideoWriter(path, 25) as writer:
        writer.write(flat_frames(1)[0])
        assert not path.exists()
    write_video(path, flat_frames(3))
    assert len(list(read_frames(path))) == 3
    assert list(path.parent.iterdir()) == [path]


def test_video_without_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no frame was written"), VideoWriter(tmp_path / "clip.mp4", 25):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_unusable_fps_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match="fps must be a number above 0"):
        VideoWriter(tmp_path / "clip.mp4", fps)


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"clip\.avi: a video is written as one of \.mkv, \.mov, \.mp4"):
        VideoWriter(tmp_path / "clip.avi", 25)


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_frames_of_the_wrong_kind_are_refused(tmp_path, frame):
    with pytest.raises(ValueError, match="expected a uint8 frame"), VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        writer.write(frame)


def test_unwritable_place_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_video(tmp_path / "file" / "clip.mp4", flat_frames(1))
