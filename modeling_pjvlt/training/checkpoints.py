"""Checkpoints as `checkpoints/005000/{pretrained_model,training_state}`, and links `last` and `best` to two of them.

Each is written to a hidden folder and renamed, so `last` loads whenever the run is killed.
"""

import json
import os
import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from transformers.utils import logging

from ..files_pjvlt import partial_folder, remove_partial, replacing, replacing_folder, write_text
from .arguments import ENDING, FREE_ON_RESUME, STABLE, TrainArguments

LINKS = ("last", "best")
RUN_FILE = "run.json"  # in training_state: the arguments, the step, the best score, the number of processes


def _still_stable(run: dict, args: TrainArguments) -> bool:
    """Whether the end of a run may change: so far the rate has not fallen, by the old schedule and by the new one."""
    stable = run["arguments"]["lr_scheduler_type"] in ("constant_with_warmup", STABLE)
    old_decay = run["arguments"].get("num_decay_steps")
    old_start = run["arguments"]["max_train_steps"] - old_decay if old_decay else run["step"]
    new_start = args.max_train_steps - args.num_decay_steps if args.lr_scheduler_type == STABLE else -1
    return stable and run["step"] <= min(old_start, new_start)


def extends(run: dict, args: TrainArguments) -> bool:
    """Whether the new arguments give a finished run more steps."""
    return run["step"] >= run["arguments"]["max_train_steps"] < args.max_train_steps


@contextmanager
def _no_progress_bar():
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class Checkpoints:
    """The checkpoints of one run.

    Args:
        args: of the run. accelerator: its state is saved. processor: saved with each model.
        other_args: flags beside those of `args`, by name, that a resumed run must share, too.

    Every process calls these methods.
    """

    def __init__(self, args: TrainArguments, accelerator: Accelerator, processor, other_args: dict | None = None):
        self.args, self.accelerator, self.processor = args, accelerator, processor
        self.all_args = asdict(args) | (other_args or {})
        self.root = Path(args.output_dir) / "checkpoints"

    def save(self, step: int, model, best_score: float | None = None) -> Path:
        """Write `checkpoints/<step>` unless it exists, and point `last` to it. Returns its folder.

        Raises `OSError` if it cannot be written; earlier checkpoints stay.
        """
        final = self.root / f"{step:06d}"
        main = self.accelerator.is_main_process
        if not final.exists():
            place = replacing_folder(final) if main else nullcontext(partial_folder(final))
            with place as partial:
                self.accelerator.wait_for_everyone()
                self.accelerator.save_state(str(partial / "training_state"), safe_serialization=True)
                state = self.accelerator.get_state_dict(model)
                if main:
                    unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)
                    with _no_progress_bar():  # it would break the progress bar of the run
                        unwrapped.save_pretrained(partial / "pretrained_model", state_dict=state)
                    self.processor.save_pretrained(partial / "pretrained_model")
                    run = {"step": step, "best_score": best_score, "num_processes": self.accelerator.num_processes}
                    run["arguments"] = self.all_args
                    write_text(partial / "training_state" / RUN_FILE, json.dumps(run, indent=2))
            self.accelerator.wait_for_everyone()
        if main:
            self.link("last", step)
            self._drop_old()
        self.accelerator.wait_for_everyone()
        return final

    def link(self, name: str, step: int) -> None:
        """Point `last` or `best` to a checkpoint, atomically."""
        with replacing(self.root / name) as link:
            try:
                link.symlink_to(f"{step:06d}", target_is_directory=True)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{self.root} takes no symbolic link for `{name}`: {error.strerror}. On Windows, switch on "
                    "the developer mode.",
                ) from error

    def _drop_old(self) -> None:
        """Delete all checkpoints but the newest ones and those that a link points to."""
        if self.args.checkpoints_total_limit is None:
            return
        linked = {(self.root / name).resolve().name for name in LINKS if (self.root / name).is_symlink()}
        steps = sorted(path for path in self.root.iterdir() if path.name.isdecimal() and not path.is_symlink())
        for path in steps[: -self.args.checkpoints_total_limit]:
            if path.name not in linked:
                deleted = partial_folder(path)
                os.rename(path, deleted)  # half-deleted folders must not look like checkpoints
                shutil.rmtree(deleted)

    def prepare(self) -> Path | None:
        """The checkpoint to resume from; None for a new run, whose folder must hold no checkpoints.

        Raises `FileNotFoundError` or `ValueError` that names the flag.
        """
        name = self.args.resume_from_checkpoint
        if name is None:
            if (self.root / "last").exists() and not self.args.overwrite_output_dir:
                raise ValueError(
                    f"{self.root} holds checkpoints: continue with --resume_from_checkpoint last, start again with "
                    "--overwrite_output_dir, or choose another --output_dir."
                )
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process and self.args.overwrite_output_dir:
                shutil.rmtree(self.root, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            return None
        folder = self.root / name if name in LINKS else Path(name)
        if not (folder / "training_state" / RUN_FILE).is_file():
            raise FileNotFoundError(f"--resume_from_checkpoint: no training state in {folder}")
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            remove_partial(self.root)
        return folder.resolve()

    def read(self, folder: Path) -> dict:
        """The content of `run.json`, after checking that the run can continue with the same arguments.

        Raises `ValueError` naming the first flag that differs.
        """
        run = json.loads((folder / "training_state" / RUN_FILE).read_text(encoding="utf-8"))
        now = json.loads(json.dumps(self.all_args))
        free = FREE_ON_RESUME | (ENDING if _still_stable(run, self.args) else set())
        free |= {"max_train_steps"} if extends(run, self.args) else set()
        for name, value in run["arguments"].items():
            if name not in free and now.get(name) != value:
                hint = ""
                if name in ENDING and self.args.lr_scheduler_type == STABLE:
                    hint = (
                        " (The end may change only while the rate has not fallen yet: --max_train_steps minus "
                        f"--num_decay_steps must be at least {run['step']}.)"
                    )
                raise ValueError(
                    f"--{name} was {value!r} when {folder} was saved and is {now.get(name)!r} now; a resumed run must "
                    f"continue with the same arguments, and only a finished run can be extended.{hint} Or start a new "
                    "run from it with --model_name_or_path."
                )
        if run["num_processes"] != self.accelerator.num_processes:
            raise ValueError(
                f"{folder} was saved by {run['num_processes']} processes, now there are "
                f"{self.accelerator.num_processes}; a resumed run must have the same number."
            )
        return run

    def restore(self, folder: Path) -> None:
        """Load weights, optimizer, schedule, scaler and random states."""
        self.accelerator.load_state(str(folder / "training_state"))
