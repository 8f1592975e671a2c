"""Training samples: two frames of one sequence become a template crop, a jittered search crop and a label.

A source draws frame pairs from a random generator, and a mixture draws the source; [`PairCropper`] turns a pair into
a sample. A sample depends only on (seed, epoch, index), so the number of workers and processes changes nothing.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers.utils import logging

from ..image_processing_pjvlt import PJVLTImageProcessor, check_box, hidden_template
from ..processing_pjvlt import DEFAULT_SENTENCE
from .crops import SequenceFrame, Window, WindowJitter, cut, search_window, shared_window, template_window
from .degradation import degrade
from .pairs_common import FramePair, PairSource, spoil_text
from .photograph_clips import PhotographClip
from .photographs import PhotographFolder
from .procedural import ProceduralClip, draw_cast
from .procedural_text import Look
from .text import swap_left_right

logger = logging.get_logger(__name__)

DEFAULT_JITTER = WindowJitter()
MAX_FAILED = 0.01  # share of a dataset's samples that may be unreadable
MIN_FAILURES = 10  # before that share is looked at


class ProceduralPairs:
    """Pairs from procedural clips, a new clip for each.

    Args:
        num_frames: length of the clips the two frames are chosen from.
        words_share: share of clips in which only the sentence can tell the target.
        wrong_text_share: share of the other clips that come with a distractor's sentence, to learn that a clear
            template outweighs a wrong sentence.
        no_text_share: share of those clips that come with "the target" for a sentence.
        attribute_weights: of colour, pattern and form, in which the rival of a "words" clip differs from its target; of
            any sum. By default as the clips come: 8 : 5 : 5.

    Raises `ValueError` for attribute weights that are not three positive numbers.
    """

    def __init__(
        self,
        num_frames: int = 60,
        words_share: float = 0.5,
        wrong_text_share: float = 0.1,
        no_text_share: float = 0.1,
        attribute_weights: Sequence[float] | None = None,
    ):
        self.num_frames = num_frames
        self.words_share = words_share
        self.wrong_text_share = wrong_text_share
        self.no_text_share = no_text_share
        self.attributes = None if attribute_weights is None else Mixture(list(Look._fields), attribute_weights)

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair; the first frame is the template where only the sentence can decide, as in tracking."""
        clip, first, second = self._draw_clip(rng)
        return self._pair(rng, clip, (clip.frame(first), clip.frame(second)), clip.boxes[[first, second]], False)

    def draw_twins(self, rng: np.random.Generator) -> tuple[FramePair, FramePair]:
        """Two pairs that share their pictures: the target's, and the rival's where it can be seen.

        Where only the sentence can decide, nothing but the sentence tells the two apart.
        """
        clip, first, second = self._draw_clip(rng)
        frames = clip.frame(first), clip.frame(second)
        one = self._pair(rng, clip, frames, clip.boxes[[first, second]], False)
        rival = clip.rival_visible[[first, second]]
        if not rival[clip.kind == "words" :].all():  # the first frame of "words" clips tells nothing anyway
            return one, self._pair(rng, clip, frames, clip.boxes[[first, second]], False)
        boxes = np.stack([clip.distractor_boxes(first)[0], clip.distractor_boxes(second)[0]])
        if clip.kind == "words":
            boxes[0] = clip.boxes[first]
        return one, self._pair(rng, clip, frames, boxes, True)

    def _draw_clip(self, rng: np.random.Generator) -> tuple[ProceduralClip, int, int]:
        """A clip, its template frame and its search frame."""
        kind = "words" if rng.random() < self.words_share else "appearance"
        clip = ProceduralClip(self._draw_seed(rng, kind), self.num_frames, kind=kind)
        visible = np.flatnonzero(clip.visible)
        later = visible[visible > 0]
        first = 0 if kind == "words" or not len(visible) else int(rng.choice(visible))
        return clip, first, int(rng.choice(later)) if len(later) else 0

    def _draw_seed(self, rng: np.random.Generator, kind: str) -> int:
        """The seed of a clip, drawn anew until its rival differs in the attribute that is wanted, if one is."""
        wanted = self.attributes.draw(rng) if self.attributes and kind == "words" else None
        seed = _any_seed(rng)
        while wanted and not _rival_differs(seed, kind, wanted):
            seed = _any_seed(rng)
        return seed

    def _pair(self, rng, clip: ProceduralClip, frames, boxes, of_rival: bool) -> FramePair:
        right, wrong = (clip.wrong_text, clip.text) if of_rival else (clip.text, clip.wrong_text)
        text = right
        if clip.kind == "appearance":
            text = spoil_text(rng, right, lambda: wrong, self.wrong_text_share, self.no_text_share)
        return FramePair(frames[0], boxes[0], frames[1], boxes[1], text)


