"""Crops for training: the geometry of tracking, moved to whole pixels so that they cost less than decoding a frame.

A frame is decoded at 1/2, 1/4 or 1/8 of its size where the crop is shrunk by as much anyway (JPEG can do that), only
the window is copied, and the same triangle filter as in tracking runs on 8-bit integers.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .dataset import TrackingSequence

MAX_CENTRE = 0.45  # of the search crop's side: how far from its middle a target may be put
MAX_REDUCTION = 8  # of a JPEG
MAX_TWIN_RATIO = 2.0  # of the sides of two targets that share a search region


@dataclass(frozen=True)
class SequenceFrame:
    """A frame that nobody has decoded yet."""

    sequence: TrackingSequence
    index: int

    def alone(self) -> "SequenceFrame":
        """The same frame, without the other encoded pictures of its sequence."""
        return SequenceFrame(replace(self.sequence, frames=self.sequence.frames.only(self.index)), self.index)


class Window(NamedTuple):
    """A square of a frame, in whole pixels of it, and of what a JPEG may be reduced to."""

    left: int
    top: int
    side: int


def template_window(box_xywh, factor: float, size: int) -> Window:
    """The square of [`crop_geometry`]."""
    x, y, w, h = box_xywh
    return window_around(x + w / 2, y + h / 2, math.ceil(math.sqrt(w * h) * factor), size)


def search_window(
    rng, box_xywh, factor: float, size: int, centre_jitter: float, scale_jitter: float, per_axis: bool = False
) -> Window:
    """A search region that does not have the target in its middle (in the manner of OSTrack's sampling).

    The side is sqrt(w h) * factor * exp(scale_jitter * normal); the centre moves by up to centre_jitter / 2 target
    sizes each way, but the target's centre stays inside. per_axis: exactly as OSTrack, whose `_get_jittered_box` draws
    width and height each for itself (the side then spreads by scale_jitter / sqrt(2)) and moves by jittered sizes.
    """
    x, y, w, h = box_xywh
    target = math.sqrt(w * h)
    jittered = _jittered(rng, target, scale_jitter, per_axis)
    side, target = math.ceil(jittered * factor), jittered if per_axis else target
    limit = _reach(side, size)
    dx, dy = (min(max(v * centre_jitter * target, -limit), limit) for v in rng.uniform(-0.5, 0.5, 2))
    return window_around(x + w / 2 + dx, y + h / 2 + dy, side, size)


def shared_window(
    rng, boxes_xywh, factor: float, size: int, centre_jitter: float, scale_jitter: float, per_axis: bool = False
) -> Window | None:
    """A search region for two targets of one picture, drawn so that it does not tell which of the two is meant.

    As [`search_window`], but chance decides, each for itself, by which of the two targets it is measured and around which
    it lies; then it is moved until both centres lie in it. None where their sizes are too different, or their distance
    too large, for one region.

    Around the target alone, what lies near the region's edge is a rival more often than the target. A model that learns
    this does not come back to its target, once the tracker follows a rival.
    """
    boxes = np.asarray(boxes_xywh, dtype=float)
    centres, targets = boxes[:, :2] + boxes[:, 2:] / 2, np.sqrt(boxes[:, 2] * boxes[:, 3])
    if targets.max() > MAX_TWIN_RATIO * targets.min():
        return None
    side = math.ceil(_jittered(rng, float(rng.choice(targets)), scale_jitter, per_axis) * factor)
    limit = _reach(side, size)
    low, high = centres.max(axis=0) - limit, centres.min(axis=0) + limit
    if (low > high).any():
        return None
    jitter = rng.uniform(-0.5, 0.5, 2) * centre_jitter * side / factor
    middle = np.clip(centres[rng.integers(2)] + jitter, low, high)
    return window_around(*middle.tolist(), side, size)


def _jittered(rng, target: float, scale_jitter: float, per_axis: bool) -> float:
    """The size of a target, made larger or smaller: by one draw, or by one for width and one for height."""
    spread = rng.standard_normal(2).mean() if per_axis else rng.standard_normal()
    return target * math.exp(scale_jitter * spread)


def _reach(side: int, size: int) -> float:
    """How far from a region's middle a target's centre may lie each way, also after going to whole pixels."""
    return min(MAX_CENTRE * side, max(side / 2 - reduction_of(side, size), 0))


def window_around(x: float, y: float, side: int, size: int) -> Window:
    """The window nearest to the square around (x, y) that falls on whole pixels, however the frame is reduced."""
    step = reduction_of(side, size)
    side = max(round(side / step), 1) * step
    return Window(round((x - side / 2) / step) * step, round((y - side / 2) / step) * step, side)


def reduction_of(side: int, size: int) -> int:
    """By how much a frame may be reduced before `side` of its pixels are shown as `size`: 1, 2, 4 or 8."""
    reduction = MAX_REDUCTION
    while reduction > 1 and side < reduction * size:
        reduction //= 2
    return reduction


def cut(frame: np.ndarray | SequenceFrame, window: Window, size: int, mirror: bool = False) -> Tensor:
    """(3, size, size) uint8: the window of a frame, black outside of it; `mirror` swaps left and right.

    Raises `ValueError` naming a frame that cannot be decoded.
    """
    picture, reduction = _decode(frame, reduction_of(window.side, size))
    region = _region(_pixels(picture), *(v // reduction for v in window))
    if region.shape[2] != size:  # this filter is fast for channels that come last in memory, as they do here
        region = F.interpolate(region, (size, size), mode="bilinear", antialias=True)
    crop = region[0, :3].numpy()
    return torch.from_numpy(np.ascontiguousarray(crop[..., ::-1] if mirror else crop))


def _decode(frame: np.ndarray | SequenceFrame, reduction: int) -> tuple[np.ndarray | Image.Image, int]:
    if isinstance(frame, SequenceFrame):
        return frame.sequence.decode(frame.index, reduction)
    return frame, 1


def _pixels(picture: np.ndarray | Image.Image) -> np.ndarray:
    """(H, W, 3 or 4) uint8; a fourth channel means nothing.

    Pillow keeps four bytes for a pixel of an RGB picture, which are shown here without copying any, where it keeps
    them in one piece (pictures of up to four megapixels).
    """
    if isinstance(picture, np.ndarray):
        return picture
    if picture.mode == "RGB":
        try:
            return np.from_dlpack(pa.array(picture).values).reshape(picture.height, picture.width, 4)
        except ValueError:  # in several pieces
            pass
    return np.array(picture)


def _region(pixels: np.ndarray, left: int, top: int, side: int) -> Tensor:
    """(1, channels, side, side) copied out of a frame, black outside of it; channels come last in memory."""
    height, width, channels = pixels.shape
    x0, x1 = (min(max(v, 0), width) for v in (left, left + side))
    y0, y1 = (min(max(v, 0), height) for v in (top, top + side))
    inside = (x1 - x0, y1 - y0) == (side, side)
    region = (torch.empty if inside else torch.zeros)(1, side, side, channels, dtype=torch.uint8)
    region.numpy()[0, y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    return region.permute(0, 3, 1, 2)
