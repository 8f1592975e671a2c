"""The benchmarks' own scoring rules, frame by frame in plain Python: what `test_protocols.py` holds the package to.

Written from the published toolkits (OTB, LaSOT and TNL2K in MATLAB, pytracking, GOT-10k) and not from the package.
Boxes are lists of four numbers; every function takes dicts by sequence and returns the overall scores in percent.
"""

import math

EPS = 2.0**-52
NAN = math.nan
# MATLAB's 0:0.05:1 is counted from both of its ends, torch's and NumPy's ranges from the first one.
MATLAB_STEPS = [k * 0.05 for k in range(10)] + [0.5] + [1 - k * 0.05 for k in range(9, -1, -1)]
PYTHON_STEPS = [k * 0.05 for k in range(21)]
PIXELS = [float(k) for k in range(51)]
SHARES = [k / 100 for k in range(51)]


class Refused(Exception):
    """The official code stops here."""


def _divide(a, b):
    """IEEE division, where Python would raise."""
    if b != 0:
        return a / b
    return NAN if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)


def _smaller(a, b):
    """MATLAB's min: NaN loses."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return min(a, b)


def _larger(a, b):
    """MATLAB's max: NaN loses."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return max(a, b)


def _matlab_overlap(a, b):
    right_a, top_a = a[0] + a[2] - 1, a[1] + a[3] - 1
    right_b, top_b = b[0] + b[2] - 1, b[1] + b[3] - 1
    wide = _larger(0, _smaller(right_a, right_b) - _larger(a[0], b[0]) + 1)
    high = _larger(0, _smaller(top_a, top_b) - _larger(a[1], b[1]) + 1)
    shared = wide * high
    return _divide(shared, a[2] * a[3] + b[2] * b[3] - shared)


def _distance(box, truth, normalised):
    """Of the two centres; a half of (w - 1) is exact, so MATLAB's and pytracking's ways of writing it agree."""
    x, true_x = box[0] + (box[2] - 1) / 2, truth[0] + (truth[2] - 1) / 2
    y, true_y = box[1] + (box[3] - 1) / 2, truth[1] + (truth[3] - 1) / 2
    if normalised:
        x, true_x = _divide(x, truth[2]), _divide(true_x, truth[2])
        y, true_y = _divide(y, truth[3]), _divide(true_y, truth[3])
    return math.sqrt((x - true_x) * (x - true_x) + (y - true_y) * (y - true_y))


def _share_above(values, thresholds, length):
    return [sum(1 for value in values if value > threshold) / length for threshold in thresholds]


def _share_up_to(values, thresholds, length):
    return [sum(1 for value in values if value <= threshold) / length for threshold in thresholds]


def _column_means(rows, columns):
    """Mean of rows; of none it is NaN, as in MATLAB."""
    return [sum(row[k] for row in rows) / len(rows) if rows else NAN for k in range(columns)]


def _matlab_sequence(boxes, truth, absent, any_nan):
    """Success, precision and normalised precision of one sequence."""
    if len(boxes) < len(truth):
        raise Refused("fewer rows than the annotation")
    boxes = [list(box) for box in boxes[: len(truth)]]
    for i in range(1, len(truth)):
        box, real = boxes[i], truth[i]
        no_size = box[2] <= 0 or box[3] <= 0
        if any_nan:
            some = sum(math.isnan(number) for number in box) > 0
            conditions = [(some or no_size) and not math.isnan(real[j]) for j in range(4)]
        else:
            conditions = [(math.isnan(box[j]) or no_size) and not math.isnan(real[j]) for j in range(4)]
        if all(conditions):  # how MATLAB's `if` reads a vector
            boxes[i] = list(boxes[i - 1])
    boxes[0] = list(truth[0])
    overlaps, errors, normalised = [], [], []
    for i in range(len(truth)):
        if absent is not None and absent[i] == 1:
            continue
        if sum(number > 0 for number in truth[i]) == 4:
            overlaps.append(_matlab_overlap(boxes[i], truth[i]))
            errors.append(_distance(boxes[i], truth[i], False))
            normalised.append(_distance(boxes[i], truth[i], True))
        else:
            overlaps.append(-1.0)
            errors.append(-1.0)
            normalised.append(-1.0)
    length = len(truth) + EPS
    return (
        _share_above(overlaps, MATLAB_STEPS, length),
        _share_up_to(errors, PIXELS, length),
        _share_up_to(normalised, SHARES, length),
    )


def _matlab(predictions, truth, absent, any_nan, ranked_by_area):
    three = [
        _matlab_sequence(predictions[name], truth[name], absent and absent[name], any_nan) for name in truth
    ]  # of every sequence
    success, precision, normalised = (
        _column_means([rows[which] for rows in three if sum(rows[which]) > EPS], len(three[0][which]))
        for which in range(3)
    )
    return _scores(success, precision, sum(normalised) / 51 if ranked_by_area else normalised[20])


def _scores(success, precision, normalised):
    return {
        "auc": 100 * sum(success) / 21,
        "precision": 100 * precision[20],
        "normalized_precision": 100 * normalised,
        "op50": 100 * success[10],
        "op75": 100 * success[15],
    }


