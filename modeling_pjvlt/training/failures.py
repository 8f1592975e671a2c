"""A warning where bf16 is slow, and a record of a step whose loss or gradient is not finite."""

import json
import logging
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from ..data.pairs.mixture import normalize_pairs
from ..files_pjvlt import replacing, replacing_folder, write_text
from ..onednn_pjvlt import OneDNN
from .arguments import TrainArguments
from .build import samples_of_batch

logger = logging.getLogger(__name__)


def warn_of_emulation(accelerator: Accelerator) -> None:
    """Warn if bf16 is used on a CPU without bfloat16 arithmetic."""
    on_cpu = accelerator.device.type == "cpu"
    if on_cpu and accelerator.mixed_precision == "bf16" and not OneDNN.serves(accelerator.device, torch.bfloat16):
        logger.warning(
            "This CPU has no bfloat16 arithmetic, so bf16 is much slower here than float32: use --mixed_precision no."
        )


def check_finite(accelerator: Accelerator, loss: Tensor, norm: Tensor) -> None:
    """Raises `FloatingPointError`, in all processes at once, for a loss or a gradient that is not finite.

    With fp16 the gradient scaler handles infinite gradients, so only the loss is checked.
    """
    finite = torch.isfinite(loss.detach())
    if accelerator.scaler is None:
        finite = finite & torch.isfinite(torch.as_tensor(norm, device=loss.device))
    if accelerator.num_processes > 1:
        finite = accelerator.gather(finite[None]).all()
    if not finite:
        raise FloatingPointError(f"the loss is {float(loss.detach()):.4g} and the gradient's norm {float(norm):.4g}")


def save_failure(
    args: TrainArguments, accelerator: Accelerator, model, processor, batches: list[dict], step: int, rank: int
) -> None:
    """Write `failure-000123`: the model before step 123, and the batches of that step with their sample numbers."""
    folder = Path(args.output_dir) / f"failure-{step + 1:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    number = args.gradient_accumulation_steps
    size = args.per_device_train_batch_size
    samples = [samples_of_batch(step * number + k, size, rank, accelerator.num_processes) for k in range(len(batches))]
    record = {"step": step + 1, "seed": args.seed, "datasets": args.dataset_name, "samples": samples}
    write_text(folder / f"batch-{rank}.json", json.dumps(record, indent=2))
    inputs = [normalize_pairs(batch, processor.image_processor) for batch in batches]
    tensors = {
        f"{k}.{name}": value.contiguous().cpu() for k, batch in enumerate(inputs) for name, value in batch.items()
    }
    with replacing(folder / f"batch-{rank}.safetensors") as partial:
        save_file(tensors, partial)
    if accelerator.is_main_process:
        with replacing_folder(folder / "pretrained_model") as partial:
            accelerator.unwrap_model(model, keep_torch_compile=False).save_pretrained(partial)
            processor.save_pretrained(partial)
