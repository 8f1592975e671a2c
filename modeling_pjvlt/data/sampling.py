"""Training samples: two frames of one sequence become a template crop, a jittered search crop and a label.

A source draws frame pairs from a random generator; a dataset turns them into crops. A sample depends only on
(seed, epoch, index), so the number of workers and processes changes nothing.
"""

import itertools
import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers.utils import logging

from ..image_processing_pjvlt import PJVLTImageProcessor, check_box, crop_image, frame_to_crop, to_rgb
from ..processing_pjvlt import DEFAULT_SENTENCE
from .procedural import ProceduralClip
from .text import swap_left_right

logger = logging.get_logger(__name__)

MAX_FAILED = 0.01  # share of samples that may be unreadable
MIN_FAILURES = 10  # before that share is looked at
MAX_CENTRE = 0.45  # of the search crop's side: how far from its middle a target may be put


class FramePair(NamedTuple):
    """What a sample is cut from. Frames are (H, W, 3) uint8 RGB, boxes are xywh in frame pixels."""

    template: np.ndarray
    template_box: np.ndarray
    search: np.ndarray
    search_box: np.ndarray
    text: str


class PairSource(Protocol):
    """Anything that draws frame pairs."""

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair that depends on nothing but `rng`."""


class ProceduralPairs:
    """Pairs from procedural clips, a new clip for each.

    Args:
        num_frames: length of the clips the two frames are chosen from.
        words_share: share of clips in which only the sentence can tell the target.
        wrong_text_share: share of the other clips that come with a distractor's sentence, to learn that a clear
            template outweighs a wrong sentence.
        no_text_share: share of those clips that come with "the target" for a sentence.
    """

    def __init__(
        self,
        num_frames: int = 60,
        words_share: float = 0.5,
        wrong_text_share: float = 0.1,
        no_text_share: float = 0.1,
    ):
        self.num_frames = num_frames
        self.words_share = words_share
        self.wrong_text_share = wrong_text_share
        self.no_text_share = no_text_share

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair; the first frame is the template where only the sentence can decide, as in tracking."""
        kind = "words" if rng.random() < self.words_share else "appearance"
        clip = ProceduralClip(int(rng.integers(2**31, 2**62)), self.num_frames, kind=kind)
        visible = np.flatnonzero(clip.visible)
        later = visible[visible > 0]
        first = 0 if kind == "words" or not len(visible) else int(rng.choice(visible))
        second = int(rng.choice(later)) if len(later) else 0
        text, chance = clip.text, rng.random()
        if kind == "appearance" and chance < self.wrong_text_share:
            text = clip.wrong_text
        elif kind == "appearance" and chance < self.wrong_text_share + self.no_text_share:
            text = DEFAULT_SENTENCE
        return FramePair(clip.frame(first), clip.boxes[first], clip.frame(second), clip.boxes[second], text)


