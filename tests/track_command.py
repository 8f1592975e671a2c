"""`pjvlt-track` with a stub in place of the model, and how the tests of that command call it."""

import errno
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from modeling_pjvlt.cli import track
from modeling_pjvlt.session_pjvlt import TrackedTarget
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

BOX = ["--box", "10", "12", "20", "16"]


class DriftingSession:
    """Stands in for a `TrackingSession`: the boxes move one pixel to the right in every frame."""

    def __init__(self):
        self.targets = {}

    def __copy__(self):
        self.targets = {}
        return self

    def add_target(self, frame, box, text, target_id):
        if min(box[2:]) <= 0:
            raise ValueError(f"box {box} has no area")
        self.shape, self.text = frame.shape, text
        self.targets[target_id] = np.array(box, np.float32)

    def frame_size_of(self, target_id):
        return self.shape[:2]

    def step(self, frame):
        if self.targets and frame.shape != self.shape:
            raise ValueError(f"frame is {frame.shape[1]}x{frame.shape[0]}, the first one was another size")
        self.targets = {name: box + np.array([1, 0, 0, 0], np.float32) for name, box in self.targets.items()}
        return [TrackedTarget(name, box, 0.5) for name, box in self.targets.items()]


class TinyClip:
    """Stands in for a `ProceduralClip`: the target moves two pixels to the right and is hidden in the last frame."""

    text = "a red disc"

    def __init__(self, seed):
        self.seed = seed
        self.boxes = np.array([[10 + 2 * i, 12, 20, 16] for i in range(4)], np.float32)
        self.visible = np.array([True, True, True, False])

    def __len__(self):
        return 4

    def frame(self, index):
        return np.full((48, 64, 3), 10 * index, np.uint8)


def make_workplace(tmp_path, monkeypatch):
    """An empty folder to work in, and a stub in place of the model; the stub is returned as `.session`."""
    monkeypatch.chdir(tmp_path)
    session = DriftingSession()
    loaded = []
    monkeypatch.setattr(track, "load_session", lambda *args: loaded.append(args) or session)
    monkeypatch.setattr(track, "_default_checkpoint", lambda: "bundled")
    return SimpleNamespace(folder=tmp_path, session=session, loaded=loaded)


def write_video(path, frames):
    with VideoWriter(path, 12.5) as writer:
        for frame in frames:
            writer.write(frame)
    return str(path)


def failure(capsys, *argv):
    """Run the command, expect it to fail, and return its one line of explanation."""
    with pytest.raises(SystemExit) as stopped:
        track.main(list(argv))
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("pjvlt-track: error: ")
    return captured.err


def interrupted(capsys, *argv, by=signal.SIGINT):
    """Run the command, expect it to be stopped by a signal, and return what it says."""
    with pytest.raises(SystemExit) as stopped:
        track.main(list(argv))
    captured = capsys.readouterr()
    assert stopped.value.code == 128 + by and captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def interrupt(*args):
    raise KeyboardInterrupt


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt_at(monkeypatch, owner, name, count, how=interrupt):
    """Let `how` happen in the call number `count` of a method, before the method does its work."""
    calls, method = [], getattr(owner, name)

    def counting(*args):
        calls.append(args)
        if len(calls) == count:
            how()
        return method(*args)

    monkeypatch.setattr(owner, name, counting)


def kept(folder):
    """Number of frames in o.mp4 and in o.json; None for no file."""
    video = len(list(read_frames(folder / "o.mp4"))) if (folder / "o.mp4").exists() else None
    return video, len(json.loads((folder / "o.json").read_text())["frames"])


def no_leftovers(folder):
    return not [path for path in folder.iterdir() if path.name.startswith(".")]
