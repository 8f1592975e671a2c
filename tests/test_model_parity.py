"""The two streams against their originals: timm's ViT and transformers' BERT, and what `from_backbones` copies."""

import socket

import pytest
import timm
import torch
from timm.layers import DiffAttention, GluMlp, RmsNorm, SwiGLU
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from tiny import build_tiny_config, build_tiny_inputs, stir
from torch import nn
from torch.testing import assert_close
from transformers import BertConfig, BertModel

from modeling_pjvlt import PJVLTConfig, PJVLTModel
from modeling_pjvlt.backbones_pjvlt import copy_vit, resize_positions

TINY_VIT = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "mlp_ratio": 2,
    "num_classes": 0,
}


def tiny_vit(**overrides) -> VisionTransformer:
    torch.manual_seed(3)
    return stir(VisionTransformer(**{**TINY_VIT, "class_token": False, "global_pool": "", **overrides})).eval()


@pytest.fixture
def bert_folder(tmp_path):
    """A tiny BERT with random weights, saved as the Hub would hold it."""
    torch.manual_seed(4)
    config = BertConfig(**{k: v for k, v in build_tiny_config().text_config.to_dict().items() if k != "model_type"})
    stir(BertModel(config)).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


@pytest.fixture
def pretend_timm(monkeypatch):
    """Function: makes `timm.create_model` answer with the given ViT, whatever is asked for."""
    return lambda vit: monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: vit)


def vision_tokens(vit: nn.Module, model: PJVLTModel, inputs: dict) -> torch.Tensor:
    """timm's own layers and norm on our one stream of two crops: attention does not care how tokens are laid out."""
    tokens = model.embeddings(inputs["template_pixel_values"], inputs["pixel_values"])
    return (vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm)(vit.blocks(tokens))


@torch.no_grad()
def test_vision_stream_equals_timm(tiny_model, tiny_inputs):
    model, vit = tiny_model(fusion="none"), tiny_vit()
    inputs = tiny_inputs(model.config)
    copy_vit(vit, model)
    assert_close(model(**inputs).last_hidden_state, vision_tokens(vit, model, inputs), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("crop", "size"), [("pixel_values", 32), ("template_pixel_values", 16)])
def test_patches_and_positions_equal_timm_where_the_grid_is_the_same(crop, size, tiny_model, tiny_inputs):
    model, vit = tiny_model(fusion="none"), tiny_vit(img_size=size)
    copy_vit(vit, model)
    inputs = tiny_inputs(model.config)
    ours = model.embeddings(inputs["template_pixel_values"], inputs["pixel_values"])
    ours = ours[:, 4:] if crop == "pixel_values" else ours[:, :4]
    assert_close(ours, vit.patch_embed(inputs[crop]) + vit.pos_embed, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("depth", "texts", "expected"), [(3, 2, [1, 2, 2]), (4, 2, [1, 1, 2, 2]), (2, 5, [3, 5])])
def test_every_vision_layer_reads_the_bert_layer_at_its_depth(depth, texts, expected, tiny_model, tiny_inputs):
    model = tiny_model(stirred=True, num_hidden_layers=depth, text_config={"num_hidden_layers": texts})
    inputs = tiny_inputs(model.config)
    bert = BertModel(model.config.text_config, add_pooling_layer=False).eval()
    bert.load_state_dict(model.text_encoder.state_dict())
    words = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    hidden = bert(**words, output_hidden_states=True).hidden_states
    keys = model.encode_text(**words).keys
    for f, (saiel, layer) in enumerate(zip(model.encoder.saiels(), expected, strict=True)):
        ours, theirs = keys[:, f].transpose(1, 2).flatten(2), saiel.key(hidden[layer])
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_early_and_late_fusion_read_the_last_bert_layer(fusion, tiny_model):
    assert tiny_model(fusion=fusion).text_layer_indices() == [2, 2, 2]


def test_the_last_layers_are_the_fused_ones(tiny_model):
    model = tiny_model(num_hidden_layers=4, num_fusion_layers=2, text_config={"num_hidden_layers": 4})
    assert [layer.fusion is not None for layer in model.encoder.layers] == [False, False, True, True]
    assert model.text_layer_indices() == [3, 4]


