"""Training samples: crops, labels and sentences that belong together, and that depend on the index alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.data.procedural import ProceduralClip
from modeling_pjvlt.data.sampling import FramePair, PairCollator, ProceduralPairs, TrackingPairs, jittered_crop
from modeling_pjvlt.loss_pjvlt import check_labels

IMAGES = PJVLTImageProcessor(template_size=32, search_size=64)


class RedSquare:
    """A source whose target is a red square on black."""

    def draw(self, rng):
        frame = np.zeros((120, 160, 3), np.uint8)
        x, y = rng.integers(30, 90, 2)
        frame[y : y + 12, x : x + 20, 0] = 255
        box = np.array([x, y, 20, 12], np.float32)
        return FramePair(frame, box, frame, box, "red square")


def test_label_frames_the_target_in_the_search_crop():
    pairs = TrackingPairs(RedSquare(), IMAGES, length=20)
    for index in range(20):
        sample = pairs[index]
        red = sample["pixel_values"][0] > 0  # normalised: black is negative
        rows, columns = (torch.nonzero(red.any(dim=axis))[:, 0] for axis in (1, 0))
        cx, cy, w, h = (sample["labels"] * 64).tolist()
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]  # a target at the border is cut off
        expected = [min(max(v, 0), 64) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]
        assert [int(v) for v in seen] == pytest.approx(expected, abs=1.1)


def test_template_has_the_target_in_its_middle():
    template = TrackingPairs(RedSquare(), IMAGES, length=1)[0]["template_pixel_values"]
    red = (template[0] > 0).float()
    assert (red * torch.arange(32)).sum() / red.sum() == pytest.approx(15.5, abs=0.6)


@given(seed=st.integers(0, 10_000), size=st.floats(4, 60), jitter=st.floats(0, 6))
def test_jitter_never_loses_the_target(seed, size, jitter):
    rng = np.random.default_rng(seed)
    left, top, scale = jittered_crop(rng, (50, 40, size, size), 4.0, 64, jitter, 0.5)
    assert 0 <= (50 + size / 2 - left) * scale <= 64 and 0 <= (40 + size / 2 - top) * scale <= 64


def test_sample_depends_on_seed_epoch_and_index_alone():
    def batch(workers):
        pairs = TrackingPairs(ProceduralPairs(num_frames=4), IMAGES, length=6, seed=3)
        return next(iter(DataLoader(pairs, batch_size=6, num_workers=workers)))

    alone, helped = batch(0), batch(2)
    assert torch.equal(alone["pixel_values"], helped["pixel_values"]) and alone["text"] == helped["text"]
    pairs = TrackingPairs(ProceduralPairs(num_frames=4), IMAGES, length=6, seed=3)
    assert torch.equal(pairs[5]["pixel_values"], alone["pixel_values"][5])
    pairs.set_epoch(1)
    assert not torch.equal(pairs[5]["pixel_values"], alone["pixel_values"][5])


def test_procedural_samples_are_good_labels_and_vary():
    pairs = TrackingPairs(ProceduralPairs(num_frames=4), IMAGES, length=40, seed=1)
    samples = [pairs[i] for i in range(40)]
    check_labels(torch.stack([s["labels"] for s in samples]))
    assert len({s["text"] for s in samples}) > 20


def test_words_clips_give_their_first_frame_as_template():
    source = ProceduralPairs(num_frames=4, words_share=1.0)
    for seed in range(20):
        pair = source.draw(np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        rng.random()
        clip = ProceduralClip(int(rng.integers(2**31, 2**62)), 4, kind="words")
        assert np.array_equal(pair.template, clip.frame(0)) and not np.array_equal(pair.search, clip.frame(0))
        assert pair.text == clip.text


def test_shares_of_wrong_and_missing_sentences_are_respected():
    always_wrong = ProceduralPairs(num_frames=4, words_share=0.0, wrong_text_share=1.0)
    never_text = ProceduralPairs(num_frames=4, words_share=0.0, wrong_text_share=0.0, no_text_share=1.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rng.random()
        clip = ProceduralClip(int(rng.integers(2**31, 2**62)), 4, kind="appearance")
        assert always_wrong.draw(np.random.default_rng(seed)).text == clip.wrong_text
        assert never_text.draw(np.random.default_rng(seed)).text == "the target"


def test_batch_is_what_the_model_takes(tiny_processor, tiny_model):
    pairs = TrackingPairs(ProceduralPairs(num_frames=4), tiny_processor.image_processor, length=3)
    batch = PairCollator(tiny_processor)([pairs[i] for i in range(3)])
    assert tiny_model()(**batch).loss.isfinite()


class Flaky(RedSquare):
    """A source of which a share cannot be read."""

    def __init__(self, share):
        self.share = share

    def draw(self, rng):
        if rng.random() < self.share:
            raise ValueError("frame 7 of 'dog-1' is broken")
        return super().draw(rng)


def test_bad_pair_is_skipped_counted_and_logged(caplog):
    pairs = TrackingPairs(Flaky(0.05), IMAGES, length=60)
    samples = [pairs[i] for i in range(60)]
    assert len(samples) == 60 and 0 < pairs.failed <= 10 and pairs.drawn == 60
    assert sum("frame 7 of 'dog-1' is broken" in r.message for r in caplog.records) == pairs.failed
    again = TrackingPairs(Flaky(0.05), IMAGES, length=60)
    assert torch.equal(again[59]["pixel_values"], samples[59]["pixel_values"])


def test_too_many_bad_pairs_are_an_error_and_not_an_endless_retry():
    pairs = TrackingPairs(Flaky(1.0), IMAGES, length=5)
    with pytest.raises(ValueError, match="samples could not be read, more than 1%; the last one: frame 7"):
        pairs[0]
