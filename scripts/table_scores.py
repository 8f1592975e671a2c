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
    import numpy as np

    from modeling_pjvlt import TrackingSession
    from modeling_pjvlt.evaluation.metrics import iou, success_auc

    found = []
    for number in range(len(sequences)):
        sequence, other = sequences[number], sequences[(number + 1) % len(sequences)]
        seen = sequence.visible[1:]
        if not (sequence.visible[0] and seen.any()):
            continue
        session, first = TrackingSession(model, processor), sequence.frame(0)
        for key, text in (("right", sequence.text), ("wrong", other.text)):
            session.add_target(first, sequence.boxes[0], text, target_id=key)
        boxes = np.array([[t.box for t in session.step(sequence.frame(i))] for i in range(1, len(sequence))])
        found.append([success_auc(iou(boxes[seen, i], sequence.boxes[1:][seen])) for i in (0, 1)])
    if not found:
        raise ValueError("no test sequence shows its target in the first frame and in a later one")
    right, wrong = np.mean(found, axis=0).tolist()
    return {"right": right, "wrong": wrong}
