"""`pjvlt-track` that is stopped, by a signal, a full disk or a broken video: what was tracked so far is kept."""

import json
import re
import signal

import numpy as np
import pytest
from track_command import (
    BOX,
    failure,
    full_disk,
    interrupt,
    interrupt_at,
    interrupted,
    kept,
    make_workplace,
    no_leftovers,
    write_video,
)

from modeling_pjvlt.cli import track
from modeling_pjvlt.streams_pjvlt import FrameReader
from modeling_pjvlt.video_writer_pjvlt import VideoWriter


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    return make_workplace(tmp_path, monkeypatch)


@pytest.fixture
def video(workplace):
    return write_video(workplace.folder / "clip.mp4", [np.full((48, 64, 3), 90, np.uint8)] * 4)


def test_frame_of_another_size_is_one_line_and_keeps_what_came_before(workplace, capsys):
    from PIL import Image

    (workplace.folder / "images").mkdir()
    for number, size in enumerate([(64, 48), (64, 48), (32, 48)]):
        Image.new("RGB", size).save(workplace.folder / "images" / f"{number}.png")
    message = failure(capsys, "images", *BOX, "--text", "dog", "--output", "o.mp4")
    assert "frame is 32x48" in message and "the 2 frames so far are in o.mp4 and o.json" in message
    assert kept(workplace.folder) == (2, 2)


def test_interrupt_before_anything_was_tracked_leaves_nothing(workplace, video, capsys, monkeypatch):
    monkeypatch.setattr(workplace.session, "step", interrupt)
    assert interrupted(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4").endswith("nothing written\n")
    assert [path.name for path in workplace.folder.iterdir()] == ["clip.mp4"]


def test_interrupt_keeps_what_was_tracked(workplace, video, capsys, monkeypatch):
    interrupt_at(monkeypatch, workplace.session, "step", 3)
    message = interrupted(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4")
    assert message == "pjvlt-track: stopped, the 3 frames so far are in o.mp4 and o.json\n"
    assert kept(workplace.folder) == (3, 3)
    assert no_leftovers(workplace.folder) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_while_a_frame_is_written_waits_for_it(workplace, video, capsys, monkeypatch):
    interrupt_at(monkeypatch, VideoWriter, "write", 2, how=lambda: signal.raise_signal(signal.SIGINT))
    assert "the 2 frames so far" in interrupted(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4")
    assert kept(workplace.folder) == (2, 2)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_termination_keeps_what_was_tracked(workplace, video, capsys, monkeypatch, name):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"this system has no {name}")
    before = signal.signal(number, signal.SIG_DFL)
    try:
        # Twice, as a terminal that closes may send it: while a frame is written, and while the video is finished.
        interrupt_at(monkeypatch, VideoWriter, "write", 3, how=lambda: signal.raise_signal(number))
        interrupt_at(monkeypatch, VideoWriter, "_finish", 1, how=lambda: signal.raise_signal(number))
        message = interrupted(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4", by=number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert message == "pjvlt-track: stopped, the 3 frames so far are in o.mp4 and o.json\n"
    assert kept(workplace.folder) == (3, 3) and no_leftovers(workplace.folder)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_ignored_hangup_stays_ignored(workplace, video, capsys, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` leaves it
    try:
        interrupt_at(monkeypatch, VideoWriter, "write", 3, how=lambda: signal.raise_signal(signal.SIGHUP))
        track.main([video, *BOX, "--text", "dog", "--output", "o.mp4"])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert kept(workplace.folder) == (4, 4)


def test_second_interrupt_gives_the_video_up_and_keeps_the_boxes(workplace, video, capsys, monkeypatch):
    interrupt_at(monkeypatch, workplace.session, "step", 3)
    monkeypatch.setattr(VideoWriter, "_finish", lambda self: interrupt())
    message = interrupted(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4")
    assert message == "pjvlt-track: stopped, no video written, but the boxes of 3 frames are in o.json\n"
    assert kept(workplace.folder) == (None, 3) and no_leftovers(workplace.folder)


def test_video_that_breaks_off_keeps_what_came_before(workplace, capsys, monkeypatch):
    def breaking():
        yield from [np.zeros((48, 64, 3), np.uint8)] * 3
        raise OSError("camera.local: no frame within 10 s, after 3 frames")

    monkeypatch.setattr(track, "read_frames", lambda source: FrameReader(breaking))
    message = failure(capsys, "rtsp://me:secret@camera.local/a", *BOX, "--text", "dog", "--output", "o.mp4")
    assert "no frame within 10 s, after 3 frames; the 3 frames so far are in o.mp4 and o.json" in message
    assert kept(workplace.folder) == (3, 3)
    assert json.loads((workplace.folder / "o.json").read_text())["video"] == "rtsp://camera.local/a"


@pytest.mark.parametrize("when", ["write", "_finish"])
def test_full_disk_keeps_the_boxes_and_no_half_video(workplace, video, capsys, monkeypatch, when):
    interrupt_at(monkeypatch, VideoWriter, when, 3 if when == "write" else 1, how=full_disk)
    message = failure(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4", "--boxes", "o.csv")
    count = 3 if when == "write" else 4
    assert f"No space left on device; no video written, but the boxes of {count} frames are in o.csv" in message
    assert sorted(path.name for path in workplace.folder.iterdir()) == ["clip.mp4", "o.csv"]
    assert (workplace.folder / "o.csv").read_text().count("\n") == count + 1


def test_disk_too_full_for_the_boxes_is_one_line_and_leaves_nothing(workplace, video, capsys, monkeypatch):
    interrupt_at(monkeypatch, VideoWriter, "write", 3, how=full_disk)
    monkeypatch.setattr("pathlib.Path.write_text", lambda *args, **options: full_disk())
    message = failure(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4")
    assert "the boxes of 3 frames are lost too: o.json: cannot be written (No space left on device)" in message
    assert [path.name for path in workplace.folder.iterdir()] == ["clip.mp4"]


def test_disk_that_fills_after_the_video_keeps_it(workplace, video, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", lambda *args, **options: full_disk())
        message = failure(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4")
    assert "o.json: cannot be written (No space left on device); the video of 4 frames is in o.mp4" in message
    monkeypatch.setattr(track, "contact_strip", lambda *args: full_disk())
    message = failure(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4")
    assert "o.png: cannot be written (No space left on device); the 4 frames so far are in o.mp4 and o.json" in message
    assert sorted(path.name for path in workplace.folder.iterdir()) == ["clip.mp4", "o.json", "o.mp4"]


def test_real_limit_of_file_size_is_one_line(workplace, capsys):
    """The system refuses to write on, and FFmpeg has to say so, whenever it finds out."""
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (40, 96, 128, 3), np.uint8)
    video = write_video(workplace.folder / "clip.mp4", noise)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        message = failure(capsys, video, *BOX, "--text", "dog", "--output", "o.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.search(r"o\.mp4: cannot be written \(File too large\); .* boxes of \d+ frames are in o\.json", message)
    assert sorted(path.name for path in workplace.folder.iterdir()) == ["clip.mp4", "o.json"]
