"""`scripts/resize_checkpoint.py`: other crops and patches, and what was learned stays."""

import sys
from pathlib import Path

import pytest
import torch
from tiny import build_tiny_inputs, build_tiny_model

from modeling_pjvlt import PJVLTImageProcessor, PJVLTModel, PJVLTProcessor

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from resize_checkpoint import cut_grid, grow_sizes, main, resize_grid, resize_model

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


def test_the_middle_of_a_grid_is_cut_out():
    plane = torch.arange(36.0).view(36, 1)
    assert cut_grid(plane, 4).view(4, 4).tolist() == [[6 * y + x for x in range(1, 5)] for y in range(1, 5)]
    halfway = [[6 * y + x + 3.5 for x in range(5)] for y in range(5)]
    assert cut_grid(plane, 5).view(5, 5).tolist() == halfway


@pytest.mark.parametrize("factor", [1.05, 1.2])
def test_sizes_grow_by_the_factor_around_the_usual_one(factor):
    weight, bias = grow_sizes(torch.ones(1), torch.zeros(1), factor, 0.25)
    sizes = torch.tensor([0.12, 0.25, 0.5])
    torch.testing.assert_close((weight * sizes.logit() + bias).sigmoid(), factor * sizes, rtol=0.03, atol=0)


@torch.no_grad()
def test_a_smaller_region_at_the_same_scale_gives_the_middle_of_the_maps():
    """Without attention and fusion, nothing but the 3 x 3 convolution of the head sees what lies around a patch."""
    model = build_tiny_model(stirred=True, fusion="none", head_channels=(8,), search_size=48)
    for name, value in model.named_parameters():
        if name.endswith("attention.o_proj.weight"):
            torch.nn.init.zeros_(value)
    smaller, inputs = resize_model(model, search_factor=4.0, search_size=32), build_tiny_inputs(model.config)
    crops, template = inputs["pixel_values"], inputs["template_pixel_values"]
    before, after = model(crops, template), smaller(crops[..., 8:-8, 8:-8], template)
    middle = slice(2, 4), slice(2, 4)
    for name, growth, tolerance in (("score_map", 1, 1e-4), ("offset_map", 1, 1e-4), ("size_map", 1.5, 0.2)):
        old, new = getattr(before, name)[..., *middle], getattr(after, name)[..., 1:3, 1:3]
        torch.testing.assert_close(new, growth * old, rtol=tolerance, atol=tolerance / 10)


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


def test_all_else_of_the_crops_stays(tiny_tokenizer, tmp_path, capsys):
    model = build_tiny_model(search_size=48)
    images = PJVLTImageProcessor(
        template_size=16, search_size=48, search_factor=3.6, template_factor=1.2, image_mean=[0.4] * 3
    )
    for saved in (model, PJVLTProcessor(images, tiny_tokenizer)):
        saved.save_pretrained(tmp_path / "old")
    for name, options, factor in (("same", ["--same_scale"], 2.4), ("finer", [], 3.6)):
        main([str(tmp_path / "old"), "--search_size", "32", *options, "--output_dir", str(tmp_path / name)])
        kept = PJVLTProcessor.from_pretrained(tmp_path / name).image_processor
        assert (kept.search_size, kept.template_factor, list(kept.image_mean)) == (32, 1.2, [0.4] * 3)
        assert kept.search_factor == pytest.approx(factor)
        assert ("train it before" in capsys.readouterr().out) == (name == "finer")


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
