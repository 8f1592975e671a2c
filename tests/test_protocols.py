"""Scores by a benchmark's rules equal a slow transcription of that benchmark's own code, and numbers done by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import slow_protocols
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_pjvlt.evaluation.protocols import PROTOCOLS, score_benchmark

ORACLE = Path(__file__).parents[2] / "shared" / "data" / "lasot_oracle"
MATLAB = ("otb", "lasot", "tnl2k")
EXACT = 100 * 20 / 21  # success of a perfect track: 1 > 1 is false
NAN = math.nan


def assert_same(fast, slow, protocol):
    assert fast.keys() == slow.keys()
    for name, expected in slow.items():
        if math.isnan(expected) and protocol in MATLAB:
            expected = 0.0  # no sequence is left to average: MATLAB prints NaN, the package says 0
        assert fast[name] == pytest.approx(expected, abs=1e-9, rel=0, nan_ok=True), name


def assert_agree(protocol, predictions, truth, **flags):
    """Fast and slow give the same scores, overall and of each sequence, or both refuse."""
    slow = slow_protocols.PROTOCOLS[protocol]
    try:
        expected = slow(predictions, truth, **flags)
    except slow_protocols.Refused:
        with pytest.raises(ValueError):
            score_benchmark(predictions, truth, protocol=protocol, **flags)
        return
    fast = score_benchmark(predictions, truth, protocol=protocol, **flags)
    assert_same(fast, expected, protocol)
    for name in truth:
        own = {what: {name: values[name]} for what, values in flags.items() if values is not None}
        alone = slow({name: predictions[name]}, {name: truth[name]}, **own)
        assert_same(fast.sequences[name], alone, protocol)


def test_every_protocol_has_a_transcription():
    assert PROTOCOLS.keys() == slow_protocols.PROTOCOLS.keys()


# Published boxes of a real tracker


@pytest.fixture(scope="module")
def oracle():
    if not ORACLE.is_dir():
        pytest.skip("the published boxes are not here")
    folders = sorted(folder for folder in ORACLE.iterdir() if folder.is_dir())

    def read(file):
        tables = {f.name: np.loadtxt(f / file, delimiter=",").tolist() for f in folders}
        assert len(tables) == 4
        return tables

    return read("atom.txt"), read("groundtruth.txt"), read("absent.txt")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_published_boxes_score_as_by_the_official_code(oracle, protocol):
    predictions, truth, absent = oracle
    flags = {"absent": absent} if "absent" in PROTOCOLS[protocol].takes else {}
    if protocol == "got10k":
        flags = {
            "frame_sizes": dict.fromkeys(truth, (720, 1280)),
            "cover": {name: [0 if flag else 5 for flag in absent[name]] for name in truth},
        }
    assert_agree(protocol, predictions, truth, **flags)
    first = dict(list(truth.items())[:2])
    scores = score_benchmark(predictions, truth, protocol=protocol, attributes={"first": list(first)}, **flags)
    of_first = scores.attributes["first"]
    assert of_first.pop("sequences") == 2
    assert_same(of_first, slow_protocols.PROTOCOLS[protocol](predictions, first, **flags), protocol)


def test_published_boxes_without_flags_score_as_by_pytracking(oracle):
    predictions, truth, _ = oracle
    assert_agree("pytracking", predictions, truth)


# Random boxes

TENTHS = [k / 10 for k in range(-10, 61)]
TINY = [1e-3, 1e-6, 1e-12]
COORDINATES = [*[1, 2, 3, 10] * 10, *range(-2, 25), *TENTHS, *TINY]
SIZES = [*[20] * 60, *[10] * 30, *range(1, 25), *TENTHS[11:], *TINY, 0, 0, 0]
NEGATIVE = [-1, -0.1, -20, -1e-6]
# Of the truth's size: overlaps that fall on thresholds.
PARTS = st.sampled_from([k / 20 for k in [*range(21), 10, 13, 13, 13, 15]])
SHIFTS = st.sampled_from([0] * 6 + [1, 2, 3, 4, 5, -2, -5, 0.1, 0.2, 12, 16, 20, -20])
NOTHING, WHOLE = st.just(0), st.just(1)
CHANGES = [
    st.tuples(NOTHING, NOTHING, PARTS, WHOLE),
    st.tuples(NOTHING, NOTHING, WHOLE, PARTS),
    st.tuples(SHIFTS, SHIFTS, WHOLE, WHOLE),
    st.tuples(SHIFTS, SHIFTS, PARTS, PARTS),
]
INVALID = [(0, 0, 0, 0), (7, 7, 20, 0), (3, 3, 0, 10)]
WITH_NAN = [(NAN,) * 4, (NAN, 10, 20, 10), (1, NAN, 20, 10), (1, 2, NAN, 10), (1, 2, 3, NAN), (NAN, 10, 0, 10)]


def boxes(signed, nan):
    sizes = st.sampled_from(SIZES + NEGATIVE if signed else SIZES)
    whole = st.tuples(st.sampled_from(COORDINATES), st.sampled_from(COORDINATES), sizes, sizes)
    return st.one_of(whole, whole, whole, whole, st.sampled_from(WITH_NAN)) if nan else whole


def near(truth, change, signed):
    """A prediction made from the truth: moved, and cut to a part of its size."""
    x, y, w, h = (1.0 if math.isnan(number) else number for number in truth)
    dx, dy, part_w, part_h = change
    w, h = (w * part_w, h * part_h) if signed else (abs(w * part_w), abs(h * part_h))
    return (x + dx, y + dy, w, h)


@st.composite
def scenes(draw, protocol):
    """Predictions, ground truth and flags of 1 to 3 sequences; now and then some that the protocol refuses."""
    tolerant = protocol in MATLAB or draw(st.integers(0, 9)) == 9  # pytracking would refuse what comes of this
    got10k = protocol == "got10k"
    signed, nan = tolerant or got10k, tolerant and not got10k
    invalid = INVALID + [(7, 7, -20, 10)] * signed + WITH_NAN * nan
    frame = st.tuples(
        boxes(True, tolerant or got10k),
        st.one_of(
            *CHANGES, *(box.map(lambda b: (*b, None)) for box in (boxes(signed, nan), st.sampled_from(invalid)))
        ),
        st.sampled_from([0, 0, 0, 1]),
        st.integers(0, 8),
    )
    predictions, truth, absent, cover, frame_sizes = {}, {}, {}, {}, {}
    for name in "abc"[: draw(st.integers(1, 3))]:
        real, changes, gone, eighths = zip(*draw(st.lists(frame, min_size=1, max_size=12)), strict=True)
        made = [c[:4] if len(c) == 5 else near(r, c, signed) for r, c in zip(real, changes, strict=True)]
        extra = draw(st.sampled_from([0] * 30 + ([-1] if got10k else [2, 2, 2, -1])))
        made = made[:extra] if extra < 0 else made + [(1, 2, 3, 4)] * extra
        predictions[name], truth[name], absent[name], cover[name] = made, list(real), list(gone), list(eighths)
        frame_sizes[name] = draw(st.tuples(*[st.sampled_from([1, 5, 12, 20, 20, 40, 100])] * 2))
    flags = {"absent": absent, "cover": cover, "frame_sizes": frame_sizes}
    rules, all_flags = PROTOCOLS[protocol], draw(st.booleans())
    return predictions, truth, {what: flags[what] for what in rules.takes if all_flags or what in rules.needs}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(data=st.data())
def test_random_boxes_score_as_by_the_official_code(protocol, data):
    predictions, truth, flags = data.draw(scenes(protocol))
    assert_agree(protocol, predictions, truth, **flags)


def test_whole_boxes_cannot_tell_pytracking_thresholds_from_those_that_torch_makes():
    """How torch rounds its range depends on the processor's vectors; quotients of whole areas are never that close."""
    torch_steps = torch.arange(0.0, 1.0 + 0.05, 0.05, dtype=torch.float64).numpy()
    steps = PROTOCOLS["pytracking"].thresholds["success"]
    assert torch_steps == pytest.approx(steps, abs=3e-16, rel=0)
    parts, wholes = np.meshgrid(np.arange(401.0), np.arange(1.0, 401))
    overlaps = (parts / wholes)[parts <= wholes, None]
    assert ((overlaps > torch_steps) == (overlaps > steps)).all()


