"""The trackers that are compared, ours and OpenCV's, with one interface.

A tracker starts with a frame and a box; `step` gives the box in the next frame, and whether the target counts as lost.
Boxes are x, y, w, h in frame pixels; `order` says whether frames are RGB or BGR.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

OPENCV = {"csrt": "CSRT", "kcf": "KCF", "mil": "MIL", "vit": "Vit", "nano": "Nano"}
CLASSICAL = ("csrt", "kcf", "mil")  # without weights
IMAGENET_STD = (0.229, 0.224, 0.225)


class OpenCVTracker:
    """One of OpenCV's trackers on one target. Boxes are x, y, w, h in frame pixels.

    create: a function that makes the tracker. order: of the channels in its frames.
    """

    def __init__(self, create: Callable, frame: np.ndarray, box, order: str = "BGR"):
        self.box, self.order = tuple(box), order
        self._tracker = create()
        self._tracker.init(frame, tuple(round(float(value)) for value in box))

    def step(self, frame: np.ndarray) -> tuple[tuple, bool]:
        """The box in the next frame, and whether the tracker reports failure; the last box stays then."""
        succeeded, box = self._tracker.update(frame)
        if succeeded:
            self.box = box
        return self.box, not succeeded


class PJVLTTracker:
    """A session with one target. Frames are RGB."""

    order = "RGB"

    def __init__(self, model, processor, text: str, frame: np.ndarray, box):
        from modeling_pjvlt import TrackingSession

        self._session = TrackingSession(model, processor)
        self._session.add_target(frame, box, text)

    def step(self, frame: np.ndarray) -> tuple[tuple, bool]:
        """The box in the next frame, and whether the target is lost."""
        (target,) = self._session.step(frame)
        return target.box, target.lost


def opencv_class(kind: str):
    """The class of a tracker, such as `cv2.TrackerCSRT`. Raises `ImportError`, with our extra's name, without it."""
    try:
        import cv2

        return getattr(cv2, f"Tracker{OPENCV[kind]}")
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f'OpenCV\'s {OPENCV[kind]} needs opencv-contrib: pip install "pjvlt[compare]". Of several OpenCV packages '
            "in one environment only one is imported: uninstall opencv-python, or leave the tracker out of --trackers."
        ) from error


def create_vit(network: Path, as_trained: bool):
    """OpenCV's VitTrack; `as_trained` corrects how OpenCV divides by the standard deviations."""
    import cv2

    params = cv2.TrackerVit_Params()
    params.net = str(network)
    if as_trained:
        params.stdvalue = quaternion_inverse([1 / std for std in IMAGENET_STD])
    return opencv_class("vit").create(params)


def quaternion_inverse(values) -> tuple[float, ...]:
    """Four numbers q for which `1 / cv::Scalar(q)` gives the three `values`.

    Source: `operator/ (double, Scalar_)` of OpenCV's core, which treats the numbers as a quaternion.
    """
    first, *others = values
    squares = sum(value**2 for value in values)
    return (first / squares, *(-value / squares for value in others), 0.0)


def create_nano(backbone: Path, head: Path):
    """OpenCV's NanoTrack."""
    import cv2

    params = cv2.TrackerNano_Params()
    params.backbone, params.neckhead = str(backbone), str(head)
    return opencv_class("nano").create(params)
