"""Sessions while the video runs: targets come, go, get lost and found; state is small, and nobody disturbs anybody."""

import copy
import io
import json
import pickle
import re
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_pjvlt import PJVLTConfig, PJVLTProcessor, TrackingSession
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.session_pjvlt import GROWTH, MAX_GROWTH, Search, frame_tiles

CLIP = ProceduralClip(5, 12, size=(90, 120))
FRAMES = [CLIP.frame(i) for i in range(len(CLIP))]


@pytest.fixture(scope="module")
def session(tiny_model, tiny_processor):
    """Function: a session with its model; the same model each time."""
    model = tiny_model(stirred=True)
    return lambda **settings: TrackingSession(model, tiny_processor, **settings)


def answers(session, frames):
    return [[(t.target_id, t.box, t.score, t.lost) for t in session.step(frame)] for frame in frames]


class Scripted(TrackingSession):
    """Says what it is told to: boxes that move one pixel to the right a frame, with these scores."""

    def script(self, scores):
        self.scores, self.growths, self.boxes = iter(scores), [], []

    def _locate(self, image, size, searches):
        (target,) = self._targets.values()
        self.growths.append(target.growth)
        self.boxes.append(target.box)
        x, y, w, h = target.box
        return [(x + 1, y, w, h)], [next(self.scores)]


@pytest.fixture
def scripted(tiny_model, tiny_processor):
    session = Scripted(tiny_model(), tiny_processor, lost_score=0.3, lost_after=3)
    session.add_target(FRAMES[0], [10, 10, 8, 8], "it", target_id="it")
    return session


def test_a_target_is_lost_after_some_low_scores_and_found_with_a_better_one(scripted):
    scores = [0.9, 0.2, 0.2, 0.2, 0.2, 0.1, 0.5, 0.2, 0.9]
    scripted.script(scores)
    lost = [scripted.step(FRAMES[0])[0].lost for _ in scores]
    assert lost == [False, False, False, True, True, True, False, False, False]
    assert scripted.growths == pytest.approx([1, 1, 1, 1, GROWTH, GROWTH**2, GROWTH**3, 1, 1])
    # Searched where it was last seen, at x = 11, and followed from where it was found.
    assert [box[0] for box in scripted.boxes] == [10, 11, 12, 13, 11, 11, 11, 12, 13]


def test_the_search_region_does_not_grow_for_ever_and_the_last_sight_is_remembered(scripted):
    scripted.script([0.0] * 40)
    for _ in range(40):
        scripted.step(FRAMES[0])
    assert max(scripted.growths) == MAX_GROWTH
    assert scripted.box_of("it") == (10, 10, 8, 8)


def test_a_lost_score_of_zero_loses_nobody(tiny_model, tiny_processor):
    session = Scripted(tiny_model(), tiny_processor, lost_score=0, lost_after=1)
    session.add_target(FRAMES[0], [10, 10, 8, 8], "it")
    session.script([0.0] * 5)
    assert not any(session.step(FRAMES[0])[0].lost for _ in range(5))


def test_a_larger_search_region_shows_the_target_smaller(session):
    tracker = session(fast=False)
    tracker.add_target(FRAMES[0], CLIP.boxes[0], CLIP.text, target_id="it")
    seen = []
    forward = tracker.model.forward
    tracker.model.forward = lambda **inputs: (seen.append(inputs["pixel_values"].clone()), forward(**inputs))[1]
    try:
        for growth in (1.0, 2.0):
            tracker._targets["it"].growth, tracker._targets["it"].box = growth, tuple(CLIP.boxes[0])
            tracker.step(FRAMES[0])
    finally:
        del tracker.model.forward
    plain, wide = seen
    inner = torch.nn.functional.avg_pool2d(plain, 2)
    torch.testing.assert_close(wide[..., 8:-8, 8:-8], inner, atol=0.35, rtol=0)


