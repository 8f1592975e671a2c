"""The training loss that `reproduce_tables.py` reports for a variant."""

import json
import statistics
from pathlib import Path


def last_loss(path: Path, steps: int) -> float:
    """Mean training loss over about the last tenth of the steps, from `log.jsonl`."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "loss" in line]
    late = [line["loss"] for line in lines if line["step"] > 0.9 * steps] or [lines[-1]["loss"]]
    return statistics.fmean(late)
