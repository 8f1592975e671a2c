"""The targets of one video and their state: the part of a session that needs no torch and that all sessions share."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .geometry_pjvlt import Box, check_first_box, crop_geometry, crops_to_frames

# Defaults where neither the session nor its checkpoint gives a value.
TRACKING_DEFAULTS = {"window_weight": 1.0, "size_smoothing": 0.0, "lost_score": 0.2}
LOST_AFTER = 5  # frames
MAX_SHOWN = 5  # targets that `repr` names
GROWTH, MAX_GROWTH = 1.1, 2.0  # factor for a lost target's search region: per frame, and at most
REDETECT = (None, "local", "frame")  # where a lost target is searched
TILE_SCALES = (1.0, 1.5)  # sides of the tiles that cover a frame, over the side of the usual search region
# For a candidate: its least score over the target's usual score, its least lead over the score where the target was
# last seen, and the number of frames in a row that it has to win.
FOUND_SHARE, FOUND_MARGIN, FOUND_AFTER = 0.8, 0.1, 3
USUAL_RATE = 0.05  # rate at which a target's usual score follows its scores (exponential moving average)
SAME_OVERLAP = 0.3  # least IoU of the boxes in two frames that count as the same candidate
MAX_RESIZE = 2.5  # factor by which a target's side may have changed while it was lost


@dataclass
class TrackedTarget:
    """Where one target is in one frame.

    target_id: as given to [`TrackingSession.add_target`]. box: x, y, w, h in frame pixels. score: confidence in
    (0, 1), the model's score before the window; 1.0 in the frame where the box was given. lost: whether the score has
    been low for some frames; the box is then only the best guess. redetected: whether a lost target was found again in
    this frame, at another place.
    """

    target_id: str
    box: Box
    score: float
    lost: bool = False
    redetected: bool = False


@dataclass
class Candidate:
    """Where a lost target may be. wins: in how many frames in a row this place won."""

    box: Box
    wins: int = 1


@dataclass
class Target:
    """What a session keeps of a target. `template` is (1, 3, template_size, template_size), normalised."""

    template: Any
    text: str | None
    frame_size: tuple[int, int]  # height, width
    box: Box  # the search region lies around it
    seen: Box  # the last box whose score was not low
    text_features: Any = None  # of its sentence, if the session keeps them
    usual: float | None = None  # running mean of its score over the frames that showed it
    low: int = 0  # number of the last frames in a row with a low score
    growth: float = 1.0  # factor for the side of the search region
    tile: int = 0  # index of the tile of the frame that is searched next, while it is lost
    candidate: Candidate | None = None

    @property
    def side(self) -> float:
        """Square root of the area of the box that was last seen, in pixels."""
        return math.sqrt(self.seen[2] * self.seen[3])


@dataclass(frozen=True)
class Search:
    """One region of a frame to run the network on. row: index of the target. growth: factor for the region's side."""

    row: int
    box: Box
    growth: float = 1.0


def check_settings(
    window_weight: float | None = None, size_smoothing: float | None = None, lost_score: float | None = None
) -> None:
    """Raises `ValueError` for a setting of [`TargetSession`] that is out of its range; None is allowed."""
    if window_weight is not None and not 0 <= window_weight <= 1:
        raise ValueError(f"`window_weight` must lie between 0 and 1, got {window_weight}.")
    if size_smoothing is not None and not 0 <= size_smoothing < 1:
        raise ValueError(f"`size_smoothing` must be at least 0 and less than 1, got {size_smoothing}.")
    if lost_score is not None and not 0 <= lost_score < 1:
        raise ValueError(f"`lost_score` must be at least 0 and less than 1, got {lost_score}.")


def weighted(window, weight: float):
    """The window with a weight from 0 to 1: 1 - weight + weight * window. None for a weight of 0."""
    return None if weight == 0 else weight * window + (1 - weight)


