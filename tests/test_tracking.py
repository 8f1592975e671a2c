"""The online loop: several targets, sentences encoded once, clear errors."""

import numpy as np
import pytest
import torch

from modeling_pjvlt import TrackingSession
from modeling_pjvlt.tracking_pjvlt import hann_window

BOX, OTHER_BOX = [20, 12, 10, 14], [40, 30, 16, 8]


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(4)]


@pytest.fixture
def session(tiny_model, tiny_processor):
    return TrackingSession(tiny_model(stirred=True), tiny_processor)


def test_each_target_gets_in_a_batch_what_it_gets_alone(tiny_model, tiny_processor, frames):
    model = tiny_model(stirred=True)
    asked = {"dog": (BOX, "the white dog"), "cat": (OTHER_BOX, "small black cat on the grass by the water")}
    together = TrackingSession(model, tiny_processor)
    for name, (box, text) in asked.items():
        together.add_target(frames[0], box, text, target_id=name)
    joint = [{t.target_id: t for t in together.step(frame)} for frame in frames[1:]]
    for name, (box, text) in asked.items():
        alone = TrackingSession(model, tiny_processor)
        alone.add_target(frames[0], box, text, target_id=name)
        for frame, expected in zip(frames[1:], joint, strict=True):
            (target,) = alone.step(frame)
            assert target.box == pytest.approx(expected[name].box, abs=1e-3)
            assert target.score == pytest.approx(expected[name].score, abs=1e-5)


def test_sentence_is_encoded_once_and_not_per_frame(session, frames, monkeypatch):
    calls = []
    encode = session.model.encode_text
    monkeypatch.setattr(session.model, "encode_text", lambda **inputs: calls.append(1) or encode(**inputs))
    session.add_target(frames[0], BOX, "white dog")
    for frame in frames:
        session.step(frame)
    assert len(calls) == 1


def test_removed_target_is_no_longer_tracked(session, frames):
    first = session.add_target(frames[0], BOX, "dog")
    second = session.add_target(frames[0], OTHER_BOX, "cat")
    session.remove_target(first)
    assert [t.target_id for t in session.step(frames[1])] == [second] == session.target_ids


def test_ids_are_given_where_none_is_asked_for(session, frames):
    assert [session.add_target(frames[0], BOX, "dog") for _ in range(2)] == ["0", "1"]
    session.remove_target("0")
    assert session.add_target(frames[0], BOX, "dog") == "0"


def test_session_without_targets_has_nothing_to_report(session, frames):
    assert session.step(frames[0]) == []


def test_boxes_stay_inside_the_frame(session, frames):
    session.add_target(frames[0], [70, 50, 30, 30], "dog")
    for frame in frames * 3:
        x, y, w, h = session.step(frame)[0].box
        assert x >= 0 and y >= 0 and w >= 1 and h >= 1
        assert x + w <= 80 + 1e-6 and y + h <= 60 + 1e-6


def test_tracking_leaves_no_gradients_and_no_training_mode(tiny_model, tiny_processor, frames):
    model = tiny_model().train()
    session = TrackingSession(model, tiny_processor)
    session.add_target(frames[0], BOX, "dog")
    session.step(frames[1])
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_model_without_language_tracks_too(tiny_model, tiny_processor, frames):
    found = []
    for text in ("ignored", "another one"):
        session = TrackingSession(tiny_model(stirred=True, fusion="none"), tiny_processor)
        session.add_target(frames[0], BOX, text, target_id="it")
        found += session.step(frames[1])
    assert found[0] == found[1] and found[0].target_id == "it" and found[0].box != tuple(BOX)


def test_low_precision_model_tracks(tiny_model, tiny_processor, frames):
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        session = TrackingSession(tiny_model().to(dtype), tiny_processor)
        session.add_target(frames[0], BOX, "dog")
        found += session.step(frames[1])
    exact, rough = found
    assert rough.box[2:] == pytest.approx(exact.box[2:], abs=0.5)  # untrained scores tie, so the cell may be another
    assert rough.score == pytest.approx(exact.score, abs=0.02)


def test_hann_window_peaks_in_the_middle_and_is_nowhere_zero():
    window = hann_window(5)
    assert window.argmax() == 12 and window[2, 2] == pytest.approx(1)
    assert window.min() > 0
    torch.testing.assert_close(window, window.flip(0).flip(1))
    assert window[0, 2] == pytest.approx(0.5 * (1 - np.cos(2 * np.pi / 6)))


def test_window_prefers_the_nearer_of_two_equal_answers(session):
    from modeling_pjvlt.modeling_pjvlt import decode_boxes

    score = torch.full((1, 1, 4, 4), 0.1)
    score[0, 0, 0, 0] = score[0, 0, 2, 2] = 0.9
    offset, size = torch.full((1, 2, 4, 4), 0.5), torch.full((1, 2, 4, 4), 0.25)
    boxes, scores = decode_boxes(score, offset, size, hann_window(4))
    assert boxes[0, :2].tolist() == [0.625, 0.625]
    assert scores.item() == pytest.approx(0.9)  # the reported confidence is the score before the window


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([100, 10, 10, 10], "outside the frame"),
        ([10, 10, 0, 10], "wider and higher than 0"),
        ([10, 10, 10, -2], "wider and higher than 0"),
        ([10, float("nan"), 10, 10], "not finite"),
        ([10, 10, 10], "four numbers"),
        ("here", "four numbers"),
        (None, "four numbers"),
    ],
)
def test_bad_box_is_one_clear_error_and_adds_no_target(session, frames, box, message):
    with pytest.raises(ValueError, match=message):
        session.add_target(frames[0], box, "dog")
    assert session.target_ids == []


def test_frame_of_another_size_is_refused_and_the_session_goes_on(session, frames):
    session.add_target(frames[0], BOX, "dog")
    before = session.box_of("0")
    with pytest.raises(ValueError, match="all frames of a video must have one size"):
        session.step(frames[1][:50])
    assert session.box_of("0") == before
    undisturbed = TrackingSession(session.model, session.processor)
    undisturbed.add_target(frames[0], BOX, "dog")
    assert session.step(frames[1]) == undisturbed.step(frames[1])


def test_unknown_and_repeated_ids_are_refused(session, frames):
    session.add_target(frames[0], BOX, "dog", target_id="dog")
    with pytest.raises(ValueError, match="tracked already"):
        session.add_target(frames[0], BOX, "dog", target_id="dog")
    with pytest.raises(KeyError, match="No target 'cat'"):
        session.remove_target("cat")


def test_processor_of_another_checkpoint_is_refused(tiny_model, tiny_processor):
    with pytest.raises(ValueError, match="search_size is 32, but the model's is 64"):
        TrackingSession(tiny_model(search_size=64), tiny_processor)


def test_asking_for_attentions_later_does_not_change_how_sentences_are_read(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True)
    model.set_attn_implementation("eager")
    inputs = tiny_inputs(model.config)
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    before = model.encode_text(**words)
    assert model(**inputs, output_attentions=True).attentions
    torch.testing.assert_close(model.encode_text(**words).keys, before.keys)
