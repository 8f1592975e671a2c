"""Training samples: crops, labels and sentences that belong together, and that depend on the index alone."""

import io

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.data.dataset import TrackingSequence
from modeling_pjvlt.data.frames import open_image
from modeling_pjvlt.data.pairs.cropping import (
    FramePair,
    PairCropper,
    SequenceFrame,
    Window,
    WindowJitter,
    _pixels,
    cut,
    reduction_of,
    search_window,
    shared_window,
    window_around,
)
from modeling_pjvlt.data.pairs.degradation import degrade
from modeling_pjvlt.data.pairs.mixture import Mixture, PairCollator, TrackingPairs, normalize_pairs
from modeling_pjvlt.data.pairs.sources import ProceduralPairs
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.image_processing_pjvlt import crop_image, to_rgb
from modeling_pjvlt.loss_pjvlt import check_labels

IMAGES = PJVLTImageProcessor(template_size=32, search_size=64)
PLAIN = PairCropper(IMAGES, flip_probability=0.0, brightness_jitter=0.0)


class RedSquare:
    """A source whose target is a red square on black."""

    def draw(self, rng):
        frame = np.zeros((120, 160, 3), np.uint8)
        x, y = rng.integers(30, 90, 2)
        frame[y : y + 12, x : x + 20, 0] = 255
        box = np.array([x, y, 20, 12], np.float32)
        return FramePair(frame, box, frame, box, "red square")


def test_label_frames_the_target_in_the_search_crop():
    pairs = TrackingPairs(RedSquare(), PLAIN, length=20)
    for index in range(20):
        sample = pairs[index]
        red = sample["pixel_values"][0] > 120
        rows, columns = (torch.nonzero(red.any(dim=axis))[:, 0] for axis in (1, 0))
        cx, cy, w, h = (sample["labels"] * 64).tolist()
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]  # a target at the border is cut off
        expected = [min(max(v, 0), 64) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]
        assert [int(v) for v in seen] == pytest.approx(expected, abs=1.1)


def test_template_has_the_target_in_its_middle():
    template = TrackingPairs(RedSquare(), PLAIN, length=1)[0]["template_pixel_values"]
    red = (template[0] > 120).float()
    assert (red * torch.arange(32)).sum() / red.sum() == pytest.approx(15.5, abs=0.6)


@given(seed=st.integers(0, 10_000), size=st.floats(1, 400), jitter=st.floats(0, 6), aspect=st.floats(0, 1))
@example(seed=3964, size=4.25, jitter=3.0, aspect=0.0)
def test_jitter_never_loses_the_target(seed, size, jitter, aspect):
    moved = WindowJitter(jitter, 0.5, aspect)
    window = search_window(np.random.default_rng(seed), (50, 40, size, size), 4.0, 64, moved)
    for start, side, centre in (
        (window.left, window.width, 50 + size / 2),
        (window.top, window.height, 40 + size / 2),
    ):
        assert start <= centre <= start + side


@given(seed=st.integers(0, 10_000), size=st.floats(40, 400))
def test_aspect_jitter_stretches_the_search_region_within_its_bounds(seed, size):
    def window(aspect):
        box = 50, 40, size, size
        return search_window(np.random.default_rng(seed), box, 4.0, 64, WindowJitter(3.0, 0.25, aspect))

    square, stretched = window(0.0), window(0.7)
    assert square.width == square.height
    rounding = 8 / min(stretched.width, stretched.height)  # windows end on whole pixels of a reduced frame
    assert abs(np.log(stretched.width / stretched.height)) <= 0.7 + 2 * rounding


def test_an_anisotropic_window_is_shown_as_a_square_with_its_label():
    images, frame = PJVLTImageProcessor(template_size=32, search_size=64), np.zeros((200, 200, 3), np.uint8)
    frame[80:120, 60:140] = 200
    pair = FramePair(frame, np.array([60, 80, 80, 40]), frame, np.array([60, 80, 80, 40]), "a bar")
    sample = PairCropper(images, flip_probability=0.0)(pair, np.random.default_rng(0), Window(20, 70, 160, 60))
    rows, columns = np.nonzero(sample["pixel_values"][0].numpy() > 100)
    seen = [columns.min() / 64, rows.min() / 64, (columns.max() + 1) / 64, (rows.max() + 1) / 64]
    cx, cy, w, h = sample["labels"].tolist()
    assert seen == pytest.approx([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], abs=1.5 / 64)