class TargetSession(ABC):
    """Keeps the targets by their ids, and updates each from a frame's boxes and scores. Subclasses run the network.

    Args:
        search_factor, search_size: of the search region, as in the image processor.
        window_weight: from 0 to 1, the weight of the Hann window that the scores are multiplied by: of two equal
            scores the nearer one wins. 0: no window.
        size_smoothing: from 0 to below 1, the share of a target's width and height (of their logarithms) that is kept
            from one frame to the next, so that sizes do not jump.
        lost_score, lost_after: a target whose score stays below `lost_score` for `lost_after` frames is lost until
            its score reaches `lost_score` again. With a `lost_score` of 0, no target is ever lost.
        redetect: where a lost target is searched. None: where it was last seen. "local": there, in a region whose side
            grows by 10 % per frame, up to twice its size. "frame": as "local", and also in one tile of the whole frame
            per frame, until a candidate has won in several frames in a row.

    Attributes:
        seconds: time spent in `step` so far, in seconds: `crop` for preparing the network's input, `network` for
            computing the boxes.
    """

    def __init__(
        self,
        search_factor: float,
        search_size: int,
        window_weight: float,
        size_smoothing: float,
        lost_score: float,
        lost_after: int = LOST_AFTER,
        redetect: str | None = "local",
    ):
        check_settings(window_weight, size_smoothing, lost_score)
        if redetect not in REDETECT:
            raise ValueError(f"`redetect` must be one of {', '.join(map(repr, REDETECT))}, got {redetect!r}.")
        self.search_factor, self.search_size = search_factor, search_size
        self.window_weight, self.size_smoothing = window_weight, size_smoothing
        self.lost_score, self.lost_after, self.redetect = lost_score, lost_after, redetect
        self.seconds = {"crop": 0.0, "network": 0.0}
        self._targets: dict[str, Any] = {}
        self._batch = None  # templates and sentences of all targets; made again when the targets change

    @abstractmethod
    def _read(self, frame) -> tuple[Any, tuple[int, int]]:
        """The frame as `_crop` takes it, and its height and width. Raises `ValueError` for a bad image."""

    @abstractmethod
    def _crop(self, image, crops: list[tuple[float, float, float]]):
        """The network's input: these crops (left, top, scale) of the image."""

    @abstractmethod
    def _run(self, pixel_values, rows: list[int]) -> tuple[Any, list[float]]:
        """Boxes (B, 4) as cx, cy, w, h in fractions of the crops, and B scores. rows: the target of each crop."""

    @abstractmethod
    def _template(self, image, box: Box, hide: bool):
        """The template of a target, for [`Target`]."""

    @abstractmethod
    def _read_text(self, text: str | None) -> dict[str, Any]:
        """The fields of the target that depend on its sentence: `text`, and features if the subclass keeps them."""

    @abstractmethod
    def _model_name(self) -> str:
        """The model's name in `repr`."""

    def add_target(
        self, frame, box, text: str | None = None, target_id: str | None = None, hide_template: bool = False
    ) -> str:
        """Start to track the target that `box` shows in `frame`.

        Args:
            frame: one image (PIL, NumPy or, for a [`TrackingSession`], torch, RGB).
            box: x, y, w, h in frame pixels, or a dict of `xmin`, `ymin`, `xmax`, `ymax`.
            text: a sentence about the target. If it is empty or missing, "the target" is used, with a warning.
            target_id: a name for it; by default "0", "1", and so on.
            hide_template: use a blank template, so that only the sentence describes the target. `box` then only says
                where to search first, and how large the target is. For models trained with such pairs.

        Returns the target's id. Raises `ValueError` for a bad box, image or sentence, or an id that is in use.
        """
        target_id = self._free_id(target_id)
        image, size = self._read(frame)
        box = check_first_box(box, size)
        template = self._template(image, box, hide_template)
        self._targets[target_id] = self._new_target(template, size, box, text)
        self._batch = None
        return target_id

    def correct(self, target_id: str, frame, box, new_template: bool = False) -> None:
        """Correct the box of a target in `frame`, the frame that was just tracked. The search goes on from there.

        Args:
            box: as in [`TargetSession.add_target`].
            new_template: also replace the template by the target's image in this frame.

        Raises `KeyError` for an unknown id and `ValueError` for a bad box, or a frame of another size.
        """
        target = self._known(target_id)
        image, size = self._read(frame)
        self._check_size(target_id, target, size)
        box = check_first_box(box, size)
        if new_template:
            target.template, self._batch = self._template(image, box, hide=False), None
        self._put(target, box)

    def set_text(self, target_id: str, text: str | None) -> None:
        """Change the sentence of a target, from the next frame on.

        Raises `KeyError` for an unknown id and `ValueError` for a sentence that is not a string.
        """
        target = self._known(target_id)
        for name, value in self._read_text(text).items():
            setattr(target, name, value)
        self._batch = None

    def step(self, frame) -> list[TrackedTarget]:
        """Find every target in the next frame.

        Returns one [`TrackedTarget`] for each target, in the order in which they were added. Raises `ValueError` for
        an image of another size than the first one; the session can then go on with the next frame.
        """
        if not self._targets:
            return []
        started = time.perf_counter()
        image, size = self._read(frame)
        for target_id, target in self._targets.items():
            self._check_size(target_id, target, size)
        self.seconds["crop"] += time.perf_counter() - started
        searches = [Search(row, t.box, t.growth) for row, t in enumerate(self._targets.values())]
        extra = {row: self._elsewhere(row, t, size) for row, t in enumerate(self._targets.values()) if self._looks(t)}
        boxes, scores = self._locate(image, size, [*searches, *extra.values()])
        elsewhere = dict(zip(extra, zip(boxes[len(searches) :], scores[len(searches) :], strict=True), strict=True))
        tracked = []
        for row, (target_id, target) in enumerate(self._targets.items()):
            box, score = boxes[row], scores[row]
            if row in elsewhere and self._believe(target, *elsewhere[row], score):
                box, score = elsewhere[row]
                self._put(target, box)
                tracked.append(TrackedTarget(target_id, box, score, redetected=True))
                continue
            box = self._smoothed(target.box, box) if self.size_smoothing else box
            tracked.append(TrackedTarget(target_id, box, score, self._follow(target, box, score)))
        return tracked

    def look(self, frame, searches: Sequence[Search]) -> list[tuple[Box, float]]:
        """Run the network on some regions of a frame, without changing the targets.

        searches: the regions. `row` is the index of the target, in the order in which they were added, whose template
        and sentence are used. Returns a box (x, y, w, h in frame pixels) and a score in (0, 1) for each region.
        """
        image, size = self._read(frame)
        return list(zip(*self._locate(image, size, searches), strict=True))

    def _locate(self, image, size: tuple[int, int], searches: Sequence[Search]) -> tuple[list[Box], list[float]]:
        """The predicted box (xywh, frame pixels) and score in each region of a frame of this size (height, width)."""
        started = time.perf_counter()
        crops = [crop_geometry(s.box, self.search_factor * s.growth, self.search_size) for s in searches]
        pixel_values = self._crop(image, crops)
        cropped = time.perf_counter()
        boxes, scores = self._run(pixel_values, [s.row for s in searches])
        boxes = crops_to_frames(boxes, crops, self.search_size, size)
        self.seconds["crop"] += cropped - started
        self.seconds["network"] += time.perf_counter() - cropped
        return boxes, scores

    def _looks(self, target: Target) -> bool:
        """Whether the target is searched in the whole frame."""
        return self.redetect == "frame" and target.low >= self.lost_after

    def _elsewhere(self, row: int, target: Target, size: tuple[int, int]) -> Search:
        """The second region in which a lost target is searched: around its candidate, or the next tile."""
        if target.candidate is not None:
            return Search(row, target.candidate.box)
        tiles = frame_tiles(size, target.seen, self.search_factor)
        search = tiles[target.tile % len(tiles)]
        target.tile += 1
        return Search(row, *search)

    def _believe(self, target: Target, box: Box, score: float, score_here: float) -> bool:
        """Update the candidate with the box of the second region. Returns whether it is accepted as the target."""
        resize = math.sqrt(box[2] * box[3]) / target.side
        if (
            score < max(FOUND_SHARE * (target.usual or 0), self.lost_score)
            or score < score_here + FOUND_MARGIN
            or not 1 / MAX_RESIZE <= resize <= MAX_RESIZE
            or (target.candidate and overlap(target.candidate.box, box) < SAME_OVERLAP)
        ):
            target.candidate = None
            return False
        target.candidate = Candidate(box, target.candidate.wins + 1 if target.candidate else 1)
        return target.candidate.wins >= FOUND_AFTER

    def _put(self, target: Target, box: Box) -> None:
        """Set the target's box, and mark it as seen there."""
        target.box = target.seen = box
        target.low, target.growth, target.tile, target.candidate = 0, 1.0, 0, None

    def _smoothed(self, before: Box, box: Box) -> Box:
        """The box with the same centre, its sides smoothed towards those of the previous box."""
        x, y, w, h = box
        kept = self.size_smoothing
        width, height = before[2] ** kept * w ** (1 - kept), before[3] ** kept * h ** (1 - kept)
        return x + (w - width) / 2, y + (h - height) / 2, width, height

    def _follow(self, target: Target, box: Box, score: float) -> bool:
        """Decide where a target is searched next. Returns whether it is lost."""
        target.low = target.low + 1 if score < self.lost_score else 0
        if target.low == 0:
            target.seen, target.tile, target.candidate = box, 0, None
            target.usual = score if target.usual is None else target.usual + USUAL_RATE * (score - target.usual)
        if target.low < self.lost_after:
            target.box, target.growth = box, 1.0
            return False
        target.box = target.seen
        target.growth = 1.0 if self.redetect is None else min(target.growth * GROWTH, MAX_GROWTH)
        return True

    def _new_target(self, template, size: tuple[int, int], box: Box, text: str | None) -> Target:
        return Target(template, frame_size=size, box=box, seen=box, **self._read_text(text))

    def _check_size(self, target_id: str, target: Target, size: tuple[int, int]) -> None:
        if target.frame_size != size:
            raise ValueError(
                f"The frame is {size[1]} x {size[0]} pixels, but target {target_id!r} was given in one of "
                f"{target.frame_size[1]} x {target.frame_size[0]}: all frames of a video must have one size."
            )

    def __repr__(self) -> str:
        names = [
            f"{target_id!r} at {' '.join(f'{v:.0f}' for v in t.box)}" + (f' ("{t.text}")' if t.text else "")
            for target_id, t in self._targets.items()
        ]
        number = f"{len(names)} target{'s' * (len(names) != 1)}"
        listed = "; ".join([number, *names[:MAX_SHOWN], *["…"] * (len(names) > MAX_SHOWN)])
        return f"{type(self).__name__}({self._model_name()}; {listed})"

    def __copy__(self) -> "TargetSession":
        """An independent session with the same state. It shares the model, which sessions do not change."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._targets = {target_id: replace(target) for target_id, target in self._targets.items()}
        twin.seconds, twin._batch = dict(self.seconds), None
        return twin

    def __deepcopy__(self, memo: dict) -> "TargetSession":
        return self.__copy__()

    @property
    def target_ids(self) -> list[str]:
        """The ids of the targets that are tracked now, in the order in which they were added."""
        return list(self._targets)

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

    def _free_id(self, target_id: str | None) -> str:
        """The id for a new target, or a `ValueError`."""
        if target_id is None:
            target_id = str(next(i for i in range(len(self._targets) + 1) if str(i) not in self._targets))
        if target_id in self._targets:
            raise ValueError(f"A target {target_id!r} is tracked already; its ids are {self.target_ids}.")
        return target_id

    def _known(self, target_id: str) -> Any:
        if target_id not in self._targets:
            raise KeyError(f"No target {target_id!r} is tracked; its ids are {self.target_ids}.")
        return self._targets[target_id]


def frame_tiles(size: tuple[int, int], seen: Box, search_factor: float) -> list[tuple[Box, float]]:
    """Regions that cover a frame (height, width), so that a target as large as `seen` lies completely in one of them.

    Returns, for each region, a box of the target's size at its centre, and the growth of its side. Regions near `seen`
    come first.
    """
    x, y, w, h = seen
    centre, tiles = (x + w / 2, y + h / 2), []
    for growth in TILE_SCALES:
        side = math.sqrt(w * h) * search_factor * growth
        columns, rows = (_tile_centres(length, side, part) for length, part in zip(size[::-1], (w, h), strict=True))
        places = sorted(((cx, cy) for cx in columns for cy in rows), key=lambda place: math.dist(place, centre))
        tiles += [((cx - w / 2, cy - h / 2, w, h), growth) for cx, cy in places]
    return tiles


def _tile_centres(length: float, side: float, target: float) -> list[float]:
    """Centres of tiles along one axis, so close that one of them shows a target of this size completely."""
    if side >= length:
        return [length / 2]
    count = math.ceil((length - side) / max(side - target, side / 4)) + 1
    return [side / 2 + (length - side) * number / (count - 1) for number in range(count)]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes (xywh)."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


__all__ = [
    "LOST_AFTER",
    "REDETECT",
    "TRACKING_DEFAULTS",
    "Search",
    "Target",
    "TargetSession",
    "TrackedTarget",
    "check_settings",
    "frame_tiles",
    "weighted",
]
