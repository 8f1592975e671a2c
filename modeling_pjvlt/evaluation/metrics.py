"""Metrics of single-object tracking: pure NumPy functions on boxes as x, y, w, h in frame pixels."""

import numpy as np

SUCCESS_THRESHOLDS = np.linspace(0, 1, 21)


def iou(boxes_xywh: np.ndarray, truth_xywh: np.ndarray) -> np.ndarray:
    """Intersection over union of row i with row i: (n,) in [0, 1]. Both are (n, 4).

    >>> iou(np.array([[0, 0, 10, 10]]), np.array([[5, 0, 10, 10]])).round(4).tolist()
    [0.3333]
    """
    boxes_xywh, truth_xywh = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (boxes_xywh, truth_xywh))
    near = np.maximum(boxes_xywh[:, :2], truth_xywh[:, :2])
    far = np.minimum(boxes_xywh[:, :2] + boxes_xywh[:, 2:], truth_xywh[:, :2] + truth_xywh[:, 2:])
    shared = np.maximum(far - near, 0).prod(axis=1)
    return shared / (boxes_xywh[:, 2:].prod(axis=1) + truth_xywh[:, 2:].prod(axis=1) - shared)


def success_curve(overlaps: np.ndarray) -> np.ndarray:
    """Share of frames whose overlap is above each of 21 thresholds 0, 0.05, …, 1 (OTB, Wu et al. 2013): (21,).

    >>> success_curve(np.array([0.0, 0.5, 1.0]))[[0, 10, 20]].round(4).tolist()
    [0.6667, 0.3333, 0.0]
    """
    return (np.asarray(overlaps)[:, None] > SUCCESS_THRESHOLDS).mean(axis=0)


def success_auc(overlaps: np.ndarray) -> float:
    """Area under the success curve, as its mean over the thresholds: in [0, 1].

    >>> round(success_auc(np.array([0.5, 0.5])), 4)
    0.4762
    """
    return float(success_curve(overlaps).mean())
