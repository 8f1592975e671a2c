"""Crops for training: the geometry of tracking, on whole pixels, so that cropping is faster than decoding a frame.

A frame is decoded at 1/2, 1/4 or 1/8 of its size where the crop is shrunk by as much anyway (JPEG can do that). Only
the window is copied, and the triangle filter of tracking runs on 8-bit integers.
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

from ...image_processing_pjvlt import PJVLTImageProcessor, check_box, hidden_template
from ..dataset import TrackingSequence
from ..text import swap_left_right
from .degradation import degrade

MAX_CENTRE = 0.45  # largest distance of the target from the middle of the search crop, as a share of its side
MAX_REDUCTION = 8  # of a JPEG
MAX_TWIN_RATIO = 2.0  # between the sizes of two targets that share a search region


@dataclass(frozen=True)
class SequenceFrame:
    """A frame that is not decoded yet."""

    sequence: TrackingSequence
    index: int

    def alone(self) -> "SequenceFrame":
        """The same frame, without the other encoded images of its sequence."""
        return SequenceFrame(replace(self.sequence, frames=self.sequence.frames.only(self.index)), self.index)


class FramePair(NamedTuple):
    """The two frames that a sample is cut from.

    Frames are (H, W, 3) uint8 RGB, or not decoded yet; boxes are xywh in frame pixels. template: None if it is hidden
    and only the sentence identifies the target. present: False if the search frame does not show the target; its box
    then gives the search region. surroundings: (H, W, 3), shown outside the search frame, which is black without it.
    """

    template: np.ndarray | SequenceFrame | None
    template_box: np.ndarray
    search: np.ndarray | SequenceFrame
    search_box: np.ndarray
    text: str
    present: bool = True
    surroundings: np.ndarray | None = None

    def alone(self) -> "FramePair":
        """The same pair, without the other encoded images of its sequences."""
        template = None if self.template is None else self.template.alone()
        return self._replace(template=template, search=self.search.alone())


class Window(NamedTuple):
    """A rectangle of a frame, on whole pixels even after a JPEG is reduced. A crop shows it as a square."""

    left: int
    top: int
    width: int
    height: int


def template_window(box_xywh, factor: float, size: int) -> Window:
    """The template's region: the square of [`crop_geometry`], on whole pixels."""
    x, y, w, h = box_xywh
    side = math.ceil(math.sqrt(w * h) * factor)
    return window_around(x + w / 2, y + h / 2, (side, side), size)


class WindowJitter(NamedTuple):
    """How a search region is shifted and scaled around its target.

    centre: it moves by up to centre / 2 target sizes each way. scale: its side is multiplied by exp(scale * normal).
    aspect: its width is multiplied by exp(aspect / 2 * uniform(-1, 1)) and its height divided by the same. per_axis:
    exactly as OSTrack, whose `_get_jittered_box` draws width and height independently (the side then spreads by
    scale / sqrt(2)) and measures the shift in jittered sizes.
    """

    centre: float = 3.0
    scale: float = 0.25
    aspect: float = 0.0
    per_axis: bool = False


def search_window(rng, box_xywh, factor: float, size: int, jitter: WindowJitter) -> Window:
    """A search region with the target off its centre, as in OSTrack's sampling.

    The side is sqrt(w h) * factor before the jitter; the target's centre stays inside.
    """
    x, y, w, h = box_xywh
    target_size = math.sqrt(w * h)
    jittered, sides = _jittered(rng, target_size, factor, jitter)
    shifts = rng.uniform(-0.5, 0.5, 2) * jitter.centre * (jittered if jitter.per_axis else target_size)
    dx, dy = (min(max(v, -reach), reach) for v, reach in zip(shifts, _reach(sides, size), strict=True))
    return window_around(x + w / 2 + dx, y + h / 2 + dy, sides, size)


