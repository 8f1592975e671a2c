"""Boxes, labels and captions on frames, with Pillow."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files_pjvlt import replacing

PREDICTION_COLOR = (255, 196, 0)
TRUTH_COLOR = (255, 255, 255)
LABEL_BACKGROUND = (20, 20, 20)
HALO_COLOR = (0, 0, 0)
LABEL_SHARE = 0.6  # of the frame's width that the label of a single target may take
GAP = 4  # pixels between the tiles of a strip


def draw_box(
    frame: np.ndarray | Image.Image,
    box_xywh: Sequence[float],
    label: str | None = None,
    score: float | None = None,
    color: tuple[int, int, int] = PREDICTION_COLOR,
    line_width: int | None = None,
    label_share: float = LABEL_SHARE,
) -> np.ndarray:
    """Draw one box, and its label above it, on a copy of the frame.

    The line lies along the inner edge of the box, between two thin dark lines that set it off from any background.
    The label stays inside the frame: it moves below the box's upper edge where there is no room above. Text wider than
    `label_share` of the frame is shortened, but not its score, so that a long sentence does not hide the scene.

    Args:
        frame: RGB uint8 array of shape (height, width, 3), or a PIL image.
        box_xywh: left, top, width, height in frame pixels; may reach outside the frame.
        label: text above the box.
        score: confidence in [0, 1], shown with two digits after the text.
        color: RGB of the line and the label, each in [0, 255].
        line_width: in pixels; by default it grows with the frame.
        label_share: of the frame's width, in (0, 1], that the label may take.

    Returns:
        RGB uint8 array of shape (height, width, 3).
    """
    image = Image.fromarray(frame) if isinstance(frame, np.ndarray) else frame.convert("RGB")
    image = image.copy()
    draw = ImageDraw.Draw(image)
    left, top, width, height = (float(value) for value in box_xywh)
    # In Pillow, the lower right corner is the last pixel of the rectangle.
    corners = [
        round(left),
        round(top),
        max(round(left + width) - 1, round(left)),
        max(round(top + height) - 1, round(top)),
    ]
    draw_outline(draw, corners, color, line_width or max(2, round(min(image.size) / 150)))
    if label or score is not None:
        _draw_label(draw, image.size, (left, top), label or "", score, color, label_share)
    return np.array(image)


def draw_outline(draw: ImageDraw.ImageDraw, corners: Sequence[int], color: tuple[int, int, int], width: int) -> None:
    """Draw a rectangle with a dark rim on both sides of its line.

    corners: left, top, right, bottom in pixels; the line lies inside, and right and bottom are its last pixels.
    """
    rim = max(1, width // 3)
    left, top, right, bottom = corners
    draw.rectangle([left - rim, top - rim, right + rim, bottom + rim], outline=HALO_COLOR, width=width + 2 * rim)
    draw.rectangle(corners, outline=color, width=width)


def contact_strip(
    frames: Sequence[np.ndarray],
    path: str | os.PathLike,
    captions: Sequence[str] | None = None,
    height: int = 240,
) -> None:
    """Save a few frames side by side as one image.

    Args:
        frames: RGB uint8 arrays of shape (height, width, 3); at least one, sizes may differ.
        path: of the image, usually a .png.
        captions: one text per frame, shown in its upper left corner.
        height: of the strip, in pixels; widths follow.

    Raises:
        ValueError: there are no frames, or not as many captions as frames.
    """
    contact_sheet([frames], path, None if captions is None else [captions], height)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    path: str | os.PathLike,
    captions: Sequence[Sequence[str]] | None = None,
    height: int = 240,
) -> None:
    """Save rows of frames as one image. For each row, the arguments are those of [`contact_strip`].

    Raises:
        ValueError: there are no frames, or not as many captions as frames.
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("a contact sheet needs at least one row, and each row at least one frame")
    captions = [[""] * len(row) for row in rows] if captions is None else captions
    strips = [_strip(frames, texts, height) for frames, texts in zip(rows, captions, strict=True)]
    sheet = Image.new("RGB", (max(s.width for s in strips), len(strips) * (height + GAP) - GAP), "white")
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, number * (height + GAP)))
    with replacing(path) as partial:
        sheet.save(partial)


def fit_text(text: str, font, width: float) -> str:
    """The text, or as much of its beginning as fits into `width` pixels, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def wrap_text(text: str, font, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken between words; a longer word is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [fit_text(line, font, width) for line in lines]


def _strip(frames: Sequence[np.ndarray], captions: Sequence[str], height: int) -> Image.Image:
    tiles = [_resize_to_height(Image.fromarray(frame), height) for frame in frames]
    for tile, caption in zip(tiles, captions, strict=True):
        if caption:
            _draw_label(ImageDraw.Draw(tile), tile.size, (0, 0), caption, None, TRUTH_COLOR)
    strip = Image.new("RGB", (sum(tile.width + GAP for tile in tiles) - GAP, height), "white")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + GAP
    return strip


def _draw_label(draw, frame_size, corner, text, score, color, share=LABEL_SHARE) -> None:
    """Write text and score on a dark plate above `corner` (x, y; frame pixels), or below it where there is no room."""
    frame_width, frame_height = frame_size
    font = ImageFont.load_default(max(10, round(min(frame_size) / 22)))
    padding = max(2, round(font.size / 5))
    line = _shorten(text, "" if score is None else f"{score:.2f}", font, share * frame_width)
    ascent, descent = font.getmetrics()
    width = font.getlength(line) + 2 * padding
    height = ascent + descent + padding
    left = min(max(corner[0], 0), max(frame_width - width, 0))
    top = corner[1] - height if corner[1] >= height else corner[1]
    top = min(max(top, 0), max(frame_height - height, 0))
    draw.rectangle([left, top, left + width, top + height], fill=LABEL_BACKGROUND)
    draw.text((left + padding, top + padding / 2), line, fill=color, font=font)


def _shorten(text: str, score: str, font, width: float) -> str:
    text = " ".join(text.split())
    line = f"{text} {score}".strip()
    while text and font.getlength(line) > width:
        text = text[:-1].rstrip()
        line = f"{text}… {score}".strip()
    return line


def _resize_to_height(image: Image.Image, height: int) -> Image.Image:
    return image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.LANCZOS)
