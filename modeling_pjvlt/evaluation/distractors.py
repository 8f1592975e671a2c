"""Does the sentence select the target in real video? Two annotated targets of one kind, and both their sentences.

python -m modeling_pjvlt.evaluation.distractors my-videos --model outputs/mine

`my-videos` holds sequences as `NAME/{img, groundtruth_rect.txt, language.txt, frames.txt}`; the last file gives the
frame numbers in the original video. Sequences whose names differ only in the number after the last underscore are
targets of one video. Two of them that are close to each other in a frame make two clips from that frame on, with
either as the target. A clip is tracked four times: with a visible template, from the target's box, and with a hidden
one, from a box between the two; each with the target's sentence and with the distractor's. Success AUC is measured
against the target's boxes.
"""

import argparse
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

from .. import DEFAULT_CHECKPOINT
from ..command_parser import MODEL_HELP, checkpoint
from ..data.converters.sources import list_images, read_boxes, read_text
from ..modeling_pjvlt import PJVLTModel
from ..processing_pjvlt import PJVLTProcessor
from ..tracking_pjvlt import TrackingSession
from .metrics import iou, success_auc

MIN_FRAMES = 8  # least number of frames that two sequences have in common
REACH = 0.4  # greatest distance of the targets from the middle of the first search region, as a share of its side


@dataclass(frozen=True)
class DistractorClip:
    """Frames of a video with the boxes (n, 4) xywh of a target and of a distractor, and the sentence of either."""

    name: str
    paths: list[Path]
    boxes: np.ndarray
    distractor_boxes: np.ndarray
    text: str
    wrong_text: str


def find_clips(root: Path, search_factor: float) -> list[DistractorClip]:
    """All clips in a folder of sequences, both sides of each."""
    videos = defaultdict(dict)
    for folder in sorted(p for p in root.iterdir() if (p / "frames.txt").is_file()):
        numbered = re.fullmatch(r"(.+)_\d+", folder.name)
        if numbered:
            videos[numbered[1]][folder.name] = _read(folder)
    clips = []
    for sequences in videos.values():
        for (name, one), (other_name, other) in permutations(sequences.items(), 2):
            common = sorted(one.keys() & other.keys() - {"text"})
            near = [i for i, number in enumerate(common) if _near(one[number][1], other[number][1], search_factor)]
            common = common[near[0] :] if near else []
            if len(common) < MIN_FRAMES:
                continue
            paths = [one[number][0] for number in common]
            boxes, others = (np.array([s[number][1] for number in common]) for s in (one, other))
            texts = one["text"], other["text"]
            clips.append(DistractorClip(f"{name} beside {other_name}", paths, boxes, others, *texts))
    return clips


def box_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A box (x, y, w, h) halfway between two, of their mean size."""
    size = np.sqrt(one[2:] * other[2:])
    middle = (one[:2] + one[2:] / 2 + other[:2] + other[2:] / 2) / 2
    return np.concatenate([middle - size / 2, size])


def _read(folder: Path) -> dict:
    """Number of the original frame -> (image file, box) where the target is visible; "text" -> the sentence."""
    numbers = [int(number) for number in read_text(folder / "frames.txt").split()]
    boxes, images = read_boxes(folder / "groundtruth_rect.txt"), list_images(folder / "img")
    rows = zip(numbers, images, boxes, strict=False)
    visible = {number: (Path(image.path), box) for number, image, box in rows if box[2:].min() > 0}
    return {**visible, "text": read_text(folder / "language.txt").strip()}


def _near(one: np.ndarray, other: np.ndarray, search_factor: float) -> bool:
    """Whether a search region between two boxes shows both of them."""
    region = box_between(one, other)
    reach = REACH * search_factor * np.sqrt(region[2:].prod())
    return bool(np.abs(one[:2] + one[2:] / 2 - region[:2] - region[2:] / 2).max() < reach)


def track_clip(model, processor, clip: DistractorClip) -> dict[tuple[str, str], float]:
    """Success AUC in [0, 1] of the target's boxes after the first frame, by template and sentence."""
    session = TrackingSession(model, processor)
    frames = [np.asarray(Image.open(path).convert("RGB")) for path in clip.paths]
    cases = [(template, sentence) for template in ("clear", "hidden") for sentence in ("right", "wrong")]
    for template, sentence in cases:
        hidden, text = template == "hidden", clip.text if sentence == "right" else clip.wrong_text
        box = box_between(clip.boxes[0], clip.distractor_boxes[0]) if hidden else clip.boxes[0]
        session.add_target(frames[0], box, text, target_id=f"{template} {sentence}", hide_template=hidden)
    boxes = np.array([[target.box for target in session.step(frame)] for frame in frames[1:]])
    return {case: success_auc(iou(boxes[:, i], clip.boxes[1:])) for i, case in enumerate(cases)}


def main(argv: list[str] | None = None) -> int:
    """Print a table of success AUC by template and sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_pjvlt.evaluation.distractors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="sequences with `frames.txt`")
    parser.add_argument("--model", type=checkpoint, default=DEFAULT_CHECKPOINT, help=MODEL_HELP)
    parser.add_argument("--names", help="only sequences whose names match this regular expression")
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is not a folder")
    model, processor = PJVLTModel.from_pretrained(args.model).eval(), PJVLTProcessor.from_pretrained(args.model)
    clips = find_clips(args.folder, processor.image_processor.search_factor)
    clips = [clip for clip in clips if not args.names or re.search(args.names, clip.name)]
    if not clips:
        parser.error(
            f"{args.folder} holds no two targets of one video that come near each other and share at least "
            f"{MIN_FRAMES} frames from there on"
        )
    scores = [track_clip(model, processor, clip) for clip in clips]
    print(
        f"{len(clips)} clips, success AUC\n\n| template | right sentence | distractor's | difference "
        "|\n|---|---|---|---|"
    )
    for template in ("clear", "hidden"):
        right, wrong = (np.mean([s[template, sentence] for s in scores]) for sentence in ("right", "wrong"))
        print(f"| {template} | {right:.3f} | {wrong:.3f} | {right - wrong:+.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