def _any_seed(rng: np.random.Generator) -> int:
    """Of a clip for training: tests and evaluation have the smaller ones."""
    return int(rng.integers(2**31, 2**62))


def _rival_differs(seed: int, kind: str, attribute: str) -> bool:
    """Whether the first distractor of a clip, which is not drawn for this, differs from the target in one attribute."""
    *_, (target, rival, *_) = draw_cast(seed, kind)
    return getattr(target, attribute) != getattr(rival, attribute)


class PhotographPairs:
    """Pairs from clips made of photographs, a new clip for each.

    Args:
        photographs: what the clips are made of.
        difficulty: of the hardest clips, in [0, 1]; see [`PhotographClip`]. Easy and hard ones are mixed.
        max_gap: frames between template and search frame, at most.
        pasted_share: share of clips whose target moves over another photograph.
        wrong_text_share, no_text_share: share of pairs with another target's sentence, and with "the target". On real
            pictures the template says more than words do, so words must not outweigh it.
    """

    def __init__(
        self,
        photographs: PhotographFolder,
        difficulty: float = 1.0,
        max_gap: int = 60,
        pasted_share: float = 0.5,
        wrong_text_share: float = 0.2,
        no_text_share: float = 0.15,
    ):
        self.photographs, self.difficulty, self.max_gap = photographs, difficulty, max_gap
        self.pasted_share = pasted_share
        self.wrong_text_share, self.no_text_share = wrong_text_share, no_text_share

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair of frames that both show the target. Raises `ValueError` for a picture that cannot be read."""
        clip = self._draw_clip(rng)
        order = rng.permutation(2)

        def wrong() -> str:
            return PhotographClip(self.photographs, clip.seed + 1, kind="camera", times=(0,)).text

        return self._pair(rng, [clip.frame(0), clip.frame(1)], clip.boxes, order, clip.text, wrong)

    def draw_twins(self, rng: np.random.Generator) -> tuple[FramePair, FramePair]:
        """Two pairs that share their pictures: the target's, and another one's where there is one.

        A wrong sentence is then that of the other target. Without another target the second pair is the first one
        with its frames exchanged.
        """
        clip = self._draw_clip(rng)
        order = rng.permutation(2)
        frames = [clip.frame(0), clip.frame(1)]
        other = clip.draw_other(rng)
        if other is None:
            one, two = (
                self._pair(rng, frames, clip.boxes, o, clip.text, lambda: DEFAULT_SENTENCE)
                for o in (order, order[::-1])
            )
            return one, two
        boxes, text = other
        one = self._pair(rng, frames, clip.boxes, order, clip.text, lambda: text)
        return one, self._pair(rng, frames, boxes, order, text, lambda: clip.text)

    def _draw_clip(self, rng: np.random.Generator) -> PhotographClip:
        """A clip of two frames that both show its target."""
        while True:
            kind = "pasted" if rng.random() < self.pasted_share else "camera"
            seed, gap = int(rng.integers(2**31, 2**62)), float(rng.uniform(1, self.max_gap))
            difficulty = self.difficulty * float(rng.random())
            clip = PhotographClip(self.photographs, seed, kind=kind, difficulty=difficulty, times=(0, gap))
            if clip.visible.all():
                return clip

    def _pair(self, rng, frames, boxes, order, text: str, wrong: Callable[[], str]) -> FramePair:
        first, second = order
        text = spoil_text(rng, text, wrong, self.wrong_text_share, self.no_text_share)
        return FramePair(frames[first], boxes[first], frames[second], boxes[second], text)


@dataclass(frozen=True)
class PairRules:
    """Which two frames of a sequence may be a pair.

    max_gap: frames between them, at most. min_box_side: pixels; frames whose box is not wider and higher than this are
    left out, 0 keeps all. excluded: names of sequences that are left out.
    """

    max_gap: int = 200
    min_box_side: float = 0.0
    excluded: frozenset[str] = frozenset()


class SequencePairs:
    """Pairs from tracking sequences: two visible frames of one video.

    Args:
        sequences: a tracking dataset.
        max_gap, min_box_side, excluded: see [`PairRules`].
        wrong_text_share, no_text_share: share of pairs with another sequence's sentence, and with "the target".
        hidden_share: share of pairs without a template, so that only the sentence tells the target.
        absent_share: share of pairs whose search frame is of another sequence, so that no target is to be found.
    """

    def __init__(
        self,
        sequences,
        max_gap: int = 200,
        min_box_side: float = 0.0,
        excluded: Iterable[str] = (),
        wrong_text_share: float = 0.0,
        no_text_share: float = 0.0,
        hidden_share: float = 0.0,
        absent_share: float = 0.0,
    ):
        self.sequences, self.rules = sequences, PairRules(max_gap, min_box_side, frozenset(excluded))
        self.wrong_text_share, self.no_text_share = wrong_text_share, no_text_share
        self.hidden_share, self.absent_share = hidden_share, absent_share

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair. Raises `ValueError` if 100 sequences in a row give none."""
        pair = self._draw_pair(rng)
        chance = rng.random() if self.hidden_share or self.absent_share else 1.0
        if chance < self.hidden_share:
            return pair._replace(template=None)
        if chance < self.hidden_share + self.absent_share:
            other = self._draw_pair(rng)
            if other.text != pair.text:
                return pair._replace(search=other.search, search_box=other.search_box, present=False)
        if not (self.wrong_text_share or self.no_text_share):
            return pair
        shares = self.wrong_text_share, self.no_text_share
        return pair._replace(text=spoil_text(rng, pair.text, lambda: self._draw_pair(rng).text, *shares))

    def _draw_pair(self, rng: np.random.Generator) -> FramePair:
        for _ in range(100):
            pair = draw_pair(self.sequences[int(rng.integers(len(self.sequences)))], rng, self.rules)
            if pair is not None:
                return pair
        rules = self.rules
        kept = f" wider and higher than {rules.min_box_side:g} pixels" if rules.min_box_side else ""
        kept += ", or are excluded" if rules.excluded else ""
        raise ValueError(f"100 sequences drawn at random have no visible target{kept}; check the boxes and `visible`.")


