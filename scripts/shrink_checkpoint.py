"""Store a checkpoint's weights as bfloat16, half the size; it still loads as float32.

python scripts/shrink_checkpoint.py outputs/pjvlt-tiny/checkpoints/last/pretrained_model --output_dir small
"""

import argparse
from pathlib import Path

import torch

from modeling_pjvlt import PJVLTModel, PJVLTProcessor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    model = PJVLTModel.from_pretrained(args.checkpoint, dtype=torch.float32)
    # The config goes on saying float32, which is what `from_pretrained` then loads the weights as.
    weights = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(args.output_dir, state_dict=weights)
    PJVLTProcessor.from_pretrained(args.checkpoint).save_pretrained(args.output_dir)
    size = sum(path.stat().st_size for path in args.output_dir.iterdir()) / 1e6
    print(f"{args.output_dir}: {size:.1f} MB")


if __name__ == "__main__":
    main()