def test_surroundings_are_seen_outside_the_frame_alone():
    frame, around = np.full((40, 40, 3), 50, np.uint8), np.full((30, 50, 3), 200, np.uint8)
    crop = cut(frame, Window(-20, -20, 80, 80), 80, surroundings=around)
    assert (crop[:, 20:60, 20:60] == 50).all()
    outside = torch.ones(80, 80, dtype=torch.bool)
    outside[20:60, 20:60] = False
    assert (crop[:, outside] == 200).all()
    assert (cut(frame, Window(-20, -20, 80, 80), 80)[:, outside] == 0).all()


def test_a_hidden_template_is_nearly_zero_for_the_network(tiny_processor):
    images, frame = tiny_processor.image_processor, np.full((60, 60, 3), 9, np.uint8)
    pair = FramePair(None, np.array([0, 0, 1, 1]), frame, np.array([20, 20, 20, 20]), "a ball")
    sample = PairCropper(images, brightness_jitter=0.0)(pair, np.random.default_rng(0))
    assert images.normalize_crops(sample["template_pixel_values"][None].float()).abs().max() < 0.02


def test_an_absent_target_has_a_label_of_zeros():
    frame, box = np.full((60, 60, 3), 9, np.uint8), np.array([20, 20, 20, 20])
    pair = FramePair(frame, box, frame, box, "a ball", present=False)
    assert not PairCropper(IMAGES)(pair, np.random.default_rng(0))["labels"].any()


