"""The loop over a video: targets are given in some frames and tracked through the others. Needs no torch.

Everything that tracks a whole video uses `track_video`: pipeline, command line, web page, evaluation, comparisons.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .geometry_pjvlt import check_box
from .session_pjvlt import TargetSession, TrackedTarget
from .streams_pjvlt import FrameReader, TimedFrame

DIRECTIONS = ("forward", "backward", "both")
BLOCK_BYTES = 2**28  # bytes of frames that backward tracking keeps in memory at a time


class TrackedFrame(NamedTuple):
    """A frame and its targets. size: height and width of the frame; None where no target is tracked yet."""

    frame: TimedFrame
    targets: list[TrackedTarget]
    size: tuple[int, int] | None


@dataclass(frozen=True)
class TargetStart:
    """Where a target is given; given again in another frame, it is corrected there.

    target_id: its name. box: x, y, w, h in frame pixels or a dict of corners; or a function that takes the frame's
    image and returns the box. text: a sentence about it; ignored in a correction. frame: number of the frame, from 0;
    in a live source, the first frame from that number on.
    """

    target_id: str
    box: Any
    text: str | None = None
    frame: int = 0


def target_starts(boxes, texts=None, frames: int | Sequence[int] | Mapping[str, int] = 0) -> list[TargetStart]:
    """Make the targets from a user's boxes, sentences and frames.

    Args:
        boxes: a list of boxes, whose targets are named "0", "1" and so on, or a dict from id to box. A function that
            finds the box may stand in place of a box; see [`TargetStart`].
        texts, frames: one for each target, in the same order or by the same ids; or one for all.

    Raises `ValueError` if their number or their ids differ from those of the boxes, and `TypeError` for boxes that
    are neither a list nor a dict.
    """
    if not isinstance(boxes, Mapping):
        if not isinstance(boxes, Sequence) or isinstance(boxes, str):
            boxes = boxes.tolist() if hasattr(boxes, "tolist") else boxes
        if not isinstance(boxes, Sequence) or isinstance(boxes, str):
            raise TypeError(f"`boxes` must be a list of boxes, or a dict of boxes by id, got {boxes!r}.")
        boxes = {str(number): box for number, box in enumerate(boxes)}
    texts, frames = (_for_each(boxes, value, name) for value, name in ((texts, "texts"), (frames, "frame")))
    starts = [TargetStart(str(i), box, texts[i], frames[i]) for i, box in boxes.items()]
    check_starts(starts)
    return starts


def _for_each(boxes: Mapping, values, name: str) -> dict:
    """A value for each target."""
    if values is None or isinstance(values, str | int):
        return dict.fromkeys(boxes, values)
    if isinstance(values, Mapping):
        unknown = [key for key in values if key not in boxes]
        if unknown:
            raise ValueError(f"`{name}` names {unknown[0]!r}, but the targets are {', '.join(map(repr, boxes))}.")
        default = None if name == "texts" else 0
        return {target_id: values.get(target_id, default) for target_id in boxes}
    if len(values) != len(boxes):
        raise ValueError(f"`{name}` has {len(values)} items, but there are {len(boxes)} boxes.")
    return dict(zip(boxes, values, strict=True))


def check_starts(starts: Sequence[TargetStart]) -> None:
    """Raises `ValueError` for no target, two boxes with one id in one frame, or a frame number below 0."""
    if not starts:
        raise ValueError("There is no target to track.")
    places = [(start.target_id, start.frame) for start in starts]
    if len(set(places)) < len(places):
        name, frame = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"Two targets are called {name!r} in frame {frame}.")
    for start in starts:
        if start.frame < 0:
            raise ValueError(f"Frames are counted from 0; the target {start.target_id!r} is given in {start.frame}.")


def first_starts(starts: Sequence[TargetStart]) -> dict[str, TargetStart]:
    """The earliest start of each target, by its id, in the order of `starts`."""
    first: dict[str, TargetStart] = {}
    for start in starts:
        if start.target_id not in first or start.frame < first[start.target_id].frame:
            first[start.target_id] = start
    return first


def track_video(
    session: TargetSession, frames: Iterable[TimedFrame], starts: Sequence[TargetStart], backward: bool = False
) -> Iterator[TrackedFrame]:
    """Track targets through frames, and yield each frame with its targets, in the order in which they were added.

    A target is tracked from its own frame on. In that frame, and where it is corrected, its box is the given one, with
    score 1.

    Args:
        session: a session without targets.
        frames: from a reader's `timed`, or from [`backward_frames`].
        starts: the targets. backward: whether the frame numbers decrease.

    Raises `ValueError` for an invalid box, a box that is not found, a frame of another size, and a video that ends
    before the frame of a target.
    """
    check_starts(starts)
    waiting, last = list(starts), None
    for frame in frames:
        last = frame.number
        found = session.step(frame.image) if len(waiting) < len(starts) else []
        tracked = {target.target_id: target for target in found}
        due = [s for s in waiting if (s.frame >= last if backward else s.frame <= last)]
        for start in due:
            waiting.remove(start)
            box = start.box(frame.image) if callable(start.box) else start.box
            if start.target_id in tracked:
                session.correct(start.target_id, frame.image, box)
            else:
                session.add_target(frame.image, box, start.text, target_id=start.target_id)
            tracked[start.target_id] = TrackedTarget(start.target_id, check_box(box), 1.0)
        size = session.frame_size_of(next(iter(tracked))) if tracked else None
        yield TrackedFrame(frame, list(tracked.values()), size)
    if waiting:
        if last is None:
            raise ValueError("The video has no frames.")
        start = waiting[0]
        raise ValueError(
            f"The video ends at frame {last}, before frame {start.frame} of the target {start.target_id!r}."
        )


def track_both_ways(
    make_session: Callable[[], TargetSession], reader: FrameReader, starts: Sequence[TargetStart], direction: str
) -> Iterator[TrackedFrame]:
    """[`track_video`] forward, backward, or forward and then backward: `direction` is one of `DIRECTIONS`.

    Backward, frames are decoded again in blocks, from the last target's frame down to the first frame of the video.
    The result of a target's own frame is left out if the forward pass gave it.

    Raises `ValueError` for another direction, and for frames that cannot be read twice if that is needed.
    """
    check_direction(direction, reader)
    check_starts(starts)
    if direction != "backward":
        yield from track_video(make_session(), reader.timed(), starts)
    if direction == "forward" or (all(start.frame == 0 for start in starts) and direction == "both"):
        return
    first = first_starts(starts)
    back = list(first.values()) if direction == "both" else starts
    frames = backward_frames(reader, max(start.frame for start in back))
    for frame, targets, size in track_video(make_session(), frames, back, backward=True):
        if direction == "both":
            targets = [target for target in targets if frame.number < first[target.target_id].frame]
        yield TrackedFrame(frame, targets, size)


def check_direction(direction: str, reader: FrameReader) -> None:
    """Raises `ValueError` for an unknown direction, or one in which these frames cannot be read."""
    if direction not in DIRECTIONS:
        raise ValueError(f"`direction` must be one of {', '.join(DIRECTIONS)}, got {direction!r}.")
    if direction != "forward" and (reader.is_live or not reader.is_repeatable):
        raise ValueError("Only a video that can be read again can be tracked backward: a file, a folder or a list.")


def backward_frames(reader: FrameReader, last: int, block_bytes: int = BLOCK_BYTES) -> Iterator[TimedFrame]:
    """The frames of a video from number `last` down to 0, read in blocks of at most `block_bytes`.

    Raises `ValueError` for a video that ends before.
    """
    block: deque[TimedFrame] = deque()
    for frame in reader.timed():
        if not block:
            block = deque(maxlen=max(block_bytes // max(_size(frame.image), 1), 1))
        block.append(frame)
        if frame.number >= last:
            break
    if not block or block[-1].number < last:
        end = f"at frame {block[-1].number}" if block else "without a frame"
        raise ValueError(f"The video ends {end}, before frame {last}, in which a target is given.")
    yield from reversed(block)
    while (stop := block[0].number) > 0:
        start = max(stop - block.maxlen, 0)
        block = deque(reader.timed(start, stop), maxlen=block.maxlen)
        yield from reversed(block)


def _size(image) -> int:
    """Bytes of an image, roughly; a path counts as none."""
    width, height = getattr(image, "size", (0, 0)) if hasattr(image, "getbands") else (0, 0)
    return getattr(image, "nbytes", 3 * width * height)


__all__ = [
    "DIRECTIONS",
    "TargetStart",
    "backward_frames",
    "check_direction",
    "check_starts",
    "first_starts",
    "target_starts",
    "track_both_ways",
    "track_video",
]
