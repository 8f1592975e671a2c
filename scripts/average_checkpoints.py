"""Average one or several checkpoints and store the result as float16, half the size; it loads as float32.

    python scripts/average_checkpoints.py outputs/mine/checkpoints/last/pretrained_model --output_dir small
    python scripts/average_checkpoints.py outputs/mine/checkpoints/00*/pretrained_model \\
        --size_smoothing 0.5 --output_dir small

The mean of the last checkpoints of one run is less noisy than each of them (Izmailov et al., "Averaging weights leads
to wider optima and better generalization", 2018). A checkpoint that is named twice counts twice. The config, the
processor and the tokenizer are those of the last one named. float16 keeps three bits more of each weight than
bfloat16, which changes boxes less; weights that are too large for it make the whole file bfloat16.
"""

import argparse
from pathlib import Path

import torch

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.files_pjvlt import replacing_folder
from modeling_pjvlt.run_folders import find_checkpoint
from modeling_pjvlt.session_pjvlt import TRACKING_DEFAULTS, check_settings


def mean_weights(models: list[PJVLTModel]) -> dict[str, torch.Tensor]:
    """The mean of each floating-point weight; integers are those of the last model.

    Raises `ValueError` for models of different shapes.
    """
    weights = [model.state_dict() for model in models]
    if len({tuple((name, value.shape) for name, value in one.items()) for one in weights}) > 1:
        raise ValueError("Only checkpoints of the same architecture can be averaged.")
    return {
        name: torch.stack([one[name] for one in weights]).mean(dim=0) if value.is_floating_point() else value
        for name, value in weights[-1].items()
    }


def half_precision(weights: dict[str, torch.Tensor]) -> torch.dtype:
    """float16, or bfloat16 if a weight does not fit into it."""
    largest = max(value.abs().max().item() for value in weights.values() if value.is_floating_point())
    return torch.float16 if largest <= torch.finfo(torch.float16).max else torch.bfloat16


def save_small(model: PJVLTModel, processor: PJVLTProcessor, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write a checkpoint with these weights in half precision, and print its size."""
    # The config still says float32, so `from_pretrained` loads the weights as float32.
    halves = {name: v.to(half_precision(weights)) if v.is_floating_point() else v for name, v in weights.items()}
    with replacing_folder(folder) as partial:
        model.save_pretrained(partial, state_dict=halves)
        processor.save_pretrained(partial)
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="folders or Hub ids")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    for name, meaning in (
        ("window_weight", "weight of the Hann window in a session, 0 to 1"),
        ("size_smoothing", "share of a box's size that a session keeps from the frame before, from 0 to below 1"),
        ("lost_score", "score below which a target gets lost"),
    ):
        parser.add_argument(f"--{name}", type=float, help=f"{meaning} (default: as in the last checkpoint)")
    args = parser.parse_args(argv)
    args.checkpoints = [find_checkpoint(name) for name in args.checkpoints]
    models = [PJVLTModel.from_pretrained(name, dtype=torch.float32) for name in args.checkpoints]
    try:
        weights = mean_weights(models)
    except ValueError as error:
        parser.error(str(error))
    model = models[-1]
    processor = PJVLTProcessor.from_pretrained(args.checkpoints[-1])
    given = {name: getattr(args, name) for name in TRACKING_DEFAULTS}
    try:
        check_settings(**given)
    except ValueError as error:
        parser.error(str(error))
    for name, value in processor.tracking_settings(model.config).items():
        setattr(processor, name, value if given[name] is None else given[name])
    save_small(model, processor, weights, args.output_dir)


if __name__ == "__main__":
    main()