# Where the protocols differ, done by hand

BOX, FAR = (10, 10, 20, 10), (500, 500, 20, 10)


def score(protocol, predictions, truth, absent=None, **flags):
    """Scores of one sequence; flags that the protocol needs and the test does not care for are filled in."""
    rules = PROTOCOLS[protocol]
    if absent is None and "absent" in rules.needs:
        absent = [0] * len(truth)
    given = {"absent": absent if "absent" in rules.takes else None, **flags}
    given = {what: {"one": values} for what, values in given.items() if values is not None}
    return score_benchmark({"one": predictions}, {"one": truth}, protocol=protocol, **given)


def close(number):
    return pytest.approx(number, abs=1e-9, rel=0)


@pytest.mark.parametrize(
    ("protocol", "share"),
    [("otb", 3 / 4), ("lasot", 2 / 4), ("tnl2k", 2 / 4), ("pytracking", 2 / 3), ("pytracking_lasot", 2 / 4)],
)
def test_absent_frames_are_not_overlapped_but_stay_in_the_denominator_of_some(protocol, share):
    """Four frames, the third one absent, the last one lost; otb ignores absence."""
    scores = score(protocol, [BOX, BOX, BOX, FAR], [BOX] * 4, absent=[0, 0, 1, 0])
    assert scores["auc"] == close(EXACT * share)
    for metric in ("precision", "op50", "op75"):
        assert scores[metric] == close(100 * share)
    # pytracking divides by the three others, yet its normalised centre counts as found in the absent one
    assert scores["normalized_precision"] == close(100 if protocol == "pytracking" else 100 * share)


