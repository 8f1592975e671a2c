"""The first box from the sentence alone, found by a zero-shot object detector of transformers or by the tracker."""

from copy import copy

import numpy as np
from PIL import Image

from .geometry_pjvlt import CORNERS
from .session_pjvlt import Search, TargetSession, frame_tiles

DETECTOR = "IDEA-Research/grounding-dino-tiny"
OWN_DETECTOR = "own"  # name of the tracker itself on the command line
MIN_DETECTION_SCORE = 0.3
# Sides of the regions in which the tracker looks, over the frame's longer side; `frame_tiles` adds 1.5 times as much.
OWN_SIDES = (0.35, 0.7)
BATCH = 8


def load_detector(detector: str = DETECTOR, device=None):
    """A `zero-shot-object-detection` pipeline of transformers. `detector`: Hub id or folder of its checkpoint."""
    from transformers import pipeline  # here and below in functions: `pjvlt-track --help` needs the names only

    return pipeline("zero-shot-object-detection", model=detector, device=device)


class OwnDetector:
    """Finds objects with the tracker itself, from a blank template in regions of four sizes that cover the image.

    Returns what a `zero-shot-object-detection` pipeline returns, with the best box of all regions. Accuracy depends
    on the weights; `python -m modeling_pjvlt.evaluation.grounding` measures it.

    session: its model and settings are used; its targets do not change.
    """

    def __init__(self, session: TargetSession):
        self.session = session

    def __call__(self, image: Image.Image, candidate_labels: list[str], threshold: float = 0.0) -> list[dict]:
        session = copy(self.session)
        for target_id in session.target_ids:
            session.remove_target(target_id)
        frame, (width, height) = np.asarray(image), image.size
        whole = (0, 0, width, height)
        session.add_target(frame, whole, candidate_labels[0].rstrip("."), hide_template=True)
        best = max(self._answers(session, frame), key=lambda answer: answer[1])
        x, y, w, h = best[0]
        found = {"score": best[1], "box": dict(zip(CORNERS, (x, y, x + w, y + h), strict=True))}
        return [found] if best[1] >= threshold else []

    def _answers(self, session: TargetSession, frame: np.ndarray) -> list[tuple]:
        """Boxes (xywh) and scores, one for each region."""
        height, width = frame.shape[:2]
        searches = []
        for part in OWN_SIDES:
            side = part * max(height, width) / session.search_factor
            middle = ((width - side) / 2, (height - side) / 2, side, side)
            tiles = frame_tiles((height, width), middle, session.search_factor)
            searches += [Search(0, box, growth) for box, growth in tiles]
        return [
            answer
            for start in range(0, len(searches), BATCH)
            for answer in session.look(frame, searches[start : start + BATCH])
        ]


def find_target(
    frame, text: str, detector, min_score: float = MIN_DETECTION_SCORE
) -> tuple[tuple[float, float, float, float], float]:
    """Find the target that a sentence describes in one image.

    Args:
        frame: one image (PIL, NumPy or torch, RGB).
        text: the sentence.
        detector: from [`load_detector`], or an [`OwnDetector`].
        min_score: least score of a box that is accepted, in (0, 1).

    Returns the best box, x, y, w, h in frame pixels, and its score. Raises `ValueError` with the best score if it is
    below `min_score`, and for a sentence that is not a string.
    """
    from .image_processing_pjvlt import to_rgb
    from .sentences_pjvlt import check_sentence

    check_sentence(text)
    pixels = to_rgb(frame)
    height, width = pixels.shape[1:]
    label = f"{text.strip().rstrip('.').lower()}."  # as Grounding DINO was trained
    found = detector(Image.fromarray(pixels.permute(1, 2, 0).numpy()), candidate_labels=[label], threshold=0.0)
    best, best_box = 0.0, None
    for answer in found:
        box = answer["box"]
        left, right = (min(max(box[side], 0), width) for side in ("xmin", "xmax"))
        top, bottom = (min(max(box[side], 0), height) for side in ("ymin", "ymax"))
        if answer["score"] > best and right > left and bottom > top:
            best, best_box = answer["score"], (float(left), float(top), float(right - left), float(bottom - top))
    if best_box is None or best < min_score:
        raise ValueError(
            f"Nothing in the first frame looks like {text!r}: the best score is {best:.2f}, and {min_score} is "
            "needed. Give the box, or say it in other words."
        )
    return best_box, best


__all__ = ["DETECTOR", "MIN_DETECTION_SCORE", "OWN_DETECTOR", "OwnDetector", "find_target", "load_detector"]
