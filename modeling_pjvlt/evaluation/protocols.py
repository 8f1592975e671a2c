"""Scoring by the rules of a benchmark's own toolkit, to the digit: [`score_benchmark`].

Every protocol takes the boxes of a tracker that saw the first frame's box (one-pass evaluation) and never restarts.

`otb` (tracker benchmark v1.0/v1.1, Wu et al. 2013; `calcSeqErrRobust.m`, `perfPlot.m`)
    First frame: replaced by the ground truth, and counted. An invalid prediction (w or h not positive, or all four
    numbers NaN) repeats the box before it. Longer predictions are cut (the toolkit stops); shorter ones are an error.
    Frames whose ground truth has a number that is not positive, x and y included, count as missed in the success
    curve, whatever is predicted, and as found in both precision curves.
    Success: overlap > each of 0:0.05:1. Precision: centre error <= 20 pixels. All frames are the denominator. The
    mean of a curve over sequences leaves out those where it is zero everywhere (0 where none is left; the toolkit
    gives NaN). No absent flags. Normalised precision as in `lasot`; the toolkit has none.
`lasot` (LaSOT toolkit, Fan et al. 2019; `calc_seq_err_robust.m`, `eval_tracker.m`, `plot_draw_save.m`)
    As `otb`, but a prediction with any NaN repeats the box before it, and frames flagged absent are taken out of the
    errors while they stay in the denominator. Normalised precision: at 0.2 of the target's width and height.
`tnl2k` (TNL2K toolkit, Wang et al. 2021: the code of `lasot`)
    As `lasot`; but normalised precision is ranked as its script sets it, by the mean of the whole curve over
    0:0.01:0.5. Precision is read at 20 pixels, as papers do; the script has a switch for it.
`pytracking` (pytracking, `extract_results.py`; what most papers print)
    First frame as above. NaN or negative w, h: an error. A w or h of zero repeats the box before it. Longer
    predictions are cut; shorter ones are filled with zeros. Only frames whose ground truth has an area and, where
    flags are given, a visible target are the denominator. The others still count as found in normalised precision,
    which can lift it above 100. Thresholds are k * 0.05, k = 0..20.
`pytracking_lasot` (the same code for its dataset `lasot`)
    All frames are the denominator, absent ones are never found, shorter predictions are an error. Needs flags.
`got10k` (GOT-10k toolkit, Huang et al. 2019; `got10k/experiments/got10k.py`)
    First frame left out; frames with `cover` 0 left out. Both boxes are clipped to the frame, left and top first and
    then width and height, as the toolkit does. AO is the mean overlap, SR the share above 0.5 and 0.75, both over all
    frames of all sequences at once. Lengths must agree. NaN in a frame that counts is an error (the toolkit would
    print NaN). A `cover` of -1, unknown, counts.

Means are computed in float64; pytracking computes them in float32, which differs in the eighth digit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .metrics import (
    NORMALIZED_AT,
    NORMALIZED_THRESHOLDS,
    PRECISION_AT,
    PRECISION_THRESHOLDS,
    SUCCESS_THRESHOLDS,
    as_boxes,
    centre_error,
    iou,
    precision_curve,
    success_curve,
)

PYTRACKING_THRESHOLDS = np.arange(21) * 0.05
GOT10K_THRESHOLDS = np.linspace(0, 1, 101)
EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Frames:
    """What one sequence is scored from: predictions and ground truth, (n, 4) xywh; flags (n,) or None.

    frame_size: height, width.
    """

    predictions: np.ndarray
    truth: np.ndarray
    absent: np.ndarray | None = None
    cover: np.ndarray | None = None
    frame_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Protocol:
    """How a benchmark scores.

    curves: of one sequence, by name (`success`, `precision`, `normalized_precision`), shares in [0, 1]; for got10k
    the overlaps that count, as `overlaps`. thresholds: of each curve. needs, takes: the arguments of
    [`score_benchmark`] that must and that may be given. mean_of_normalized: whether normalised precision is the mean
    of its curve. keep_zero: whether sequences whose curve is zero everywhere stay in the mean. pooled: whether the
    frames of all sequences are scored together.
    """

    name: str
    curves: Callable[[Frames], dict[str, np.ndarray]]
    thresholds: dict[str, np.ndarray]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    mean_of_normalized: bool = False
    keep_zero: bool = False
    pooled: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the overall scores, the main one first."""
        return ("ao", "sr50", "sr75") if self.pooled else ("auc", "precision", "normalized_precision", "op50", "op75")