@pytest.mark.parametrize("protocol", ["otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot"])
def test_normalised_precision_is_read_at_a_fifth_except_by_tnl2k(protocol):
    """The second centre is 2.5 of 20 pixels off: it is found from 0.13 on, at 38 of 51 thresholds."""
    scores = score(protocol, [BOX, (12.5, 10, 20, 10)], [BOX] * 2)
    mean_of_curve = 100 * (51 + 38) / 2 / 51
    assert scores["normalized_precision"] == close(mean_of_curve if protocol == "tnl2k" else 100)
    assert scores.curves["normalized_precision"].mean() == close(mean_of_curve)


@pytest.mark.parametrize("border", [(0, 10, 20, 10), (10, 0, 20, 10), (-3, 10, 20, 10)])
@pytest.mark.parametrize("protocol", ["otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot"])
def test_truth_at_the_border_is_found_but_not_overlapped_in_matlab_only(protocol, border):
    hit, miss = score(protocol, [BOX, border], [BOX, border]), score(protocol, [BOX, FAR], [BOX, border])
    assert hit["precision"] == hit["normalized_precision"] == close(100)
    if protocol in MATLAB:
        assert hit["auc"] == miss["auc"] == close(EXACT / 2)
        assert miss["precision"] == miss["normalized_precision"] == close(100)
    else:
        assert (hit["auc"], miss["auc"]) == (close(EXACT), close(EXACT / 2))
        assert miss["precision"] == miss["normalized_precision"] == close(50)


@pytest.mark.parametrize("protocol", ["otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot"])
def test_overlap_on_a_threshold_is_a_success_where_matlab_rounds_the_threshold_down(protocol):
    """13 of 20 is 0.65, 1 - 7 * 0.05 is a little less, and 13 * 0.05 is not."""
    scores = score(protocol, [BOX, (10, 10, 13, 1)], [BOX, (10, 10, 20, 1)])
    assert scores.curves["success"][[12, 13, 14]] == close([100, 100 if protocol in MATLAB else 50, 50])
    assert scores["auc"] == close(100 * (20 + (14 if protocol in MATLAB else 13)) / 42)


@pytest.mark.parametrize("protocol", ["otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot"])
@pytest.mark.parametrize("bad", [(0, 0, 0, 0), (7, 7, 20, 0)])
def test_a_box_without_a_size_repeats_the_one_before(protocol, bad):
    assert score(protocol, [FAR, BOX, bad, bad], [BOX] * 4)["auc"] == close(EXACT)


