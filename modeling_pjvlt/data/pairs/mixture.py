"""Training samples: two frames of one sequence become a template crop, a jittered search crop and a label.

A mixture draws a source, the source draws a pair of frames, and [`PairCropper`] turns the pair into a sample. A sample
depends only on (seed, epoch, index), so the number of workers and processes changes nothing.
"""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers.utils import logging

from ...image_processing_pjvlt import PJVLTImageProcessor
from .cropping import FramePair, PairCropper, Window

logger = logging.get_logger(__name__)

MAX_FAILED = 0.01  # share of a dataset's samples that may be unreadable
MIN_FAILURES = 10  # that are allowed whatever their share


class PairSource(Protocol):
    """Anything that draws frame pairs; `draw_twins(rng)`, two pairs with the same images, is optional."""

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair that depends on `rng` alone."""


class FailureCount:
    """Counts unreadable samples by dataset, and raises at more than ten that are more than 1 % of one dataset."""

    def __init__(self):
        self.drawn, self.failed = Counter(), Counter()

    def add(self, name: str, index: int, error: ValueError) -> None:
        """Count and log one. Raises `ValueError` when there are too many."""
        self.failed[name] += 1
        failed, drawn = self.failed[name], self.drawn[name]
        logger.warning(f"Sample {index} ({name}) cannot be read and is replaced: {error}")
        if failed > max(MIN_FAILURES, MAX_FAILED * drawn):
            raise ValueError(
                f"{failed} of {drawn} samples of {name} could not be read, more than {MAX_FAILED:.0%}; "
                f"the last one: {error}"
            ) from error


class Mixture:
    """Chooses among names by weight.

    Args:
        names: of sources, or of anything else.
        weights: one for each, of any sum; by default all equal.

    Raises `ValueError` for weights that are not positive numbers, one for each name.
    """

    def __init__(self, names: list[str], weights: list[float] | None = None):
        weights = [1.0] * len(names) if weights is None else list(weights)
        if len(weights) != len(names) or not all(np.isfinite(w) and w > 0 for w in weights):
            raise ValueError(f"Expected a positive weight for each of {names}, got {weights}.")
        self.names, self.edges = names, np.cumsum(weights) / np.sum(weights)

    def draw(self, rng: np.random.Generator) -> str:
        """A name; if there is only one, the generator is not used."""
        if len(self.names) == 1:
            return self.names[0]
        return self.names[int(np.searchsorted(self.edges[:-1], rng.random(), side="right"))]


class TrackingPairs(Dataset):
    """Samples for `PJVLTModel`, by index. See [`PairCropper`].

    Args:
        sources: of frame pairs, by name; or one source.
        cropper: makes samples of them.
        length: samples in an epoch.
        seed: with the epoch and the index, it decides a sample.
        weights: of the sources, by name; by default all equal.
        twins: samples 2 i and 2 i + 1 of a source with `draw_twins` share their images and, if one can hold both
            targets, their search region. That halves the time to draw them, and only template and sentence show which
            target is meant.

    A pair that cannot be read is logged and counted, and another one is drawn. Too many raise `ValueError`; see
    [`FailureCount`].
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
        self._last_twins = None, None, None  # key for which they were drawn, the two pairs, their search region
        self.failures = FailureCount()  # of this process

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides all samples."""
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
        """The search region that two targets of one image share; None for other twins."""
        boxes = [twin.search_box for twin in twins]
        if twins[0].search is not twins[1].search or np.array_equal(*boxes):
            return None
        return self.cropper.shared_window(rng, boxes)


class PairCollator:
    """Stacks samples and tokenizes their sentences.

    Args:
        processor: the model's.
        normalize: return the inputs of `PJVLTModel`. Without it crops stay bytes, a quarter of the size, and
            [`normalize_pairs`] makes the inputs on the model's device.
    """

    def __init__(self, processor, normalize: bool = True):
        self.processor, self.normalize = processor, normalize

    def __call__(self, samples: list[dict]) -> dict[str, Tensor]:
        names = ("pixel_values", "template_pixel_values", "brightness", "labels")
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in names}
        batch |= self.processor.encode_text([sample["text"] for sample in samples])
        return normalize_pairs(batch, self.processor.image_processor) if self.normalize else batch


def normalize_pairs(batch: dict[str, Tensor], images: PJVLTImageProcessor) -> dict[str, Tensor]:
    """The batch with its crops multiplied by `brightness`, in whole levels, and normalised, on their device."""
    inputs = {name: value for name, value in batch.items() if name != "brightness"}
    for name, factors in zip(("pixel_values", "template_pixel_values"), batch["brightness"].unbind(1), strict=True):
        levels = (batch[name] * factors.view(-1, 1, 1, 1)).round_().clamp_(0, 255)
        inputs[name] = images.normalize_crops(levels)
    return inputs
