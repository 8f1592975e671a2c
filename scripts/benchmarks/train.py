"""The speed of training: `python scripts/benchmarks train`.

Steps of forward, backward and optimizer on generated 1280x720 videos: steps and pairs per second, the share of time
spent waiting for data, and the share of this machine's matrix-multiplication peak, which is measured in the same run.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from data import FRAME_SIZE, natural_jpeg, write_dataset
from machine import matmul_peak, wait_for
from torch.utils.flop_counter import FlopCounterMode

from modeling_pjvlt import PJVLTConfig
from modeling_pjvlt.data.pairs.mixture import normalize_pairs
from modeling_pjvlt.run_folders import find_checkpoint
from modeling_pjvlt.training.arguments import TrainArguments
from modeling_pjvlt.training.build import build_loader, build_model, build_pairs, parameter_groups

WARM_UP = 3


def _write_videos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = [[*(float(rng.uniform(0, side - 120)) for side in FRAME_SIZE), 120.0, 120.0] for _ in range(200)]
    write_dataset(folder, [natural_jpeg(rng) for _ in range(8)], boxes, 4)


def benchmark_train(
    model_name: str, batch_size: int, steps: int, precision: str, workers: int, compiled: bool
) -> None:
    """Measure one setting, and print it as a row of a table."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        datasets.disable_progress_bars()
        _write_videos(Path(folder) / "videos")
        start = {"model_name_or_path": f"pjvlt-{model_name}"}
        if model_name == "base":
            config = PJVLTConfig().to_diff_dict()
            start = {"model_config": {**config, "text_config": {"model_type": "bert"}}}
            start["tokenizer_name_or_path"] = find_checkpoint("pjvlt-tiny")
        args = TrainArguments(
            output_dir=folder,
            dataset_name=[f"{folder}/videos"],
            per_device_train_batch_size=batch_size,
            mixed_precision=precision,
            dataloader_num_workers=workers,
            max_train_steps=steps + WARM_UP,
            **start,
        )
        _measure(args, model_name, steps, compiled)


def _measure(args: TrainArguments, model_name: str, steps: int, compiled: bool) -> None:
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    model, processor = build_model(args)
    batch_size = args.per_device_train_batch_size
    pairs = build_pairs(args, processor.image_processor, args.max_train_steps * batch_size)
    batches = iter(build_loader(args, pairs, processor, 0, 1, 0))
    optimizer = torch.optim.AdamW(parameter_groups(model, args))
    model, optimizer = accelerator.prepare(model.train(), optimizer)
    plain = model
    model = torch.compile(model) if compiled else model
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.mixed_precision]
    peak = matmul_peak(accelerator.device, dtype)
    waits, works, operations = [], [], 0

    def step(module, batch) -> None:
        batch = send_to_device(batch, accelerator.device, non_blocking=True)
        loss = module(**normalize_pairs(batch, processor.image_processor)).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        wait_for(accelerator.device)

    for number in range(args.max_train_steps):
        started = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter()
        if number == 0:
            with FlopCounterMode(display=False) as counter:
                step(plain, batch)
            operations = counter.get_total_flops()
            continue
        step(model, batch)
        if number >= WARM_UP:
            waits.append(waited - started)
            works.append(time.perf_counter() - waited)
    wait, work = statistics.mean(waits), statistics.mean(works)
    print("| model | precision | batch | workers | steps/s | pairs/s | waiting for data | of matmul peak (compute) |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {model_name} | {args.mixed_precision}{', compiled' if compiled else ''} | {batch_size} | "
        f"{args.dataloader_num_workers} | {1 / (wait + work):.3f} | {batch_size / (wait + work):.1f} | "
        f"{wait / (wait + work):.0%} | {operations / work / peak:.0%} of {peak / 1e9:.0f} GFLOP/s |"
    )
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    print(f"{operations / 1e9:.0f} GFLOP a step; {steps} steps on {device}")