def test_a_sentence_can_change_in_mid_video(session):
    changed, other = session(), session()
    for tracker, text in ((changed, "red square"), (other, "blue star")):
        tracker.add_target(FRAMES[0], CLIP.boxes[0], text, target_id="it")
    assert answers(changed, FRAMES[1:3]) != answers(other, FRAMES[1:3])
    changed.set_text("it", "blue star")
    changed._targets["it"].box = other._targets["it"].box
    assert answers(changed, FRAMES[3:6]) == answers(other, FRAMES[3:6])
    with pytest.raises(KeyError, match="nobody"):
        changed.set_text("nobody", "red square")


@pytest.mark.parametrize("fusion", ["progressive", "none"])
@pytest.mark.parametrize("text", [["white dog"], 3, b"dog"])
def test_a_sentence_that_is_not_a_string_is_refused_and_changes_nothing(fusion, text, tiny_model, tiny_processor):
    session = TrackingSession(tiny_model(fusion=fusion), tiny_processor)
    session.add_target(FRAMES[0], [10, 10, 8, 8], "a dog", target_id="it")
    for give in (lambda: session.add_target(FRAMES[0], [10, 10, 8, 8], text), lambda: session.set_text("it", text)):
        with pytest.raises(ValueError, match="one sentence, a string"):
            give()
    assert session.target_ids == ["it"] and session.state_dict()["it"]["text"] == "a dog"


def test_state_goes_on_to_the_last_bit_in_another_session(session):
    first = session(lost_score=0.6, lost_after=2)
    first.add_target(FRAMES[0], CLIP.boxes[0], CLIP.text, target_id="a")
    first.add_target(FRAMES[0], CLIP.boxes[0] + 3, None, target_id="b")
    answers(first, FRAMES[1:5])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    assert file.tell() < 30_000
    file.seek(0)
    second = session(lost_score=0.6, lost_after=2)
    second.add_target(FRAMES[0], CLIP.boxes[0], "somebody else", target_id="c")
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.target_ids == ["a", "b"]
    assert answers(second, FRAMES[5:]) == answers(first, FRAMES[5:])


def test_state_is_a_copy(session):
    tracker = session()
    tracker.add_target(FRAMES[0], CLIP.boxes[0], CLIP.text, target_id="a")
    state = tracker.state_dict()
    before = state["a"]["box"]
    answers(tracker, FRAMES[1:4])
    assert state["a"]["box"] == before != tracker.box_of("a")


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(session):
    tracker = session()
    tracker.add_target(FRAMES[0], CLIP.boxes[0], CLIP.text, target_id="a")
    state = tracker.state_dict()
    with pytest.raises(ValueError, match="'a' has no box"):
        tracker.load_state_dict({"a": {k: v for k, v in state["a"].items() if k != "box"}})
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\), but the model takes"):
        tracker.load_state_dict({"a": {**state["a"], "template": torch.zeros(1, 3, 8, 8)}})
    undisturbed = session()
    undisturbed.load_state_dict(state)
    assert tracker.target_ids == ["a"] and tracker.step(FRAMES[1]) == undisturbed.step(FRAMES[1])