@pytest.mark.parametrize("source", ["folder", "config"])
def test_architecture_is_built_without_download(source, bert_folder, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "pim_hidden_size": 32}
    config = PJVLTConfig(text_config=build_tiny_config().text_config, num_fusion_layers=1, **sizes)
    text = bert_folder if source == "folder" else "google-bert/bert-base-uncased"
    model = PJVLTModel.from_backbones("vit_tiny_patch16_224", text, config, pretrained=False)
    assert model.config.hidden_size == 192 and len(model.encoder.layers) == 12 and not model.training
    message = caplog.text
    for part in ("saiel", "ccpil", "head", "embeddings", "encoder", "text_encoder"):
        assert f"{part} (" in message
    counts = message.split("PJVLTModel: ")[1].split(". Train")[0]
    words = counts.replace("(", " ").replace(")", " ").replace(", ", " ").split()
    counted = sum(int(word.replace(",", "")) for word in words if word[0].isdigit())
    assert counted == sum(p.numel() for p in model.parameters())


def test_sizes_come_from_the_backbones_without_a_config(bert_folder, pretend_timm):
    pretend_timm(tiny_vit(patch_size=16, depth=2))
    config = PJVLTModel.from_backbones("tiny", bert_folder).config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size, config.patch_size) == (
        32,
        2,
        64,
        16,
    )
    assert config.layer_norm_eps == 1e-6 and config.text_config.hidden_size == 32 and config.fusion == "progressive"


VITS = {
    "plain": {},
    "class token": {"class_token": True, "global_pool": "token"},
    "class token without position": {"class_token": True, "global_pool": "token", "no_embed_class": True},
    "register tokens": {"class_token": True, "reg_tokens": 2, "global_pool": "token"},
    "norm after pooling": {"class_token": True, "global_pool": "avg"},
    "LayerScale": {"init_values": 0.3},
    "no qkv bias": {"qkv_bias": False},
    "no projection bias": {"proj_bias": False},
}


@torch.no_grad()
@pytest.mark.parametrize("variant", VITS)
def test_pretrained_weights_are_copied(variant, bert_folder, pretend_timm, caplog):
    vit = tiny_vit(**VITS[variant])
    pretend_timm(vit)
    config = build_tiny_config(fusion="late", num_fusion_layers=1)
    model = PJVLTModel.from_backbones("tiny", bert_folder, config)
    inputs = build_tiny_inputs(config)
    ours = model.embeddings(inputs["template_pixel_values"], inputs["pixel_values"])
    table = vit.pos_embed[:, -16:]
    assert_close(ours[:, 4:], vit.patch_embed(inputs["pixel_values"]) + table, atol=1e-5, rtol=1e-4)
    for layer in model.encoder.layers:
        ours = layer(ours, None)
    assert_close(model.norm(ours), vision_tokens(vit, model, inputs), atol=1e-5, rtol=1e-4)
    bert = BertModel.from_pretrained(bert_folder, add_pooling_layer=False)
    for name, weight in bert.state_dict().items():
        assert_close(model.text_encoder.state_dict()[name], weight, msg=name)
    parts = caplog.text.split("PJVLTModel: ")[1]
    assert {p.split(" (")[0] for p in parts.split(". Train")[0].replace("), ", ");").split(";")} == {
        "ccpil",
        "head",
        "saiel",
    }


def test_no_language_means_no_bert_is_read(pretend_timm, tmp_path):
    pretend_timm(tiny_vit())
    config = build_tiny_config(fusion="none")
    build_tiny_config().text_config.save_pretrained(tmp_path)  # a config, but no weights
    assert PJVLTModel.from_backbones("tiny", str(tmp_path), config).text_encoder is None


@pytest.mark.parametrize("grid", [2, 4, 7, 16])
def test_resized_positions_keep_constants_and_order(grid):
    constant = torch.full((1, 16, 3), 0.7)
    assert_close(resize_positions(constant, (4, 4), grid), torch.full((1, grid**2, 3), 0.7))
    x = torch.arange(4.0).repeat(4)
    ramp = torch.stack([x, x.view(4, 4).T.flatten()], dim=-1)[None]  # channel 0 grows with x, channel 1 with y
    resized = resize_positions(ramp, (4, 4), grid)[0].view(grid, grid, 2)
    assert (resized[:, 1:, 0] > resized[:, :-1, 0]).all() and (resized[1:, :, 1] > resized[:-1, :, 1]).all()
    assert_close(resized.mean(dim=(0, 1)), torch.full((2,), 1.5))  # the middle stays in the middle
    places = (torch.arange(grid) + 0.5) * 4 / grid - 0.5  # where the new patches' middles are among the old ones
    inside = (places >= 1) & (places <= 2)  # as far as the cubic filter sees no border
    assert_close(resized[0, inside, 0], places[inside], atol=1e-5, rtol=0)


