"""Start a PJVLT from published backbones: a timm network for the vision stream, a BERT for the text stream.

The network is a plain ViT, which fills the whole vision stream, or one of EfficientNet's or MobileNetV2's kind without
squeeze-and-excitation, whose first stages become the stem of a hybrid. In place of the network there may be a tracker
without language, which fills the vision stream and the box head.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from .configuration_pjvlt import PJVLTConfig

logger = logging.get_logger(__name__)

TRACKER_FIELDS = (  # what a tracker's weights mean depends on these, beside the shapes
    "num_attention_heads", "hidden_act", "layer_norm_eps", "patch_size", "template_size", "search_size",
    "offset_activation",
)  # fmt: skip
UNSUPPORTED = (
    "{name!r} is not a plain ViT: it has {part}, which PJVLT's vision layers do not have. Choose another timm ViT."
)

_BAR_LOCK = threading.RLock()


@contextmanager
def no_weights_bar() -> Iterator[None]:
    """Without transformers' progress bar over the weights, which are read at once; bars of downloads stay."""

    def make(factory, args, kwargs):
        if kwargs.get("desc") == "Loading weights":
            kwargs = {**kwargs, "disable": True}
        return factory(*args, **kwargs) if before is None else before(factory, args, kwargs)

    with _BAR_LOCK:  # the hook is one for all threads
        before = logging.set_tqdm_hook(make)
        try:
            yield
        finally:
            logging.set_tqdm_hook(before)


def load_backbones(model_class, vision: str, text: str, config: PJVLTConfig | None, pretrained: bool):
    """Build `model_class` and fill its two streams; see `PJVLTModel.from_backbones`."""
    network = import_timm().create_model(vision, pretrained=pretrained, num_classes=0)
    convolutional = hasattr(network, "conv_stem")
    if convolutional:
        config = config or PJVLTConfig(text_config=read_text_config(text, config, pretrained))
        config = PJVLTConfig(**{**config.to_dict(), **stem_sizes(vision, network, config)})
        sizes = {}
    else:
        check_plain_vit(vision, network)
        sizes = vit_sizes(network)
    text_config = read_text_config(text, config, pretrained)
    if config is None:
        config = PJVLTConfig(text_config=text_config, **sizes)
    check_sizes("vision backbone", vision, sizes, config)
    if config.uses_language and text_config.to_diff_dict() != config.text_config.to_diff_dict():
        check_sizes("text backbone", text, text_config.to_dict(), config.text_config)
    model = model_class(config)
    loaded = set()
    if pretrained:
        loaded = (copy_stem if convolutional else copy_vit)(network, model) | copy_text(text, model)
    report_new_weights(model, loaded)
    return model.eval()


def load_tracker(model_class, tracker: str, text: str, config: PJVLTConfig | None, pretrained: bool):
    """Build `model_class` from a tracker without language and a BERT; see `PJVLTModel.from_backbones`.

    Raises `ValueError` for a tracker that reads sentences already, and naming what of it does not fit `config`.
    """
    found = PJVLTConfig.from_pretrained(tracker)
    if found.uses_language:
        raise ValueError(f"{tracker!r} reads sentences already: start from it with from_pretrained.")
    text_config = read_text_config(text, config, pretrained)
    if config is None:
        grown = {"fusion": "progressive", "use_saiel": True, "fusion_residual": True, "text_config": text_config}
        config = PJVLTConfig(**{**found.to_dict(), **grown})
    for field in TRACKER_FIELDS:
        if getattr(found, field) != getattr(config, field):
            raise ValueError(
                f"The tracker {tracker!r} has {field}={getattr(found, field)!r}, but the config says "
                f"{getattr(config, field)!r}."
            )
    model = model_class(config)
    loaded = set()
    if pretrained:
        weights = model_class.from_pretrained(tracker, dtype=torch.float32).state_dict()
        loaded = copy_tracker(tracker, weights, model) | copy_text(text, model)
    report_new_weights(model, loaded)
    return model.eval()


def copy_tracker(name: str, weights: dict[str, Tensor], model: nn.Module) -> set[str]:
    """Fill all that a tracker and `model` share: every weight of the tracker must have its place."""
    wanted = model.state_dict()
    for weight, value in weights.items():
        if weight not in wanted or wanted[weight].shape != value.shape:
            place = tuple(wanted[weight].shape) if weight in wanted else "no place"
            raise ValueError(
                f"The tracker {name!r} does not fit the config: {weight} is {tuple(value.shape)}, and the config has "
                f"{place} for it."
            )
    model.load_state_dict(weights, strict=False)
    return set(weights)


def copy_text(text: str, model: nn.Module) -> set[str]:
    """Fill the text stream from a BERT, where there is one; returns the parameters' names."""
    if not model.config.uses_language:
        return set()
    bert = AutoModel.from_pretrained(text, add_pooling_layer=False, use_safetensors=True)
    model.text_encoder.load_state_dict(bert.state_dict())
    return {f"text_encoder.{name}" for name in bert.state_dict()}


