"""The targets of one video and what is known of them, without torch: shared by all sessions, whatever runs the network."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from .geometry_pjvlt import Box

LOST_SCORE, LOST_AFTER = 0.2, 5  # chosen on real clips, with an earlier checkpoint
MAX_SHOWN = 5  # targets that `repr` names
GROWTH, MAX_GROWTH = 1.1, 2.0  # of a lost target's search region: per frame, and at most


@dataclass
class TrackedTarget:
    """Where one target is in one frame.

    target_id: as given to [`TrackingSession.add_target`]. box: x, y, w, h in frame pixels. score: confidence in
    (0, 1), the model's score before the window; 1.0 in the frame where the box was given. lost: whether the score has
    been low for some frames; the box is then no more than the best guess.
    """

    target_id: str
    box: Box
    score: float
    lost: bool = False


@dataclass
class Target:
    """What a session keeps of a target. `template` is (1, 3, template_size, template_size), normalised."""

    template: Any
    text: str | None
    frame_size: tuple[int, int]  # height, width
    box: Box  # around which it is searched
    seen: Box  # the last one with a score that was not low
    low: int = 0  # frames in a row whose score was
    growth: float = 1.0  # of the search region


def weighted(window, weight: float):
    """A window that counts with a weight from 0 to 1; None where it does not count at all."""
    return None if weight == 0 else weight * window + (1 - weight)


class TargetSession(ABC):
    """Targets by their ids, and what a frame's boxes and scores mean for each. Subclasses find those in `_locate`.

    Args:
        window_weight: from 0 to 1, how much a Hann window counts that the scores are multiplied by: of two equal answers
            the nearer one wins. 0: not at all.
        size_smoothing: from 0 to below 1, how much of a target's width and height (their logarithms) is kept from one
            frame to the next, against boxes that jump.
        lost_score, lost_after: a target whose score stays below `lost_score` for `lost_after` frames is lost: it is
            searched where it was last seen, in a region that grows by a tenth a frame up to twice its side, until its
            score is not low any more. With a `lost_score` of 0 no target is ever lost.

    Attributes:
        seconds: spent in `step` so far: `crop`, until the network's input is there, and `network`, until the boxes are.
    """

    def __init__(
        self,
        window_weight: float,
        size_smoothing: float,
        lost_score: float = LOST_SCORE,
        lost_after: int = LOST_AFTER,
    ):
        if not 0 <= window_weight <= 1:
            raise ValueError(f"`window_weight` must lie between 0 and 1, got {window_weight}.")
        if not 0 <= size_smoothing < 1:
            raise ValueError(f"`size_smoothing` must be at least 0 and less than 1, got {size_smoothing}.")
        self.window_weight, self.size_smoothing = window_weight, size_smoothing
        self.lost_score, self.lost_after = lost_score, lost_after
        self.seconds = {"crop": 0.0, "network": 0.0}
        self._targets: dict[str, Any] = {}
        self._batch = None  # what the network needs of all the targets; made anew where they change

    @abstractmethod
    def _locate(self, image, started: float) -> tuple[list[Box], list[float]]:
        """Boxes (xywh, frame pixels) and scores of all the targets in one frame. started: when its step did."""

    @abstractmethod
    def _model_name(self) -> str:
        """How `repr` calls the model."""

    def __repr__(self) -> str:
        shown = [
            f"{target_id!r} at {' '.join(f'{v:.0f}' for v in t.box)}" + (f' ("{t.text}")' if t.text else "")
            for target_id, t in self._targets.items()
        ]
        number = f"{len(shown)} target{'s' * (len(shown) != 1)}"
        told = "; ".join([number, *shown[:MAX_SHOWN], *["…"] * (len(shown) > MAX_SHOWN)])
        return f"{type(self).__name__}({self._model_name()}; {told})"

    def __copy__(self) -> "TargetSession":
        """A session that goes on from here by itself. The model, which is only read, is the same."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._targets = {target_id: replace(target) for target_id, target in self._targets.items()}
        twin.seconds, twin._batch = dict(self.seconds), None
        return twin

    def __deepcopy__(self, memo: dict) -> "TargetSession":
        return self.__copy__()

    @property
    def target_ids(self) -> list[str]:
        """The targets that are tracked now, in the order in which they were added."""
        return list(self._targets)

    def _free_id(self, target_id: str | None) -> str:
        """The id for a new target, or a `ValueError`."""
        if target_id is None:
            target_id = str(next(i for i in range(len(self._targets) + 1) if str(i) not in self._targets))
        if target_id in self._targets:
            raise ValueError(f"A target {target_id!r} is tracked already; its ids are {self.target_ids}.")
        return target_id

    def box_of(self, target_id: str) -> Box:
        """Where a target was last seen: x, y, w, h in frame pixels. Raises `KeyError` for an unknown id."""
        return self._known(target_id).box

    def frame_size_of(self, target_id: str) -> tuple[int, int]:
        """Height and width of the frames in which a target is tracked. Raises `KeyError` for an unknown id."""
        return self._known(target_id).frame_size

    def remove_target(self, target_id: str) -> None:
        """Stop tracking a target. Raises `KeyError` for an unknown id."""
        self._known(target_id)
        del self._targets[target_id]
        self._batch = None

    def _known(self, target_id: str) -> Any:
        if target_id not in self._targets:
            raise KeyError(f"No target {target_id!r} is tracked; its ids are {self.target_ids}.")
        return self._targets[target_id]

    def _step(self, image, frame_size: tuple[int, int], started: float) -> list[TrackedTarget]:
        """Find all the targets in the next frame, of `frame_size` (height, width), and decide where they are searched next."""
        for target_id, target in self._targets.items():
            if target.frame_size != frame_size:
                raise ValueError(
                    f"The frame is {frame_size[1]} x {frame_size[0]} pixels, but target {target_id!r} was given in one of "
                    f"{target.frame_size[1]} x {target.frame_size[0]}: all frames of a video must have one size."
                )
        boxes, scores = self._locate(image, started)
        if self.size_smoothing:
            boxes = [self._smoothed(t.box, box) for t, box in zip(self._targets.values(), boxes, strict=True)]
        found = zip(self._targets.items(), boxes, scores, strict=True)
        return [TrackedTarget(i, box, score, self._follow(t, box, score)) for (i, t), box, score in found]

    def _smoothed(self, before: Box, box: Box) -> Box:
        """The box around the same middle, its sides nearer to those of the box before."""
        x, y, w, h = box
        kept = self.size_smoothing
        width, height = before[2] ** kept * w ** (1 - kept), before[3] ** kept * h ** (1 - kept)
        return x + (w - width) / 2, y + (h - height) / 2, width, height

    def _follow(self, target: Target, box: Box, score: float) -> bool:
        """Decide where a target is searched next. Returns whether it is lost."""
        target.low = target.low + 1 if score < self.lost_score else 0
        if target.low == 0:
            target.seen = box
        if target.low < self.lost_after:
            target.box, target.growth = box, 1.0
            return False
        target.box, target.growth = target.seen, min(target.growth * GROWTH, MAX_GROWTH)
        return True


__all__ = [
    "LOST_AFTER",
    "LOST_SCORE",
    "Target",
    "TargetSession",
    "TrackedTarget",
    "weighted",
]
