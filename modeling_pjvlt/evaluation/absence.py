"""Is a lost target found again? Clips from annotated videos: the target is absent, then comes back elsewhere.

    python -m modeling_pjvlt.evaluation.absence my-videos --split val
    python -m modeling_pjvlt.evaluation.absence --procedural 20

A clip has three parts, all from frames of one video. First the target is in view. Then it is cut out, and the hole is
filled with the region half a frame away. Then it is back, and the frame is rolled by half its width, so that the
target is elsewhere. With `--lookalike`, another video's target crosses the frame while the target is absent.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .. import DEFAULT_CHECKPOINT
from ..command_parser import MODEL_HELP, checkpoint
from ..data.synthetic.procedural import ProceduralClip
from ..processing_pjvlt import DEFAULT_SENTENCE
from ..session_pjvlt import REDETECT
from ..streams_pjvlt import TimedFrame
from ..tracking_pjvlt import TrackingSession
from ..video_loop_pjvlt import TargetStart, track_video
from .metrics import iou
from .sequences import load_sequences

BEFORE, ABSENT, AFTER = 20, (20, 60), 30  # frames of each part; ABSENT: at least, at most
CUT = 1.3  # side of the region that is cut out, as a multiple of the side of the box
FOUND_IOU = 0.5  # least IoU of a box that counts as found
LATEST = 10  # last frames of a clip; the target counts as found again if it is tracked in most of them
PATIENCE = 10  # absent frames at the start that are not scored: a tracker needs a few to call a target lost


@dataclass
class AbsenceClip:
    """A clip with the interface of a sequence; frames are made on request.

    boxes: (n, 4) xywh, undefined where the target is absent. absent: frames [start, stop) without it.
    """

    sequence: object
    numbers: np.ndarray  # of the sequence's frame behind each of ours
    absent: tuple[int, int]
    boxes: np.ndarray
    text: str
    lookalike: np.ndarray | None = None  # (h, w, 3), the target of another video

    def __len__(self) -> int:
        return len(self.numbers)

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        number = self.numbers[index]
        frame = np.asarray(self.sequence.frame(number))
        start, stop = self.absent
        if index < start:
            return frame
        turned = np.roll(frame, frame.shape[1] // 2, axis=1)
        if index >= stop:
            return turned
        frame = frame.copy()
        rows, columns = _region(self.sequence.boxes[number], CUT, frame.shape[:2])
        frame[rows, columns] = turned[rows, columns]
        if self.lookalike is not None:
            _paste(frame, self.lookalike, self.sequence.boxes[number], (index - start) / (stop - start))
        return frame


def _region(box, factor: float, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a box, `factor` times as large, inside the frame."""
    x, y, w, h = box
    left, top = x + w / 2 - w * factor / 2, y + h / 2 - h * factor / 2
    spans = ((top, h * factor, size[0]), (left, w * factor, size[1]))
    return tuple(slice(max(int(a), 0), max(min(math.ceil(a + b), length), 0)) for a, b, length in spans)


def _paste(frame: np.ndarray, patch: np.ndarray, box, progress: float) -> None:
    """Paste a patch as large as the box; with `progress` it crosses the frame at the height of the box."""
    height, width = frame.shape[:2]
    w, h = (max(min(int(side), limit), 1) for side, limit in zip(box[2:], (width, height), strict=True))
    left = int(progress * (width - w))
    top = min(max(int(box[1]), 0), height - h)
    frame[top : top + h, left : left + w] = np.asarray(Image.fromarray(patch).resize((w, h)))


