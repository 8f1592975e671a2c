"""Procedural clips: reproducible, with tight boxes, true sentences and first frames that leave the choice to words."""

from itertools import pairwise

import numpy as np
import pytest

from modeling_pjvlt.data.synthetic.procedural import KINDS, WORD_VARIANTS, ProceduralClip
from modeling_pjvlt.data.synthetic.procedural_text import COLOURS, FORMS, PATTERNS, Look, describe, vocabulary

PATTERN_WORDS = {"no": "plain", "stripes": "striped", "dots": "dotted", "checks": "checked"}


def said(text: str) -> dict[str, str]:
    """The attributes that a sentence mentions, read word by word."""
    found = {}
    for word in text.split():
        word = PATTERN_WORDS.get(word, word)
        for name, values in (("colour", COLOURS), ("pattern", PATTERNS), ("form", FORMS)):
            if word in values:
                assert name not in found, text
                found[name] = word
    return found


def is_true(text: str, look: Look) -> bool:
    return all(getattr(look, name) == value for name, value in said(text).items())


def clips_of(variant: str, count: int, **kwargs) -> list[ProceduralClip]:
    kind = "appearance" if variant == "clear" else "words"
    clips = (ProceduralClip(seed, kind=kind, **kwargs) for seed in range(1000))
    return [clip for clip, _ in zip((c for c in clips if c.variant == variant), range(count), strict=False)]


