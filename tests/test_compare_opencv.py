"""`scripts/compare_opencv.py`: the same frames for all, fair clocks, and OpenCV's failures counted as such."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from modeling_pjvlt.data.procedural import ProceduralClip
from modeling_pjvlt.evaluation import score_benchmark
from modeling_pjvlt.evaluation.metrics import iou

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import compare_opencv as script

FRAMES = 40  # more than a chunk, so that the trackers take turns


class FakeTracker:
    """Moves its box one pixel a frame and reports failure, with a box of zeros, in every third."""

    started = []

    @classmethod
    def create(cls):
        cls.started.append(cls())
        return cls.started[-1]

    def init(self, frame, box):
        assert all(isinstance(value, int) for value in box)
        self.box, self.frames = box, [frame]

    def update(self, frame):
        self.frames.append(frame)
        if (len(self.frames) - 1) % 3 == 0:
            return False, (0, 0, 0, 0)
        self.box = (self.box[0] + 1, *self.box[1:])
        return True, self.box


@pytest.fixture
def clips(monkeypatch):
    """Two short clips in place of the 200 long ones."""
    clips = [ProceduralClip(seed, FRAMES, size=(120, 160), kind="appearance") for seed in (1, 2)]
    monkeypatch.setattr("modeling_pjvlt.evaluation.sequences.load_sequences", lambda name, split: clips)
    return clips


@pytest.fixture
def fake_opencv(monkeypatch):
    """An OpenCV whose only tracker is [`FakeTracker`]."""
    told = SimpleNamespace(TrackerKCF=FakeTracker, __version__="fake", setNumThreads=lambda threads: None)
    monkeypatch.setitem(sys.modules, "cv2", told)
    monkeypatch.setattr(FakeTracker, "started", [])
    return told


@pytest.fixture
def checkpoint(tiny_model, tiny_processor, tmp_path):
    """A folder with a random tiny model."""
    tiny_model().save_pretrained(tmp_path / "random")
    tiny_processor.save_pretrained(tmp_path / "random")
    return str(tmp_path / "random")


def test_everybody_sees_the_same_frames_and_failure_keeps_the_last_box(
    clips, fake_opencv, checkpoint, tmp_path, capsys
):
    output = tmp_path / "out.json"
    arguments = ["--model", checkpoint, "--trackers", "kcf", "--max_frames", "36", "--per_sequence"]
    assert script.main([*arguments, "--output", str(output)]) == 0
    told = json.loads(output.read_text())
    assert set(told["datasets"]["procedural"]) == {"random", "KCF"}
    for tracker, clip in zip(FakeTracker.started, clips, strict=True):
        assert len(tracker.frames) == 36
        assert np.array_equal(tracker.frames[35], clip.frame(35)[..., ::-1])  # BGR
        boxes = np.array(told["sequences"][f"procedural/{clip.name}"]["KCF"]["boxes"])
        assert boxes[0] == pytest.approx(clip.boxes[0])
        assert np.array_equal(boxes[1:6, 0] - round(float(clip.boxes[0][0])), [1, 2, 2, 3, 4])
    assert told["datasets"]["procedural"]["KCF"]["lost"] == pytest.approx(100 * 11 / 35)
    printed = capsys.readouterr().out
    assert "| KCF |" in printed and "| random |" in printed and f"| procedural/{clips[1].name} | 36 |" in printed


def test_scores_are_those_of_the_protocol(clips, fake_opencv, checkpoint, tmp_path):
    output = tmp_path / "out.json"
    arguments = ["--model", checkpoint, "--trackers", "kcf", "--protocol", "pytracking", "--output", str(output)]
    assert script.main(arguments) == 0
    told = json.loads(output.read_text())
    for name in ("random", "KCF"):
        boxes = {c.name: np.array(told["sequences"][f"procedural/{c.name}"][name]["boxes"]) for c in clips}
        truth, absent = ({c.name: rows(c) for c in clips} for rows in (lambda c: c.boxes, lambda c: ~c.visible))
        expected = score_benchmark(boxes, truth, absent, protocol="pytracking")
        for metric in ("auc", "precision"):
            assert told["datasets"]["procedural"][name][metric] == pytest.approx(expected[metric])
        seen = [np.flatnonzero(c.visible[1:]) + 1 for c in clips]
        shares = [(iou(boxes[c.name][s], c.boxes[s]) > 0.75).mean() for c, s in zip(clips, seen, strict=True)]
        assert told["datasets"]["procedural"][name]["strict"] == pytest.approx(100 * np.mean(shares))


def test_speed_counts_frames_after_the_first():
    run = script.Run({"a": np.zeros((11, 4)), "b": np.zeros((31, 4)), "c": np.zeros((6, 4))}, {"a": 1, "b": 1, "c": 1})
    assert run.fps(["a", "b", "c"]) == (10, 15)


def test_several_datasets_are_also_scored_together(clips, fake_opencv, checkpoint, capsys):
    assert script.main(["--model", checkpoint, "--trackers", "--dataset_name", "one", "two", "--max_frames", "3"]) == 0
    printed = capsys.readouterr().out
    assert f"{script.TOGETHER} (4 sequences, 12 frames" in printed and "opencv" not in printed


def test_plot_draws_every_tracker(clips, fake_opencv, checkpoint, tmp_path):
    pytest.importorskip("matplotlib", reason='plots need matplotlib: pip install -e ".[eval]"')
    path = tmp_path / "success.svg"
    assert script.main(["--model", checkpoint, "--trackers", "kcf", "--max_frames", "3", "--plot", str(path)]) == 0
    assert path.read_text().startswith("<?xml")


@pytest.mark.parametrize("opencv", [None, SimpleNamespace(__version__="without contrib")])
def test_missing_trackers_name_the_extra(opencv, monkeypatch, clips, checkpoint, capsys):
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    assert script.main(["--model", checkpoint, "--trackers", "csrt"]) == 2
    assert 'pip install "pjvlt[compare]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_frames", "1"], "--max_frames must be at least 2, got 1"),
        (["--dataset_name", "one", "one"], "Two datasets are called 'one'"),
    ],
)
def test_mistakes_are_named(arguments, message, clips, fake_opencv, checkpoint, capsys):
    assert script.main(["--model", checkpoint, "--trackers", "kcf", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", list(script.OPENCV))
def test_real_trackers_follow_a_figure(kind):
    pytest.importorskip("cv2", reason='OpenCV is not here: pip install -e ".[compare]"')
    clip = ProceduralClip(1, 8, kind="appearance")
    frames = [np.ascontiguousarray(clip.frame(index)[..., ::-1]) for index in range(len(clip))]
    tracker = script.OpenCVTracker(kind, frames[0], clip.boxes[0])
    for frame in frames[1:]:
        box, lost = tracker.step(frame)
        assert len(box) == 4 and isinstance(lost, bool)
    centre, truth = (np.array(b[:2]) + np.array(b[2:]) / 2 for b in (box, clip.boxes[-1]))
    assert np.linalg.norm(centre - truth) < max(clip.boxes[-1][2:])
