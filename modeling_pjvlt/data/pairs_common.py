"""What all sources of training pairs share: the pair, what a source is, and sentences that are wrong on purpose."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from ..processing_pjvlt import DEFAULT_SENTENCE
from .crops import SequenceFrame


class FramePair(NamedTuple):
    """What a sample is cut from.

    Frames are (H, W, 3) uint8 RGB, or where they will be decoded from; boxes are xywh in frame pixels. template: None where
    it is hidden, and only the sentence tells the target. present: False where the search frame does not show the target;
    its box then says where to look. surroundings: (H, W, 3), what lies around a search frame that its target nearly fills.
    """

    template: np.ndarray | SequenceFrame | None
    template_box: np.ndarray
    search: np.ndarray | SequenceFrame
    search_box: np.ndarray
    text: str
    present: bool = True
    surroundings: np.ndarray | None = None

    def alone(self) -> "FramePair":
        """The same pair, holding on to its two encoded pictures and not to the rest of their sequence."""
        template = None if self.template is None else self.template.alone()
        return self._replace(template=template, search=self.search.alone())


class PairSource(Protocol):
    """Anything that draws frame pairs; `draw_twins(rng)`, two that share their pictures, is optional."""

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair that depends on nothing but `rng`."""


def spoil_text(rng: np.random.Generator, text: str, wrong: Callable[[], str], wrong_share: float, no_share: float):
    """The sentence, or with these probabilities a wrong one, or "the target"."""
    chance = rng.random()
    if chance < wrong_share:
        return wrong()
    return DEFAULT_SENTENCE if chance < wrong_share + no_share else text


__all__ = ["FramePair", "PairSource", "spoil_text"]