def test_two_people_in_two_threads_get_what_each_gets_alone(session):
    people = [(CLIP.boxes[0], "red square"), (CLIP.boxes[0] + np.float32(4), "blue star on the left")]

    def track(number, said, start=None):
        tracker = session()
        box, text = people[number]
        tracker.add_target(FRAMES[0], box, text, target_id=str(number))
        if start is not None:
            start.wait()
        said[number] = answers(tracker, FRAMES[1:] * 5)

    alone, together, start = {}, {}, threading.Barrier(2)
    for number in range(2):
        track(number, alone)
    threads = [threading.Thread(target=track, args=(number, together, start)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone and alone[0] != alone[1]


def test_targets_come_and_go_while_the_video_runs(session):
    tracker, alone = session(), session()
    for one in (tracker, alone):
        one.add_target(FRAMES[0], CLIP.boxes[0], CLIP.text, target_id="first")
    tracker.step(FRAMES[1])
    alone.step(FRAMES[1])
    tracker.add_target(FRAMES[1], CLIP.boxes[1], "another one", target_id="second")
    assert [t.target_id for t in tracker.step(FRAMES[2])] == ["first", "second"]
    alone.step(FRAMES[2])
    tracker.remove_target("second")
    (left,), (expected,) = tracker.step(FRAMES[3]), alone.step(FRAMES[3])
    assert left.box == pytest.approx(expected.box, abs=1e-3)


def test_sizes_can_be_smoothed_around_the_same_middle(tiny_model, tiny_processor):
    class Doubling(Scripted):
        def _locate(self, image, size, searches):
            return [(20.0, 30.0, 16.0, 32.0)], [0.9]

    session = Doubling(tiny_model(), tiny_processor, size_smoothing=0.5)
    session.add_target(FRAMES[0], [24, 38, 4, 8], "it")
    x, y, w, h = session.step(FRAMES[0])[0].box
    assert (w, h) == pytest.approx((8, 16))  # half way, in logarithms
    assert (x + w / 2, y + h / 2) == pytest.approx((28, 46))
    assert session.box_of("0") == (x, y, w, h)


def test_window_counts_as_much_as_it_is_told(session):
    assert session(window_weight=0).window is None
    full, half = session().window, session(window_weight=0.5).window
    torch.testing.assert_close(half, 0.5 + 0.5 * full)


def test_how_answers_are_read_comes_with_the_processor_or_an_older_checkpoints_config(
    tiny_model, tiny_processor, tmp_path
):
    model = tiny_model()
    processor = PJVLTProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, 0.5, 0.25, 0.1)
    processor.save_pretrained(tmp_path)
    for again in (processor, PJVLTProcessor.from_pretrained(tmp_path)):
        session = TrackingSession(model, again)
        assert (session.window_weight, session.size_smoothing, session.lost_score) == (0.5, 0.25, 0.1)
        assert TrackingSession(model, again, size_smoothing=0.0).size_smoothing == 0
        torch.testing.assert_close(session.window, TrackingSession(model, tiny_processor, 0.5).window)
    model.config.save_pretrained(tmp_path)
    old = json.loads((tmp_path / "config.json").read_text()) | {"window_weight": 0.75, "size_smoothing": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(old))
    model.config = PJVLTConfig.from_pretrained(tmp_path)
    session = TrackingSession(model, tiny_processor)
    assert (session.window_weight, session.size_smoothing, session.lost_score) == (0.75, 0.5, 0.2)
    for bad in ({"window_weight": 1.2}, {"size_smoothing": 1.0}, {"lost_score": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PJVLTProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, **bad)


@pytest.mark.parametrize("settings", [{"window_weight": 1.5}, {"size_smoothing": 1.0}, {"window_weight": -0.1}])
def test_settings_out_of_range_are_named(session, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        session(**settings)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copied_session_goes_on_by_itself(session, again):
    tracker = session()
    tracker.add_target(FRAMES[0], CLIP.boxes[0], CLIP.text, target_id="a")
    tracker.step(FRAMES[1])
    twin = again(tracker)
    first = answers(tracker, FRAMES[2:5])
    tracker.remove_target("a")
    assert twin.target_ids == ["a"] and answers(twin, FRAMES[2:5]) == first
    assert (twin.model is tracker.model) == (again in (copy.copy, copy.deepcopy))


def test_session_says_what_it_tracks(session):
    tracker = session()
    assert repr(tracker) == "TrackingSession(PJVLTModel, cpu; 0 targets)"
    tracker.add_target(FRAMES[0], [10, 20, 30, 40], "red ball", target_id="ball")
    assert repr(tracker) == "TrackingSession(PJVLTModel, cpu; 1 target; 'ball' at 10 20 30 40 (\"red ball\"))"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0.1, 0.2, 0.5, 0.5], "lies within one pixel.* Did you mean 12 18 60 45"),
        ([70, 10, 110, 80], "leaves the frame of 120 x 90.* did you mean x1 y1 x2 y2.* is 70 10 40 70"),
        ([100, 10, 30, 20], r"leaves the frame of 120 x 90 pixels\.$"),
        ([-8, 10, 30, 20], r"leaves the frame"),
        ([10, 80, 30, 20], r"leaves the frame"),
        ([101, 10, 20, 20], None),  # a little over the edge
        ([0, 0, 120, 90], None),
        ([0, 0, 1, 2], None),
    ],
)
def test_box_that_looks_like_something_else_is_tracked_with_a_warning(session, caplog, box, message):
    session().add_target(FRAMES[0], box, "dog")
    told = [record.message for record in caplog.records]
    assert len(told) == (message is not None) and all(re.search(message, line) for line in told)


