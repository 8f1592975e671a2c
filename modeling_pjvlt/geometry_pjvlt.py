"""Geometry of crops: their place in the frame, the pixels they read, and their boxes. Plain NumPy, no torch.

Shared by the image processor and by trackers that run without torch. The convention is that of
`image_processing_pjvlt`: pixel i covers [i, i + 1), and a crop is the triple (left, top, scale).
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

MIN_BOX_SIDE = 1.0  # pixels; a tracked box never gets thinner
CORNERS = ("xmin", "ymin", "xmax", "ymax")  # keys of a box that is a dict, as in the pipeline's results
BAND = 8  # rows or columns of a crop that one matmul filters, at most
ONE_THREAD = 500_000  # multiplications of a matmul for which OpenBLAS starts no threads, which would then spin
OVERHANG = 0.1  # share of a box's side that may lie outside the frame without a warning

Box = tuple[float, float, float, float]  # x, y, w, h

logger = logging.getLogger(__name__)


def check_box(box_xywh: Sequence[float] | Mapping[str, float], frame_size: tuple[int, int] | None = None) -> Box:
    """The box as four floats, or a `ValueError` that says what is wrong with it.

    A box is x, y, w, h in frame pixels (list, tuple, array or tensor), or a dict of `xmin`, `ymin`, `xmax`, `ymax`:
    finite, wider and higher than 0 and, where `frame_size` (height, width) is given, overlapping the frame.
    """
    if isinstance(box_xywh, Mapping):
        box_xywh = _from_corners(box_xywh)
    elif hasattr(box_xywh, "tolist"):  # a tensor may be on another device, where NumPy does not reach
        box_xywh = box_xywh.tolist()
    try:
        values = [float(v) for v in np.asarray(box_xywh, dtype=np.float64).reshape(-1)]
    except (TypeError, ValueError):
        raise ValueError(f"A box must be four numbers x, y, w, h, got {box_xywh!r}.") from None
    if len(values) != 4:
        raise ValueError(f"A box must be four numbers x, y, w, h, got {len(values)}: {values}.")
    if not all(math.isfinite(v) for v in values):
        raise ValueError(f"The box {values} holds a value that is not finite.")
    x, y, w, h = values
    if w <= 0 or h <= 0:
        raise ValueError(f"The box {values} must be wider and higher than 0 (x, y, w, h; not two corners).")
    if frame_size is not None:
        height, width = frame_size
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise ValueError(f"The box {values} (x, y, w, h) lies outside the frame of {width} x {height} pixels.")
    return x, y, w, h


def _from_corners(box: Mapping[str, float]) -> list[float]:
    if set(box) != set(CORNERS):
        raise ValueError(f"A box given as a dict needs the keys {', '.join(CORNERS)}, got {', '.join(map(str, box))}.")
    left, top, right, bottom = (box[name] for name in CORNERS)
    return [left, top, right - left, bottom - top]


def check_first_box(box_xywh: Sequence[float] | Mapping[str, float], frame_size: tuple[int, int]) -> Box:
    """[`check_box`] for a user's box, with a warning if it looks like another format than x, y, w, h."""
    x, y, w, h = box = check_box(box_xywh, frame_size)
    height, width = frame_size
    numbers = " ".join(f"{v:g}" for v in box)
    if min(box) >= 0 and max(box) <= 1:
        meant = " ".join(f"{v:.0f}" for v in (x * width, y * height, w * width, h * height))
        logger.warning(
            f"The box {numbers} lies within one pixel: x y w h are expected in pixels of the frame, which is "
            f"{width} x {height}. Did you mean {meant}?"
        )
    elif max(-x / w, -y / h, (x + w - width) / w, (y + h - height) / h) > OVERHANG:
        warning = f"The box {numbers} (x y w h) leaves the frame of {width} x {height} pixels."
        if not isinstance(box_xywh, Mapping) and 0 <= x < w <= width and 0 <= y < h <= height:
            warning += f" x y w h are expected; did you mean x1 y1 x2 y2? That box is {x:g} {y:g} {w - x:g} {h - y:g}."
        logger.warning(warning)
    return box


def crop_geometry(box_xywh: Sequence[float], factor: float, size: int) -> tuple[float, float, float]:
    """(left, top, scale) of the square of side ceil(sqrt(w h) factor) around the box, shown at `size` pixels."""
    x, y, w, h = box_xywh
    side = max(math.ceil(math.sqrt(w * h) * factor), 1)
    return x + w / 2 - side / 2, y + h / 2 - side / 2, size / side


def clip_box(box_xywh: Sequence[float], frame_size: tuple[int, int]) -> Box:
    """Keep a predicted box (xywh) inside the frame (height, width), at least `MIN_BOX_SIDE` pixels wide and high."""
    x, y, w, h = (float(v) for v in box_xywh)
    height, width = frame_size
    left, right = (min(max(v, 0.0), width) for v in (x, x + w))
    top, bottom = (min(max(v, 0.0), height) for v in (y, y + h))
    left, top = min(left, width - MIN_BOX_SIDE), min(top, height - MIN_BOX_SIDE)
    return left, top, max(right - left, MIN_BOX_SIDE), max(bottom - top, MIN_BOX_SIDE)