def import_timm():
    """timm, which takes longer to import than all of this package. Raises `ImportError` that names the extra."""
    try:
        import timm
    except ImportError as error:
        raise ImportError("from_backbones needs timm for the vision stream: pip install 'pjvlt[train]'.") from error
    return timm


def read_text_config(text: str, config: PJVLTConfig | None, pretrained: bool):
    """The BERT's config: from its folder or the Hub, or from `config` where nothing may be downloaded."""
    if pretrained or os.path.isdir(text):
        return AutoConfig.from_pretrained(text)
    return (config or PJVLTConfig()).text_config


def check_plain_vit(name: str, vit: nn.Module) -> None:
    """Raise `ValueError` naming the first part of `vit` that PJVLT's layers cannot hold."""

    if not all(hasattr(vit, part) for part in ("patch_embed", "blocks", "pos_embed", "norm")):
        raise ValueError(f"{name!r} is not a vision transformer of timm's VisionTransformer kind.")
    part = foreign_part(vit)
    if part is not None:
        raise ValueError(UNSUPPORTED.format(name=name, part=part))


def foreign_part(vit: nn.Module) -> str | None:
    """What `vit` has and PJVLT's vision layers have not, or None."""
    timm = import_timm()
    layers, block_class = timm.layers, timm.models.vision_transformer.Block

    def active(module: nn.Module | None) -> bool:
        return module is not None and not isinstance(module, nn.Identity)

    if vit.pos_embed is None:
        return "no learned position table"
    if type(vit.patch_embed) is not layers.PatchEmbed or active(vit.patch_embed.norm):
        return "a patch embedding other than one convolution"
    if active(getattr(vit, "norm_pre", None)):
        return "a norm before its layers"
    for block in vit.blocks:
        if type(block) is not block_class or type(block.attn) is not layers.Attention:
            return f"layers of type {type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
        if active(block.attn.q_norm) or active(block.attn.norm):
            return "a norm inside its attention"
        if active(getattr(block.attn, "gate", None)):
            return "a gate inside its attention"
        if type(block.mlp) is not layers.Mlp or type(block.mlp.act) is not nn.GELU or active(block.mlp.norm):
            return "an MLP other than fc1, GELU, fc2"
        if not isinstance(block.norm1, nn.LayerNorm):
            return f"norms of type {type(block.norm1).__name__}"
    return None


def vit_sizes(vit: nn.Module) -> dict[str, int | float]:
    """The fields of `PJVLTConfig` that the ViT decides."""
    block = vit.blocks[0]
    return {
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "patch_size": vit.patch_embed.patch_size[0],
        "layer_norm_eps": block.norm1.eps,
    }


def check_sizes(role: str, name: str, sizes: dict, config) -> None:
    """Raise `ValueError` naming the first field in which `config` and the backbone differ."""
    fields = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "patch_size",
        "layer_norm_eps",
        "vocab_size",
    )
    for field in fields:
        if field in sizes and getattr(config, field, sizes[field]) != sizes[field]:
            raise ValueError(
                f"The {role} {name!r} has {field}={sizes[field]}, but the config says {getattr(config, field)}."
            )


def resize_positions(table: Tensor, old_grid: tuple[int, int], new_grid: int) -> Tensor:
    """(1, h w, C) position table to (1, new_grid^2, C), bicubic; unchanged where the grid already fits."""
    if tuple(old_grid) == (new_grid, new_grid):
        return table
    grid = table.transpose(1, 2).unflatten(2, tuple(old_grid))
    grid = nn.functional.interpolate(grid.float(), (new_grid, new_grid), mode="bicubic", antialias=True)
    return grid.flatten(2).transpose(1, 2).to(table.dtype)


def stem_sizes(name: str, network: nn.Module, config: PJVLTConfig) -> dict:
    """The fields of `PJVLTConfig` that a convolutional network decides: as many of its stages as `patch_size` allows.

    Raises `ValueError` naming the first part that [`PJVLTConvStem`] cannot hold.
    """
    part = foreign_stem_part(network)
    if part is not None:
        raise ValueError(
            f"{name!r} cannot be a stem: it has {part}. Choose a timm network such as tf_efficientnet_lite0."
        )
    stages, stride = [], 2
    for blocks in network.blocks:
        block = blocks[0]
        stride *= block.conv_dw.stride[0]
        if stride > config.patch_size:
            break
        expanding = type(block).__name__ == "InvertedResidual"
        outputs = (block.conv_pwl if expanding else block.conv_pw).out_channels
        expansion = block.conv_pw.out_channels // block.conv_pw.in_channels if expanding else 1
        stages.append([len(blocks), block.conv_dw.kernel_size[0], block.conv_dw.stride[0], expansion, outputs])
    return {"stem_channels": [network.conv_stem.out_channels], "stem_stages": stages}


