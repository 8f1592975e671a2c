"""SAIEL and CCPIL against the paper's equations, one number at a time."""

import math

import pytest
import torch
from tiny import stir
from torch import nn
from torch.testing import assert_close

from modeling_pjvlt.modeling_pjvlt import PJVLTCCPIL, PJVLTSAIEL


def linear(x: list[float], layer: nn.Linear) -> list[float]:
    weight, bias = layer.weight.tolist(), layer.bias.tolist() if layer.bias is not None else [0.0] * layer.out_features
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(logits: list[float]) -> list[float]:
    exponents = [math.exp(x - max(logits)) for x in logits]
    return [e / sum(exponents) for e in exponents]


def plain_saiel(saiel: PJVLTSAIEL, visual, words, temperature, mode, residual) -> list[list[float]]:
    """Eq. 1-7 for one image (N, C) and the real words (T, C_text) of its sentence, in plain loops."""
    heads, latent = saiel.num_heads, saiel.value.out_features
    queries = [linear(v, saiel.query) for v in visual]  # Eq. 1, then the instance norm
    for d in range(latent):
        column = [q[d] for q in queries]
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        for q in queries:
            q[d] = (q[d] - mean) / math.sqrt(variance + 1e-5)
    keys, values = [linear(w, saiel.key) for w in words], [linear(w, saiel.value) for w in words]
    for d in range(latent):  # Eq. 2, word selection
        chosen = softmax([v[d] / temperature for v in values])
        for v, weight in zip(values, chosen, strict=True):
            v[d] *= weight
    mean_word = [sum(w[c] for w in words) / len(words) for c in range(len(words[0]))]
    modulation = linear(mean_word, saiel.modulation)  # Eq. 4
    alpha, beta, gamma = (modulation[i * latent : (i + 1) * latent] for i in range(3))
    width, result = latent // heads, []
    for v, q in zip(visual, queries, strict=True):
        attended = []
        for h in range(heads):  # Eq. 3
            part = range(h * width, (h + 1) * width)
            weights = softmax([sum(q[d] * k[d] for d in part) / math.sqrt(width) for k in keys])
            attended += [sum(w * value[d] for w, value in zip(weights, values, strict=True)) for d in part]
        language = [g * ((1 + a) * x + b) for a, b, g, x in zip(alpha, beta, gamma, attended, strict=True)]  # Eq. 5
        image = [gelu(x) for x in linear(v, saiel.visual)]  # Eq. 6
        if mode == "concat":
            fused = image + language
        else:
            fused = [a + b if mode == "sum" else a * b for a, b in zip(image, language, strict=True)]
        aligned = [gelu(x) for x in linear(fused, saiel.output)]  # Eq. 7
        if residual:
            aligned = [x + s * a for x, s, a in zip(v, saiel.layer_scale.tolist(), aligned, strict=True)]
        result.append(aligned)
    return result


SMALL = {"hidden_size": 8, "intermediate_size": 8, "template_size": 8, "search_size": 16, "saiel_hidden_size": 6}
SMALL |= {"num_saiel_heads": 3, "pim_hidden_size": 7, "ccm_reduction": 2, "num_hidden_layers": 1}


@torch.no_grad()
@pytest.mark.parametrize("mode", ["concat", "sum", "product"])
@pytest.mark.parametrize("residual", [False, True], ids=["literal", "residual"])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_saiel_equals_its_equations(mode, residual, temperature, tiny_model):
    switches = {"saiel_fusion": mode, "fusion_residual": residual, "word_temperature": temperature}
    model = tiny_model(stirred=True, **SMALL, **switches, text_config={"hidden_size": 4, "num_attention_heads": 2})
    saiel = stir(model.encoder.saiels()[0].double(), seed=9, std=0.5)
    generator = torch.Generator().manual_seed(11)
    visual = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    words = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    ours, _ = saiel(visual, *saiel.encode_words(words, mask), mask.bool()[:, None, None, :])
    for row, length in enumerate([4, 2]):
        expected = plain_saiel(saiel, visual[row].tolist(), words[row, :length].tolist(), temperature, mode, residual)
        # the instance norm and the word selection compute in float32
        assert_close(ours[row], torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=2e-5)


def plain_ccpil(layer: PJVLTCCPIL, aligned: list[list[float]], residual: bool) -> list[list[float]]:
    """Eq. 8-11 for one image (N, C), in plain loops."""
    tokens, channels = len(aligned), len(aligned[0])
    gate = [0.0] * channels
    if layer.ccm is not None:  # Eq. 8
        mean = [sum(a[c] for a in aligned) / tokens for c in range(channels)]
        gate = [sigmoid(x) for x in linear([gelu(x) for x in linear(mean, layer.ccm.reduce)], layer.ccm.expand)]
    communicated = [[g * x + x for g, x in zip(gate, a, strict=True)] for a in aligned]  # Eq. 9
    mixed = [[0.0] * channels for _ in range(tokens)]
    if layer.pim is not None:  # Eq. 10
        for c in range(channels):
            hidden = [gelu(x) for x in linear([row[c] for row in communicated], layer.pim.fc1)]
            for n, x in enumerate(linear([gelu(x) for x in linear(hidden, layer.pim.fc2)], layer.pim.fc3)):
                mixed[n][c] = x
    result = []
    for n in range(tokens):
        row = []
        for c in range(channels):
            a, communication, patch = aligned[n][c], communicated[n][c], mixed[n][c]
            if residual and (layer.ccm is not None or layer.pim is not None):
                row.append(a + float(layer.layer_scale[c]) * (patch + gate[c] * a))
            elif layer.ccm is not None and layer.pim is not None:
                row.append(patch + communication + a)  # Eq. 11
            elif layer.pim is not None:
                row.append(patch + a)
            else:
                row.append(communication)
        result.append(row)
    return result


@torch.no_grad()
@pytest.mark.parametrize("use_ccm", [True, False])
@pytest.mark.parametrize("use_pim", [True, False])
@pytest.mark.parametrize("residual", [False, True], ids=["literal", "residual"])
def test_ccpil_equals_its_equations(use_ccm, use_pim, residual, tiny_config):
    config = tiny_config(**SMALL, use_ccm=use_ccm, use_pim=use_pim, fusion_residual=residual)
    torch.manual_seed(0)
    layer = stir(PJVLTCCPIL(config).double(), std=0.5)
    aligned = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = torch.tensor([plain_ccpil(layer, row.tolist(), residual) for row in aligned], dtype=torch.float64)
    assert_close(layer(aligned), expected, atol=1e-10, rtol=1e-8)
