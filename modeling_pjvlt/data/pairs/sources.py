"""Sources of training pairs: each draws two frames of one sequence or clip from a random generator."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...processing_pjvlt import DEFAULT_SENTENCE
from ..synthetic.photograph_clips import FRAME_HEIGHT, PhotographClip
from ..synthetic.photographs import PhotographFolder
from ..synthetic.procedural import ProceduralClip, draw_cast
from ..synthetic.procedural_text import Look
from .cropping import FramePair, SequenceFrame
from .mixture import Mixture


def spoil_text(rng: np.random.Generator, text: str, wrong: Callable[[], str], wrong_share: float, no_share: float):
    """The sentence; with these probabilities, a wrong one or "the target" instead."""
    chance = rng.random()
    if chance < wrong_share:
        return wrong()
    return DEFAULT_SENTENCE if chance < wrong_share + no_share else text


class ProceduralPairs:
    """Pairs from procedural clips, a new clip for each.

    Args:
        num_frames: length of the clips from which the two frames are drawn.
        words_share: share of clips of kind "words", in which only the sentence identifies the target.
        wrong_text_share: share of the other clips with a distractor's sentence, which teaches that a clear template
            outweighs a wrong sentence.
        no_text_share: share of the other clips whose sentence is "the target".
        attribute_weights: how often the first distractor of a "words" clip differs from its target in colour, pattern
            and form; of any sum. By default those of the clips, 8 : 5 : 5.

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
        """One pair; in "words" clips the first frame is the template, as in tracking."""
        clip, first, second = self._draw_clip(rng)
        return self._pair(rng, clip, (clip.frame(first), clip.frame(second)), clip.boxes[[first, second]], False)

    def draw_twins(self, rng: np.random.Generator) -> tuple[FramePair, FramePair]:
        """Two pairs with the same images: one of the target, one of the distractor if it is visible.

        In "words" clips only the sentence distinguishes the two.
        """
        clip, first, second = self._draw_clip(rng)
        frames = clip.frame(first), clip.frame(second)
        one = self._pair(rng, clip, frames, clip.boxes[[first, second]], False)
        # The first frame of a "words" clip does not identify the target, so the distractor may be hidden there.
        shown = clip.distractor_visible[[second] if clip.kind == "words" else [first, second]]
        if not shown.all():
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
        """The seed of a clip; with attribute weights, drawn until its distractor differs in the drawn attribute."""
        wanted = self.attributes.draw(rng) if self.attributes and kind == "words" else None
        seed = _any_seed(rng)
        while wanted and not _distractor_differs(seed, kind, wanted):
            seed = _any_seed(rng)
        return seed

    def _pair(self, rng, clip: ProceduralClip, frames, boxes, of_distractor: bool) -> FramePair:
        right, wrong = (clip.wrong_text, clip.text) if of_distractor else (clip.text, clip.wrong_text)
        text = right
        if clip.kind == "appearance":
            text = spoil_text(rng, right, lambda: wrong, self.wrong_text_share, self.no_text_share)
        return FramePair(frames[0], boxes[0], frames[1], boxes[1], text)


def _any_seed(rng: np.random.Generator) -> int:
    """The seed of a training clip; the smaller seeds are reserved for tests and evaluation."""
    return int(rng.integers(2**31, 2**62))


def _distractor_differs(seed: int, kind: str, attribute: str) -> bool:
    """Whether the first distractor differs from the target in an attribute. Does not draw the clip."""
    *_, (target, distractor, *_) = draw_cast(seed, kind)
    return getattr(target, attribute) != getattr(distractor, attribute)