def draw_pair(sequence, rng: np.random.Generator, rules: PairRules) -> FramePair | None:
    """Two visible frames of one sequence; None where the rules leave none."""
    if sequence.name in rules.excluded:
        return None
    usable = sequence.visible
    if rules.min_box_side:
        usable = usable & (sequence.boxes[:, 2:] > rules.min_box_side).all(axis=1)
    visible = np.flatnonzero(usable)
    if not len(visible):
        return None
    first = int(visible[rng.integers(len(visible))])
    low, high = np.searchsorted(visible, (first - rules.max_gap, first + rules.max_gap + 1))
    second = int(visible[rng.integers(low, high)])
    return FramePair(
        SequenceFrame(sequence, first),
        sequence.boxes[first],
        SequenceFrame(sequence, second),
        sequence.boxes[second],
        sequence.text,
    )


class PairCropper:
    """Turns a frame pair into a sample; [`PairCollator`] makes batches for `PJVLTModel` of them.

    Args:
        images: the image processor, which says how large crops are.
        jitter: of the search region; see [`WindowJitter`].
        flip_probability: share of samples seen in a mirror: both crops, the box, and left and right in the sentence.
        template_flip_probability: share of samples whose template alone is mirrored (once more).
        brightness_jitter: each crop is made brighter or darker by a factor of up to 1 ± this.
        degrade_probability: share of search crops that are blurred, compressed or short of light or colour; see
            [`degrade`].
    """

    def __init__(
        self,
        images: PJVLTImageProcessor,
        jitter: WindowJitter = DEFAULT_JITTER,
        flip_probability: float = 0.5,
        brightness_jitter: float = 0.2,
        template_flip_probability: float = 0.0,
        degrade_probability: float = 0.0,
    ):
        self.images, self.jitter = images, jitter
        self.flip_probability, self.brightness_jitter = flip_probability, brightness_jitter
        self.template_flip_probability, self.degrade_probability = template_flip_probability, degrade_probability

    def shared_window(self, rng: np.random.Generator, boxes_xywh: list[np.ndarray]) -> Window | None:
        """One search region for two targets of a picture, or None; see [`shared_window`] of `crops`."""
        boxes = [check_box(box) for box in boxes_xywh]
        return shared_window(rng, boxes, self.images.search_factor, self.images.search_size, self.jitter)

    def __call__(
        self, pair: FramePair, rng: np.random.Generator, window: Window | None = None
    ) -> dict[str, Tensor | str]:
        """One sample, its search region drawn around the target, or the given `window`.

        Raises `ValueError` naming a frame that cannot be decoded or a box that is none.

        `pixel_values`, `template_pixel_values`: (3, S, S) uint8, the search and the template crop. `brightness`: (2,)
        the factors that these two will be multiplied with. `labels`: (4,) cx, cy, w, h in [0, 1] of the search crop, zeros
        where it does not show the target. `text`: the sentence.
        """
        images = self.images
        x, y, w, h = box = check_box(pair.search_box)
        search = window or search_window(rng, box, images.search_factor, images.search_size, self.jitter)
        label = [(x + w / 2 - search.left) / search.width, (y + h / 2 - search.top) / search.height]
        label += [w / search.width, h / search.height]
        text, mirror = pair.text, bool(rng.random() < self.flip_probability)
        if mirror:
            label[0], text = 1 - label[0], swap_left_right(text)
        template_mirror = mirror
        if self.template_flip_probability:
            template_mirror ^= bool(rng.random() < self.template_flip_probability)
        template_light, search_light = 1 + self.brightness_jitter * rng.uniform(-1, 1, 2)
        crop = cut(pair.search, search, images.search_size, mirror, pair.surroundings)
        if self.degrade_probability and rng.random() < self.degrade_probability:
            crop = degrade(rng, crop)
        return {
            "pixel_values": crop,
            "template_pixel_values": self._template(pair, template_mirror),
            "brightness": torch.tensor([search_light, template_light], dtype=torch.float32),
            "labels": torch.tensor(label if pair.present else [0.0] * 4, dtype=torch.float32),
            "text": text,
        }

    def _template(self, pair: FramePair, mirror: bool) -> Tensor:
        images = self.images
        if pair.template is None:
            return hidden_template(images)
        window = template_window(check_box(pair.template_box), images.template_factor, images.template_size)
        return cut(pair.template, window, images.template_size, mirror)


