"""Correct a tracker whose boxes become too small or too large while it tracks.

    python scripts/calibrate_sizes.py averaged --dataset_name converted/annotated --output_dir calibrated

Small errors of size add up in tracking, because the next search region follows the box; no training pair shows that.
So sequences of the training data are tracked as usual, and the last layer of the size branch is scaled until predicted
and true sizes are the same on average. Their boxes must be ground truth, not those of a tracker or a detector. Nothing
else changes, and nothing is trained. The result is stored as float16, as by `average_checkpoints.py`.
"""

import argparse
from collections.abc import Iterable

import numpy as np
import torch
from average_checkpoints import save_small
from resize_checkpoint import grow_sizes
from tqdm import tqdm

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.data.loading import load_tracking_dataset
from modeling_pjvlt.evaluation.metrics import iou
from modeling_pjvlt.evaluation.tracking import track_sequence
from modeling_pjvlt.run_folders import find_checkpoint

MIN_OVERLAP = 0.5  # of the frames that count: where a target was lost, its size says nothing
MIN_FRAMES = 4  # of a sequence that counts


def log_ratio(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
    """(2,): the median logarithm of predicted to true width, and height, of boxes (n, 4) xywh in one sequence.

    None if fewer than `MIN_FRAMES` of them overlap their true box by more than `MIN_OVERLAP`.

    >>> log_ratio(np.full((4, 4), 9.0), np.full((4, 4), 10.0)).round(3).tolist()
    [-0.105, -0.105]
    """
    good = iou(boxes, truth) > MIN_OVERLAP
    if good.sum() < MIN_FRAMES:
        return None
    return np.median(np.log(boxes[good, 2:] / truth[good, 2:]), axis=0)


def mean_log_ratio(model: PJVLTModel, processor: PJVLTProcessor, sequences: Iterable) -> np.ndarray:
    """(2,): the mean of `log_ratio` over the sequences that can tell. Raises `ValueError` if there is none."""
    ratios = []
    for sequence in tqdm(sequences, unit="sequence", disable=None):
        boxes = track_sequence(model, processor, sequence, {"own": sequence.text}).boxes["own"]
        seen = sequence.visible.copy()
        seen[0] = False  # its box is given
        ratios.append(log_ratio(boxes[seen], sequence.boxes[seen]))
    ratios = [ratio for ratio in ratios if ratio is not None]
    if not ratios:
        raise ValueError(f"the checkpoint follows no target for {MIN_FRAMES} frames, so sizes cannot be compared")
    return np.mean(ratios, axis=0)


@torch.no_grad()
def scale_sizes(model: PJVLTModel, factors: np.ndarray, search_factor: float) -> None:
    """Multiply predicted width and height by two factors, where a target's area is as usual in the search crop."""
    last = model.head.size[-1]
    for channel, factor in enumerate(factors.tolist()):
        weight, bias = grow_sizes(last.weight[channel], last.bias[channel], factor, 1 / search_factor)
        last.weight[channel], last.bias[channel] = weight, bias


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--dataset_name", required=True, help="a folder or a Hub id; its boxes must be ground truth")
    parser.add_argument("--dataset_split", help="default: train, or the only split")
    parser.add_argument("--rounds", type=int, default=2, help="corrections, each after tracking (default: 2)")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    name = find_checkpoint(args.checkpoint)
    model = PJVLTModel.from_pretrained(name, dtype=torch.float32).eval()
    processor = PJVLTProcessor.from_pretrained(name)
    try:
        sequences = load_tracking_dataset(args.dataset_name, args.dataset_split)
        for number in range(args.rounds + 1):
            ratios = np.exp(mean_log_ratio(model, processor, sequences))
            width, height = 100 * (ratios - 1)
            print(f"after {number} corrections: widths {width:+.1f} %, heights {height:+.1f} %")
            if number < args.rounds:
                scale_sizes(model, 1 / ratios, processor.image_processor.search_factor)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    save_small(model, processor, model.state_dict(), args.output_dir)


if __name__ == "__main__":
    main()
