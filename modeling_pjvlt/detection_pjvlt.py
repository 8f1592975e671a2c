"""The first box from words alone: a zero-shot object detector of transformers looks for what the sentence says."""

from PIL import Image

DETECTOR = "IDEA-Research/grounding-dino-tiny"
MIN_DETECTION_SCORE = 0.3


def load_detector(detector: str = DETECTOR, device=None):
    """A `zero-shot-object-detection` pipeline of transformers. `detector`: Hub id or folder of its checkpoint."""
    from transformers import pipeline  # here and below in functions: `pjvlt-track --help` needs the names only

    return pipeline("zero-shot-object-detection", model=detector, device=device)


def find_target(
    frame, text: str, detector, min_score: float = MIN_DETECTION_SCORE
) -> tuple[tuple[float, float, float, float], float]:
    """What a sentence is about, in one image.

    Args:
        frame: one image (PIL, NumPy or torch, RGB).
        text: the sentence.
        detector: from [`load_detector`].
        min_score: of the best answer, in (0, 1).

    Returns the box, x, y, w, h in frame pixels, and its score. Raises `ValueError` with the best score where none
    reaches `min_score`, and for a sentence that is not a string.
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


__all__ = ["DETECTOR", "MIN_DETECTION_SCORE", "find_target", "load_detector"]