@pytest.mark.parametrize("protocol", ["otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot"])
def test_the_second_box_repeats_the_first_as_the_tracker_gave_it(protocol):
    """And not the ground truth that stands in for it."""
    scores = score(protocol, [FAR, (0, 0, 0, 0)], [BOX] * 2)
    assert (scores["auc"], scores["precision"]) == (close(EXACT / 2), close(50))


@pytest.mark.parametrize("bad", [(NAN,) * 4, (10, 10, -20, 10), (10, 10, 20, -10)])
def test_nan_and_negative_sizes_repeat_in_matlab_and_are_refused_by_pytracking(bad):
    for protocol in MATLAB:
        assert score(protocol, [FAR, BOX, bad], [BOX] * 3)["auc"] == close(EXACT)
    for protocol in ("pytracking", "pytracking_lasot"):
        with pytest.raises(ValueError, match=r"'one'.*no NaN and no negative.*frame 2"):
            score(protocol, [FAR, BOX, bad], [BOX] * 3)


def test_a_box_that_is_partly_nan_repeats_in_lasot_and_is_scored_by_otb():
    """Without x, otb's box reaches as far as the truth does: overlapped in full, its centre nowhere."""
    partly = [FAR, BOX, (NAN, 10, 20, 10)]
    found, lost = score("lasot", partly, [BOX] * 3), score("otb", partly, [BOX] * 3)
    assert (found["auc"], found["precision"]) == (close(EXACT), close(100))
    assert (lost["auc"], lost["precision"]) == (close(EXACT), close(200 / 3))


@pytest.mark.parametrize("protocol", MATLAB)
def test_nothing_is_repeated_where_the_truth_is_nan(protocol):
    """The NaN there is kept, counts as found, and is what the next frame repeats."""
    nan = (NAN,) * 4
    scores = score(protocol, [BOX, nan, nan], [BOX, (NAN, 1, 1, 1), BOX])
    assert (scores["auc"], scores["precision"]) == (close(EXACT / 3), close(200 / 3))


@pytest.mark.parametrize("protocol", ["pytracking", "pytracking_lasot"])
def test_nan_in_the_truth_is_refused_by_pytracking(protocol):
    with pytest.raises(ValueError, match=r"'one'.*NaN in the ground truth"):
        score(protocol, [BOX] * 2, [BOX, (NAN,) * 4])


@pytest.mark.parametrize("protocol", ["otb", "lasot", "tnl2k", "pytracking_lasot", "got10k"])
def test_too_few_boxes_are_refused(protocol):
    flags = {"frame_sizes": (600, 600)} if protocol == "got10k" else {}
    with pytest.raises(ValueError, match="'one': 1 predictions for 2 frames"):
        score(protocol, [BOX], [BOX] * 2, **flags)


def test_too_few_boxes_are_filled_with_zeros_by_pytracking():
    """The centre of nothing is at (-0.5, -0.5): 25 pixels from (19.5, 14.5)."""
    scores = score("pytracking", [BOX], [BOX] * 2)
    assert (scores["auc"], scores["precision"]) == (close(EXACT / 2), close(50))
    assert scores.curves["precision"][[24, 25]] == close([50, 100])


@pytest.mark.parametrize("protocol", ["otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot"])
def test_too_many_boxes_are_cut(protocol):
    """Where OTB's code, and pytracking's at a box without a size, would look for a truth that is not there."""
    scores = score(protocol, [BOX, BOX, FAR, (0, 0, 0, 0)], [BOX] * 2)
    assert (scores["auc"], scores["precision"]) == (close(EXACT), close(100))


def test_too_many_boxes_are_refused_by_got10k():
    with pytest.raises(ValueError, match="'one': 3 predictions for 2 frames"):
        score("got10k", [BOX] * 3, [BOX] * 2, frame_sizes=(600, 600))


