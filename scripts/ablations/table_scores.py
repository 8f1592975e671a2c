"""What `reproduce_tables.py` measures of a trained variant."""

import json
import statistics
from pathlib import Path


def last_loss(path: Path, steps: int) -> float:
    """Mean training loss over about the last tenth of the steps, from `log.jsonl`."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "loss" in line]
    late = [line["loss"] for line in lines if line["step"] > 0.9 * steps] or [lines[-1]["loss"]]
    return statistics.fmean(late)


def score_sequences(model, processor, sequences) -> dict[str, float]:
    """Mean success AUC with a sequence's own sentence and with the next one's; first and absent frames left out."""
    from modeling_pjvlt.evaluation.tracking import track_sequence, visible_auc

    found = []
    for number in range(len(sequences)):
        sequence, other = sequences[number], sequences[(number + 1) % len(sequences)]
        if not (sequence.visible[0] and sequence.visible[1:].any()):
            continue
        tracks = track_sequence(model, processor, sequence, {"right": sequence.text, "wrong": other.text})
        found.append([visible_auc(boxes, sequence) for boxes in tracks.boxes.values()])
    if not found:
        raise ValueError("no test sequence shows its target in the first frame and in a later one")
    right, wrong = (statistics.fmean(column) for column in zip(*found, strict=True))
    return {"right": right, "wrong": wrong}