def crops_to_frames(boxes_cxcywh: np.ndarray, crops, size: int, frame_sizes) -> list[Box]:
    """Convert predicted boxes to pixels of their frames, and clip them to the frames.

    Args: boxes (B, 4), cx, cy, w, h in fractions of the crop; crops (B, 3), left, top, scale; `size` of the crop in
    pixels; frame_sizes (height, width), B of them or one for all. Returns B boxes xywh. Raises `ValueError` for
    different numbers of boxes and crops.
    """
    boxes = np.asarray(boxes_cxcywh, dtype=np.float64)
    crops = np.asarray(crops, dtype=np.float64).reshape(-1, 3)
    if len(crops) != len(boxes):
        raise ValueError(f"Got {len(boxes)} boxes but {len(crops)} crops.")
    sizes = np.broadcast_to(np.asarray(frame_sizes, dtype=np.int64).reshape(-1, 2), (len(boxes), 2)).tolist()
    corners = boxes[:, :2] - boxes[:, 2:] / 2
    boxes_xywh = np.concatenate([corners, boxes[:, 2:]], axis=1) * size / crops[:, 2:]
    boxes_xywh[:, :2] += crops[:, :2]
    return [clip_box(box, frame) for box, frame in zip(boxes_xywh.tolist(), sizes, strict=True)]


def axis_triangles(start: float, scale: float, size: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Triangle filter of one axis: centres (size,) in source pixels, half width, and weight (size,) of each peak.

    Output pixel i sits at source position start + (i + 0.5) / scale; the triangle is as wide as an output pixel, at
    least one source pixel (so shrinking does not alias). Weights are normalised over all pixels, also those outside
    the frame, which are black.
    """
    support = max(1.0, 1.0 / scale)
    centres = start + (np.arange(size) + 0.5) / scale
    return centres, support, 1 / _triangle_mass(centres - 0.5, support)


def _triangle_mass(centres: np.ndarray, support: float) -> np.ndarray:
    """Sum of max(0, 1 - |centre - k| / support) over all integers k: two arithmetic series, so no pixel is visited."""
    low, middle, high = np.ceil(centres - support), np.floor(centres), np.floor(centres + support)
    below = (middle - low + 1) * (1 - (centres - (low + middle) / 2) / support)
    return below + (high - middle) * (1 - ((middle + 1 + high) / 2 - centres) / support)


def axis_taps(start: float, scale: float, size: int, length: int) -> tuple[int, int, np.ndarray, np.ndarray]:
    """The source pixels [first, last) that an axis reads, and each output pixel's sources (size, K) and weights."""
    centres, support, peak = axis_triangles(start, scale, size)
    first = min(max(math.floor(start - support), 0), length)
    last = min(max(math.ceil(start + size / scale + support), first), length)
    count = int(min(2 * support + 2, last - first))
    places = np.clip(np.floor(centres - support), first, last - count).astype(np.int64)[:, None] + np.arange(count)
    weights = np.maximum(1 - np.abs(centres[:, None] - 0.5 - places) / support, 0) * peak[:, None]
    return first, last, places - first, weights.astype(np.float32)


def crop_array(frame: np.ndarray, left: float, top: float, scale: float, size: int) -> np.ndarray:
    """The crop of a frame (H, W, C): (C, size, size) float32 in the same value range, black outside the frame.

    Crop pixel (0, 0) starts at frame position (left, top), and a frame pixel is `scale` crop pixels wide.
    """
    channels = frame.shape[2]
    y0, y1, *rows = axis_taps(top, scale, size, frame.shape[0])
    x0, x1, *columns = axis_taps(left, scale, size, frame.shape[1])
    if y1 <= y0 or x1 <= x0:
        return np.zeros((channels, size, size), dtype=np.float32)
    height, width = y1 - y0, x1 - x0
    pixels = frame[y0:y1, x0:x1].reshape(height, -1)
    low = np.empty((size, width * channels), dtype=np.float32)
    for part, seen, weights in _bands(*rows, height, pixels.shape[1]):
        np.matmul(weights, pixels[seen].astype(np.float32), out=low[part])
    low = np.ascontiguousarray(low.reshape(size, width, channels).transpose(2, 0, 1)).reshape(channels * size, width)
    crop = np.empty((channels * size, size), dtype=np.float32)
    for part, seen, weights in _bands(*columns, width, len(low)):
        np.matmul(low[:, seen], weights.T, out=crop[:, part])
    return crop.reshape(channels, size, size)


def _bands(
    places: np.ndarray, weights: np.ndarray, length: int, lines: int
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Split a filter of `length` pixels, with `weights` (size, K) at non-decreasing `places` (size, K), into bands.

    For each band of output pixels it yields their slice, the slice of pixels they read, and the matrix of weights,
    for a matmul with `lines` rows or columns of pixels: of at most `ONE_THREAD` multiplications, if one output pixel
    does not need more.
    """
    size, taps = places.shape
    dense = np.zeros((size, length), dtype=np.float32)
    dense[np.arange(size)[:, None], places] = weights
    first, band = places[:, 0], min(BAND, size)
    while band > 1 and band * (taps + (first[band - 1 :] - first[: size - band + 1]).max()) * lines > ONE_THREAD:
        band -= 1
    for start in range(0, size, band):
        stop = min(start + band, size)
        part, seen = slice(start, stop), slice(places[start, 0], places[stop - 1, -1] + 1)
        yield part, seen, dense[part, seen]


__all__ = [
    "Box",
    "axis_taps",
    "axis_triangles",
    "check_box",
    "check_first_box",
    "clip_box",
    "crop_array",
    "crop_geometry",
    "crops_to_frames",
]
