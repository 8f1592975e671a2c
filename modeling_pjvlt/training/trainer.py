"""The training loop, with Accelerate; a run can be killed and resumed."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device, set_seed
from torch import nn
from torch.utils.data import Dataset
from transformers import get_scheduler

from ..data.pairs.mixture import normalize_pairs
from ..image_processing_pjvlt import PJVLTImageProcessor
from ..signals import terminations
from .arguments import STABLE, STEP, TrainArguments, share_batch
from .build import build_loader, build_model, build_pairs, grouped, parameter_groups
from .checkpoints import Checkpoints, extends
from .failures import check_finite, save_failure, warn_of_emulation
from .health_checks import HealthCheck
from .run_log import RunLog
from .summary import describe_run
from .validation import Validation

logger = logging.getLogger(__name__)

ECHO_SECONDS = 3.0  # within this time a second signal is the same one, passed on by the launcher


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    folder: `pretrained_model` of the last checkpoint. steps: optimizer steps in all. interrupted: whether a signal
    ended the run early. metrics: of the last validation.
    """

    folder: Path
    steps: int
    interrupted: bool
    metrics: dict[str, float]


def train(args: TrainArguments, wrap_pairs: Callable[[Dataset], Dataset] | None = None) -> Path:
    """Train, and return the folder of the last checkpoint's model. See [`run`]."""
    return run(args, wrap_pairs).folder


def run(args: TrainArguments, wrap_pairs: Callable[[Dataset], Dataset] | None = None) -> TrainResult:
    """Train from the start, or continue from a checkpoint.

    `wrap_pairs` gets the dataset of training samples and returns one of the same length, which is used instead. A
    signal (Ctrl-C, SIGTERM, SIGHUP) ends the run after the current step, with a checkpoint. Raises `ValueError` or
    `FileNotFoundError` naming the flag of an invalid argument, `FloatingPointError` for a loss or gradient that is not
    finite, `OSError` if the last checkpoint cannot be written.
    """
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        project_dir=args.output_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    args = share_batch(args, accelerator.num_processes)
    warn_of_emulation(accelerator)
    set_seed(args.seed)
    model, processor = build_model(args)
    checkpoints = Checkpoints(args, accelerator, processor)
    folder = checkpoints.prepare()
    started = {"step": 0, "best_score": None} if folder is None else checkpoints.read(folder)
    if args.sync_batch_norm and accelerator.num_processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model, optimizer, scheduler = _prepare(args, accelerator, model)
    length = args.max_train_steps * args.gradient_accumulation_steps
    length *= args.per_device_train_batch_size * accelerator.num_processes
    pairs = build_pairs(args, processor.image_processor, length)
    pairs = pairs if wrap_pairs is None else wrap_pairs(pairs)
    first_batch = started["step"] * args.gradient_accumulation_steps
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    loader = build_loader(args, pairs, processor, rank, num_processes, first_batch)
    validation = Validation(args, processor, started["best_score"])
    if folder is not None:
        checkpoints.restore(folder)
        if extends(started, args):
            _follow_longer_schedule(scheduler)
    # Each process of a new run draws its own dropout and Gumbel noise; a resumed one restored its random state.
    elif num_processes > 1:
        torch.manual_seed(args.seed + rank)

    if accelerator.is_main_process:
        print(describe_run(args, accelerator, model, pairs, scheduler, started["step"]))
    step, metrics, log = started["step"], {}, RunLog(args, accelerator, started["step"])
    health = HealthCheck(args, accelerator, step)
    model.train()
    try:
        with interruptible(accelerator) as interrupted:
            for batches in grouped(loader, args.gradient_accumulation_steps):
                loss, norm, labels, outputs = _gradients(
                    args, accelerator, model, processor.image_processor, batches, log
                )
                try:
                    check_finite(accelerator, loss, norm)
                except FloatingPointError:
                    save_failure(args, accelerator, model, processor, batches, step, rank)
                    raise
                if health.due(step):
                    health.write(step, model, outputs, labels, norm)
                optimizer.step()
                if not accelerator.optimizer_step_was_skipped:
                    scheduler.step()  # not prepared: Accelerate would step it once per process
                optimizer.zero_grad()
                step += 1
                log.step(step, scheduler.get_last_lr()[0])
                stop = interrupted()
                last = stop or step == args.max_train_steps
                due = args.validation_steps is not None and step % args.validation_steps == 0
                better = False
                if due:
                    metrics, better = validation.run(accelerator, model)
                    log.validation(step, metrics)
                if last or better or step % args.checkpointing_steps == 0:
                    _save(checkpoints, step, model, validation.best_score, better, last)
                if stop:
                    break
    finally:
        log.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return TrainResult(
        checkpoints.root / f"{step:06d}" / "pretrained_model", step, step < args.max_train_steps, metrics
    )


