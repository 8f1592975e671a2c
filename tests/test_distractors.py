"""Clips of two targets in one video: which are found, and that the table says what the session did."""

import numpy as np
import pytest
from PIL import Image

from modeling_pjvlt.evaluation import distractors
from modeling_pjvlt.evaluation.distractors import box_between, find_clips, main, track_clip


def write_sequence(root, name, x, numbers, text):
    """Frames of a static scene in which a block stands at column x."""
    (root / name / "img").mkdir(parents=True)
    for number in numbers:
        pixels = np.full((80, 160, 3), 90, np.uint8)
        pixels[30:50, x : x + 20] = (220, 30, 30)
        Image.fromarray(pixels).save(root / name / "img" / f"{number:04d}.png")
    (root / name / "groundtruth_rect.txt").write_text("".join(f"{x},30,20,20\n" for _ in numbers))
    (root / name / "frames.txt").write_text("".join(f"{number}\n" for number in numbers))
    (root / name / "language.txt").write_text(text + "\n")


@pytest.fixture
def folder(tmp_path):
    write_sequence(tmp_path, "street_1", 20, range(0, 20), "the left block")
    write_sequence(tmp_path, "street_2", 48, range(6, 26), "the right block")
    write_sequence(tmp_path, "street_3", 130, range(0, 20), "a block far away")
    write_sequence(tmp_path, "other_1", 48, range(0, 20), "a block of another video")
    return tmp_path


def test_two_targets_of_one_video_that_lie_near_each_other_make_a_clip_from_either_side(folder):
    clips = find_clips(folder, search_factor=4.0)
    assert [clip.name for clip in clips] == ["street_1 beside street_2", "street_2 beside street_1"]
    one, other = clips
    assert [path.name for path in one.paths] == [f"{number:04d}.png" for number in range(6, 20)]
    assert (one.text, one.wrong_text) == (other.wrong_text, other.text) == ("the left block", "the right block")
    assert (one.boxes == [20, 30, 20, 20]).all() and (one.distractor_boxes == [48, 30, 20, 20]).all()
    assert box_between(one.boxes[0], one.distractor_boxes[0]).tolist() == pytest.approx([34, 30, 20, 20])


def test_sessions_get_a_clear_or_a_hidden_template_and_either_sentence(folder, monkeypatch):
    seen = []

    class Recording:
        def __init__(self, model, processor):
            self.boxes = {}

        def add_target(self, frame, box, text, target_id, hide_template):
            seen.append((target_id, [float(v) for v in box], text, hide_template))
            self.boxes[target_id] = [20, 30, 20, 20] if text == "the left block" else [48, 30, 20, 20]

        def step(self, frame):
            return [type("Target", (), {"box": box}) for box in self.boxes.values()]

    monkeypatch.setattr(distractors, "TrackingSession", Recording)
    scores = track_clip(None, None, find_clips(folder, 4.0)[0])
    assert [(i, text, hidden) for i, _, text, hidden in seen] == [
        ("clear right", "the left block", False),
        ("clear wrong", "the right block", False),
        ("hidden right", "the left block", True),
        ("hidden wrong", "the right block", True),
    ]
    assert [box[0] for _, box, _, _ in seen] == pytest.approx([20, 20, 34, 34])
    assert scores["hidden", "right"] > 0.9 and scores["hidden", "wrong"] == 0


def test_the_command_prints_a_table_or_says_what_is_missing(folder, tiny_model, tiny_processor, tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    arguments = [str(folder), "--model", str(tmp_path / "model")]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 clips, success AUC" and [line.split(" | ")[0] for line in lines[-2:]] == [
        "| clear",
        "| hidden",
    ]
    with pytest.raises(SystemExit):
        main([*arguments, "--names", "nothing"])
    assert "no two targets" in capsys.readouterr().err