def test_shrunk_positions_are_averaged_and_not_picked():
    stripes = torch.tensor([-1.0, 2.0, -1.0]).repeat(4).expand(12, 12)  # picking every third column would give 2
    assert resize_positions(stripes.reshape(1, 144, 1), (12, 12), 4).abs().max() < 0.3


def test_positions_are_untouched_on_the_same_grid():
    table = torch.randn(1, 12, 5)
    padded = torch.cat([table, table[:, :4]], dim=1)
    assert torch.equal(resize_positions(padded, (4, 4), 4), padded)
    assert resize_positions(table, (3, 4), 4).shape == (1, 16, 5)  # a ViT of rectangles


SIZE_MISMATCHES = {
    "hidden_size": ({"embed_dim": 64}, {}),
    "num_hidden_layers": ({"depth": 2}, {}),
    "num_attention_heads": ({"num_heads": 4}, {}),
    "intermediate_size": ({"mlp_ratio": 4}, {}),
    "patch_size": ({"patch_size": 16}, {}),
    "layer_norm_eps": ({}, {"layer_norm_eps": 1e-5}),
    "vocab_size": ({}, {"text_config": {"vocab_size": 77}}),
}


@pytest.mark.parametrize("field", SIZE_MISMATCHES)
def test_sizes_that_do_not_fit_are_named(field, bert_folder, pretend_timm):
    vit, config = SIZE_MISMATCHES[field]
    pretend_timm(tiny_vit(**vit))
    with pytest.raises(ValueError, match=field):
        PJVLTModel.from_backbones("tiny", bert_folder, build_tiny_config(**config))


def test_a_deeper_bert_than_the_config_says_is_named(bert_folder, pretend_timm):
    pretend_timm(tiny_vit())
    with pytest.raises(ValueError, match=r"text backbone.*num_hidden_layers=2.*says 1"):
        PJVLTModel.from_backbones("tiny", bert_folder, build_tiny_config(text_config={"num_hidden_layers": 1}))


EVA = {k: v for k, v in TINY_VIT.items() if k != "mlp_ratio"} | {"mlp_ratio": 2, "global_pool": "avg"}
FOREIGN_VITS = {
    "norm inside its attention": lambda: tiny_vit(qk_norm=True),
    "norm before its layers": lambda: tiny_vit(pre_norm=True),
    "no learned position table": lambda: tiny_vit(pos_embed="none"),
    "MLP other": lambda: tiny_vit(mlp_layer=SwiGLU, act_layer=nn.SiLU),
    "MLP other than": lambda: tiny_vit(mlp_layer=GluMlp),  # GEGLU: its activation is a GELU, but it gates
    "MLP other than fc1": lambda: tiny_vit(act_layer=nn.ReLU),
    "MLP other than fc1, GELU": lambda: tiny_vit(scale_mlp_norm=True),
    "ParallelScalingBlock": lambda: tiny_vit(block_fn=ParallelScalingBlock),
    "ResPostBlock": lambda: tiny_vit(block_fn=ResPostBlock),  # same parts, norms behind them
    "DiffAttention": lambda: tiny_vit(attn_layer=DiffAttention),
    "EvaBlock": lambda: Eva(**EVA, use_abs_pos_emb=True, use_rot_pos_emb=True),  # rotary positions would be lost
    "RmsNorm": lambda: tiny_vit(norm_layer=RmsNorm),
    "patch embedding": lambda: tiny_vit(embed_norm_layer=nn.LayerNorm),
    "not a vision transformer": lambda: nn.Linear(1, 1),
}


@pytest.mark.parametrize("part", FOREIGN_VITS)
def test_a_vit_with_foreign_parts_is_refused_by_name(part, bert_folder, pretend_timm):
    pretend_timm(FOREIGN_VITS[part]())
    with pytest.raises(ValueError, match=part):
        PJVLTModel.from_backbones("tiny", bert_folder, build_tiny_config())
