"""The summary that a run prints before its first step."""

import torch
from accelerate import Accelerator

from ..data.generated import BOXED_IMAGES, PHOTOGRAPHS, PROCEDURAL
from ..data.pairs.mixture import TrackingPairs
from ..data.pairs.sources import SequencePairs
from ..data.pairs.streamed import StreamedPairs
from .arguments import TrainArguments


def describe_run(
    args: TrainArguments, accelerator: Accelerator, model, pairs: TrackingPairs | StreamedPairs, scheduler, step: int
) -> str:
    """A line each for device, model, data, batch, steps, rates and folder. step: from which the run continues."""
    processes, batch = accelerator.num_processes, args.per_device_train_batch_size
    parts = [f"{batch} on each of {processes} devices" if processes > 1 else f"{batch}"]
    parts += [f"{args.gradient_accumulation_steps} batches a step"] if args.gradient_accumulation_steps > 1 else []
    samples = batch * args.gradient_accumulation_steps * processes
    number, trained = (
        sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (True, False)
    )
    lines = {
        "device": f"{_device(accelerator)}, {_precision(args)}",
        "model": f"{_start(args)}, {number / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them trained",
        "data": "; ".join(_data(args, pairs)),
        "batch": f"{samples} samples a step" + (f" ({', '.join(parts)})" if len(parts) > 1 or processes > 1 else ""),
        "steps": f"{args.max_train_steps}, {args.max_train_steps * samples} samples in all"
        + (f"; continues after step {step}" if step else ""),
        "rates": _rates(args, scheduler, step),
        "writes": f"{args.output_dir}, a checkpoint every {min(args.checkpointing_steps, args.max_train_steps)} steps",
    }
    return "\n".join(f"{name:<8}{line}" for name, line in lines.items())


def _device(accelerator: Accelerator) -> str:
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    return f"{accelerator.device.type}, {torch.get_num_threads()} threads"


def _precision(args: TrainArguments) -> str:
    return "float32" if args.mixed_precision == "no" else args.mixed_precision


def _start(args: TrainArguments) -> str:
    if args.model_name_or_path is not None:
        return f"from {args.model_name_or_path}"
    if args.vision_backbone is not None:
        return f"from {args.vision_backbone} and {args.text_backbone}"
    return "random weights"


def _data(args: TrainArguments, pairs: TrackingPairs | StreamedPairs) -> list[str]:
    """A phrase for each dataset, with its share if there are several."""
    shares = dict(zip(args.dataset_name, args.dataset_weights, strict=True))
    phrases = []
    for name, weight in shares.items():
        share = f", {weight / sum(shares.values()):.0%} of the samples" if len(shares) > 1 else ""
        phrases.append(f"{name}{_size(name, pairs)}{share}")
    return phrases


def _size(name: str, pairs: TrackingPairs | StreamedPairs) -> str:
    if isinstance(pairs, StreamedPairs):
        return f" (split {pairs.datasets[name].split}), streamed"
    source = getattr(pairs, "sources", {}).get(name)
    if not isinstance(source, SequencePairs):
        drawn = {PROCEDURAL: "drawn clips", PHOTOGRAPHS: "clips made of photographs", BOXED_IMAGES: "boxed images"}
        return f", {drawn[name]}" if name in drawn else ""
    table = source.sequences
    return f" (split {table.split}): {len(table)} sequences, {table.num_frames} frames"


def _rates(args: TrainArguments, scheduler, step: int) -> str:
    rates = f"encoder {args.encoder_learning_rate:g}, head {args.head_learning_rate:g}, {args.lr_scheduler_type}"
    if args.num_warmup_steps:
        rates += f", {args.num_warmup_steps} steps of warm-up"
    return rates + (f"; now {scheduler.get_last_lr()[0]:.3g} and {scheduler.get_last_lr()[-1]:.3g}" if step else "")
