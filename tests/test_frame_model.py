"""The per-frame path: equal to the plain one for every variant, and the model that it came from stays as it was."""

import pytest
import torch
from test_model_variants import TABLES, VARIANTS, name
from tiny import build_tiny_inputs, build_tiny_model
from torch import nn
from torch.testing import assert_close

ALL = pytest.mark.parametrize("variant", VARIANTS + TABLES, ids=name)
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def stirred_model(**variant):
    """A model in which nothing is neutral: statistics of batch norm, biases, modulation and layer scale all matter."""
    model = build_tiny_model(stirred=True, **variant)
    generator = torch.Generator().manual_seed(7)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) * 4 + 0.1)
    return model


def features(model, inputs):
    return model.encode_text(inputs["input_ids"], inputs["attention_mask"]) if "input_ids" in inputs else None


def boxes_of_all_cells(score_map, offset_map, size_map):
    """(B, G, G, 4): the box that each cell would give, so that no random argmax decides."""
    grid = score_map.shape[-1]
    cells = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="xy"))
    return torch.cat([(cells + offset_map) / grid, size_map], dim=1).permute(0, 2, 3, 1)


@torch.no_grad()
def assert_equal_to_plain(model, inputs, **tolerance):
    frame_model = model.prepare_for_tracking()
    sentence = frame_model.sentence(features(model, inputs))
    maps = frame_model(inputs["pixel_values"], inputs["template_pixel_values"], sentence)
    plain = model(**inputs)
    plain = (plain.score_map, plain.offset_map, plain.size_map)
    for ours, theirs in zip(maps, plain, strict=True):
        assert_close(ours, theirs, **(tolerance or TOLERANCE))
    assert_close(boxes_of_all_cells(*maps), boxes_of_all_cells(*plain), **(tolerance or TOLERANCE))


@ALL
def test_maps_and_boxes_equal_the_plain_path(variant):
    model = stirred_model(**variant)
    assert_equal_to_plain(model, build_tiny_inputs(model.config, batch=3))


@pytest.mark.parametrize("words", [2, 7, 8, 9, 30])
@pytest.mark.parametrize("fusion", ["concat", "sum", "product"])
def test_sentences_of_any_length_equal_the_plain_path(words, fusion):
    model = stirred_model(saiel_fusion=fusion)
    assert_equal_to_plain(model, build_tiny_inputs(model.config, batch=2, words=words))