class BenchmarkScores(dict):
    """Overall scores by name, in percent, and the scores and curves behind them.

    protocol: its name. sequences: name -> the same scores of one sequence. attributes: name -> scores over the
    sequences that have it, and `sequences`, their number. curves: name -> mean curve in percent. thresholds: name ->
    where that curve was sampled.
    """

    protocol: str
    sequences: dict[str, dict[str, float]]
    attributes: dict[str, dict[str, float]]
    curves: dict[str, np.ndarray]
    thresholds: dict[str, np.ndarray]


def score_benchmark(
    predictions: Mapping[str, np.ndarray],
    ground_truth: Mapping[str, np.ndarray],
    absent: Mapping[str, np.ndarray] | None = None,
    protocol: str = "lasot",
    frame_sizes: Mapping[str, tuple[int, int]] | None = None,
    cover: Mapping[str, np.ndarray] | None = None,
    attributes: Mapping[str, list[str]] | None = None,
) -> BenchmarkScores:
    """Score a tracker's boxes by the rules of a benchmark; see this module for each.

    Args:
        predictions, ground_truth: sequence -> (n, 4) boxes as x, y, w, h in frame pixels. Sequences that only
            `predictions` has are ignored.
        absent: sequence -> (n,) flags, true where the target is not visible.
        protocol: one of PROTOCOLS.
        frame_sizes: sequence -> (height, width). cover: sequence -> (n,) visible eighths, -1 where unknown. For
            `got10k`.
        attributes: attribute -> names of the sequences that have it.

    Returns scores in percent. Raises `ValueError` that names the sequence for boxes that the protocol cannot score,
    and for an argument that it needs and does not get, or gets and does not use.
    """
    rules = PROTOCOLS.get(protocol)
    if rules is None:
        raise ValueError(f"Unknown protocol {protocol!r}; known are {', '.join(PROTOCOLS)}.")
    given = {"absent": absent, "frame_sizes": frame_sizes, "cover": cover}
    for name, value in given.items():
        if value is None and name in rules.needs:
            raise ValueError(f"The protocol {protocol!r} needs `{name}` for every sequence.")
        if value is not None and name not in rules.takes:
            raise ValueError(
                f"The protocol {protocol!r} does not use `{name}`; leave it out, or choose another protocol."
            )
    if not ground_truth:
        raise ValueError("There is no sequence to score.")
    missing = sorted(set(ground_truth) - set(predictions))
    if missing:
        raise ValueError(f"{len(missing)} of {len(ground_truth)} sequences have no predictions: {missing[:5]}.")
    curves = {}
    for name, truth in ground_truth.items():
        try:
            curves[name] = rules.curves(_frames(name, predictions[name], truth, **given))
        except ValueError as error:
            raise ValueError(f"Sequence {name!r}: {error}") from None
    return _summary(rules, curves, attributes or {})


def _frames(name: str, predictions, truth, absent, frame_sizes, cover) -> Frames:
    truth = as_boxes(truth)
    if not len(truth):
        raise ValueError("the ground truth is empty.")
    flags = {}
    for what, values in (("absent", absent), ("cover", cover)):
        if values is not None:
            flags[what] = np.asarray(_of_sequence(values, name, what)).reshape(-1)
            if len(flags[what]) != len(truth):
                raise ValueError(f"{len(flags[what])} flags in `{what}` for {len(truth)} frames.")
    size = None if frame_sizes is None else tuple(_of_sequence(frame_sizes, name, "frame_sizes"))
    return Frames(as_boxes(predictions), truth, frame_size=size, **flags)


def _of_sequence(values: Mapping, name: str, what: str):
    if name not in values:
        raise ValueError(f"`{what}` has no entry for it.")
    return values[name]


def _cut(frames: Frames) -> np.ndarray:
    """A copy of the predictions, as many as the ground truth. Raises `ValueError` if there are fewer."""
    if len(frames.predictions) < len(frames.truth):
        raise ValueError(f"{len(frames.predictions)} predictions for {len(frames.truth)} frames.")
    return frames.predictions[: len(frames.truth)].copy()


