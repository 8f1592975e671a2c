"""Metrics of single-object tracking: pure NumPy functions on boxes as x, y, w, h in frame pixels.

The protocols of the benchmarks, which combine them, are in [`protocols`].
"""

import numpy as np

_STEPS = np.arange(11) * 0.05
# 0:0.05:1 as MATLAB makes it: the colon operator counts from both ends, so its upper half is 1 - k * 0.05.
SUCCESS_THRESHOLDS = np.concatenate([_STEPS[:10], [0.5], 1 - _STEPS[:10][::-1]])
PRECISION_THRESHOLDS = np.arange(51, dtype=np.float64)  # pixels
NORMALIZED_THRESHOLDS = np.arange(51) / 100  # of the target's width and height
PRECISION_AT, NORMALIZED_AT = 20, 20  # where these two curves are read: 20 pixels, and 0.2


def as_boxes(boxes_xywh) -> np.ndarray:
    """Boxes as (n, 4) float64. Raises `ValueError` for another shape."""
    boxes = np.asarray(boxes_xywh, np.float64)
    if boxes.ndim == 1 and boxes.size in (0, 4):
        boxes = boxes.reshape(-1, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"Boxes must be (n, 4): x, y, w, h; got an array of shape {boxes.shape}.")
    return boxes


def iou(boxes_xywh: np.ndarray, truth_xywh: np.ndarray) -> np.ndarray:
    """Intersection over union of row i with row i: (n,) in [0, 1]. Both are (n, 4).

    The operations and their order are those of the OTB, LaSOT, TNL2K and pytracking code, which counts pixels from the
    first to the last, so an overlap at a threshold falls on the same side of it. NaN is handled as in MATLAB: `min`
    and `max` ignore it. Two boxes without an area give NaN.

    >>> iou(np.array([[0, 0, 10, 10]]), np.array([[5, 0, 10, 10]])).round(4).tolist()
    [0.3333]
    """
    boxes, truth = as_boxes(boxes_xywh), as_boxes(truth_xywh)
    near = np.fmax(boxes[:, :2], truth[:, :2])
    far = np.fmin(boxes[:, :2] + boxes[:, 2:] - 1, truth[:, :2] + truth[:, 2:] - 1)
    shared = np.fmax(far - near + 1, 0).prod(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared / (boxes[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - shared)


def centre_error(boxes_xywh: np.ndarray, truth_xywh: np.ndarray, normalized: bool = False) -> np.ndarray:
    """Distance of the centres: (n,) in pixels or, if `normalized`, in widths and heights of the ground truth.

    >>> boxes, truth = np.array([[3, 4, 20, 10]]), np.array([[0, 0, 20, 10]])
    >>> centre_error(boxes, truth).tolist(), centre_error(boxes, truth, normalized=True).round(4).tolist()
    ([5.0], [0.4272])
    """
    boxes, truth = as_boxes(boxes_xywh), as_boxes(truth_xywh)
    centres, true_centres = (b[:, :2] + (b[:, 2:] - 1) / 2 for b in (boxes, truth))
    if normalized:
        with np.errstate(invalid="ignore", divide="ignore"):
            centres, true_centres = centres / truth[:, 2:], true_centres / truth[:, 2:]
    with np.errstate(invalid="ignore"):
        return np.sqrt(((centres - true_centres) ** 2).sum(axis=1))


def success_curve(overlaps: np.ndarray, length: int | None = None, thresholds=SUCCESS_THRESHOLDS) -> np.ndarray:
    """Share of `length` frames (default: all) whose overlap is above each threshold (OTB, Wu et al. 2013): (21,).

    >>> success_curve(np.array([0.0, 0.5, 1.0]))[[0, 10, 20]].round(4).tolist()
    [0.6667, 0.3333, 0.0]
    """
    overlaps = np.asarray(overlaps, np.float64)
    return (overlaps[:, None] > thresholds).sum(axis=0) / (len(overlaps) if length is None else length)


def precision_curve(errors: np.ndarray, length: int | None = None, thresholds=PRECISION_THRESHOLDS) -> np.ndarray:
    """Share of `length` frames (default: all) whose centre is at most each threshold away: (51,).

    >>> precision_curve(np.array([0.0, 20.0, 50.5]))[[0, 19, 20, 50]].round(4).tolist()
    [0.3333, 0.3333, 0.6667, 0.6667]
    """
    errors = np.asarray(errors, np.float64)
    return (errors[:, None] <= thresholds).sum(axis=0) / (len(errors) if length is None else length)


def success_auc(overlaps: np.ndarray) -> float:
    """Area under the success curve, as its mean over the 21 thresholds: in [0, 1].

    >>> round(success_auc(np.array([0.5, 0.5])), 4)
    0.4762
    """
    return float(success_curve(overlaps).mean())