def absence_clips(sequences: list, texts: list[str], lookalike: bool = False, seed: int = 0) -> Iterator[AbsenceClip]:
    """One clip of each sequence with enough visible frames whose target is at most a third as wide as the frame.

    A wider target has no other place to come back to.
    """
    rng = np.random.default_rng(seed)
    for place, (sequence, text) in enumerate(zip(sequences, texts, strict=True)):
        num_absent = int(rng.integers(ABSENT[0], ABSENT[1] + 1))
        frames = np.flatnonzero(sequence.visible)
        width = np.asarray(sequence.frame(0)).shape[1]
        if len(frames) < BEFORE + AFTER or np.median(sequence.boxes[frames, 2]) > width / 3:
            continue
        # Back and forth through the video, so that there are enough frames and no jumps.
        pace = np.concatenate([frames, frames[-2:0:-1]])
        numbers = pace[np.arange(BEFORE + num_absent + AFTER) % len(pace)]
        boxes = sequence.boxes[numbers].astype(np.float64)
        back = slice(BEFORE + num_absent, None)
        centre = (boxes[back, 0] + boxes[back, 2] / 2 + width // 2) % width
        boxes[back, 0] = centre - boxes[back, 2] / 2
        patch = None
        if lookalike:
            other = sequences[(place + 1) % len(sequences)]
            image = np.asarray(other.frame(0))
            patch = np.ascontiguousarray(image[_region(other.boxes[0], 1.0, image.shape[:2])])
        yield AbsenceClip(sequence, numbers, (BEFORE, BEFORE + num_absent), boxes, text, patch)


@dataclass
class Absences:
    """Results of n clips.

    found: (n,), whether the target was found again. false: (n,), share of the absent frames, without the first
    `PATIENCE`, in which the tracker reported it.
    """

    found: list[bool]
    false: list[float]


def track_clip(session: TrackingSession, clip: AbsenceClip, texts: dict[str, str]) -> dict[str, tuple[bool, float]]:
    """By sentence: whether the target was found again, and the share of absent frames in which it was reported."""
    frames = (TimedFrame(clip.frame(i), i, i / 30) for i in range(len(clip)))
    starts = [TargetStart(name, clip.boxes[0], text) for name, text in texts.items()]
    tracked = [targets for _, targets, _ in track_video(session, frames, starts)]
    start, stop = clip.absent
    results = {}
    for place, name in enumerate(texts):
        boxes = np.array([targets[place].box for targets in tracked])
        reported = [not targets[place].lost for targets in tracked[start + PATIENCE : stop]]
        hits = iou(boxes[-LATEST:], clip.boxes[-LATEST:]) > FOUND_IOU
        results[name] = hits.mean() > 0.5, float(np.mean(reported))
    return results


def score(model, processor, clips: list[AbsenceClip], lost_score: float | None, progress: bool = True) -> dict:
    """[`Absences`] by where a lost target is searched and by sentence: right, wrong (the clip before's), none."""
    kinds = ("right", "wrong", "none")
    scores = {(where, kind): Absences([], []) for where in REDETECT for kind in kinds}
    for number, clip in enumerate(tqdm(clips, desc="clips", disable=not progress)):
        texts = dict(zip(kinds, (clip.text, clips[number - 1].text, DEFAULT_SENTENCE), strict=True))
        for where in REDETECT:
            settings = {} if lost_score is None else {"lost_score": lost_score}
            session = TrackingSession(model, processor, redetect=where, **settings)
            for kind, (found, false) in track_clip(session, clip, texts).items():
                scores[where, kind].found.append(found)
                scores[where, kind].false.append(false)
    return scores


def main(argv: list[str] | None = None) -> int:
    """Print a table: how often the target is found again and reported while absent, by search and sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_pjvlt.evaluation.absence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("dataset", nargs="?", metavar="FOLDER_OR_REPO", help="annotated videos, as pjvlt-eval takes them")
    add("--procedural", type=int, metavar="N", help="instead of a dataset: use N procedural clips")
    add("--split", default="val", help="default: %(default)s")
    add("--model", metavar="FOLDER_OR_REPO", type=checkpoint, default=DEFAULT_CHECKPOINT, help=MODEL_HELP)
    add("--lookalike", action="store_true", help="show another video's target while the target is absent")
    add("--lost_score", type=float, help="score below which a target counts as lost (default: the tracker's)")
    add("--max_clips", type=int, help="default: all")
    args = parser.parse_args(argv)
    if (args.dataset is None) == (args.procedural is None):
        parser.error("give either a dataset or --procedural N")
    from .. import PJVLTModel, PJVLTProcessor

    model, processor = PJVLTModel.from_pretrained(args.model).eval(), PJVLTProcessor.from_pretrained(args.model)
    if args.procedural is None:
        sequences = list(load_sequences(args.dataset, args.split))
    else:
        sequences = [ProceduralClip(seed, BEFORE + AFTER) for seed in range(args.procedural)]
    clips = list(absence_clips(sequences, [s.text or "" for s in sequences], args.lookalike))[: args.max_clips]
    if not clips:
        print(
            f"{args.dataset or 'procedural clips'}: no video has {BEFORE + AFTER} frames with a target that is at "
            "most a third as wide as the frame",
            file=sys.stderr,
        )
        return 2
    print(f"{len(clips)} clips, absent for {ABSENT[0]} to {ABSENT[1]} frames")
    print("| searched | sentence | found again | reported while absent |\n|---|---|---:|---:|")
    for (where, kind), absences in score(model, processor, clips, args.lost_score).items():
        print(f"| {where} | {kind} | {np.mean(absences.found):.0%} | {np.mean(absences.false):.0%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
