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
    """Images whose spectrum falls as 1/f, as that of photographs does; normalised."""
    frequency = torch.fft.fftfreq(size)
    radius = (frequency[:, None] ** 2 + frequency[None, : size // 2 + 1] ** 2).sqrt().clamp_min(1 / size)
    spectrum = torch.fft.rfft2(torch.randn(batch, 3, size, size, generator=generator)) / radius
    images = torch.fft.irfft2(spectrum, s=(size, size))
    return (images - images.mean(dim=(2, 3), keepdim=True)) / images.std(dim=(2, 3), keepdim=True)


@torch.no_grad()
def twelve_layers(images: str = "natural", **overrides) -> tuple[PJVLTModel, dict]:
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
    if images == "natural":
        generator = torch.Generator().manual_seed(2)
        inputs["pixel_values"] = natural_crops(2, 128, generator)
        inputs["template_pixel_values"] = natural_crops(2, 64, generator)
    return model, inputs


@torch.no_grad()
@pytest.mark.parametrize("images", ["natural", "noise"])
@pytest.mark.parametrize("fusion_residual", [False, True], ids=["literal", "residual"])
def test_twelve_layers_keep_the_tokens_apart(images, fusion_residual):
    model, inputs = twelve_layers(images, fusion_residual=fusion_residual)
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


def test_word_modulation_of_the_paper_starts_at_zero_and_words_learn_from_the_second_step(tiny_model, tiny_inputs):
    model = tiny_model(modulation_init="zero").train()
    inputs = {**tiny_inputs(model.config), "labels": torch.tensor([[0.4, 0.6, 0.3, 0.2], [0.6, 0.3, 0.2, 0.4]])}
    modulation = model.encode_text(inputs["input_ids"], inputs["attention_mask"]).modulation
    assert not modulation.any()
    embeddings = model.text_encoder.embeddings.word_embeddings.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(**inputs).loss.backward()
    assert not embeddings.grad.any()
    optimizer.step()
    optimizer.zero_grad()
    model(**inputs).loss.backward()
    assert embeddings.grad.any()


def test_unknown_modulation_init_is_refused():
    with pytest.raises(ValueError, match="`modulation_init` must be one of"):
        build_tiny_config(modulation_init="one")


def test_scores_start_at_the_focal_prior(tiny_model, tiny_inputs):
    model = tiny_model()
    with torch.no_grad():
        score = model(**tiny_inputs(model.config)).score_map
    assert (score < 0.05).all() and score.mean() == pytest.approx(0.01, abs=0.005)


def test_attention_can_start_as_similarity():
    plain, alike = (PJVLTModel(build_tiny_config(attention_identity=share)) for share in (0.0, 0.8))
    for model, share in ((plain, 0.0), (alike, 0.8)):
        for layer in model.encoder.layers:
            for projection in (layer.vision.attention.q_proj, layer.vision.attention.k_proj):
                assert projection.weight.diagonal().mean().item() == pytest.approx(share, abs=0.05)
                off_diagonal = projection.weight - projection.weight.diagonal().diag()
                assert off_diagonal.std().item() == pytest.approx(model.config.initializer_range, rel=0.3)


@torch.no_grad()
def test_stem_keeps_the_grid_and_the_scale_of_patches():
    torch.manual_seed(0)
    model = PJVLTModel(build_tiny_config(stem_channels=[8, 16])).eval()
    inputs = build_tiny_inputs(model.config)
    assert len([m for m in model.embeddings.stem if isinstance(m, nn.Conv2d)]) == 2
    stemmed = model.embeddings.stem(inputs["pixel_values"])
    assert stemmed.shape[1:] == (16, model.config.search_size // 4, model.config.search_size // 4)
    assert 0.3 < float(stemmed.pow(2).mean()) < 3  # of He's initialisation: neither dying nor growing
    assert model(**inputs).score_map.shape[-1] == model.config.search_grid
    with pytest.raises(ValueError, match="`stem_channels`"):
        build_tiny_config(stem_channels=[8] * 8)


@torch.no_grad()
def test_positions_can_start_as_waves():
    """Near places look alike, far ones do not, and none of the template's looks like one of the search crop's."""
    torch.manual_seed(0)
    embeddings = PJVLTModel(build_tiny_config(position_scale=0.5)).embeddings
    search, template = embeddings.search_position[0], embeddings.template_position[0]
    alike = nn.functional.cosine_similarity(search[:, None], search[None], dim=-1)
    grid = round(len(search) ** 0.5)
    place = torch.arange(grid * grid)
    apart = ((place % grid)[:, None] - place % grid).abs() + ((place // grid)[:, None] - place // grid).abs()
    assert alike[apart == 0].min() > 0.999
    assert alike[apart == 1].mean() > alike[apart == 2].mean() > alike[apart >= 3].mean()
    assert nn.functional.cosine_similarity(search[:, None], template[None], dim=-1).abs().max() < 0.9
    torch.testing.assert_close(search.norm(dim=-1), template.norm(dim=-1)[:1].expand(len(search)))
    with pytest.raises(ValueError, match="`position_scale`"):
        build_tiny_config(position_scale=0.5, hidden_size=18, num_attention_heads=1)