def otb(predictions, truth):
    """OTB's own repair of rows; where a tracker gives too many of them OTB stops, and here they are cut."""
    return _matlab(predictions, truth, None, any_nan=False, ranked_by_area=False)


def lasot(predictions, truth, absent):
    return _matlab(predictions, truth, absent, any_nan=True, ranked_by_area=False)


def tnl2k(predictions, truth, absent):
    return _matlab(predictions, truth, absent, any_nan=True, ranked_by_area=True)


def _pytracking_overlap(box, truth):
    left, top = max(box[0], truth[0]), max(box[1], truth[1])
    right = min(box[0] + box[2] - 1.0, truth[0] + truth[2] - 1.0)
    bottom = min(box[1] + box[3] - 1.0, truth[1] + truth[3] - 1.0)
    shared = max(right - left + 1.0, 0.0) * max(bottom - top + 1.0, 0.0)
    return _divide(shared, box[2] * box[3] + truth[2] * truth[3] - shared)


def _pytracking_sequence(boxes, truth, visible, is_lasot):
    """Success, precision and normalised precision of one sequence."""
    boxes = [list(box) for box in boxes]
    for box in boxes:
        if any(math.isnan(number) for number in box) or box[2] < 0 or box[3] < 0:
            raise Refused("invalid results")
    for real in truth:
        if any(math.isnan(number) for number in real):
            raise Refused("NaN in the annotation")
    for i in range(1, len(boxes)):
        if boxes[i][2] == 0 or boxes[i][3] == 0:
            if i >= len(truth):
                raise Refused("looks for an annotation behind the last one")
            boxes[i] = list(boxes[i - 1])
    if len(boxes) > len(truth):
        boxes = boxes[: len(truth)]
    elif len(boxes) < len(truth):
        if is_lasot:
            raise Refused("lengths do not match")
        boxes += [[0.0] * 4 for _ in range(len(truth) - len(boxes))]
    boxes[0] = list(truth[0])
    overlaps, errors, normalised, valid_frames = [], [], [], 0
    for i, (box, real) in enumerate(zip(boxes, truth, strict=True)):
        valid = real[2] > 0 and real[3] > 0 and (visible is None or visible[i])
        valid_frames += valid
        overlap = _pytracking_overlap(box, real) if valid else -1.0
        error = _distance(box, real, False) if valid else math.inf
        share = _distance(box, real, True) if valid else -1.0
        if is_lasot and not visible[i]:
            error = share = math.inf
        if math.isnan(overlap):
            raise Refused("NaN in the overlaps")
        overlaps.append(overlap)
        errors.append(error)
        normalised.append(share)
    length = len(truth) if is_lasot else valid_frames
    if length <= 0:
        raise Refused("a length of zero")
    return (
        _share_above(overlaps, PYTHON_STEPS, length),
        _share_up_to(errors, PIXELS, length),
        _share_up_to(normalised, SHARES, length),
    )


def _pytracking(predictions, truth, absent, is_lasot):
    visible = {name: absent and [not flag for flag in absent[name]] for name in truth}
    three = [_pytracking_sequence(predictions[name], truth[name], visible[name], is_lasot) for name in truth]
    success, precision, normalised = (
        _column_means([rows[which] for rows in three], len(three[0][which])) for which in range(3)
    )
    return _scores(success, precision, normalised[20])


def pytracking(predictions, truth, absent=None):
    return _pytracking(predictions, truth, absent, is_lasot=False)


def pytracking_lasot(predictions, truth, absent):
    return _pytracking(predictions, truth, absent, is_lasot=True)


def _clip(number, low, high):
    """NumPy's clip: NaN stays."""
    if math.isnan(number) or math.isnan(high):
        return NAN
    return min(max(number, low), high)


def _inside(box, width, height):
    x, y = _clip(box[0], 0, width), _clip(box[1], 0, height)
    return [x, y, _clip(box[2], 0, width - x), _clip(box[3], 0, height - y)]


def _got10k_overlap(a, b):
    if any(math.isnan(number) for number in (*a, *b)):
        return NAN
    wide = max(min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]), 0)
    high = max(min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]), 0)
    shared = wide * high
    return _clip(shared / (a[2] * a[3] + b[2] * b[3] - shared + EPS), 0.0, 1.0)


def got10k(predictions, truth, frame_sizes, cover=None):
    heap = []
    for name in truth:
        if len(predictions[name]) != len(truth[name]):
            raise Refused("shapes differ")
        height, width = frame_sizes[name]
        for i in range(1, len(truth[name])):
            box, real = _inside(predictions[name][i], width, height), _inside(truth[name][i], width, height)
            if cover is None or cover[name][i] > 0:
                heap.append(_got10k_overlap(box, real))
                if math.isnan(heap[-1]):
                    raise Refused("the toolkit would print NaN")
    if not heap:
        return {"ao": NAN, "sr50": NAN, "sr75": NAN}
    return {
        "ao": 100 * sum(heap) / len(heap),
        "sr50": 100 * sum(overlap > 0.5 for overlap in heap) / len(heap),
        "sr75": 100 * sum(overlap > 0.75 for overlap in heap) / len(heap),
    }


PROTOCOLS = {function.__name__: function for function in (otb, lasot, tnl2k, pytracking, pytracking_lasot, got10k)}
