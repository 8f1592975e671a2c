"""OSTrack's published checkpoints as PJVLT checkpoints: its network is our `fusion="none"`, weight by weight.

OSTrack (Ye et al., 2022, "Joint Feature Learning and Relation Modeling for Tracking") runs a plain ViT over template
and search tokens, without a class token, and reads the box with a convolutional head whose offset has no sigmoid. Two
differences remain. Its variants with candidate elimination drop search tokens half-way; those weights run here, too,
but nothing is dropped. And it clamps sizes to at least 1e-4 of the crop, which no box comes near.
"""

import math
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from . import DEFAULT_CHECKPOINT
from .configuration_pjvlt import PJVLTConfig
from .files_pjvlt import check_new_folder, replacing_folder, write_text
from .image_processing_pjvlt import PJVLTImageProcessor
from .modeling_pjvlt import PJVLTModel
from .processing_pjvlt import PJVLTProcessor

HEAD_DIM = 64  # channels of an attention head in every ViT that OSTrack was published with; the weights do not tell it
SEARCH_FACTORS = {384: 5.0}  # side of the search crop over that of the target, by crop size; 4 for all others
UNUSED = ("backbone.cls_token", "backbone.pos_embed")  # of the ViT that it started from: kept in the file, never read
RENAMED = (  # OSTrack's names, as patterns, to ours
    (r"backbone\.patch_embed\.proj\.", "embeddings.projection."),
    (r"backbone\.pos_embed_z$", "embeddings.template_position"),
    (r"backbone\.pos_embed_x$", "embeddings.search_position"),
    (r"backbone\.norm\.", "norm."),
    (r"backbone\.blocks\.(\d+)\.(norm[12])\.", r"encoder.layers.\1.vision.\2."),
    (r"backbone\.blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.vision.attention.o_proj."),
    (r"backbone\.blocks\.(\d+)\.mlp\.(fc[12])\.", r"encoder.layers.\1.vision.\2."),
)
BRANCHES = {"ctr": "score", "offset": "offset", "size": "size"}
CARD = """---
license: mit
library_name: transformers
pipeline_tag: other
tags: [object-tracking, visual-object-tracking, single-object-tracking, pjvlt, ostrack]
---

# OSTrack-{size}

The published weights of OSTrack, converted for `modeling_pjvlt` with `pjvlt-convert-weights ostrack`. It reads no
sentence. Nothing is eliminated: all search tokens pass through all layers, also where the weights were trained with
candidate elimination. Weights and architecture are those of its authors (Ye et al., 2022, "Joint Feature Learning and
Relation Modeling for Tracking: A One-Stream Framework"), who published them under the MIT licence.
"""


class Skipped:
    """Placeholder for an object of an unneeded class that a checkpoint names, such as a trainer's settings."""

    def __init__(self, *arguments):
        pass

    def __new__(cls, *arguments):
        return super().__new__(cls)

    def __setstate__(self, state) -> None:
        pass


def convert(checkpoint: str | Path, output: str | Path) -> PJVLTModel:
    """Write OSTrack's checkpoint file as a folder that `from_pretrained` loads; returns the model.

    Args: `checkpoint`, the `.pth.tar` of its authors; `output`, a folder that does not exist yet, or an empty one.
    Raises `FileNotFoundError`, `FileExistsError` for a folder that is in use, and `ValueError` for a file that is not
    a checkpoint of OSTrack.
    """
    output = Path(output)
    check_new_folder(output)
    weights = read_network(Path(checkpoint))
    config = read_config(weights)
    with torch.device("meta"):
        model = PJVLTModel(config)
    model.load_state_dict(rename(weights, model.state_dict()), assign=True)
    images = PJVLTImageProcessor(
        template_size=config.template_size,
        search_size=config.search_size,
        search_factor=SEARCH_FACTORS.get(config.search_size, PJVLTImageProcessor.search_factor),
    )
    with replacing_folder(output) as folder:
        model.eval().save_pretrained(folder)
        # No sentence is read, but a processor has a tokenizer: the small one that ships with the package.
        PJVLTProcessor(images, AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT)).save_pretrained(folder)
        write_text(folder / "README.md", CARD.format(size=config.search_size))
    return model


def read_network(path: Path) -> dict[str, Tensor]:
    """The network's weights, float32, by OSTrack's names. Reads tensors only: nothing in the file is executed.

    Beside the network the file holds objects of its authors' trainer. Their classes are neither needed nor imported:
    each of them is read as a [`Skipped`].
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected OSTrack's checkpoint, such as OSTrack_ep0300.pth.tar."
        )
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Skipped, name) for name in foreign]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message would advise to execute the file
        raise ValueError(
            f"{path}: holds more than tensors and settings, and is not read: download it again."
        ) from error
    except (RuntimeError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a checkpoint that torch reads: {str(error).splitlines()[0]}") from error
    network = content.get("net", content) if isinstance(content, dict) else {}
    weights = {name: value for name, value in network.items() if isinstance(value, Tensor)}
    if "backbone.pos_embed_z" not in weights:
        raise ValueError(f"{path}: not OSTrack: there is no backbone.pos_embed_z among its {len(weights)} weights.")
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def read_config(weights: dict[str, Tensor]) -> PJVLTConfig:
    """The sizes of the network, read off its weights."""
    try:
        hidden, _, patch, _ = weights["backbone.patch_embed.proj.weight"].shape
        grids = [math.isqrt(weights[f"backbone.pos_embed_{part}"].shape[1]) for part in "zx"]
        head = [weights[f"box_head.conv{number}_ctr.0.weight"].shape[0] for number in range(1, 5)]
        intermediate = weights["backbone.blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"Not an OSTrack with a centre head: there is no {error.args[0]}.") from error
    return PJVLTConfig(
        fusion="none",
        hidden_size=hidden,
        num_hidden_layers=1 + max(int(n.split(".")[2]) for n in weights if n.startswith("backbone.blocks.")),
        num_attention_heads=hidden // HEAD_DIM,
        intermediate_size=intermediate,
        patch_size=patch,
        template_size=grids[0] * patch,
        search_size=grids[1] * patch,
        head_channels=head,
        offset_activation="identity",
    )


def rename(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under our names. Raises `ValueError` for one that is unknown, missing or of another shape."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name not in UNUSED:
            renamed |= _renamed(name, value)
    for name in sorted({*renamed, *wanted}):
        if name not in renamed or name not in wanted or renamed[name].shape != wanted[name].shape:
            found, expected = (tuple(d[name].shape) if name in d else "nothing" for d in (renamed, wanted))
            raise ValueError(
                f"Not an OSTrack that PJVLT can run: for {name} it has {found}, and {expected} was expected."
            )
    return renamed


def _renamed(name: str, value: Tensor) -> dict[str, Tensor]:
    if match := re.fullmatch(r"backbone\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name):
        layer, kind = match.groups()
        prefix = f"encoder.layers.{layer}.vision.attention"
        parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True)
        return {f"{prefix}.{part}.{kind}": rows.clone() for part, rows in parts}
    if match := re.fullmatch(r"box_head\.conv(\d)_(ctr|offset|size)\.(?:(\d)\.)?(\w+)", name):
        number, branch, place, kind = match.groups()
        return {f"head.{BRANCHES[branch]}.{3 * (int(number) - 1) + int(place or 0)}.{kind}": value}
    for pattern, ours in RENAMED:
        if re.match(pattern, name):
            return {re.sub(pattern, ours, name): value}
    return {name: value}


__all__ = ["convert", "read_config", "read_network", "rename"]
