"""One-pass evaluation of one sequence: the first box is given, all later ones are predicted."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..session_pjvlt import TargetSession
from ..streams_pjvlt import TimedFrame
from ..tracking_pjvlt import TrackingSession
from ..video_loop_pjvlt import TargetStart, track_video
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
    decoding = np.zeros(length)

    def frames() -> Iterator[TimedFrame]:
        for index in range(length):
            started = time.perf_counter()
            image = sequence.frame(index)
            decoding[index] = time.perf_counter() - started
            yield TimedFrame(image, index, float(index))

    starts = [TargetStart(name, sequence.boxes[0], text) for name, text in texts.items()]
    boxes, times, frame_size = np.zeros((len(texts), length, 4)), np.zeros(length), (0, 0)
    started = time.perf_counter()
    for index, (_, targets, size) in enumerate(track_video(session, frames(), starts)):
        frame_size = size
        times[index] = time.perf_counter() - started - decoding[index]
        boxes[:, index] = [target.box for target in targets]
        on_frame()
        started = time.perf_counter()
    times[0] = 0.0
    seconds = {"decode": decoding.sum(), **session.seconds}
    return Tracks(dict(zip(texts, boxes, strict=True)), seconds, times, frame_size)


def visible_auc(boxes: np.ndarray, sequence) -> float:
    """Success AUC in [0, 1] over the frames after the first that show the target; 0 if none does. For quick checks."""
    seen = sequence.visible[1 : len(boxes)]
    if not seen.any():
        return 0.0
    return success_auc(iou(boxes[1:][seen], sequence.boxes[1 : len(boxes)][seen]))