def foreign_stem_part(network: nn.Module) -> str | None:
    """What the network has and [`PJVLTConvStem`] has not, or None."""
    timm = import_timm()
    same = timm.layers.Conv2dSame
    if not isinstance(network.conv_stem, same) or not isinstance(network.bn1.act, nn.ReLU6):
        return "a first convolution without TensorFlow's padding, batch norm and ReLU6"
    for block in (block for blocks in network.blocks for block in blocks):
        kind = type(block).__name__
        if kind not in ("InvertedResidual", "DepthwiseSeparableConv"):
            return f"blocks of type {kind}"
        if not isinstance(block.se, nn.Identity):
            return "squeeze-and-excitation"
        if block.conv_dw.stride[0] == 2 and not isinstance(block.conv_dw, same):
            return "convolutions without TensorFlow's padding"
        if not isinstance(block.bn1.act, nn.ReLU6):
            return f"the activation {type(block.bn1.act).__name__}"
    return None


@torch.no_grad()
def copy_stem(network: nn.Module, model: nn.Module) -> set[str]:
    """Copy the first stages of a timm network into the stem, batch norm folded; returns the parameters' names."""
    filled = set()

    def fill(name: str, convolution: nn.Module, norm: nn.Module) -> None:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        for kind, value in (("weight", convolution.weight * scale[:, None, None, None]), ("bias", bias)):
            model.get_parameter(f"embeddings.stem.{name}.{kind}").copy_(value)
            filled.add(f"embeddings.stem.{name}.{kind}")

    fill("first", network.conv_stem, network.bn1)
    for i, blocks in enumerate(network.blocks[: len(model.config.stem_stages)]):
        for j, block in enumerate(blocks):
            prefix = f"stages.{i}.{j}"
            if hasattr(block, "conv_pwl"):
                fill(f"{prefix}.expand", block.conv_pw, block.bn1)
                fill(f"{prefix}.depthwise", block.conv_dw, block.bn2)
                fill(f"{prefix}.project", block.conv_pwl, block.bn3)
            else:
                fill(f"{prefix}.depthwise", block.conv_dw, block.bn1)
                fill(f"{prefix}.project", block.conv_pw, block.bn2)
    return filled


@torch.no_grad()
def copy_vit(vit: nn.Module, model: nn.Module) -> set[str]:
    """Copy a timm ViT into the vision stream of `model`; returns the names of the parameters that were filled."""
    filled = set()

    def fill(name: str, value: Tensor) -> None:
        model.get_parameter(name).copy_(value)
        filled.add(name)

    fill("embeddings.projection.weight", vit.patch_embed.proj.weight)
    if vit.patch_embed.proj.bias is not None:
        fill("embeddings.projection.bias", vit.patch_embed.proj.bias)
    patches = vit.patch_embed.grid_size[0] * vit.patch_embed.grid_size[1]
    table = vit.pos_embed[:, -patches:]  # the class token's position, where there is one, comes first
    for name, grid in (("template", model.config.template_grid), ("search", model.config.search_grid)):
        fill(f"embeddings.{name}_position", resize_positions(table, vit.patch_embed.grid_size, grid))
    for j, block in enumerate(vit.blocks):
        prefix = f"encoder.layers.{j}.vision"
        for norm in ("norm1", "norm2"):
            fill(f"{prefix}.{norm}.weight", getattr(block, norm).weight)
            fill(f"{prefix}.{norm}.bias", getattr(block, norm).bias)
        weights, biases = block.attn.qkv.weight.chunk(3), bias_of(block.attn.qkv).chunk(3)
        for part, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            fill(f"{prefix}.attention.{part}.weight", weight)
            fill(f"{prefix}.attention.{part}.bias", bias)
        for name, linear, scale in (
            ("attention.o_proj", block.attn.proj, getattr(block, "ls1", None)),
            ("fc2", block.mlp.fc2, getattr(block, "ls2", None)),
        ):
            gamma = getattr(scale, "gamma", torch.ones(linear.out_features))  # LayerScale folds into the last linear
            fill(f"{prefix}.{name}.weight", linear.weight * gamma[:, None])
            fill(f"{prefix}.{name}.bias", bias_of(linear) * gamma)
        fill(f"{prefix}.fc1.weight", block.mlp.fc1.weight)
        fill(f"{prefix}.fc1.bias", bias_of(block.mlp.fc1))
    norm = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
    if not isinstance(norm, nn.Identity):
        fill("norm.weight", norm.weight)
        fill("norm.bias", norm.bias)
    return filled


def bias_of(linear: nn.Linear) -> Tensor:
    """The bias of a linear map; zeros where it has none."""
    return torch.zeros(linear.out_features) if linear.bias is None else linear.bias


def report_new_weights(model: nn.Module, loaded: set[str]) -> None:
    """Say which weights are random and must be trained, by part and with their number."""
    new: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if name not in loaded:
            part = next((p for p in ("saiel", "ccpil") if f".{p}." in name), name.split(".")[0])
            new[part] = new.get(part, 0) + parameter.numel()
    if new:
        parts = ", ".join(f"{part} ({count:,})" for part, count in sorted(new.items()))
        logger.warning(
            f"New, untrained weights of {type(model).__name__}: {parts}. Train the model before tracking with it."
        )
