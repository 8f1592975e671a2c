"""`scripts/resize_checkpoint.py`: other crops and patches, and what was learned stays."""

import sys
from pathlib import Path

import pytest
import torch
from tiny import build_tiny_inputs, build_tiny_model

from modeling_pjvlt import PJVLTModel, PJVLTProcessor

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from resize_checkpoint import main, resize_grid, resize_model

SIZES = [
    {"template_size": 32, "search_size": 64},
    {"patch_size": 4},
    {"patch_size": 16, "template_size": 32, "search_size": 64},
    {"patch_size": 16, "template_size": 64, "search_size": 128},
]


@torch.no_grad()
def even(model: PJVLTModel) -> PJVLTModel:
    """Let no place in a crop differ from another one."""
    grids = [model.config.template_grid**2, model.config.search_grid**2]
    for name, value in model.named_parameters():
        if name.endswith("_position"):
            value.copy_(value.mean(dim=1, keepdim=True).expand_as(value))
        elif ".pim.fc1.weight" in name:
            value.copy_(torch.cat([p.mean(1, keepdim=True).expand_as(p) for p in value.split(grids, dim=1)], dim=1))
        elif ".pim.fc3." in name:
            value.copy_(torch.cat([p.mean(0, keepdim=True).expand_as(p) for p in value.split(grids)]))
    return model


@pytest.mark.parametrize("sizes", SIZES)
@torch.no_grad()
def test_even_crops_look_the_same_to_a_model_of_another_size(sizes):
    model = even(build_tiny_model(stirred=True))
    resized, answers = resize_model(model, **sizes), []
    words = {k: v for k, v in build_tiny_inputs(model.config, batch=1).items() if not k.endswith("pixel_values")}
    for one in (model, resized):
        search, template = one.config.search_size, one.config.template_size
        crops = torch.full((1, 3, search, search), 0.7), torch.full((1, 3, template, template), -0.4)
        tokens = one(*crops, **words).last_hidden_state[0]
        answers.append((tokens[0], tokens[-1]))  # of the template and of the search crop
    for before, after in zip(*answers, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_what_has_a_place_keeps_it():
    plane = torch.linspace(0, 1, 8)[None, :].expand(8, 8).reshape(64, 1)  # rises from left to right
    resized = resize_grid(plane, 5).view(5, 5)
    torch.testing.assert_close(resized, resized[:1].expand(5, 5))
    assert (resized[0].diff() > 0.1).all() and resized[0, 2] == pytest.approx(0.5, abs=1e-5)


def test_the_same_sizes_change_nothing():
    model = build_tiny_model(stirred=True)
    resized = resize_model(model, patch_size=model.config.patch_size)
    for (name, before), after in zip(model.state_dict().items(), resized.state_dict().values(), strict=True):
        assert torch.equal(before, after), name


def test_the_folder_holds_a_whole_checkpoint(tiny_processor, tmp_path, capsys):
    build_tiny_model(stem_channels=(8,)).save_pretrained(tmp_path / "old")
    tiny_processor.save_pretrained(tmp_path / "old")
    main([str(tmp_path / "old"), "--search_size", "48", "--output_dir", str(tmp_path / "new")])
    assert "40 visual tokens instead of 20" in capsys.readouterr().out
    model, processor = PJVLTModel.from_pretrained(tmp_path / "new"), PJVLTProcessor.from_pretrained(tmp_path / "new")
    assert (model.config.search_size, model.config.template_size) == (48, 16)
    assert processor.image_processor.search_size == 48
    assert model(**build_tiny_inputs(model.config)).score_map.shape == (2, 1, 6, 6)


@pytest.mark.parametrize(
    ("options", "told"), [([], "nothing to do"), (["--search_size", "50"], "must be a multiple of `patch_size`")]
)
def test_sizes_that_cannot_be_are_one_error(options, told, tiny_processor, tmp_path, capsys):
    build_tiny_model().save_pretrained(tmp_path / "old")
    tiny_processor.save_pretrained(tmp_path / "old")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "old"), *options, "--output_dir", str(tmp_path / "new")])
    assert told in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_checkpoint_is_never_written_over_itself(tmp_path, capsys):
    build_tiny_model().save_pretrained(tmp_path / "old")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "old"), "--search_size", "48", "--output_dir", str(tmp_path / "old")])
    assert "already exists and is not empty" in capsys.readouterr().err
    assert PJVLTModel.from_pretrained(tmp_path / "old").config.search_size == 32
