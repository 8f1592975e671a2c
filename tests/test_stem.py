"""The convolutional stem: timm's network up to a stride, its batch norm folded, in every form of the model."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny import build_tiny_config, build_tiny_model, stir
from torch import nn
from torch.testing import assert_close
from transformers import BertModel

from modeling_pjvlt import PJVLTConfig, PJVLTModel
from modeling_pjvlt.backbones_pjvlt import foreign_stem_part
from modeling_pjvlt.stem_pjvlt import PJVLTConvStem, PJVLTSameConv, mirrored

timm = pytest.importorskip("timm")

SMALL = {"stem_channels": [8], "stem_stages": [[1, 3, 2, 1, 12], [2, 5, 2, 2, 16]]}
SIZES = {"patch_size": 16, "template_size": 32, "search_size": 64, "fusion": "none"}


@pytest.fixture
def network():
    """EfficientNet-Lite0 with random weights and statistics."""
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return network


@pytest.fixture
def folder(network, tmp_path):
    """The network as timm loads it from a folder."""
    settings = {"first_conv": "conv_stem", "classifier": "classifier", "num_classes": 1000}
    config = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000, "pretrained_cfg": settings}
    (tmp_path / "lite0").mkdir()
    (tmp_path / "lite0" / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), tmp_path / "lite0" / "model.safetensors")
    return f"local-dir:{tmp_path / 'lite0'}"


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 9), (3, 2, 12), (5, 1, 7), (5, 2, 12), (1, 1, 5)])
def test_padding_of_mirrored_maps_is_tensorflows(kernel, stride, size):
    torch.manual_seed(0)
    ours = PJVLTSameConv(4, 6, kernel, stride)
    theirs = timm.layers.Conv2dSame(4, 6, kernel, stride)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, 4, size, size)
    assert_close(mirrored(ours(mirrored(inputs))), theirs(inputs))


def test_stem_equals_timm_at_both_strides(network, folder, tmp_path):
    build_tiny_config().text_config.save_pretrained(tmp_path / "bert")
    config = build_tiny_config(**SIZES, stem_fine_stage=2)
    model = PJVLTModel.from_backbones(folder, str(tmp_path / "bert"), config)
    assert model.config.stem_stages == [
        [1, 3, 1, 1, 16],
        [2, 3, 2, 6, 24],
        [2, 5, 2, 6, 40],
        [3, 3, 2, 6, 80],
        [3, 5, 1, 6, 112],
    ]
    features = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    features.load_state_dict(network.state_dict(), strict=False)
    pixels = torch.randn(6, 3, 64, 64)
    with torch.no_grad():
        last, fine = model.embeddings.stem(pixels)
        maps = features(pixels)
    scale = float(maps[3].std())
    assert_close(last / scale, maps[3] / scale, atol=1e-4, rtol=1e-4)
    assert_close(fine / scale, maps[2] / scale, atol=1e-4, rtol=1e-4)


def test_a_frozen_stem_takes_large_batches_piece_by_piece_with_the_same_answer():
    torch.manual_seed(0)
    stem = PJVLTConvStem(build_tiny_config(**SMALL, stem_fine_stage=0))
    pixels = torch.randn(11, 3, 32, 32)
    together = stem(pixels)
    stem.requires_grad_(False)
    for one, other in zip(stem(pixels), together, strict=True):
        assert_close(one, other)


def test_a_hybrid_starts_from_timm_and_bert_and_comes_back_from_its_folder(folder, tmp_path, caplog):
    bert = build_tiny_config().text_config
    stir(BertModel(bert, add_pooling_layer=False)).save_pretrained(tmp_path / "bert")
    config = build_tiny_config(patch_size=16, template_size=32, search_size=64)
    model = PJVLTModel.from_backbones(folder, str(tmp_path / "bert"), config)
    assert "stem" not in caplog.text and "saiel" in caplog.text  # what is new, and must be trained
    model.save_pretrained(tmp_path / "hybrid")
    assert str(tmp_path) not in (tmp_path / "hybrid" / "config.json").read_text()  # a path of one machine
    again = PJVLTModel.from_pretrained(tmp_path / "hybrid")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.mark.parametrize(
    ("name", "message"),
    [("efficientnet_b0", "squeeze|padding|first"), ("mobilenetv3_small_050", "first convolution")],
)
def test_a_network_with_other_parts_is_refused_by_name(name, message, tmp_path):
    build_tiny_config().text_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{name}.*({message})"):
        PJVLTModel.from_backbones(name, str(tmp_path), PJVLTConfig(fusion="none"), pretrained=False)


def test_what_a_stem_cannot_hold_is_told():
    lite = timm.create_model("tf_efficientnet_lite0")
    assert foreign_stem_part(lite) is None
    lite.blocks[2][0].se = nn.Conv2d(1, 1, 1)
    assert foreign_stem_part(lite) == "squeeze-and-excitation"


def test_a_finer_map_changes_the_tokens():
    model = build_tiny_model(stirred=True, **SMALL, stem_fine_stage=0)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model.embeddings.patches(pixels)
        model.embeddings.fine_projection.weight.zero_()
        assert (model.embeddings.patches(pixels) - before).abs().max() > 0.01