def extent(mask: np.ndarray) -> np.ndarray:
    """xyxy of the true pixels."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("seed", range(6))
def test_same_seed_gives_the_same_clip_in_any_order(seed):
    one, two = ProceduralClip(seed, 12), ProceduralClip(seed, 12)
    forward = [one.frame(i) for i in (0, 1, 7, 11)]
    backward = [two.frame(i) for i in (11, 7, 1, 0)][::-1]
    np.testing.assert_array_equal(forward, backward)
    np.testing.assert_array_equal(one.boxes, two.boxes)
    assert (one.text, one.wrong_text, one.name) == (two.text, two.wrong_text, two.name)
    assert forward[0].shape == (240, 320, 3) and forward[0].dtype == np.uint8


@pytest.mark.parametrize("seed", range(6))
def test_length_changes_neither_frames_nor_boxes(seed):
    short, long = ProceduralClip(seed, 8), ProceduralClip(seed, 90)
    assert len(short) == 8 and len(long) == 90
    np.testing.assert_allclose(short.boxes, long.boxes[:8], atol=1e-4)
    np.testing.assert_array_equal(short.visible, long.visible[:8])
    np.testing.assert_array_equal(short.frame(5), long.frame(5))


def test_kind_is_honoured_and_otherwise_drawn_about_evenly():
    assert all(ProceduralClip(seed, 2, kind=kind).kind == kind for kind in KINDS for seed in range(5))
    drawn = [ProceduralClip(seed, 2) for seed in range(200)]
    assert 70 < sum(clip.kind == "words" for clip in drawn) < 130
    assert {clip.variant for clip in drawn} == {"clear", *WORD_VARIANTS}
    assert all((clip.variant == "clear") == (clip.kind == "appearance") for clip in drawn)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="kind"):
        ProceduralClip(0, kind="colour")
    with pytest.raises(ValueError, match="num_frames"):
        ProceduralClip(0, num_frames=0)
    with pytest.raises(IndexError):
        ProceduralClip(0, num_frames=4).frame(4)


@pytest.mark.parametrize("size", [(240, 320), (180, 180), (360, 640)])
def test_boxes_lie_inside_the_frame(size):
    for seed in range(30):
        clip = ProceduralClip(seed, 40, size=size)
        boxes = np.concatenate([clip.boxes, *(clip.distractor_boxes(i) for i in range(40))])
        assert boxes.dtype == np.float32 and np.isfinite(boxes).all()
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 4).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= np.array(size[::-1]) + 1e-3).all()


@pytest.mark.parametrize("variant", ["clear", "grey", "blurred", "hidden"])
def test_boxes_are_tight_around_what_is_drawn(variant):
    for clip in clips_of(variant, 20, num_frames=9):
        clip._occluder, clip._soft = None, False
        for index in (8,) if variant == "blurred" else (0, 8):
            clip._layers = []
            without = clip.frame(index).astype(int)
            clip._layers = [0]
            changed = np.abs(clip.frame(index) - without).max(axis=-1) > 2
            x, y, w, h = clip.boxes[index]
            assert np.abs(extent(changed) - [x, y, x + w, y + h]).max() < 1.6, (clip.seed, clip.looks[0])


def test_sentences_pick_out_their_figure():
    for seed in range(300):
        clip = ProceduralClip(seed, 2)
        target, *distractors = clip.looks
        assert is_true(clip.text, target) and not any(is_true(clip.text, look) for look in distractors)
        assert not is_true(clip.wrong_text, target)
        assert sum(is_true(clip.wrong_text, look) for look in distractors) == 1
        assert len(set(clip.looks)) == len(clip.looks) and 1 <= len(distractors) <= 4


def test_vocabulary_covers_all_sentences():
    clips = [ProceduralClip(seed, 1) for seed in range(300)]
    words = {word for clip in clips for word in f"{clip.text} {clip.wrong_text}".split()}
    assert words <= set(vocabulary()) and vocabulary() == sorted(set(vocabulary()))
    assert all(word == word.lower() and word.isalpha() for word in words)


def test_articles_agree_with_the_next_word():
    for seed in range(200):
        words = ProceduralClip(seed, 1).text.split()
        for article, following in pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou")


def test_describe_refuses_a_double():
    look = Look("red", "plain", "star")
    with pytest.raises(ValueError, match="no sentence"):
        describe(np.random.default_rng(0), look, [look])


def test_distractors_differ_in_what_the_first_frame_does_not_show():
    for variant, allowed in (("grey", {"colour"}), ("blurred", {"pattern", "form"}), ("hidden", set(Look._fields))):
        for clip in clips_of(variant, 25, num_frames=1):
            target = clip.looks[0]
            differing = [{n for n in Look._fields if getattr(o, n) != getattr(target, n)} for o in clip.looks[1:]]
            assert all(d <= allowed for d in differing) and len(differing[0]) == 1
            assert differing[0] <= set(said(clip.text)) and differing[0] <= set(said(clip.wrong_text))


def test_grey_first_frame_shows_no_colour():
    for clip in clips_of("grey", 20, num_frames=2):
        first = clip.frame(0).astype(int)
        assert np.ptp(first, axis=-1).max() == 0
        clip._tones = [((255, 0, 0), (0, 0, 255))] * len(clip.looks)  # not even by luminance
        np.testing.assert_array_equal(clip.frame(0), first)


@pytest.mark.parametrize("variant", ["blurred", "hidden"])
def test_first_frame_is_the_same_whatever_the_target_looks_like(variant):
    for clip in clips_of(variant, 10, num_frames=2):
        before, box = clip.frame(0), clip.boxes[0]
        colour = clip.looks[0].colour
        clip.looks[0] = Look(colour, "plain", "cross" if clip.looks[0].form != "cross" else "diamond")
        clip.__dict__.pop("_all_boxes")
        np.testing.assert_array_equal(clip.frame(0), before)
        np.testing.assert_array_equal(clip.boxes[0], box)


def test_only_the_first_frame_is_altered():
    for clip in clips_of("grey", 8, num_frames=3):
        assert np.ptp(clip.frame(1).astype(int), axis=-1).max() > 40


def test_place_does_not_give_the_target_away():
    """Between frames 0 and 1 the target is nearest to its old place no more often than chance."""
    nearest, chance, jumps = [], [], []
    for seed in range(400):
        clip = ProceduralClip(seed, 2, kind="words")
        boxes = np.concatenate([clip.boxes[1:2], clip.distractor_boxes(1)])
        old = clip.boxes[0]
        centres, start = boxes[:, :2] + boxes[:, 2:] / 2, old[:2] + old[2:] / 2
        distance = np.linalg.norm(centres - start, axis=1) / np.sqrt(old[2] * old[3])
        nearest.append(distance.argmin() == 0)
        chance.append(1 / len(boxes))
        jumps.append(distance)
    assert abs(np.mean(nearest) - np.mean(chance)) < 0.08
    assert np.percentile(np.concatenate(jumps), 99) < 2.0  # inside a search region of four target sizes


def test_distractors_stay_near_the_target():
    near = []
    for seed in range(40):
        clip = ProceduralClip(seed, 60)
        for index in range(1, 60, 6):
            x, y, w, h = clip.boxes[index]
            boxes = clip.distractor_boxes(index)
            offset = boxes[:, :2] + boxes[:, 2:] / 2 - (x + w / 2, y + h / 2)
            near.append(np.linalg.norm(offset, axis=1) / np.sqrt(w * h))
    near = np.concatenate(near)
    assert ((near > 0.5) & (near < 2.0)).mean() > 0.95


def test_visible_is_false_when_covered():
    hidden = clips_of("hidden", 5, num_frames=3)
    assert all(not clip.visible[0] and clip.visible[1] for clip in hidden)
    covered = 0
    for seed in range(120):
        clip = ProceduralClip(seed, 90, kind="appearance")
        assert clip.visible[0]
        if clip._occluder is None or clip.visible.all():
            continue
        clip._noise_step, clip._soft, clip._layers = 0, False, [0]
        index = int(np.flatnonzero(~clip.visible)[0])
        shown = [clip.frame(index)]
        clip._layers = []
        shown.append(clip.frame(index))
        clip._layers, clip._occluder = [0], None
        shown.append(clip.frame(index))
        clip._layers = []
        shown.append(clip.frame(index))
        seen, whole = ((np.abs(a.astype(int) - b).max(-1) > 8).sum() for a, b in (shown[:2], shown[2:]))
        assert seen < 0.38 * whole
        covered += 1
        if covered == 5:
            break
    assert covered == 5
