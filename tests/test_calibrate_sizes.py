"""`scripts/calibrate_sizes.py`: boxes that come out too small in tracking get larger, and nothing else changes."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import build_tiny_model

from modeling_pjvlt import PJVLTModel

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import calibrate_sizes
from calibrate_sizes import log_ratio, main, scale_sizes


@dataclass
class Sequence:
    """One whose target keeps its box."""

    boxes: np.ndarray
    visible: np.ndarray
    text: str = "the target"


@pytest.fixture
def sequences():
    boxes = np.tile([10.0, 10.0, 20.0, 40.0], (6, 1))
    visible = np.array([True, True, True, True, True, False])
    return [Sequence(boxes, visible), Sequence(boxes, np.array([True] + [False] * 5))]


@pytest.fixture
def tracked(monkeypatch, sequences):
    """Tracking that predicts as the size branch does for a constant target: too small at first."""

    def track(model, processor, sequence, texts):
        usual = 1 / processor.image_processor.search_factor
        predicted = model.head.size[-1].bias.sigmoid().detach().numpy() / usual
        boxes = sequence.boxes.copy()
        boxes[1:, 2:] *= predicted
        boxes[-1, 2:] = 400  # where the target is absent
        return type("Tracks", (), {"boxes": {"own": boxes}})

    monkeypatch.setattr(calibrate_sizes, "track_sequence", track)
    monkeypatch.setattr(calibrate_sizes, "load_tracking_dataset", lambda name, split: sequences)


def test_ratios_are_of_frames_that_follow_the_target_and_of_sequences_that_have_some():
    truth = np.tile([0.0, 0.0, 10.0, 10.0], (5, 1))
    boxes = truth.copy()
    boxes[:, 2:] = [8, 12]
    boxes[4] = [90, 90, 500, 500]  # lost
    assert np.allclose(log_ratio(boxes, truth), np.log([0.8, 1.2]))
    boxes[3] = boxes[4]
    assert log_ratio(boxes, truth) is None


@pytest.mark.parametrize("factors", [(1.1, 1.0), (0.9, 1.2)])
def test_sizes_are_scaled_where_targets_are_as_large_as_usual(factors):
    model = build_tiny_model(stirred=True)
    last = model.head.size[-1]
    usual, inputs = 0.25, torch.randn(1, last.in_channels, 1, 1)
    with torch.no_grad():
        last.bias += np.log(usual / (1 - usual)) - last(inputs).flatten()  # it predicts the usual size there
        before, weights = last(inputs).sigmoid().flatten(), {k: v.clone() for k, v in model.state_dict().items()}
        scale_sizes(model, np.array(factors), 1 / usual)
        after = last(inputs).sigmoid().flatten()
    assert torch.allclose(after / before, torch.tensor(factors), rtol=0.02)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == {f"head.size.{len(model.head.size) - 1}.{part}" for part in ("weight", "bias")}


def test_sizes_are_right_after_the_corrections(tracked, tiny_processor, tmp_path, capsys):
    model = build_tiny_model(stirred=True)
    factor = tiny_processor.image_processor.search_factor
    small = np.array([0.85, 0.95]) / factor
    model.head.size[-1].bias.data = torch.tensor(np.log(small / (1 - small)), dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    main([str(tmp_path / "model"), "--dataset_name", "videos", "--output_dir", str(tmp_path / "calibrated")])
    printed = capsys.readouterr().out
    assert "after 0 corrections: widths -15.0 %, heights -5.0 %" in printed
    assert "after 2 corrections: widths -0.0 %, heights -0.0 %" in printed.replace("+0.0", "-0.0")
    corrected = PJVLTModel.from_pretrained(tmp_path / "calibrated")
    assert torch.allclose(corrected.head.size[-1].bias.sigmoid() * factor, torch.ones(2), atol=2e-3)


def test_what_cannot_be_calibrated_is_one_clear_error(tracked, sequences, tiny_processor, tmp_path, capsys):
    build_tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    command = [str(tmp_path / "model"), "--dataset_name", "videos", "--output_dir", str(tmp_path / "out")]
    sequences[:] = sequences[1:]  # none with enough frames that show the target
    for extra, message in (([], "follows no target for 4 frames"), (["--rounds", "0"], "--rounds must be at least 1")):
        with pytest.raises(SystemExit):
            main(command + extra)
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