@pytest.mark.parametrize(
    ("protocol", "mean"), [("otb", 1), ("lasot", 1), ("tnl2k", 1), ("pytracking", None), ("pytracking_lasot", 1 / 2)]
)
def test_a_sequence_that_is_zero_everywhere_leaves_the_mean_in_matlab(protocol, mean):
    """`gone` is absent throughout; for otb, which ignores absence, it touches the border throughout."""
    otb = protocol == "otb"
    truth = {"seen": [BOX] * 2, "gone": [(0, 10, 20, 10) if otb else BOX] * 2}
    flags = {} if otb else {"absent": {"seen": [0, 0], "gone": [1, 1]}}
    if mean is None:
        with pytest.raises(ValueError, match="'gone': no frame shows the target"):
            score_benchmark(truth, truth, protocol=protocol, **flags)
        return
    scores = score_benchmark(truth, truth, protocol=protocol, **flags)
    assert (scores["auc"], scores["op50"]) == (close(EXACT * mean), close(100 * mean))
    assert scores["precision"] == scores["normalized_precision"] == close(100 * mean)
    assert scores.sequences["gone"]["auc"] == 0
    assert scores.sequences["gone"]["precision"] == (100 if otb else 0)


@pytest.mark.parametrize("protocol", ["lasot", "tnl2k"])
def test_a_mean_of_no_sequences_is_zero(protocol):
    """MATLAB's is NaN."""
    assert set(score(protocol, [BOX] * 2, [BOX] * 2, absent=[1, 1]).values()) == {0.0}
    slow = slow_protocols.PROTOCOLS[protocol]({"one": [BOX]}, {"one": [BOX]}, {"one": [1]})
    assert all(map(math.isnan, slow.values()))


def test_normalised_precision_of_pytracking_passes_100_where_the_truth_has_no_area():
    """One frame of two counts, both are found; for its LaSOT both count."""
    boxes = [BOX, (10, 10, 0, 10)]
    scores, of_lasot = (score(protocol, boxes, boxes) for protocol in ("pytracking", "pytracking_lasot"))
    assert (scores["normalized_precision"], scores["precision"]) == (close(200), close(100))
    assert (of_lasot["normalized_precision"], of_lasot["precision"]) == (close(100), close(50))


def test_got10k_leaves_out_the_first_frame_and_pools_the_others():
    """One perfect frame and three lost ones; the mean over sequences would be a half."""
    truth = {"short": [BOX] * 2, "long": [BOX] * 4}
    boxes = {"short": [FAR, BOX], "long": [BOX, FAR, FAR, FAR]}
    scores = score_benchmark(boxes, truth, protocol="got10k", frame_sizes=dict.fromkeys(truth, (600, 600)))
    assert scores == {"ao": close(25), "sr50": close(25), "sr75": close(25)}
    assert [scores.sequences[name]["ao"] for name in ("short", "long")] == [close(100), 0]


@pytest.mark.parametrize(
    ("box", "truth", "overlap"),
    [
        ((-10, 0, 20, 10), (0, 0, 10, 10), 1 / 2),  # moved to 0, still 20 wide
        ((0, -5, 10, 10), (0, 0, 10, 5), 1 / 2),  # moved to 0, still 10 high
        ((10, 0, 30, 30), (10, 0, 10, 10), 1),  # cut at the right and at the bottom: the frame is 20 wide, 10 high
        ((10, 0, 30, 30), (10, 0, 90, 90), 1),  # so is the truth
        ((30, 0, 5, 5), (15, 0, 5, 5), 0),  # beyond the frame nothing is left
        ((0, 0, 15, 10), (0, 0, 20, 10), 3 / 4),
    ],
)
def test_got10k_clips_to_the_frame_as_its_toolkit(box, truth, overlap):
    scores = score("got10k", [truth, box], [truth] * 2, frame_sizes=(10, 20))
    assert scores == {"ao": close(100 * overlap), "sr50": 100 * (overlap > 0.5), "sr75": 100 * (overlap > 0.75)}


def test_got10k_drops_frames_where_nothing_is_to_be_seen():
    """Eighths that are not known count as seen."""
    boxes, truth = [BOX, FAR, BOX, FAR], [BOX] * 4
    scores = [
        score("got10k", boxes, truth, frame_sizes=(600, 600), cover=c)["ao"] for c in ([8, 0, 1, 0], [0, 0, 8, -1])
    ]
    assert scores == [close(100), close(50)]