class FailureCount:
    """Counts samples that could not be read, by dataset, and raises when they are more than 1 % of one's."""

    def __init__(self):
        self.drawn, self.failed = Counter(), Counter()

    def add(self, name: str, index: int, error: ValueError) -> None:
        """Log one. Raises `ValueError` when there are too many."""
        self.failed[name] += 1
        failed, drawn = self.failed[name], self.drawn[name]
        logger.warning(f"Sample {index} ({name}) is skipped: {error}")
        if failed > max(MIN_FAILURES, MAX_FAILED * drawn):
            raise ValueError(
                f"{failed} of {drawn} samples of {name} could not be read, more than {MAX_FAILED:.0%}; "
                f"the last one: {error}"
            ) from error


class Mixture:
    """Chooses among names by weight.

    Args:
        names: of sources, or of anything else. weights: one for each, of any sum; by default all equal.

    Raises `ValueError` for weights that are not positive numbers, one for each name.
    """

    def __init__(self, names: list[str], weights: list[float] | None = None):
        weights = [1.0] * len(names) if weights is None else list(weights)
        if len(weights) != len(names) or not all(np.isfinite(w) and w > 0 for w in weights):
            raise ValueError(f"Expected a positive weight for each of {names}, got {weights}.")
        self.names, self.edges = names, np.cumsum(weights) / np.sum(weights)

    def draw(self, rng: np.random.Generator) -> str:
        """A name; with one source the generator is left alone."""
        if len(self.names) == 1:
            return self.names[0]
        return self.names[int(np.searchsorted(self.edges[:-1], rng.random(), side="right"))]