def _repeat_where(bad: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Replace each bad row by the last good row before it, or else by the first row."""
    rows = np.where(bad, 0, np.arange(len(boxes)))
    return boxes[np.maximum.accumulate(rows)]


def _three_curves(
    overlaps: np.ndarray, errors: np.ndarray, normalized: np.ndarray, length: int, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        "success": success_curve(overlaps, length, thresholds),
        "precision": precision_curve(errors, length),
        "normalized_precision": precision_curve(normalized, length, NORMALIZED_THRESHOLDS),
    }


def _matlab_curves(frames: Frames, any_nan: bool) -> dict[str, np.ndarray]:
    """otb, lasot, tnl2k. any_nan: whether one NaN makes a box invalid, or only four of them."""
    boxes, truth = _cut(frames), frames.truth
    nan = np.isnan(boxes)
    bad = (nan.any(axis=1) if any_nan else nan.all(axis=1)) | (boxes[:, 2:] <= 0).any(axis=1)
    boxes = _repeat_where(bad & ~np.isnan(truth).any(axis=1), boxes)
    boxes[0] = truth[0]
    if frames.absent is not None:
        present = ~(np.asarray(frames.absent) == 1)
        boxes, truth = boxes[present], truth[present]
    unknown = ~(truth > 0).all(axis=1)
    overlaps, errors, normalized = iou(boxes, truth), centre_error(boxes, truth), centre_error(boxes, truth, True)
    overlaps[unknown] = errors[unknown] = normalized[unknown] = -1
    return _three_curves(overlaps, errors, normalized, len(frames.truth), SUCCESS_THRESHOLDS)


def _pytracking_curves(frames: Frames, lasot: bool) -> dict[str, np.ndarray]:
    boxes, truth = frames.predictions.copy(), frames.truth
    if np.isnan(boxes).any() or (boxes[:, 2:] < 0).any():
        row = int(np.flatnonzero(np.isnan(boxes).any(axis=1) | (boxes[:, 2:] < 0).any(axis=1))[0])
        raise ValueError(f"pytracking takes no NaN and no negative w or h; frame {row} is {boxes[row].tolist()}.")
    if np.isnan(truth).any():
        raise ValueError("pytracking takes no NaN in the ground truth.")
    boxes = _repeat_where((boxes[:, 2:] == 0).any(axis=1), boxes)
    if lasot and len(boxes) < len(truth):
        raise ValueError(f"{len(boxes)} predictions for {len(truth)} frames.")
    boxes = np.concatenate([boxes[: len(truth)], np.zeros((max(len(truth) - len(boxes), 0), 4))])
    boxes[0] = truth[0]
    valid = (truth[:, 2:] > 0).all(axis=1)
    absent = None if frames.absent is None else np.asarray(frames.absent) == 1
    if absent is not None:
        valid &= ~absent
    overlaps, errors, normalized = iou(boxes, truth), centre_error(boxes, truth), centre_error(boxes, truth, True)
    overlaps[~valid], errors[~valid], normalized[~valid] = -1, np.inf, -1
    if lasot:
        errors[absent] = normalized[absent] = np.inf
    length = len(truth) if lasot else int(valid.sum())
    if not length:
        raise ValueError("no frame shows the target.")
    return _three_curves(overlaps, errors, normalized, length, PYTRACKING_THRESHOLDS)


def _clip_to_frame(boxes: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """As the GOT-10k toolkit: a corner that is moved inside does not shorten its side."""
    height, width = frame_size
    x, y = np.clip(boxes[:, 0], 0, width), np.clip(boxes[:, 1], 0, height)
    return np.stack([x, y, np.clip(boxes[:, 2], 0, width - x), np.clip(boxes[:, 3], 0, height - y)], axis=1)


def _got10k_overlaps(frames: Frames) -> dict[str, np.ndarray]:
    boxes, truth = frames.predictions, frames.truth
    if len(boxes) != len(truth):
        raise ValueError(f"{len(boxes)} predictions for {len(truth)} frames.")
    counts = np.ones(len(truth), bool) if frames.cover is None else np.asarray(frames.cover) != 0
    counts[0] = False
    for what, rows in (("prediction", boxes), ("ground truth", truth)):
        if np.isnan(rows[counts]).any():
            row = int(np.flatnonzero(counts & np.isnan(rows).any(axis=1))[0])
            raise ValueError(f"the {what} of frame {row} is NaN.")
    boxes, truth = (_clip_to_frame(rows[counts], frames.frame_size) for rows in (boxes, truth))
    near = np.maximum(boxes[:, :2], truth[:, :2])
    far = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
    shared = np.maximum(far - near, 0).prod(axis=1)
    union = boxes[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - shared
    return {"overlaps": np.clip(shared / (union + EPS), 0, 1)}


def _matlab(name: str, any_nan: bool, **rest) -> Protocol:
    thresholds = {
        "success": SUCCESS_THRESHOLDS,
        "precision": PRECISION_THRESHOLDS,
        "normalized_precision": NORMALIZED_THRESHOLDS,
    }
    return Protocol(name, lambda frames: _matlab_curves(frames, any_nan), thresholds, **rest)


def _pytracking(name: str, lasot: bool, **rest) -> Protocol:
    thresholds = {
        "success": PYTRACKING_THRESHOLDS,
        "precision": PRECISION_THRESHOLDS,
        "normalized_precision": NORMALIZED_THRESHOLDS,
    }
    return Protocol(
        name, lambda f: _pytracking_curves(f, lasot), thresholds, takes=("absent",), keep_zero=True, **rest
    )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        _matlab("otb", any_nan=False),
        _matlab("lasot", any_nan=True, needs=("absent",), takes=("absent",)),
        _matlab("tnl2k", any_nan=True, needs=("absent",), takes=("absent",), mean_of_normalized=True),
        _pytracking("pytracking", lasot=False),
        _pytracking("pytracking_lasot", lasot=True, needs=("absent",)),
        Protocol(
            "got10k",
            _got10k_overlaps,
            {"success": GOT10K_THRESHOLDS},
            needs=("frame_sizes",),
            takes=("frame_sizes", "cover"),
            pooled=True,
        ),
    )
}


def _summary(rules: Protocol, curves: dict[str, dict[str, np.ndarray]], attributes: Mapping) -> BenchmarkScores:
    """Overall, per attribute and per sequence, in percent."""
    combine = _pool if rules.pooled else _average
    overall = combine(rules, list(curves.values()))
    scores = BenchmarkScores(_read(rules, overall))
    scores.protocol, scores.thresholds = rules.name, dict(rules.thresholds)
    scores.curves = {name: curve * 100 for name, curve in overall.items() if name in rules.thresholds}
    alone = {name: combine(rules, [one]) for name, one in curves.items()}
    scores.sequences = {name: _read(rules, one) for name, one in alone.items()}
    scores.attributes = {}
    for attribute, names in attributes.items():
        unknown = sorted(set(names) - set(curves))
        if unknown:
            raise ValueError(f"The attribute {attribute!r} names sequences that are not scored: {unknown[:5]}.")
        if names:
            combined = _read(rules, combine(rules, [curves[name] for name in names]))
            scores.attributes[attribute] = {**combined, "sequences": len(names)}
    return scores


def _average(rules: Protocol, curves: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean curves over sequences."""
    means = {}
    for name in rules.thresholds:
        rows = np.stack([one[name] for one in curves])
        kept = rows if rules.keep_zero else rows[rows.sum(axis=1) > EPS]
        means[name] = kept.mean(axis=0) if len(kept) else np.zeros(rows.shape[1])
    return means


def _pool(rules: Protocol, curves: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Overlaps of all frames, and their curve."""
    overlaps = np.concatenate([one["overlaps"] for one in curves])
    if not len(overlaps):
        return {"overlaps": overlaps, "success": np.full(len(GOT10K_THRESHOLDS), np.nan)}
    return {"overlaps": overlaps, "success": success_curve(overlaps, thresholds=GOT10K_THRESHOLDS)}


def _read(rules: Protocol, curves: dict[str, np.ndarray]) -> dict[str, float]:
    """Scores in percent, from mean curves or from pooled overlaps."""
    if rules.pooled:
        overlaps = curves["overlaps"]
        frame_scores = [overlaps, overlaps > 0.5, overlaps > 0.75]
        values = [float(np.mean(v)) if len(overlaps) else float("nan") for v in frame_scores]
    else:
        success, normalized = curves["success"], curves["normalized_precision"]
        values = [
            success.mean(),
            curves["precision"][PRECISION_AT],
            normalized.mean() if rules.mean_of_normalized else normalized[NORMALIZED_AT],
            success[10],
            success[15],
        ]
    return {name: 100 * float(value) for name, value in zip(rules.metrics, values, strict=True)}
