"""Crops for training: the geometry of tracking, moved to whole pixels so that they cost less than decoding a frame.

A frame is decoded at 1/2, 1/4 or 1/8 of its size where the crop is shrunk by as much anyway (JPEG can do that), only
the window is copied, and the same triangle filter as in tracking runs on 8-bit integers.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..image_processing_pjvlt import crop_image, to_rgb
from .dataset import TrackingSequence

MAX_CENTRE = 0.45  # of the search crop's side: how far from its middle a target may be put
MAX_REDUCTION = 8  # of a JPEG


@dataclass(frozen=True)
class SequenceFrame:
    """A frame that nobody has decoded yet."""

    sequence: TrackingSequence
    index: int

    def alone(self) -> "SequenceFrame":
        """The same frame, without the other encoded pictures of its sequence."""
        return SequenceFrame(replace(self.sequence, frames=self.sequence.frames.only(self.index)), self.index)


class Window(NamedTuple):
    """A square of a frame, in frame pixels."""

    left: float
    top: float
    side: float


def template_window(box_xywh, factor: float, size: int) -> Window:
    """The square of [`crop_geometry`]; on whole pixels unless it is enlarged, where half a pixel would be seen."""
    x, y, w, h = (float(v) for v in box_xywh)
    side = max(math.ceil(math.sqrt(w * h) * factor), 1)
    window = Window(x + w / 2 - side / 2, y + h / 2 - side / 2, side)
    return window if side < size else on_whole_pixels(window, size)


def search_window(rng, box_xywh, factor: float, size: int, centre_jitter: float, scale_jitter: float) -> Window:
    """A search region that does not have the target in its middle (OSTrack's sampling).

    The side is sqrt(w h) * factor * exp(scale_jitter * normal); the centre moves by up to centre_jitter / 2 target
    sizes each way, but the target's centre stays inside.
    """
    x, y, w, h = (float(v) for v in box_xywh)
    target = math.sqrt(w * h)
    side = max(math.ceil(target * factor * math.exp(scale_jitter * rng.standard_normal())), 1)
    shift = rng.uniform(-0.5, 0.5, 2) * centre_jitter * target
    shift = np.clip(shift, -MAX_CENTRE * side, MAX_CENTRE * side)
    return on_whole_pixels(Window(x + w / 2 + shift[0] - side / 2, y + h / 2 + shift[1] - side / 2, side), size)


def reduction_of(window: Window, size: int) -> int:
    """By how much a frame may be reduced before this window is shown at `size` pixels: 1, 2, 4 or 8."""
    reduction = MAX_REDUCTION
    while reduction > 1 and window.side < reduction * size:
        reduction //= 2
    return reduction


def on_whole_pixels(window: Window, size: int) -> Window:
    """The nearest window that falls on whole pixels of the reduced frame."""
    step = reduction_of(window, size)
    left, top, side = (round(v / step) * step for v in window)
    return Window(left, top, side)


def cut(frame: np.ndarray | SequenceFrame, window: Window, size: int) -> Tensor:
    """(3, size, size) float32 with values 0 to 255: the window of a frame, black outside of it.

    Raises `ValueError` naming a frame that cannot be decoded.
    """
    if any(v != int(v) for v in window):
        return _cut_exactly(frame, window, size)
    picture, reduction = _decode(frame, reduction_of(window, size))
    region = _region(picture, *(int(v) // reduction for v in window))
    if region.shape[2] != size:  # this filter is fast for channels that come last in memory, as they do here
        region = F.interpolate(region, (size, size), mode="bilinear", antialias=True)
    return torch.empty(3, size, size).copy_(region[0, :3])


def _cut_exactly(frame: np.ndarray | SequenceFrame, window: Window, size: int) -> Tensor:
    """As in tracking: the window may fall between pixels."""
    picture, _ = _decode(frame, 1)
    left, top = math.floor(window.left) - 2, math.floor(window.top) - 2
    region = _region(picture, left, top, math.ceil(window.side) + 4)[0, :3]
    return crop_image(region, window.left - left, window.top - top, size / window.side, size)


def _decode(frame: np.ndarray | SequenceFrame, reduction: int) -> tuple[np.ndarray | Image.Image, int]:
    if isinstance(frame, SequenceFrame):
        return frame.sequence.picture(frame.index, reduction)
    return frame, 1


def _region(picture: np.ndarray | Image.Image, left: int, top: int, side: int) -> Tensor:
    """(1, 3 or 4, side, side) uint8 cut out of a frame, black outside of it; a fourth channel means nothing."""
    if isinstance(picture, Image.Image):
        region = picture.crop((left, top, left + side, top + side))
        if region.mode == "RGB":  # kept in memory with four bytes a pixel, which are copied as they are
            pixels = torch.frombuffer(bytearray(region.tobytes("raw", "RGBX")), dtype=torch.uint8)
            return pixels.view(1, side, side, 4).permute(0, 3, 1, 2)
        return to_rgb(region)[None]
    height, width = picture.shape[:2]
    x0, x1 = (min(max(v, 0), width) for v in (left, left + side))
    y0, y1 = (min(max(v, 0), height) for v in (top, top + side))
    region = np.zeros((1, side, side, 3), np.uint8)
    region[0, y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
    return torch.from_numpy(region).permute(0, 3, 1, 2)