def test_got10k_refuses_nan_in_frames_that_count():
    broken = [BOX, BOX, (NAN, 10, 20, 10)]
    for boxes, truth, what in ((broken, [BOX] * 3, "prediction"), ([BOX] * 3, broken, "ground truth")):
        with pytest.raises(ValueError, match=f"'one': the {what} of frame 2 is NaN"):
            score("got10k", boxes, truth, frame_sizes=(600, 600))
    assert score("got10k", broken, [BOX] * 3, frame_sizes=(600, 600), cover=[8, 8, 0])["ao"] == close(100)
    assert score("got10k", [(NAN,) * 4, BOX], [BOX] * 2, frame_sizes=(600, 600))["ao"] == close(100)


# Errors


def test_an_unknown_protocol_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'vot'.*otb, lasot, tnl2k, pytracking, pytracking_lasot, got10k"):
        score_benchmark({"one": [BOX]}, {"one": [BOX]}, protocol="vot")


def test_sequences_without_predictions_are_named():
    with pytest.raises(ValueError, match=r"2 of 3 sequences.*\['b', 'c'\]"):
        score_benchmark({"a": [BOX], "d": [BOX]}, {name: [BOX] for name in "acb"}, protocol="otb")


def test_no_sequences_are_an_error():
    with pytest.raises(ValueError, match="no sequence"):
        score_benchmark({}, {}, protocol="otb")


@pytest.mark.parametrize(
    ("protocol", "flag"),
    [("lasot", "absent"), ("tnl2k", "absent"), ("pytracking_lasot", "absent"), ("got10k", "frame_sizes")],
)
def test_flags_that_are_needed_are_named(protocol, flag):
    with pytest.raises(ValueError, match=f"{protocol}.*needs `{flag}`"):
        score_benchmark({"one": [BOX]}, {"one": [BOX]}, protocol=protocol)
    with pytest.raises(ValueError, match=f"'one': `{flag}` has no entry for it"):
        score_benchmark({"one": [BOX]}, {"one": [BOX]}, protocol=protocol, **{flag: {"other": [0]}})


@pytest.mark.parametrize(
    ("protocol", "flag"),
    [
        ("otb", "absent"),
        ("got10k", "absent"),
        ("pytracking", "cover"),
        ("otb", "frame_sizes"),
        ("pytracking", "cover"),
    ],
)
def test_flags_that_are_not_known_are_refused(protocol, flag):
    given = {"frame_sizes": {"one": (9, 9)}} if protocol == "got10k" else {}
    with pytest.raises(ValueError, match=f"{protocol}.*does not use `{flag}`"):
        score_benchmark({"one": [BOX]}, {"one": [BOX]}, protocol=protocol, **given, **{flag: {"one": [0]}})


@pytest.mark.parametrize(("boxes", "truth"), [([BOX[:3]], [BOX]), ([BOX], [BOX[:3]]), ([[BOX]], [BOX])])
def test_boxes_of_another_shape_are_refused(boxes, truth):
    with pytest.raises(ValueError, match=r"'one'.*\(n, 4\).*shape"):
        score("otb", boxes, truth)


def test_an_empty_truth_is_refused():
    with pytest.raises(ValueError, match=r"'one'.*empty"):
        score("otb", [BOX], [])


@pytest.mark.parametrize(("protocol", "flag"), [("lasot", "absent"), ("pytracking", "absent"), ("got10k", "cover")])
@pytest.mark.parametrize("values", [[0], [0, 0, 0]])
def test_flags_of_another_length_are_refused(protocol, flag, values):
    flags = {"frame_sizes": (9, 9)} if protocol == "got10k" else {}
    with pytest.raises(ValueError, match=f"'one': {len(values)} flags in `{flag}` for 2 frames"):
        score(protocol, [BOX] * 2, [BOX] * 2, **flags, **{flag: values})


def test_an_attribute_of_sequences_that_are_not_there_is_refused():
    with pytest.raises(ValueError, match=r"'blur'.*\['two'\]"):
        score_benchmark({"one": [BOX]}, {"one": [BOX]}, protocol="otb", attributes={"blur": ["one", "two"]})