def _prepare(args: TrainArguments, accelerator: Accelerator, model: nn.Module):
    """Model and optimizer, prepared by Accelerate, and a scheduler, which the loop steps itself."""
    fused = accelerator.device.type in {"cuda", "cpu"}
    optimizer = torch.optim.AdamW(parameter_groups(model, args), weight_decay=args.weight_decay, fused=fused)
    if args.lr_scheduler_type == STEP:
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [args.lr_drop_step], gamma=0.1)
    else:
        decay = {"num_decay_steps": args.num_decay_steps} if args.lr_scheduler_type == STABLE else None
        steps = args.num_warmup_steps, args.max_train_steps
        scheduler = get_scheduler(args.lr_scheduler_type, optimizer, *steps, scheduler_specific_kwargs=decay)
    accelerator.register_for_checkpointing(scheduler)
    model, optimizer = accelerator.prepare(model, optimizer)
    if args.torch_compile:
        model.compile()  # in place, so that the names in a checkpoint stay the same
    return model, optimizer, scheduler


def _follow_longer_schedule(scheduler) -> None:
    """Set the rates to those of the longer run's schedule; the restored ones are from the end of the shorter run."""
    if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        for group, rule, rate in zip(
            scheduler.optimizer.param_groups, scheduler.lr_lambdas, scheduler.base_lrs, strict=True
        ):
            group["lr"] = rate * rule(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def _gradients(
    args: TrainArguments,
    accelerator: Accelerator,
    model: nn.Module,
    images: PJVLTImageProcessor,
    batches: list[dict],
    log: RunLog,
):
    """Gradients of one optimizer step, clipped.

    Returns the sum of the batches' losses, the gradient's norm before clipping, and labels and outputs of the last
    batch.
    """
    total = 0
    for batch in batches:
        batch = normalize_pairs(send_to_device(batch, accelerator.device, non_blocking=True), images)
        with accelerator.accumulate(model):
            outputs = model(**batch)
            accelerator.backward(outputs.loss)
        log.add(outputs, batch["labels"])
        total = total + outputs.loss.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
    return total, norm, batch["labels"], outputs


def _save(checkpoints: Checkpoints, step: int, model, best_score, better: bool, last: bool) -> None:
    """Save a checkpoint. A failure to write it is only reported, unless it is the last checkpoint of the run."""
    try:
        checkpoints.save(step, model, best_score)
        if better and checkpoints.accelerator.is_main_process:
            checkpoints.link("best", step)
    except OSError as error:
        if last:
            raise OSError(
                f"the checkpoint of step {step} could not be written ({error}); the earlier ones are complete"
            ) from error
        logger.error(f"The checkpoint of step {step} could not be written ({error}); the run continues.")


@contextmanager
def interruptible(accelerator: Accelerator) -> Iterator:
    """In this context, SIGINT, SIGTERM and SIGHUP make the yielded function return True, in all processes.

    A second signal acts as usual, but not within `ECHO_SECONDS`: Ctrl-C in a terminal reaches both a launcher and its
    processes, and the launcher passes it on to them once more.
    """
    caught: list[float] = []  # times of the signals
    before = {}

    def restore():
        for name, handler in before.items():
            signal.signal(name, handler)

    def handle(number, frame):
        caught.append(time.monotonic())
        if caught[-1] - caught[0] > ECHO_SECONDS:
            restore()
            signal.raise_signal(number)

    def interrupted() -> bool:
        if accelerator.num_processes == 1:
            return bool(caught)
        flag = torch.tensor(float(bool(caught)), device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum") > 0)

    try:
        for number in (signal.SIGINT, *terminations()):
            before[number] = signal.signal(number, handle)
    except ValueError:  # only the main thread receives signals
        pass
    try:
        yield interrupted
    finally:
        restore()