class TrackingPairs(Dataset):
    """Samples for `PJVLTModel`, by index. See [`PairCropper`].

    Args:
        sources: where frame pairs come from, by name; or one source.
        cropper: makes samples of them.
        length: samples in an epoch.
        seed: with the epoch and the index, it decides a sample.
        weights: of the sources, by name; by default all equal.
        twins: samples 2 i and 2 i + 1 share their pictures and, where it can hold both targets, their search region,
            where a source has `draw_twins`. That halves the time it takes to draw them, and only template and sentence
            tell which target is meant.

    A pair that cannot be read is skipped, counted and logged; more than 1 % of a source's raise `ValueError`.
    """

    def __init__(
        self,
        sources: PairSource | Mapping[str, PairSource],
        cropper: PairCropper,
        length: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        twins: bool = False,
    ):
        self.sources = dict(sources) if isinstance(sources, Mapping) else {type(sources).__name__: sources}
        names = list(self.sources)
        self.mixture = Mixture(names, None if weights is None else [weights[name] for name in names])
        self.cropper, self.length, self.seed = cropper, length, seed
        self.epoch, self.twins = 0, twins
        self._last_twins = None, None, None  # what they follow from, the two pairs, and their search region
        self.failures = FailureCount()  # of this process

    def set_epoch(self, epoch: int) -> None:
        """Other samples for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        for attempt in itertools.count():
            retry = [attempt] if attempt else []
            rng = np.random.default_rng([self.seed, self.epoch, index, *retry])
            shared = np.random.default_rng([self.seed, self.epoch, index // 2, *retry, 2]) if self.twins else rng
            name = self.mixture.draw(shared)
            source = self.sources[name]
            self.failures.drawn[name] += 1
            try:
                if not (self.twins and hasattr(source, "draw_twins")):
                    return self.cropper(source.draw(rng), rng)
                key = self.epoch, index // 2, attempt
                if self._last_twins[0] != key:
                    twins = source.draw_twins(shared)
                    self._last_twins = key, twins, self._window_of(twins, shared)
                _, twins, window = self._last_twins
                return self.cropper(twins[index % 2], rng, window)
            except ValueError as error:
                self.failures.add(name, index, error)

    def _window_of(self, twins: tuple[FramePair, FramePair], rng: np.random.Generator) -> Window | None:
        """The search region that two targets of one picture share; None for other twins."""
        boxes = [twin.search_box for twin in twins]
        if twins[0].search is not twins[1].search or np.array_equal(*boxes):
            return None
        return self.cropper.shared_window(rng, boxes)


class PairCollator:
    """Stacks samples and tokenises their sentences.

    Args:
        processor: the model's.
        normalize: give what `PJVLTModel` takes. Without, crops stay bytes, a quarter of the size, and
            [`normalize_pairs`] does the rest where the model is.
    """

    def __init__(self, processor, normalize: bool = True):
        self.processor, self.normalize = processor, normalize

    def __call__(self, samples: list[dict]) -> dict[str, Tensor]:
        names = ("pixel_values", "template_pixel_values", "brightness", "labels")
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in names}
        batch |= self.processor.encode_text([sample["text"] for sample in samples])
        return normalize_pairs(batch, self.processor.image_processor) if self.normalize else batch


def normalize_pairs(batch: dict[str, Tensor], images: PJVLTImageProcessor) -> dict[str, Tensor]:
    """The batch with crops made brighter or darker, in whole levels, and normalised, on the device they are on."""
    inputs = {name: value for name, value in batch.items() if name != "brightness"}
    for name, factors in zip(("pixel_values", "template_pixel_values"), batch["brightness"].unbind(1), strict=True):
        levels = (batch[name] * factors.view(-1, 1, 1, 1)).round_().clamp_(0, 255)
        inputs[name] = images.normalize_crops(levels)
    return inputs
