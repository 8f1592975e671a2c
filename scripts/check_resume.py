"""Check that a killed and resumed run gives the same weights as an uninterrupted one, bit for bit, on the CPU.

python scripts/check_resume.py --kills 10

Trains a tiny model on generated images for 40 steps. Then it trains again, is killed (-9) at random moments and
resumed from `last` each time. The weights are compared byte for byte, for stored and for streamed data.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # in the children, too: sums of several threads are not always the same

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars

from modeling_pjvlt import DEFAULT_CHECKPOINT
from modeling_pjvlt.data.converters.shards import row_features
from modeling_pjvlt.training.arguments import TrainArguments
from modeling_pjvlt.training.trainer import run

torch.set_num_threads(1)

MODEL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8,
    "template_size": 16, "search_size": 32, "drop_path_rate": 0.1, "saiel_hidden_size": 16, "num_saiel_heads": 2,
    "pim_hidden_size": 24, "head_channels": [16, 8],
    "text_config": {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "hidden_dropout_prob": 0.1,
    },
}  # fmt: skip


def write_dataset(folder: Path, sequences: int = 6, frames: int = 12) -> None:
    """Write a dataset of squares that move over noise, in two files."""
    rng = np.random.default_rng(0)
    rows = [(s, f) for s in range(sequences) for f in range(frames)]
    columns: dict[str, list] = {name: [] for name in row_features(False)}
    for number, frame in rows:
        image = rng.integers(0, 120, (48, 64, 3), np.uint8)
        x, y = 5 + 3 * frame, 4 + 4 * number
        image[y : y + 10, x : x + 12] = (220, 30 * number, 40)
        values = (f"s{number}", frame, image, [x, y, 12, 10], True, f"red square {number}", "square")
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    table = Dataset.from_dict(columns, features=row_features(False))
    (folder / "data").mkdir(parents=True)
    for part in range(2):
        table.shard(2, part, contiguous=True).to_parquet(folder / "data" / f"train-{part:05d}-of-00002.parquet")


def arguments(data: Path, output: Path, streaming: bool, steps: int, resume: bool) -> TrainArguments:
    return TrainArguments(
        output_dir=str(output),
        model_config=MODEL,
        tokenizer_name_or_path=str(DEFAULT_CHECKPOINT),
        dataset_name=[str(data)],
        streaming=streaming,
        max_train_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        encoder_learning_rate=1e-3,
        head_learning_rate=1e-3,
        checkpointing_steps=3,
        checkpoints_total_limit=2,
        logging_steps=1,
        resume_from_checkpoint="last" if resume else None,
    )


SPAWN = multiprocessing.get_context("spawn")  # the only start method that every system has


def train(args: TrainArguments, ready) -> None:
    """Train in a child process. ready: an event that is set when the imports are done."""
    disable_progress_bars()
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stderr.fileno())
    ready.set()
    run(args)


def start(args: TrainArguments):
    """Start training in a child process, and return it once it has begun."""
    ready = SPAWN.Event()
    child = SPAWN.Process(target=train, args=(args, ready))
    child.start()
    while not ready.wait(1):
        if not child.is_alive():
            raise RuntimeError(f"The training process ended with code {child.exitcode} before it began.")
    return child


def weights(output: Path) -> bytes:
    return (output / "checkpoints" / "last" / "pretrained_model" / "model.safetensors").read_bytes()


def check(folder: Path, streaming: bool, kills: int, steps: int) -> bool:
    """Whether the killed run ends with the same weights as the uninterrupted one."""
    data, whole, broken = folder / "data", folder / f"whole-{streaming}", folder / f"broken-{streaming}"
    child = start(arguments(data, whole, streaming, steps, False))
    began = time.perf_counter()
    child.join()
    duration = time.perf_counter() - began
    assert child.exitcode == 0
    killed, log = 0, broken / "log.jsonl"
    same = True
    while killed < kills:
        resume = (broken / "checkpoints" / "last").exists()
        child = start(arguments(data, broken, streaming, steps, resume))
        child.join(random.uniform(0.1, 1.0) * duration)
        ended = not child.is_alive()
        if not ended:
            child.kill()
            child.join()
            killed += 1
            steps_done = len(log.read_text().splitlines()) if log.exists() else 0
            print(f"  killed after about {steps_done} steps", flush=True)
        if ended or killed == kills:
            if not ended:
                resume = (broken / "checkpoints" / "last").exists()
                child = start(arguments(data, broken, streaming, steps, resume))
                child.join()
            same &= child.exitcode == 0 and weights(broken) == weights(whole)
            shutil.rmtree(broken)
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="for each kind of data (default: 10)")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills (default: 0)")
    args = parser.parse_args()
    random.seed(args.seed)
    disable_progress_bars()
    all_same = True
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "data")
        for streaming in (False, True):
            print("streamed data" if streaming else "stored data", flush=True)
            same = check(Path(folder), streaming, args.kills, args.steps)
            print(f"  {args.kills} kills: {'equal weights' if same else 'DIFFERENT weights'} after {args.steps} steps")
            all_same &= same
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