def shared_window(rng, boxes_xywh, factor: float, size: int, jitter: WindowJitter) -> Window | None:
    """A search region for two targets of one image, drawn so that it does not reveal which of the two is meant.

    As [`search_window`], but one target is drawn to give the size and, independently, one to give the centre. Then the
    region is moved until it holds both centres. None if their sizes differ too much, or they are too far apart.

    In regions around the target alone, objects near the edge are distractors more often than targets. A model that
    learns this does not return to its target once it follows a distractor.
    """
    boxes = np.asarray(boxes_xywh, dtype=float)
    centres, sizes = boxes[:, :2] + boxes[:, 2:] / 2, np.sqrt(boxes[:, 2] * boxes[:, 3])
    if sizes.max() > MAX_TWIN_RATIO * sizes.min():
        return None
    _, sides = _jittered(rng, float(rng.choice(sizes)), factor, jitter)
    limit = np.array(_reach(sides, size))
    low, high = centres.max(axis=0) - limit, centres.min(axis=0) + limit
    if (low > high).any():
        return None
    shift = rng.uniform(-0.5, 0.5, 2) * jitter.centre * math.sqrt(sides[0] * sides[1]) / factor
    middle = np.clip(centres[rng.integers(2)] + shift, low, high)
    return window_around(*middle.tolist(), sides, size)


def _jittered(rng, target_size: float, factor: float, jitter: WindowJitter) -> tuple[float, tuple[int, int]]:
    """The size of a target, made larger or smaller, and the sides of its search region."""
    spread = rng.standard_normal(2).mean() if jitter.per_axis else rng.standard_normal()
    jittered = target_size * math.exp(jitter.scale * spread)
    stretch = math.exp(jitter.aspect / 2 * rng.uniform(-1, 1)) if jitter.aspect else 1.0
    return jittered, (math.ceil(jittered * factor * stretch), math.ceil(jittered * factor / stretch))


def _reach(sides: tuple[int, int], size: int) -> list[float]:
    """Largest distance, in x and y, of a target's centre from the middle of its region, even after rounding."""
    step = reduction_of(min(sides), size)
    return [min(MAX_CENTRE * side, max(side / 2 - step, 0)) for side in sides]


def window_around(x: float, y: float, sides: tuple[int, int], size: int) -> Window:
    """The window nearest to the rectangle around (x, y) that lies on whole pixels of the reduced frame."""
    step = reduction_of(min(sides), size)
    width, height = (max(round(side / step), 1) * step for side in sides)
    return Window(round((x - width / 2) / step) * step, round((y - height / 2) / step) * step, width, height)


def reduction_of(side: int, size: int) -> int:
    """The factor a frame may be reduced by before `side` of its pixels are resized to `size`: 1, 2, 4 or 8."""
    reduction = MAX_REDUCTION
    while reduction > 1 and side < reduction * size:
        reduction //= 2
    return reduction