class PhotographPairs:
    """Pairs from clips made of photographs, a new clip for each.

    Args:
        photographs: what the clips are made of.
        difficulty: of the hardest clips, in [0, 1]; see [`PhotographClip`]. Each clip draws its own, from 0 to this.
        max_gap: frames between template and search frame, at most.
        pasted_share: share of clips whose target is cut out and moves over a background; see [`PhotographClip`].
        wrong_text_share, no_text_share: share of pairs with another target's sentence, and with "the target". On real
            images the template says more than the words, so the words must not outweigh it.
        frame_height: of the clips, in pixels.
    """

    def __init__(
        self,
        photographs: PhotographFolder,
        difficulty: float = 1.0,
        max_gap: int = 60,
        pasted_share: float = 0.5,
        wrong_text_share: float = 0.2,
        no_text_share: float = 0.15,
        frame_height: int = FRAME_HEIGHT,
    ):
        self.photographs, self.difficulty, self.max_gap = photographs, difficulty, max_gap
        self.pasted_share, self.frame_height = pasted_share, frame_height
        self.wrong_text_share, self.no_text_share = wrong_text_share, no_text_share

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair of frames that both show the target. Raises `ValueError` for an image that cannot be read."""
        clip = self._draw_clip(rng)
        order = rng.permutation(2)

        def wrong() -> str:
            return PhotographClip(self.photographs, clip.seed + 1, kind="camera", times=(0,)).text

        return self._pair(rng, [clip.frame(0), clip.frame(1)], clip.boxes, order, clip.text, wrong)

    def draw_twins(self, rng: np.random.Generator) -> tuple[FramePair, FramePair]:
        """Two pairs with the same images: one of the target, one of another target if the clip has one.

        A wrong sentence is then that of the other target. Without another target, the second pair is the first one
        with template and search frame exchanged.
        """
        clip = self._draw_clip(rng)
        order = rng.permutation(2)
        frames = [clip.frame(0), clip.frame(1)]
        other = clip.draw_other(rng)
        if other is None:
            return tuple(
                self._pair(rng, frames, clip.boxes, frame_order, clip.text, lambda: DEFAULT_SENTENCE)
                for frame_order in (order, order[::-1])
            )
        boxes, text = other
        one = self._pair(rng, frames, clip.boxes, order, clip.text, lambda: text)
        return one, self._pair(rng, frames, boxes, order, text, lambda: clip.text)

    def _draw_clip(self, rng: np.random.Generator) -> PhotographClip:
        """A clip of two frames that both show its target."""
        while True:
            kind = "pasted" if rng.random() < self.pasted_share else "camera"
            seed, gap = int(rng.integers(2**31, 2**62)), float(rng.uniform(1, self.max_gap))
            difficulty = self.difficulty * float(rng.random())
            settings = {"kind": kind, "difficulty": difficulty, "frame_height": self.frame_height}
            clip = PhotographClip(self.photographs, seed, times=(0, gap), **settings)
            if clip.visible.all():
                return clip

    def _pair(self, rng, frames, boxes, order, text: str, wrong: Callable[[], str]) -> FramePair:
        first, second = order
        text = spoil_text(rng, text, wrong, self.wrong_text_share, self.no_text_share)
        return FramePair(frames[first], boxes[first], frames[second], boxes[second], text)


@dataclass(frozen=True)
class PairRules:
    """Which two frames of a sequence may be a pair.

    max_gap: largest distance between them, in frames. min_box_side: pixels; frames whose box is not wider and higher
    than this are left out, 0 keeps all. excluded: names of sequences that are left out.
    """

    max_gap: int = 200
    min_box_side: float = 0.0
    excluded: frozenset[str] = frozenset()


class SequencePairs:
    """Pairs from tracking sequences: two visible frames of one video.

    Args:
        sequences: a tracking dataset.
        max_gap, min_box_side, excluded: see [`PairRules`].
        wrong_text_share, no_text_share: share of the pairs left by the next two with another sequence's sentence, and
            with "the target".
        hidden_share: share of pairs without a template, so that only the sentence identifies the target.
        absent_share: share of pairs whose search frame is of a sequence with another sentence, without the target.
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
        """One pair. Raises `ValueError` if no pair comes from 100 sequences drawn in a row."""
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
        conditions = f" wider and higher than {rules.min_box_side:g} pixels" if rules.min_box_side else ""
        conditions += ", or are excluded" if rules.excluded else ""
        raise ValueError(
            f"100 sequences drawn at random have no visible target{conditions}; check the boxes and `visible`."
        )


def draw_pair(sequence, rng: np.random.Generator, rules: PairRules) -> FramePair | None:
    """Two visible frames of one sequence, which can be the same one twice; None if the rules allow no frame."""
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
