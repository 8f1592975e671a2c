"""Does a sentence alone find its object in an image? Measures the tracker's own weights, or any detector.

    python -m modeling_pjvlt.evaluation.grounding --images flickr8k_entities --videos my-videos

`--images` is a folder of boxed images (`boxes.jsonl`). For the longest phrase of each object, the predicted box counts
as correct if its IoU with the object's box is above 0.5. Two baselines do not use the phrase: the whole image, and its
largest labelled box. `--videos` is a tracking dataset; the target of each sentence is searched in the first frame.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from .. import DEFAULT_CHECKPOINT
from ..command_parser import MODEL_HELP, checkpoint
from ..data.boxed_images import BoxedImages
from ..detection_pjvlt import OWN_DETECTOR, OwnDetector, find_target, load_detector
from ..tracking_pjvlt import TrackingSession
from .metrics import iou
from .sequences import load_sequences

HIT = 0.5  # IoU with which an object counts as found


class Question(NamedTuple):
    """image: (H, W, 3) uint8. box: (4,) xywh of the object of `text`. largest: the largest labelled box."""

    image: np.ndarray
    box: np.ndarray
    text: str
    largest: np.ndarray


def questions_of_images(folder: str, split: str, count: int | None, seed: int = 0) -> Iterator[Question]:
    """The longest phrase of each object of boxed images, in a random order."""
    images = BoxedImages([folder], split=split)
    places = [(i, o) for i, objects in enumerate(images.objects) for o in objects if o.phrases]
    for number in np.random.default_rng(seed).permutation(len(places))[:count]:
        index, target = places[number]
        largest = max(images.objects[index], key=lambda o: o.box[2:].prod()).box
        yield Question(images.pixels(index), target.box, max(target.phrases, key=len), largest)


def questions_of_videos(dataset: str, split: str, count: int | None) -> Iterator[Question]:
    """The first frame of each video that has a sentence."""
    sequences = [s for s in load_sequences(dataset, split) if s.text]
    for sequence in sequences[:count]:
        yield Question(np.asarray(sequence.frame(0)), sequence.boxes[0], sequence.text, sequence.boxes[0])


def overlaps(detector: Callable, questions: Iterator[Question], total: int | None = None) -> dict[str, np.ndarray]:
    """IoU (n,) with the object of the predicted box ("found"), the "whole" image and the "largest" labelled box."""
    rows = []
    for image, box, text, largest in tqdm(questions, desc="phrases", total=total):
        try:
            predicted = find_target(image, text, detector, min_score=0.0)[0]
        except ValueError:  # the detector returns no box
            predicted = (0, 0, 0, 0)
        whole = (0, 0, image.shape[1], image.shape[0])
        rows.append(iou(np.array([predicted, whole, largest], float), np.repeat(box[None].astype(float), 3, 0)))
    return dict(zip(("found", "whole", "largest"), np.array(rows).reshape(-1, 3).T, strict=True))


def main(argv: list[str] | None = None) -> int:
    """Print the share of objects that are found."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_pjvlt.evaluation.grounding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", metavar="FOLDER", help="boxed images")
    add("--videos", metavar="FOLDER_OR_REPO", help="annotated videos, as pjvlt-eval takes them")
    add("--split", default="val", help="split of images and videos (default: %(default)s)")
    add("--model", metavar="FOLDER_OR_REPO", type=checkpoint, default=DEFAULT_CHECKPOINT, help=MODEL_HELP)
    add("--detector", default=OWN_DETECTOR, metavar="PATH_OR_REPO", help="another detector (default: the checkpoint)")
    add("--count", type=int, help="number of phrases, and of videos (default: all)")
    args = parser.parse_args(argv)
    if not (args.images or args.videos):
        parser.error("give --images, --videos or both")
    from .. import PJVLTModel, PJVLTProcessor

    if args.detector == OWN_DETECTOR:
        model, processor = PJVLTModel.from_pretrained(args.model).eval(), PJVLTProcessor.from_pretrained(args.model)
        detector = OwnDetector(TrackingSession(model, processor))
    else:
        detector = load_detector(args.detector)
    try:
        questions_by_kind = {
            kind: list(make(where, args.split, args.count))
            for kind, make, where in (
                ("phrases", questions_of_images, args.images),
                ("first frames", questions_of_videos, args.videos),
            )
            if where
        }
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for kind, questions in questions_by_kind.items():
        ious = overlaps(detector, questions, len(questions))
        shares = {name: f"{np.mean(values > HIT):.0%} (mean IoU {values.mean():.2f})" for name, values in ious.items()}
        baseline = "" if kind != "phrases" else f"; the largest labelled box {shares['largest']}"
        print(f"{len(questions)} {kind}: found {shares['found']}; the whole image {shares['whole']}{baseline}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
