"""`scripts/graft_checkpoint.py`: one checkpoint's body under another one's stem and BERT."""

import sys
from pathlib import Path

import pytest
import torch
from tiny import build_tiny_model

from modeling_pjvlt import PJVLTModel

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from graft_checkpoint import KEPT, graft, main


def save(model, processor, folder):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_body_comes_from_one_and_stem_and_words_from_the_other(tiny_processor, tmp_path, capsys):
    one, other = build_tiny_model(stirred=True, seed=1), build_tiny_model(stirred=True, seed=2)
    folders = save(one, tiny_processor, tmp_path / "one"), save(other, tiny_processor, tmp_path / "other")
    main([folders[0], "--body", folders[1], "--output_dir", str(tmp_path / "both")])
    assert "other" in capsys.readouterr().out
    for name, value in PJVLTModel.from_pretrained(tmp_path / "both").state_dict().items():
        source = one if name.startswith(KEPT) else other
        assert torch.equal(value, source.state_dict()[name]), name


def test_a_body_of_another_width_is_refused(tiny_processor, tmp_path, capsys):
    model, wide = build_tiny_model(), build_tiny_model(hidden_size=64)
    with pytest.raises(ValueError, match="vision layers differ"):
        graft(model, wide)
    folders = save(model, tiny_processor, tmp_path / "one"), save(wide, tiny_processor, tmp_path / "wide")
    with pytest.raises(SystemExit):
        main([folders[0], "--body", folders[1], "--output_dir", str(tmp_path / "both")])
    assert "vision layers differ" in capsys.readouterr().err and not (tmp_path / "both").exists()