def test_box_given_by_its_corners_is_not_taken_for_corners_again(session, caplog):
    tracker = session()
    tracker.add_target(FRAMES[0], {"xmin": 10, "ymin": 5, "xmax": 125, "ymax": 85}, "dog", target_id="a")
    assert tracker.box_of("a") == (10, 5, 115, 80)
    tracker.add_target(FRAMES[0], {"xmin": 40, "ymin": 5, "xmax": 150, "ymax": 85}, "dog", target_id="b")
    assert "did you mean" not in caplog.text and "leaves the frame" in caplog.text


class Seeing(TrackingSession):
    """Finds the target wherever a search region shows its place, which a test may move; elsewhere it sees nothing."""

    place, score = (80.0, 60.0, 8.0, 8.0), 0.9

    def _locate(self, image, size, searches):
        self.searched = searches
        found = [self.shows(search) for search in searches]
        boxes = [self.place if seen else search.box for seen, search in zip(found, searches, strict=True)]
        return boxes, [self.score if seen else 0.05 for seen in found]

    def shows(self, search):
        x, y, w, h = search.box
        reach = self.search_factor * search.growth * (w * h) ** 0.5 / 2
        return all(
            abs(p + s / 2 - q - t / 2) + s / 2 <= reach
            for p, s, q, t in zip(self.place[:2], self.place[2:], (x, y), (w, h), strict=True)
        )


@pytest.fixture
def seeing(tiny_model, tiny_processor):
    """Function: a session whose target is at the upper left and then gone, with these settings."""

    def start(**settings):
        session = Seeing(tiny_model(), tiny_processor, lost_score=0.3, lost_after=3, **settings)
        session.add_target(FRAMES[0], [6, 6, 8, 8], "it", target_id="it")
        return session

    return start


def test_a_target_that_comes_back_elsewhere_is_found_in_the_whole_frame_and_not_without(seeing):
    for redetect in (None, "local"):
        tracker = seeing(redetect=redetect)
        steps = [tracker.step(FRAMES[0])[0] for _ in range(60)]
        assert steps[-1].lost and not any(step.redetected for step in steps)
        assert all(len(tracker.searched) == 1 for _ in range(3) if tracker.step(FRAMES[0]))
    tracker = seeing(redetect="frame")
    steps = [tracker.step(FRAMES[0])[0] for _ in range(60)]
    (back,) = [number for number, step in enumerate(steps) if step.redetected]
    assert steps[back].box == Seeing.place and not steps[back].lost and steps[back - 1].lost
    assert all(step.box == Seeing.place and not step.lost for step in steps[back:])
    assert len(tracker.searched) == 1  # and the rest of the frame costs nothing any more


def test_what_is_seen_elsewhere_only_now_and_then_is_not_believed(seeing):
    tracker = seeing(redetect="frame")
    for number in range(80):
        tracker.place = Seeing.place if number % 3 else (0.0, 200.0, 8.0, 8.0)
        assert not tracker.step(FRAMES[0])[0].redetected
        assert len(tracker.searched) <= 2  # at most one more region a frame


