"""The log of a run: a progress bar, `log.jsonl`, and trackers such as TensorBoard."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..files_pjvlt import write_text
from ..loss_pjvlt import cxcywh_to_xyxy, paired_giou
from .arguments import TrainArguments


class RunLog:
    """Progress bar, and every `logging_steps` a line in `log.jsonl` and in the tracker, with means over those steps.

    `arguments.json` beside it holds the arguments of the run. A resumed run continues the log after the step that it
    resumes from, and drops the lines of later steps, which it repeats.
    """

    def __init__(self, args: TrainArguments, accelerator: Accelerator, first_step: int):
        self.args, self.accelerator, self.main = args, accelerator, accelerator.is_main_process
        self.folder = Path(args.output_dir)
        self.path = self.folder / "log.jsonl"
        self.sums: dict[str, torch.Tensor] = {}
        self.count, self.last_step, self.first_step = 0, first_step, first_step
        if self.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "arguments.json", json.dumps(asdict(args), indent=2))
            kept = self.path.read_text(encoding="utf-8").splitlines() if first_step and self.path.exists() else []
            kept = [line + "\n" for line in kept if json.loads(line)["step"] <= first_step]
            write_text(self.path, "".join(kept))
        if args.report_to:
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(args).items()}
            accelerator.init_trackers("pjvlt", config=plain)
        self.bar = tqdm(
            total=args.max_train_steps, initial=first_step, unit="step", disable=not self.main, dynamic_ncols=True
        )
        self.pairs = args.per_device_train_batch_size * args.gradient_accumulation_steps * accelerator.num_processes
        self.started = time.perf_counter()

    def add(self, outputs, labels) -> None:
        """Add a batch. `overlap` is the mean IoU of the boxes that the tracker would give."""
        _, overlap = paired_giou(cxcywh_to_xyxy(outputs.pred_boxes.float()), cxcywh_to_xyxy(labels.float()))
        for name, value in {"loss": outputs.loss, "overlap": overlap.mean(), **outputs.loss_dict}.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.count += 1

    def step(self, step: int, learning_rate: float) -> None:
        """Count a step; every `logging_steps` log the means over all batches and processes."""
        self.bar.update()
        if step == self.first_step + 1:  # show the first loss at once, before the first line of the log
            self.bar.set_postfix(
                {"loss": f"{float(self.sums['loss']) / self.count:.3f}", "lr": f"{learning_rate:.1e}"}
            )
        if step % self.args.logging_steps and step != self.args.max_train_steps:
            return
        means = self.accelerator.reduce(torch.stack(list(self.sums.values())) / self.count, "mean").tolist()
        line = {name: round(value, 6) for name, value in zip(self.sums, means, strict=True)}
        now = time.perf_counter()
        speed = round((step - self.last_step) * self.pairs / (now - self.started), 1)
        self.sums, self.count, self.last_step, self.started = {}, 0, step, now
        shown = {name: f"{value:.3f}" for name, value in line.items()}
        self.bar.set_postfix({**shown, "lr": f"{learning_rate:.1e}", "pairs/s": speed})
        self._write({"step": step, **line, "learning_rate": learning_rate, "pairs_per_second": speed})

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Add the scores of a validation."""
        scores = {f"validation_{name}": round(value, 4) for name, value in metrics.items()}
        if self.main:
            self.bar.write(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        self._write({"step": step, **scores})
        self.started = time.perf_counter()

    def _write(self, line: dict) -> None:
        if self.main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.args.report_to:
            self.accelerator.log({name: value for name, value in line.items() if name != "step"}, step=line["step"])

    def close(self) -> None:
        self.bar.close()