class SequencePairs:
    """Pairs from tracking sequences: two visible frames of one video, at most `max_gap` frames apart.

    With `flip_probability` both frames are mirrored, and left and right change places in the sentence.
    """

    def __init__(self, sequences, max_gap: int = 200, flip_probability: float = 0.5):
        self.sequences, self.max_gap, self.flip_probability = sequences, max_gap, flip_probability

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair. Raises `ValueError` if 100 sequences in a row show no target."""
        for _ in range(100):
            sequence = self.sequences[int(rng.integers(len(self.sequences)))]
            visible = np.flatnonzero(sequence.visible)
            if len(visible):
                break
        else:
            raise ValueError("100 sequences drawn at random have no visible target; check the boxes and `visible`.")
        first = int(rng.choice(visible))
        near = visible[np.abs(visible - first) <= self.max_gap]
        second = int(rng.choice(near))
        pair = FramePair(
            sequence.frame(first), sequence.boxes[first], sequence.frame(second), sequence.boxes[second], sequence.text
        )
        return mirror(pair) if rng.random() < self.flip_probability else pair


def mirror(pair: FramePair) -> FramePair:
    """The pair as a mirror shows it, sentence included."""

    def box(box_xywh: np.ndarray, frame: np.ndarray) -> np.ndarray:
        x, y, w, h = box_xywh
        return np.array([frame.shape[1] - x - w, y, w, h], np.float32)

    return FramePair(
        np.ascontiguousarray(pair.template[:, ::-1]),
        box(pair.template_box, pair.template),
        np.ascontiguousarray(pair.search[:, ::-1]),
        box(pair.search_box, pair.search),
        swap_left_right(pair.text),
    )


def jittered_crop(rng, box_xywh, factor: float, size: int, centre_jitter: float, scale_jitter: float):
    """(left, top, scale) of a search crop that does not have the target in its middle (OSTrack's sampling).

    The side is sqrt(w h) * factor * exp(scale_jitter * normal); the centre moves by up to centre_jitter / 2 target
    sizes each way, but the target's centre stays inside.
    """
    x, y, w, h = (float(v) for v in box_xywh)
    target = math.sqrt(w * h)
    side = max(math.ceil(target * factor * math.exp(scale_jitter * rng.standard_normal())), 1)
    shift = rng.uniform(-0.5, 0.5, 2) * centre_jitter * target
    shift = np.clip(shift, -MAX_CENTRE * side, MAX_CENTRE * side)
    return x + w / 2 + shift[0] - side / 2, y + h / 2 + shift[1] - side / 2, size / side


class TrackingPairs(Dataset):
    """Samples for `PJVLTModel`: `pixel_values`, `template_pixel_values`, `labels` (4,) and `text`.

    Args:
        source: where frame pairs come from.
        images: the image processor, which says how large crops are.
        length: samples in an epoch.
        seed: with the epoch and the index, it decides a sample.
        centre_jitter, scale_jitter: see [`jittered_crop`].

    A pair that cannot be read is skipped and logged; more than 1 % of them raise `ValueError`.
    """

    def __init__(
        self,
        source: PairSource,
        images: PJVLTImageProcessor,
        length: int,
        seed: int = 0,
        centre_jitter: float = 3.0,
        scale_jitter: float = 0.25,
    ):
        self.source, self.images, self.length, self.seed = source, images, length, seed
        self.centre_jitter, self.scale_jitter = centre_jitter, scale_jitter
        self.epoch = 0
        self.drawn = self.failed = 0  # of this process

    def set_epoch(self, epoch: int) -> None:
        """Other samples for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        (pair, rng), images = self._draw(index), self.images
        template, _ = images.crop(
            to_rgb(pair.template), pair.template_box, images.template_factor, images.template_size
        )
        box = check_box(pair.search_box)
        place = jittered_crop(
            rng, box, images.search_factor, images.search_size, self.centre_jitter, self.scale_jitter
        )
        search = crop_image(to_rgb(pair.search), *place, images.search_size)
        x, y, w, h = (frame_to_crop(torch.tensor(box), torch.tensor(place)) / images.search_size).tolist()
        return {
            "pixel_values": images.normalize_crops(search[None])[0],
            "template_pixel_values": images.normalize_crops(template[None])[0],
            "labels": torch.tensor([x + w / 2, y + h / 2, w, h], dtype=torch.float32),
            "text": pair.text,
        }

    def _draw(self, index: int) -> tuple[FramePair, np.random.Generator]:
        """The pair of this index, or the next one that can be read; bad ones are logged, and too many are an error."""
        self.drawn += 1
        for attempt in itertools.count():
            rng = np.random.default_rng([self.seed, self.epoch, index, *([attempt] if attempt else [])])
            try:
                return self.source.draw(rng), rng
            except ValueError as error:
                self.failed += 1
                logger.warning(f"Sample {index} is skipped: {error}")
                if self.failed > max(MIN_FAILURES, MAX_FAILED * self.drawn):
                    raise ValueError(
                        f"{self.failed} of {self.drawn} samples could not be read, more than {MAX_FAILED:.0%}; "
                        f"the last one: {error}"
                    ) from error


class PairCollator:
    """Stacks samples and tokenises their sentences."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, samples: list[dict]) -> dict[str, Tensor]:
        names = ("pixel_values", "template_pixel_values", "labels")
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in names}
        return {**batch, **self.processor.encode_text([sample["text"] for sample in samples])}