def test_what_is_no_better_than_the_last_place_or_of_another_size_is_not_believed(seeing):
    for score, usual, believed in ((0.7, 0.9, False), (0.73, 0.9, True), (0.29, None, False), (0.31, None, True)):
        tracker = seeing(redetect="frame")
        if usual:
            tracker.place, tracker.score = (6.0, 6.0, 8.0, 8.0), usual
            tracker.step(FRAMES[0])
        tracker.place, tracker.score = Seeing.place, score
        assert any(tracker.step(FRAMES[0])[0].redetected for _ in range(60)) is believed
    tracker = seeing(redetect="frame")
    tracker.place = (60.0, 40.0, 40.0, 30.0)
    tracker.shows = lambda search: search.box != (6, 6, 8, 8)  # anywhere but where it was
    assert not any(tracker.step(FRAMES[0])[0].redetected for _ in range(60))


@given(
    st.tuples(st.integers(20, 300), st.integers(20, 300)),
    st.tuples(*[st.floats(-20, 300)] * 2, *[st.floats(2, 150)] * 2),
)
def test_tiles_show_every_place_of_a_frame_whole(size, seen):
    w, h = seen[2:]
    tiles = frame_tiles(size, seen, 4.0)
    side = 4.0 * (w * h) ** 0.5
    for cx in np.linspace(min(w, size[1]) / 2, size[1] - min(w, size[1]) / 2, 7):
        for cy in np.linspace(min(h, size[0]) / 2, size[0] - min(h, size[0]) / 2, 7):
            reach = [
                max(abs(bx + w / 2 - cx) + min(w, side) / 2, abs(by + h / 2 - cy) + min(h, side) / 2) / growth
                for (bx, by, _, _), growth in tiles
            ]
            assert min(reach) <= side / 2 + 1e-6


def test_a_correction_moves_the_target_and_can_renew_its_template(session):
    tracker = session()
    tracker.add_target(FRAMES[0], CLIP.boxes[0], CLIP.text, target_id="it")
    tracker.step(FRAMES[1])
    template = tracker._known("it").template.clone()
    tracker.correct("it", FRAMES[1], [30, 20, 12, 10])
    assert tracker.box_of("it") == (30, 20, 12, 10) and torch.equal(tracker._known("it").template, template)
    tracker.correct("it", FRAMES[1], [30, 20, 12, 10], new_template=True)
    expected = session()
    expected.add_target(FRAMES[1], [30, 20, 12, 10], CLIP.text, target_id="it")
    assert answers(tracker, FRAMES[2:4]) == answers(expected, FRAMES[2:4])
    with pytest.raises(KeyError, match="No target 'other'"):
        tracker.correct("other", FRAMES[1], [30, 20, 12, 10])
    with pytest.raises(ValueError, match="outside the frame"):
        tracker.correct("it", FRAMES[1], [500, 20, 12, 10])


def test_extra_regions_change_nothing_about_the_targets_themselves(session):
    """A batch with a region of the whole frame, of the second target, beside those where the targets are."""
    tracker = session()
    for number, box in enumerate(([10, 10, 12, 12], [50, 30, 20, 14])):
        tracker.add_target(FRAMES[0], box, ["a disc", "a much longer sentence about a square"][number])
    image, size = tracker._read(FRAMES[1])
    searches = [Search(0, (10, 10, 12, 12)), Search(1, (50, 30, 20, 14))]
    alone = tracker._locate(image, size, searches)
    more = tracker._locate(image, size, [*searches, Search(1, (50, 30, 20, 14), 1.5), Search(0, (10, 10, 12, 12))])
    np.testing.assert_allclose(more[0][:2], alone[0], atol=1e-3)
    np.testing.assert_allclose(more[1][:2], alone[1], atol=1e-5)
    np.testing.assert_allclose(more[0][3], alone[0][0], atol=1e-3)
