"""One-pass evaluation of one sequence: the first box is given, all later ones are predicted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..session_pjvlt import TargetSession
from ..tracking_pjvlt import TrackingSession
from .metrics import iou, success_auc


@dataclass(frozen=True)
class Tracks:
    """The result of tracking a sequence.

    boxes: name of the sentence -> (n, 4) float64 xywh, the given box in row 0. seconds: total time to `decode` frames,
    to `crop` and in the `network`. times: (n,) seconds of each frame without decoding, 0 for the first.
    frame_size: height, width.
    """

    boxes: dict[str, np.ndarray]
    seconds: dict[str, float]
    times: np.ndarray
    frame_size: tuple[int, int]


def track_sequence(
    model,
    processor,
    sequence,
    texts: Mapping[str, str],
    max_frames: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
    session: TargetSession | None = None,
    lost_score: float = 0.0,
) -> Tracks:
    """Track a sequence once for each of `texts`, all in one session; each track is the same as alone.

    Args:
        sequence: has `boxes`, `frame(index)` and a length.
        max_frames: track at most this many. on_frame: called after each frame.
        session: without targets yet; by default a [`TrackingSession`] of model and processor, with this `lost_score`:
            0, as in the paper, searches every target around its last box, however low its score.

    Raises `ValueError` for an invalid first box or a frame that cannot be decoded.
    """
    length = len(sequence) if max_frames is None else min(len(sequence), max_frames)
    session = TrackingSession(model, processor, lost_score=lost_score) if session is None else session
    started = time.perf_counter()
    first = sequence.frame(0)
    decoding = time.perf_counter() - started
    for name, text in texts.items():
        session.add_target(first, sequence.boxes[0], text, target_id=name)
    boxes = np.zeros((len(texts), length, 4))
    boxes[:, 0], times = sequence.boxes[0], np.zeros(length)
    on_frame()
    for index in range(1, length):
        started = time.perf_counter()
        frame = sequence.frame(index)
        decoded = time.perf_counter()
        boxes[:, index] = [target.box for target in session.step(frame)]
        decoding, times[index] = decoding + decoded - started, time.perf_counter() - decoded
        on_frame()
    return Tracks(
        dict(zip(texts, boxes, strict=True)), {"decode": decoding, **session.seconds}, times, first.shape[:2]
    )


def visible_auc(boxes: np.ndarray, sequence) -> float:
    """Success AUC in [0, 1] over the frames after the first that show the target; 0 if none does. For quick checks."""
    seen = sequence.visible[1 : len(boxes)]
    if not seen.any():
        return 0.0
    return success_auc(iou(boxes[1:][seen], sequence.boxes[1 : len(boxes)][seen]))
