"""Clips in which a target goes and comes back elsewhere, and how sessions are judged by them."""

from types import SimpleNamespace

import numpy as np
import pytest

from modeling_pjvlt.evaluation import absence
from modeling_pjvlt.evaluation.absence import absence_clips, track_clip
from modeling_pjvlt.session_pjvlt import TrackedTarget

RED = (220, 30, 30)


class Still:
    """A sequence of 60 frames in which a red block stands still on grey."""

    text = "a red block"
    boxes = np.tile([20.0, 30, 20, 20], (60, 1))
    visible = np.ones(60, bool)

    def frame(self, index):
        pixels = np.full((80, 160, 3), 90, np.uint8)
        pixels[30:50, 20:40] = RED
        return pixels


@pytest.fixture
def clips():
    return list(absence_clips([Still(), Still()], ["a", "b"]))


def red(frame):
    """Columns of a frame in which there is red."""
    return np.flatnonzero((frame == RED).all(-1).any(0)).tolist()


def test_the_target_is_there_then_gone_then_elsewhere(clips):
    clip = clips[0]
    start, stop = clip.absent
    assert start == absence.BEFORE and absence.ABSENT[0] <= stop - start <= absence.ABSENT[1]
    assert red(clip.frame(start - 1)) == list(range(20, 40))
    assert red(clip.frame(start)) == red(clip.frame(stop - 1)) == []
    assert red(clip.frame(stop)) == list(range(100, 120))
    assert clip.boxes[stop].tolist() == [100, 30, 20, 20] and len(clip) == stop + absence.AFTER


def test_a_lookalike_stands_in_the_frame_meanwhile():
    clip = next(absence_clips([Still(), Still()], ["a", "b"], lookalike=True))
    seen = [red(clip.frame(index)) for index in range(*clip.absent)]
    assert all(len(columns) == 20 for columns in seen) and seen[0] != seen[-1]


def test_videos_that_are_too_short_or_filled_by_their_target_are_left_out():
    wide, short = Still(), Still()
    wide.boxes = np.tile([20.0, 30, 90, 20], (60, 1))
    short.visible = np.arange(60) < 10
    assert list(absence_clips([wide, short], ["a", "b"])) == []


@pytest.mark.parametrize(("claims", "returns"), [(False, True), (True, True), (False, False)])
def test_found_is_held_at_the_end_and_false_is_claimed_while_absent(clips, claims, returns):
    clip = clips[0]

    class Session:
        """Follows the truth; while the target is absent it claims it or not, and it finds it again or not."""

        index, target_ids = 0, ()

        def add_target(self, frame, box, text, target_id):
            self.target_ids = (*self.target_ids, target_id)

        def frame_size_of(self, target_id):
            return 80, 160

        def step(self, frame):
            self.index += 1
            gone = clip.absent[0] <= self.index < clip.absent[1]
            box = clip.boxes[self.index] if returns or self.index < clip.absent[1] else (0, 0, 5, 5)
            return [TrackedTarget(i, tuple(box), 0.5, lost=gone and not claims) for i in self.target_ids]

    assert track_clip(Session(), clip, {"right": "a", "wrong": "b"}) == {
        name: (returns, float(claims)) for name in ("right", "wrong")
    }


def test_the_command_prints_a_row_for_each_way_to_search(monkeypatch, capsys):
    monkeypatch.setattr(absence, "load_sequences", lambda *args: [Still(), Still()])
    monkeypatch.setattr(
        absence, "score", lambda *args: {("frame", "right"): SimpleNamespace(found=[1, 0], false=[0.25])}
    )
    assert absence.main(["somewhere"]) == 0
    out = capsys.readouterr().out
    assert "2 clips" in out and "| frame | right | 50% | 25% |" in out
    assert absence.main(["--procedural", "3"]) == 0 and "3 clips" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        absence.main(["somewhere", "--procedural", "3"])
    assert "either a dataset or --procedural N" in capsys.readouterr().err
    monkeypatch.setattr(absence, "load_sequences", lambda *args: [])
    assert absence.main(["somewhere"]) == 2 and "no video has" in capsys.readouterr().err
