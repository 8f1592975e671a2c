"""`scripts/average_checkpoints.py`: the mean of checkpoints, small, with the window that suits it."""

import sys
from pathlib import Path

import pytest
import torch
from tiny import build_tiny_model

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.session_pjvlt import TRACKING_DEFAULTS

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from average_checkpoints import main


@pytest.fixture
def saved(tiny_processor, tmp_path):
    """Function: the folder of a model whose last norm is scaled."""

    def save(scale, **overrides):
        model = build_tiny_model(**overrides)
        model.norm.weight.data.mul_(scale)
        model.save_pretrained(tmp_path / str(scale))
        tiny_processor.save_pretrained(tmp_path / str(scale))
        return tmp_path / str(scale)

    return save


def test_the_mean_is_stored_small_and_loads_as_float32(saved, tmp_path, capsys):
    folders = [saved(1), saved(2)]
    main([*map(str, folders), "--output_dir", str(tmp_path / "mean"), "--window_weight", "0.5"])
    first, second, mean = (PJVLTModel.from_pretrained(folder) for folder in (*folders, tmp_path / "mean"))
    expected = (1.5 * first.norm.weight).half().float()
    assert not torch.equal(first.norm.weight, second.norm.weight)
    assert mean.dtype == torch.float32 and torch.equal(mean.norm.weight, expected)
    settings = PJVLTProcessor.from_pretrained(tmp_path / "mean").tracking_settings(mean.config)
    assert settings == {**TRACKING_DEFAULTS, "window_weight": 0.5}
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (folders[0], tmp_path / "mean")]
    assert sizes[1] < 0.55 * sizes[0] and "MB" in capsys.readouterr().out


@pytest.mark.parametrize(("scale", "dtype"), [(6e4, torch.float16), (7e4, torch.bfloat16)])
def test_weights_that_float16_cannot_hold_are_bfloat16(scale, dtype, saved, tmp_path):
    main([str(saved(scale)), "--output_dir", str(tmp_path / "mean")])
    mean = PJVLTModel.from_pretrained(tmp_path / "mean")
    assert torch.equal(mean.norm.weight, torch.full_like(mean.norm.weight, scale).to(dtype).float())


def test_other_architectures_have_no_mean(saved, tmp_path, capsys):
    folders = [saved(1), saved(2, saiel_fusion="sum")]
    with pytest.raises(SystemExit):
        main([*map(str, folders), "--output_dir", str(tmp_path / "mean")])
    assert "same architecture" in capsys.readouterr().err and not (tmp_path / "mean").exists()


def test_a_checkpoint_is_never_written_over_itself(saved, tmp_path, capsys):
    folder = saved(1)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        main([str(folder), "--output_dir", str(folder)])
    assert "already exists and is not empty" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == before
