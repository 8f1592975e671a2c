"""How a fresh model starts: tokens stay apart through twelve layers, words change nothing yet, scores are low."""

import pytest
import torch
from tiny import build_tiny_config, build_tiny_inputs
from torch import nn
from torch.testing import assert_close

from modeling_pjvlt import PJVLTModel
from modeling_pjvlt.modeling_pjvlt import PJVLTCCPIL, PJVLTSAIEL


def own_shares(model: PJVLTModel, inputs: dict) -> list[float]:
    """After every joint layer: how much of a token's norm is its own, mean of ||x_i - mean_j x_j|| / ||x_i||."""
    hidden = model(**inputs, output_hidden_states=True).hidden_states
    return [float(((h - h.mean(1, keepdim=True)).norm(dim=-1) / h.norm(dim=-1)).mean()) for h in hidden[1:]]


def natural_crops(batch: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Pictures whose spectrum falls as 1/f, as that of photographs does; normalised."""
    frequency = torch.fft.fftfreq(size)
    radius = (frequency[:, None] ** 2 + frequency[None, : size // 2 + 1] ** 2).sqrt().clamp_min(1 / size)
    spectrum = torch.fft.rfft2(torch.randn(batch, 3, size, size, generator=generator)) / radius
    pictures = torch.fft.irfft2(spectrum, s=(size, size))
    return (pictures - pictures.mean(dim=(2, 3), keepdim=True)) / pictures.std(dim=(2, 3), keepdim=True)


@torch.no_grad()
def twelve_layers(pictures: str = "natural", **overrides) -> tuple[PJVLTModel, dict]:
    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    crops = {
        "patch_size": 16,
        "template_size": 64,
        "search_size": 128,
        "saiel_hidden_size": 64,
        "pim_hidden_size": 160,
    }
    torch.manual_seed(0)
    model = PJVLTModel(build_tiny_config(**sizes, **crops, **overrides)).eval()
    inputs = build_tiny_inputs(model.config)
    if pictures == "natural":
        generator = torch.Generator().manual_seed(2)
        inputs["pixel_values"] = natural_crops(2, 128, generator)
        inputs["template_pixel_values"] = natural_crops(2, 64, generator)
    return model, inputs


@torch.no_grad()
@pytest.mark.parametrize("pictures", ["natural", "noise"])
@pytest.mark.parametrize("fusion_residual", [False, True], ids=["literal", "residual"])
def test_twelve_layers_keep_the_tokens_apart(pictures, fusion_residual):
    model, inputs = twelve_layers(pictures, fusion_residual=fusion_residual)
    shares = own_shares(model, inputs)
    assert len(shares) == 12 and min(shares) > 0.2, shares


@torch.no_grad()
def test_the_usual_initialisation_would_make_all_tokens_alike():
    """The control of the test above: with std 0.02 in SAIEL and CCPIL it would fail."""
    model, inputs = twelve_layers()
    for module in model.modules():
        if isinstance(module, (PJVLTSAIEL, PJVLTCCPIL)):
            for linear in module.modules():
                if isinstance(linear, nn.Linear) and linear.weight.any():
                    nn.init.normal_(linear.weight, std=0.02)
    assert own_shares(model, inputs)[-1] < 0.05


def test_word_modulation_starts_as_the_identity(tiny_model, tiny_inputs):
    model = tiny_model()
    inputs = tiny_inputs(model.config)
    modulation = model.encode_text(inputs["input_ids"], inputs["attention_mask"]).modulation
    assert_close(modulation, torch.tensor([0.0, 0.0, 1.0])[None, None, :, None].expand(2, 3, 3, 16))


def test_scores_start_at_the_focal_prior(tiny_model, tiny_inputs):
    model = tiny_model()
    with torch.no_grad():
        score = model(**tiny_inputs(model.config)).score_map
    assert (score < 0.05).all() and score.mean() == pytest.approx(0.01, abs=0.005)