@pytest.mark.parametrize("seed", range(12))
def test_a_degraded_crop_is_another_image_of_the_same_thing(seed):
    crop = torch.from_numpy(smooth_frame(64, 64)).permute(2, 0, 1)
    worse = degrade(np.random.default_rng(seed), crop)
    assert (worse.shape, worse.dtype) == (crop.shape, torch.uint8)
    assert not torch.equal(worse, crop)
    both = torch.stack([crop.float().mean(0).flatten(), worse.float().mean(0).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8
    assert torch.equal(worse, degrade(np.random.default_rng(seed), crop))


def test_scale_jitter_per_axis_spreads_and_shifts_as_ostracks():
    """OSTrack: w and h times exp(0.25 * normal) each; side sqrt(w h) * 4; the centre moves by up to 1.5 sqrt(w h)."""
    box, factor = (5000, 4000, 90, 40), 4.0
    for seed in range(200):
        plain = np.random.default_rng(seed)
        w, h = np.array(box[2:]) * np.exp(0.25 * plain.standard_normal(2))
        size = (w * h) ** 0.5
        dx, dy = plain.uniform(-0.5, 0.5, 2) * 3.0 * size
        window = search_window(np.random.default_rng(seed), box, factor, 64, WindowJitter(per_axis=True))
        assert (
            window.width == window.height == pytest.approx(size * factor, abs=6)
        )  # whole pixels of a frame that may be reduced
        assert window.left + window.width / 2 == pytest.approx(5045 + dx, abs=6)
        assert window.top + window.height / 2 == pytest.approx(4020 + dy, abs=6)


def spread_of_middles(draw, centre, jitter: float, target: float) -> None:
    """The windows' middles lie around `centre`, uniformly in both directions, which are independent."""
    windows = [draw(np.random.default_rng(seed)) for seed in range(600)]
    middles = np.array([[w.left + w.width / 2, w.top + w.height / 2] for w in windows]) - centre
    reach = jitter * target / 2
    assert np.abs(middles).max() <= reach + 1
    assert middles.mean(axis=0) == pytest.approx([0, 0], abs=0.1 * reach)
    assert middles.std(axis=0) == pytest.approx([reach / 3**0.5] * 2, rel=0.1)
    assert abs(np.corrcoef(middles.T)[0, 1]) < 0.15


def test_search_region_is_shifted_both_ways_and_changes_in_size():
    box, target = (300.0, 200.0, 50.0, 32.0), 40.0
    spread_of_middles(lambda rng: search_window(rng, box, 4.0, 64, WindowJitter(3.0, 0.0)), (325, 216), 3.0, target)
    sides = [search_window(np.random.default_rng(seed), box, 4.0, 64, WindowJitter()).width for seed in range(600)]
    assert np.log(np.array(sides) / (4 * target)).std() == pytest.approx(0.25, rel=0.1)


def test_shared_search_region_is_shifted_both_ways():
    boxes = [(300.0, 200.0, 40.0, 40.0), (301.0, 201.0, 40.0, 40.0)]  # so near that both may be its middle
    spread_of_middles(
        lambda rng: shared_window(rng, boxes, 4.0, 64, WindowJitter(3.0, 0.0)), (320.5, 220.5), 3.0, 40.0
    )


def test_search_crops_show_the_target_all_over_and_templates_do_not():
    """Labels of whole samples, so that the jitter reaches them."""
    labels = torch.stack(
        [s["labels"] for s in map(TrackingPairs(RedSquare(), PLAIN, length=200).__getitem__, range(200))]
    )
    assert (labels[:, :2].std(dim=0) > 0.12).all() and (labels[:, :2].mean(dim=0) - 0.5).abs().max() < 0.06


def test_sample_depends_on_seed_epoch_and_index_alone():
    def batch(workers):
        pairs = TrackingPairs(ProceduralPairs(num_frames=4), PLAIN, length=6, seed=3)
        return next(iter(DataLoader(pairs, batch_size=6, num_workers=workers)))

    alone, helped = batch(0), batch(2)
    assert torch.equal(alone["pixel_values"], helped["pixel_values"]) and alone["text"] == helped["text"]
    pairs = TrackingPairs(ProceduralPairs(num_frames=4), PLAIN, length=6, seed=3)
    assert torch.equal(pairs[5]["pixel_values"], alone["pixel_values"][5])
    pairs.set_epoch(1)
    assert not torch.equal(pairs[5]["pixel_values"], alone["pixel_values"][5])


def test_procedural_samples_are_good_labels_and_vary():
    pairs = TrackingPairs(ProceduralPairs(num_frames=4), PLAIN, length=40, seed=1)
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


def test_distractors_differ_in_the_attributes_that_are_asked_for():
    """One source that wants forms nearly always; clips where the first frame tells are as they come."""
    source = ProceduralPairs(4, words_share=0.5, attribute_weights=[1e-9, 1e-9, 1])
    rng = np.random.default_rng(0)
    clips = [source._draw_clip(rng)[0] for _ in range(40)]
    for clip in clips:
        target, distractor = clip.looks[:2]
        assert clip.kind == "appearance" or target == distractor._replace(form=target.form)
    assert {clip.kind for clip in clips} == {"words", "appearance"}


@pytest.mark.parametrize("weights", [[1, 1], [1, 0, 1], [1, 2, float("nan")]])
def test_attribute_weights_are_three_positive_numbers(weights):
    with pytest.raises(ValueError, match=r"positive weight for each of .*colour"):
        ProceduralPairs(attribute_weights=weights)


@pytest.mark.parametrize("kind", ["words", "appearance"])
def test_twins_share_their_images_and_not_their_target(kind):
    source = ProceduralPairs(4, words_share=float(kind == "words"), wrong_text_share=0.0, no_text_share=0.0)
    others = 0
    for seed in range(20):
        one, two = source.draw_twins(np.random.default_rng(seed))
        assert one.template is two.template and one.search is two.search
        assert np.array_equal(one.template_box, two.template_box) or kind == "appearance"
        others += not np.array_equal(one.search_box, two.search_box)
        assert (one.text == two.text) == np.array_equal(one.search_box, two.search_box)
    assert others >= 15  # in the rest the distractor is hidden, and both are of the target


def test_samples_of_twins_depend_on_seed_epoch_and_index_alone():
    def pairs():
        return TrackingPairs(ProceduralPairs(4, words_share=1.0), PLAIN, length=6, seed=3, twins=True)

    samples, alone = [pairs()[index] for index in range(6)], pairs()
    for index in (5, 0, 4, 1, 3, 2):
        assert torch.equal(alone[index]["pixel_values"], samples[index]["pixel_values"])
        assert alone[index]["text"] == samples[index]["text"]
    for left, right in zip(samples[::2], samples[1::2], strict=True):
        assert torch.equal(left["template_pixel_values"], right["template_pixel_values"])
        assert not torch.equal(left["labels"], right["labels"])
    alone.set_epoch(1)
    assert not torch.equal(alone[5]["pixel_values"], samples[5]["pixel_values"])


def test_twins_that_both_fit_share_their_search_region():
    pairs = TrackingPairs(ProceduralPairs(4, words_share=1.0), PLAIN, length=40, seed=3, twins=True)
    shared = 0
    for index in range(0, 40, 2):
        one, two = pairs[index], pairs[index + 1]
        same = torch.equal(one["pixel_values"], two["pixel_values"])
        assert not same or one["text"] != two["text"]
        shared += same
    assert shared >= 15


@given(
    seed=st.integers(0, 2**32),
    offset=st.tuples(st.floats(-250, 250), st.floats(-250, 250)),
    ratio=st.floats(0.3, 3),
)
def test_a_shared_search_region_holds_both_targets_or_there_is_none(seed, offset, ratio):
    boxes = [(100, 80, 30, 40), (115 + offset[0] - 15 * ratio, 100 + offset[1] - 20 * ratio, 30 * ratio, 40 * ratio)]
    window = shared_window(np.random.default_rng(seed), boxes, 4.0, 64, WindowJitter(3.0, scale=0.0))
    if window is None:
        assert max(ratio, 1 / ratio) > 1.9 or max(map(abs, offset)) > 55
        return
    assert max(ratio, 1 / ratio) <= 2 + 1e-6
    for x, y, w, h in boxes:
        assert window.left <= x + w / 2 <= window.left + window.width
        assert window.top <= y + h / 2 <= window.top + window.height


def test_where_a_shared_search_region_lies_does_not_tell_its_target():
    boxes = [(0, 0, 20, 20), (28, 0, 20, 20)]
    left, right = [], []
    for seed in range(2000):
        window = shared_window(np.random.default_rng(seed), boxes, 4.0, 64, WindowJitter(3.0, 0.25))
        middle = window.left + window.width / 2
        left.append(abs(middle - 10))
        right.append(abs(middle - 38))
    assert abs(np.mean(left) - np.mean(right)) < 1  # pixels; drawn around the first alone, 13


def test_sources_without_twins_are_drawn_as_ever():
    single, twins = (TrackingPairs(RedSquare(), PLAIN, length=2, twins=t) for t in (False, True))
    assert torch.equal(single[1]["pixel_values"], twins[1]["pixel_values"])


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
    pairs = TrackingPairs(ProceduralPairs(num_frames=4), PairCropper(tiny_processor.image_processor), length=3)
    batch = PairCollator(tiny_processor)([pairs[i] for i in range(3)])
    assert tiny_model()(**batch).loss.isfinite()
    raw = PairCollator(tiny_processor, normalize=False)([pairs[i] for i in range(3)])
    assert raw["pixel_values"].dtype == torch.uint8
    here = normalize_pairs(raw, tiny_processor.image_processor)
    assert here.keys() == batch.keys() and all(torch.equal(here[name], batch[name]) for name in batch)


class Flaky(RedSquare):
    """A source of which a share cannot be read."""

    def __init__(self, share):
        self.share = share

    def draw(self, rng):
        if rng.random() < self.share:
            raise ValueError("frame 7 of 'dog-1' is broken")
        return super().draw(rng)


def failed(pairs):
    return pairs.failures.failed.total()


def test_bad_pair_is_skipped_counted_and_logged(caplog):
    pairs = TrackingPairs(Flaky(0.05), PLAIN, length=60)
    samples = [pairs[i] for i in range(60)]
    assert 0 < failed(pairs) <= 10 and pairs.failures.drawn.total() == 60 + failed(pairs)
    assert sum("frame 7 of 'dog-1' is broken" in r.message for r in caplog.records) == failed(pairs)
    again = TrackingPairs(Flaky(0.05), PLAIN, length=60)
    assert torch.equal(again[59]["pixel_values"], samples[59]["pixel_values"])


def test_too_many_bad_pairs_are_an_error_and_not_an_endless_retry():
    pairs = TrackingPairs(Flaky(1.0), PLAIN, length=5)
    with pytest.raises(ValueError, match="samples of Flaky could not be read, more than 1%; the last one: frame 7"):
        pairs[0]


def smooth_frame(height, width, grain=12):
    """An image without hard edges, so that filters can be compared."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // grain, width // grain, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


class OneJpeg:
    """Frames that are all the same JPEG."""

    def __init__(self, pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95)
        self.encoded = {"bytes": file.getvalue(), "path": None}

    def open(self, index):
        return open_image(self.encoded)


@pytest.mark.parametrize(
    ("left", "top", "side"), [(20, 31, 60), (-30, -11, 90), (100, 60, 150), (8, 16, 160), (0, 0, 256)]
)
def test_fast_crop_is_the_exact_one(left, top, side):
    frame = smooth_frame(241, 325)
    window = window_around(left + side / 2, top + side / 2, (side, side), 32)
    exact = crop_image(to_rgb(frame), window.left, window.top, 32 / window.width, 32)
    inside = (slice(None), slice(1, -1), slice(1, -1))  # at its border the exact one looks at pixels outside the crop
    fast = cut(frame, window, 32)
    torch.testing.assert_close(fast[inside].float(), exact[inside], atol=1.01, rtol=0)
    assert torch.equal(cut(frame, window, 32, mirror=True), fast.flip(-1))


@pytest.mark.parametrize("side", [40, 64, 128, 256])
def test_reduced_jpeg_shows_the_same_crop(side):
    frame = smooth_frame(245, 331, grain=40)  # natural images hold little that is finer than this
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    sequence = TrackingSequence("one", "", boxes, np.ones(1, bool), OneJpeg(frame))
    window = window_around(30 + side / 2, -20 + side / 2, (side, side), 32)
    assert sequence.decode(0, reduction_of(window.width, 32))[1] == {40: 1, 64: 2, 128: 4, 256: 8}[side]
    difference = cut(SequenceFrame(sequence, 0), window, 32).float() - cut(sequence.frame(0), window, 32).float()
    assert difference.abs()[:, 4:].mean() < 2.5


@pytest.mark.parametrize("size", [(61, 43), (2600, 1700)])  # Pillow keeps the larger one in several pieces
def test_the_pixels_of_a_decoded_image_are_those_of_its_array(size):
    image = Image.effect_noise(size, 90).convert("RGB")
    assert np.array_equal(_pixels(image)[..., :3], np.array(image))


def test_mirrored_sample_is_mirrored_in_image_box_and_words():
    def sample(probability):
        cropper = PairCropper(IMAGES, flip_probability=probability, brightness_jitter=0.0)
        return TrackingPairs(RedSquareOnTheLeft(), cropper, length=1)[0]

    plain, flipped = sample(0.0), sample(1.0)
    assert (plain["text"], flipped["text"]) == ("red square on the left", "red square on the right")
    for name in ("pixel_values", "template_pixel_values"):
        torch.testing.assert_close(flipped[name], plain[name].flip(-1))
    torch.testing.assert_close(
        flipped["labels"], plain["labels"] * torch.tensor([-1, 1, 1, 1]) + torch.tensor([1, 0, 0, 0])
    )


class RedSquareOnTheLeft(RedSquare):
    def draw(self, rng):
        return super().draw(rng)._replace(text="red square on the left")


def test_brightness_changes_both_crops_each_in_its_way_and_stays_in_range(tiny_processor):
    def grey(brightness):
        images = tiny_processor.image_processor
        cropper = PairCropper(images, flip_probability=0.0, brightness_jitter=brightness)
        frame = np.full((120, 160, 3), 100, np.uint8)
        box = np.array([70, 50, 20, 20], np.float32)
        batch = PairCollator(tiny_processor)(
            [cropper(FramePair(frame, box, frame, box, ""), np.random.default_rng(3))]
        )
        mean, std = torch.tensor(images.image_mean), torch.tensor(images.image_std)
        return [
            float((batch[n][0, :, 8, 8] * std + mean).mean() * 255) for n in ("pixel_values", "template_pixel_values")
        ]

    search, template = grey(0.2)
    assert grey(0.0) == pytest.approx([100, 100], abs=0.1)
    assert search != pytest.approx(template, abs=0.5) and all(80 <= v <= 120 for v in (search, template))
    assert all(v == pytest.approx(round(v), abs=0.01) for v in (search, template))
    assert all(v <= 255.01 for v in grey(100.0))


class Labelled(RedSquare):
    def __init__(self, text):
        self.text = text

    def draw(self, rng):
        return super().draw(rng)._replace(text=self.text)


def test_mixture_keeps_to_its_weights_and_is_the_same_every_time():
    sources = {name: Labelled(name) for name in ("rare", "common")}

    def texts():
        pairs = TrackingPairs(sources, PLAIN, length=400, weights={"common": 3.0, "rare": 1.0})
        return [pairs[i]["text"] for i in range(400)]

    assert texts() == texts() and 70 < texts().count("rare") < 130


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_mixture_refuses_weights_that_are_none(weights):
    with pytest.raises(ValueError, match="positive weight for each of"):
        Mixture(["a", "b"], weights)


def test_failures_are_counted_by_dataset():
    pairs = TrackingPairs({"good": RedSquare(), "bad": Flaky(1.0)}, PLAIN, length=100)
    with pytest.raises(ValueError, match=r"11 of 11 samples of bad could not be read"):
        [pairs[i] for i in range(100)]
