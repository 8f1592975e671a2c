"""Runs of training and evaluation that `reproduce_tables.py` starts with `accelerate launch`, and their scores."""

import json
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

INTERRUPTED = (130, -2, -15)  # exit codes after Ctrl-C or SIGTERM
METRICS = {"lasot": ("auc", "normalized_precision", "precision"), "got10k": ("ao", "sr50", "sr75")}  # as in the paper
PROTOCOLS = {"lasot": "pytracking_lasot", "got10k": "got10k"}  # by default; the paper names none
STARTS = ("model_config", "vision_backbone", "text_backbone", "tokenizer_name_or_path")


def launcher(num_processes: int) -> list[str]:
    """The start of a command, before `-m MODULE ...`, that runs this many processes on this machine."""
    shared = ["--num_processes", str(num_processes), "--num_machines", "1"]
    shared += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # given here, because accelerate warns without it
    return ["accelerate", "launch", *(["--multi_gpu"] if num_processes > 1 else []), *shared]


def train_words(args) -> list[str]:
    """Flags of `pjvlt-train` for every setting that is not the default."""
    from modeling_pjvlt.training.arguments import TrainArguments

    words, default = [], TrainArguments(output_dir="", model_config={}, tokenizer_name_or_path="-")
    for field in fields(args):
        value = getattr(args, field.name)
        if value is None or (value == getattr(default, field.name) and field.name not in STARTS):
            continue
        values = [json.dumps(value)] if isinstance(value, dict) else value if isinstance(value, list) else [value]
        words += [f"--{field.name}", *map(str, values)]
    return words


def evaluate_words(plan, checkpoint: Path, folder: Path) -> list[str]:
    """Flags of `pjvlt-eval` for the test set of the plan's dataset; for GOT-10k with an archive for its server."""
    names = plan.settings["dataset_name"]
    words = ["--model", str(checkpoint), "--dataset_name", names[0] if isinstance(names, list) else names]
    words += ["--split", "test", "--protocol", plan.scoring["protocol"], "--output_dir", str(folder)]
    if plan.dataset == "got10k":
        words += ["--submission", "got10k"]
    if plan.scoring["sentences"]:
        words += ["--sentences", plan.scoring["sentences"]]
    return words


def command_line(args, num_processes: int | None = None) -> str:
    """The training as a command line."""
    first = ["pjvlt-train"]
    if num_processes is not None:
        first = [*launcher(num_processes), "-m", "modeling_pjvlt.cli.train"]
    return shlex.join([*first, *train_words(args)])


def launch(module: str, words: list[str], num_processes: int) -> None:
    """Run a module of this package in several processes.

    Ctrl-C reaches them, too: they save, and then this raises `KeyboardInterrupt`; a second Ctrl-C does not wait for
    them. Raises `FloatingPointError` for a failed process, so that only its variant fails.
    """
    start = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *launcher(num_processes)[1:]]
    process, interrupted = subprocess.Popen([*start, "-m", module, *words]), False
    try:
        code = process.wait()
    except KeyboardInterrupt:
        code, interrupted = process.wait(), True
    if interrupted or code in INTERRUPTED:
        raise KeyboardInterrupt(f"{module} was interrupted")
    if code:
        raise FloatingPointError(f"{module} ended with code {code}; its output is above")


def read_evaluation(folder: Path) -> dict:
    """The results of `pjvlt-eval`: `scores` in percent by metric, and `archive`, the file for a server, or None."""
    reports, archives = sorted(folder.glob("*/*/report.json")), sorted(folder.glob("*/*.zip"))
    scores = {}
    if reports:
        scores = json.loads(reports[0].read_text(encoding="utf-8"))["results"][0]["scores"]
    return {"scores": scores, "archive": str(archives[0]) if archives else None}