def cut(
    frame: np.ndarray | SequenceFrame,
    window: Window,
    size: int,
    mirror: bool = False,
    surroundings: np.ndarray | None = None,
) -> Tensor:
    """(3, size, size) uint8: a crop of the window of a frame; `mirror` swaps left and right.

    Outside the frame it is black, or shows `surroundings`, an image (H, W, 3) stretched over the window.
    Raises `ValueError` naming a frame that cannot be decoded.
    """
    image, reduction = _decode(frame, reduction_of(min(window.width, window.height), size))
    region = _region(_pixels(image), *(v // reduction for v in window), surroundings)
    if region.shape[2:] != (size, size):  # fast, because channels come last in memory here
        region = F.interpolate(region, (size, size), mode="bilinear", antialias=True)
    crop = region[0, :3].numpy()
    return torch.from_numpy(np.ascontiguousarray(crop[..., ::-1] if mirror else crop))


def _decode(frame: np.ndarray | SequenceFrame, reduction: int) -> tuple[np.ndarray | Image.Image, int]:
    if isinstance(frame, SequenceFrame):
        return frame.sequence.decode(frame.index, reduction)
    return frame, 1


def _pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    """(H, W, 3 or 4) uint8; the fourth channel is padding.

    Pillow stores four bytes per RGB pixel. This is a view of them where they are contiguous (images of up to four
    megapixels), else a copy.
    """
    if isinstance(image, np.ndarray):
        return image
    if image.mode == "RGB":
        try:
            return np.from_dlpack(pa.array(image).values).reshape(image.height, image.width, 4)
        except ValueError:  # in several pieces
            pass
    return np.array(image)


def _region(pixels: np.ndarray, left: int, top: int, width: int, height: int, surroundings=None) -> Tensor:
    """(1, channels, height, width), copied from a frame, black or `surroundings` outside; channels last in memory."""
    rows, columns, channels = pixels.shape
    x0, x1 = (min(max(v, 0), columns) for v in (left, left + width))
    y0, y1 = (min(max(v, 0), rows) for v in (top, top + height))
    inside = (x1 - x0, y1 - y0) == (width, height)
    if surroundings is not None and not inside:
        stretched = Image.fromarray(surroundings).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=1.5)
        region = torch.from_numpy(np.array(stretched))[None]
        pixels = pixels[..., :3]
    else:
        region = (torch.empty if inside else torch.zeros)(1, height, width, channels, dtype=torch.uint8)
    region.numpy()[0, y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    return region.permute(0, 3, 1, 2)


DEFAULT_JITTER = WindowJitter()


class PairCropper:
    """Turns a frame pair into a sample; [`PairCollator`] makes batches of samples.

    Args:
        images: the image processor, which knows the sizes of the crops.
        jitter: of the search region; see [`WindowJitter`].
        flip_probability: share of samples that are mirrored: both crops, the box, and left and right in the sentence.
        template_flip_probability: share of samples whose template alone is mirrored (or mirrored back).
        brightness_jitter: each crop is made brighter or darker by a factor of up to 1 ± this.
        degrade_probability: share of search crops that lose sharpness, light or colour; see [`degrade`].
    """

    def __init__(
        self,
        images: PJVLTImageProcessor,
        jitter: WindowJitter = DEFAULT_JITTER,
        flip_probability: float = 0.5,
        brightness_jitter: float = 0.2,
        template_flip_probability: float = 0.0,
        degrade_probability: float = 0.0,
    ):
        self.images, self.jitter = images, jitter
        self.flip_probability, self.brightness_jitter = flip_probability, brightness_jitter
        self.template_flip_probability, self.degrade_probability = template_flip_probability, degrade_probability

    def shared_window(self, rng: np.random.Generator, boxes_xywh: list[np.ndarray]) -> Window | None:
        """One search region for two targets of an image, or None; see the function [`shared_window`]."""
        boxes = [check_box(box) for box in boxes_xywh]
        return shared_window(rng, boxes, self.images.search_factor, self.images.search_size, self.jitter)

    def __call__(
        self, pair: FramePair, rng: np.random.Generator, window: Window | None = None
    ) -> dict[str, Tensor | str]:
        """One sample; its search region is drawn around the target, unless a `window` is given.

        `pixel_values`, `template_pixel_values`: (3, S, S) uint8, the search and the template crop. `brightness`: (2,)
        the factors that will multiply these two. `labels`: (4,) cx, cy, w, h in fractions of the search crop (w or h
        of a long target can be above 1), zeros where it does not show the target. `text`: the sentence.

        Raises `ValueError` naming a frame that cannot be decoded or an invalid box.
        """
        images = self.images
        x, y, w, h = box = check_box(pair.search_box)
        search = window or search_window(rng, box, images.search_factor, images.search_size, self.jitter)
        label = [(x + w / 2 - search.left) / search.width, (y + h / 2 - search.top) / search.height]
        label += [w / search.width, h / search.height]
        text, mirror = pair.text, bool(rng.random() < self.flip_probability)
        if mirror:
            label[0], text = 1 - label[0], swap_left_right(text)
        template_mirror = mirror
        if self.template_flip_probability:
            template_mirror ^= bool(rng.random() < self.template_flip_probability)
        template_light, search_light = 1 + self.brightness_jitter * rng.uniform(-1, 1, 2)
        crop = cut(pair.search, search, images.search_size, mirror, pair.surroundings)
        if self.degrade_probability and rng.random() < self.degrade_probability:
            crop = degrade(rng, crop)
        return {
            "pixel_values": crop,
            "template_pixel_values": self._template(pair, template_mirror),
            "brightness": torch.tensor([search_light, template_light], dtype=torch.float32),
            "labels": torch.tensor(label if pair.present else [0.0] * 4, dtype=torch.float32),
            "text": text,
        }

    def _template(self, pair: FramePair, mirror: bool) -> Tensor:
        images = self.images
        if pair.template is None:
            return hidden_template(images)
        window = template_window(check_box(pair.template_box), images.template_factor, images.template_size)
        return cut(pair.template, window, images.template_size, mirror)
