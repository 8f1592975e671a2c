"""A figure of what trackers look at: search crops with their activation, and the words they attend to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..files_pjvlt import replacing
from .drawing import LABEL_BACKGROUND, PREDICTION_COLOR, TRUTH_COLOR, draw_outline, fit_text, wrap_text

CELL, SIDE, GAP = 240, 190, 16  # pixels: side of a search crop, width of the left column, room between columns
TEMPLATE, LINE = 112, 15  # pixels: side of the template, height of a word's row
WORD_WIDTH = 88  # pixels for a word; the rest of the cell belongs to the layers
INK, SOFT, PAGE, PLATE = (27, 31, 36), (91, 101, 112), (255, 255, 255), (243, 245, 247)
WARM = np.array([(70, 0, 90), (175, 15, 90), (230, 45, 45), (255, 115, 20)], np.float32)  # activation 0 to 1
COOL = np.array([(247, 249, 252), (11, 98, 196)], np.float32)  # word weight 0 to the highest
NOTHING = "Grad-CAM is 0 everywhere"
OVERLAY = 0.72  # opacity where the activation is 1


@dataclass
class Look:
    """What one tracker saw in one frame.

    crop: (S, S, 3) uint8 RGB, the search crop. activation: (G, G) in [0, 1]. box, true_box: predicted box and ground
    truth, x, y, w, h in crop pixels; None where there is none. inside: left, top, right, bottom in crop pixels of the
    part of the crop that lies in the frame; only this part is drawn; None: all of it. words: one for each row of
    weights. weights: (words, SAIELs) in [0, 1]. Both are empty for a tracker without language.
    """

    crop: np.ndarray
    activation: np.ndarray
    box: Sequence[float] | None = None
    true_box: Sequence[float] | None = None
    inside: Sequence[int] | None = None
    words: list[str] = field(default_factory=list)
    weights: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass
class Row:
    """One frame: a caption such as "frame 20", the template (H, W, 3) uint8, the sentence, a [`Look`] per tracker."""

    caption: str
    template: np.ndarray
    sentence: str
    looks: list[Look]


def merge_pieces(tokens: Sequence[str], weights: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Join word pieces ("check", "##ered") and add up their weights: (tokens, layers) to (words, layers)."""
    starts = [number for number, token in enumerate(tokens) if number == 0 or not token.startswith("##")]
    words = ["".join(t.removeprefix("##") for t in part) for part in np.split(np.array(tokens, object), starts[1:])]
    return words, np.add.reduceat(weights, starts, axis=0)


def draw_overlay(crop: np.ndarray, activation: np.ndarray, size: int) -> np.ndarray:
    """The crop (S, S, 3) at `size` pixels, warmer where the activation (G, G) is higher: (size, size, 3) uint8."""
    pixels = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC), np.float32)
    heat = Image.fromarray(np.asarray(activation, np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(heat), 0, 1)
    share = OVERLAY * heat[..., None]
    return np.rint(pixels * (1 - share) + _shade(WARM, heat) * share).astype(np.uint8)


def draw_figure(
    rows: Sequence[Row], names: Sequence[str], top_weight: float | None = None, has_truth: bool | None = None
) -> Image.Image:
    """Draw the rows below each other, the trackers side by side, and one legend.

    Args:
        rows: at least one; each has as many looks as there are names.
        names: captions of the columns.
        top_weight: in (0, 1], the word weight of the deepest blue. Default: the highest of the figure.
        has_truth: whether the legend names the ground truth. Default: if there is any.

    With `top_weight` and `has_truth`, figures of one sentence have the same size and can be frames of one video.

    Raises `ValueError` if there are no rows, or rows without a look for each name.
    """
    if not rows or any(len(row.looks) != len(names) for row in rows):
        raise ValueError(f"a figure needs at least one row, and in each a look for each of {len(names)} trackers")
    looks = [look for row in rows for look in row.looks]
    if top_weight is None:
        top_weight = max((look.weights.max() for look in looks if look.weights.size), default=0)
    if has_truth is None:
        has_truth = any(look.true_box is not None for look in looks)
    heights = [_row_height(row) for row in rows]
    width = GAP + SIDE + len(names) * (CELL + GAP)
    legend = _legend_parts(top_weight if any(look.words for look in looks) else 0, has_truth)
    lines = _flow([length for length, _ in legend], width - 2 * GAP)
    head, foot = 40, 14 + 24 * (max(lines)[0] + 1)
    figure = Image.new("RGB", (width, head + sum(heights) + foot), PAGE)
    draw = ImageDraw.Draw(figure)
    for column, name in enumerate(names):
        middle = GAP + SIDE + column * (CELL + GAP) + CELL // 2
        draw.text((middle, 22), fit_text(name, _font(16), CELL), INK, _font(16), anchor="mm")
    top = head
    for row, height in zip(rows, heights, strict=True):
        _draw_side(figure, row, top)
        for column, look in enumerate(row.looks):
            _draw_look(figure, look, GAP + SIDE + column * (CELL + GAP), top, top_weight)
        top += height
    for (line, left), (_, paint) in zip(lines, legend, strict=True):
        paint(draw, GAP + left, top + 12 + 24 * line)
    return figure


def save_figure(figure: Image.Image, path: str | os.PathLike) -> None:
    """Write an image. A PNG gets 32 levels per channel, which halves the file and is hardly visible."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        figure = figure.point([round(round(value / 255 * 31) / 31 * 255) for value in range(256)] * 3)
    with replacing(path) as partial:
        figure.save(partial, optimize=True)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _shade(ramp: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Colours (..., 3) of values in [0, 1] on a ramp of evenly spaced colours."""
    places = np.linspace(0, 1, len(ramp))
    return np.stack([np.interp(value, places, channel) for channel in ramp.T], axis=-1)


def _row_height(row: Row) -> int:
    words = max(len(look.words) for look in row.looks)
    side = 24 + TEMPLATE + 28 + 17 * len(wrap_text(row.sentence, _font(13), SIDE - GAP))
    return max(CELL + (LINE * (words + 1) + 6 if words else 24), side) + GAP + 4


def _draw_side(figure: Image.Image, row: Row, top: int) -> None:
    """The left column: caption, template, sentence."""
    draw = ImageDraw.Draw(figure)
    draw.text((GAP, top), fit_text(row.caption, _font(13), SIDE - GAP), SOFT, _font(13))
    template = ImageOps.contain(Image.fromarray(row.template), (TEMPLATE, TEMPLATE), Image.Resampling.BICUBIC)
    figure.paste(template, (GAP, top + 22))
    below = top + 22 + template.height
    draw.text((GAP, below + 4), "template, from frame 0", SOFT, _font(11))
    for number, line in enumerate(wrap_text(f"“{row.sentence}”", _font(13), SIDE - GAP)):
        draw.text((GAP, below + 26 + 17 * number), line, INK, _font(13))


def _draw_look(figure: Image.Image, look: Look, left: int, top: int, top_weight: float) -> None:
    """One cell: the crop with its boxes, as large as the cell allows, and below it the words."""
    side = len(look.crop)
    x0, y0, x1, y1 = (0, 0, side, side) if look.inside is None else look.inside
    scale = CELL / max(x1 - x0, y1 - y0)
    tile = Image.fromarray(draw_overlay(look.crop, look.activation, round(side * scale)))
    for box, color in ((look.true_box, TRUTH_COLOR), (look.box, PREDICTION_COLOR)):
        if box is not None:
            _draw_outline(ImageDraw.Draw(tile), np.asarray(box, float) * scale, color)
    draw, below = ImageDraw.Draw(figure), top + CELL + 6
    draw.rectangle([left, top, left + CELL - 1, top + CELL - 1], PLATE)
    tile = tile.crop(tuple(round(place * scale) for place in (x0, y0, x1, y1)))
    figure.paste(tile, (left + (CELL - tile.width) // 2, top + (CELL - tile.height) // 2))
    if not look.activation.any():
        width = _font(11).getlength(NOTHING) + 10
        draw.rectangle([left, top, left + width, top + 19], LABEL_BACKGROUND)
        draw.text((left + 5, top + 10), NOTHING, PAGE, _font(11), anchor="lm")
    if look.words:
        _draw_words(draw, look, left, below, top_weight)
    else:
        draw.text((left + CELL // 2, below + 8), "reads no words", SOFT, _font(12), anchor="mm")


def _draw_words(draw: ImageDraw.ImageDraw, look: Look, left: int, top: int, top_weight: float) -> None:
    """A row for each word and a column for each SAIEL, with the weights in percent where there is room."""
    layers, small, normal = look.weights.shape[1], _font(10), _font(12)
    edges = np.rint(left + np.linspace(WORD_WIDTH, CELL, layers + 1)).astype(int).tolist()
    step = (CELL - WORD_WIDTH) / layers
    right = left + WORD_WIDTH - 8
    draw.text((right, top + LINE // 2), "SAIEL", SOFT, small, anchor="rm")
    for layer in range(layers if step >= 10 else 0):
        draw.text((edges[layer] + step / 2, top + LINE // 2), str(layer + 1), SOFT, small, anchor="mm")
    for number, (word, weights) in enumerate(zip(look.words, look.weights.tolist(), strict=True)):
        y, ink = top + LINE * (number + 1), SOFT if word.startswith("[") else INK
        draw.text((right, y + LINE // 2), fit_text(word, normal, WORD_WIDTH - 8), ink, normal, anchor="rm")
        for layer, weight in enumerate(weights):
            shade = min(weight / top_weight, 1)
            color = tuple(_shade(COOL, np.array(shade)).astype(int).tolist())
            draw.rectangle([edges[layer], y, edges[layer + 1] - 2, y + LINE - 2], color)
            if step >= 24:
                middle, ink = (edges[layer] + step / 2 - 1, y + LINE / 2 - 0.5), PAGE if shade > 0.8 else INK
                draw.text(middle, f"{100 * weight:.0f}", ink, small, anchor="mm")


def _draw_outline(draw: ImageDraw.ImageDraw, box: np.ndarray, color: tuple[int, int, int]) -> None:
    """Draw a box (x, y, w, h in tile pixels), enlarged if it is too small to be seen."""
    x0, y0, x1, y1 = np.rint([box[0], box[1], box[0] + box[2], box[1] + box[3]]).astype(int).tolist()
    draw_outline(draw, [x0, y0, max(x1, x0 + 6), max(y1, y0 + 6)], color, 2)


def _legend_parts(top_weight: float, has_truth: bool) -> list[tuple[float, object]]:
    """Width in pixels and painter (draw, left, middle) of each entry of the legend."""
    font = _font(12)

    def text_part(symbol_width: int, paint_symbol, text: str):
        def paint(draw, left: float, middle: float) -> None:
            paint_symbol(draw, left, middle)
            draw.text((left + symbol_width + 6, middle), text, INK, font, anchor="lm")

        return symbol_width + 6 + font.getlength(text) + 22, paint

    def bar(ramp):
        def paint(draw, left: float, middle: float) -> None:
            for x, color in enumerate(_shade(ramp, np.linspace(0, 1, 70)).astype(int).tolist()):
                draw.line([left + x, middle - 6, left + x, middle + 5], tuple(color))

        return paint

    def outline(color):
        return lambda draw, left, middle: _draw_outline(draw, np.array([left + 1, middle - 6, 16, 12]), color)

    parts = [text_part(70, bar(WARM), "Grad-CAM of the score, each crop on its own scale")]
    parts.append(text_part(18, outline(PREDICTION_COLOR), "predicted box"))
    if has_truth:
        parts.append(text_part(18, outline(TRUTH_COLOR), "ground truth"))
    if top_weight:
        parts.append(
            text_part(70, bar(COOL), f"attention of the search patches to a word, 0 to {100 * top_weight:.0f} %")
        )
    return parts


def _flow(widths: Sequence[float], room: float) -> list[tuple[int, float]]:
    """Line number and left edge of each entry; entries are set one after the other, like words."""
    positions, line, left = [], 0, 0.0
    for width in widths:
        if left and left + width > room:
            line, left = line + 1, 0.0
        positions.append((line, left))
        left += width
    return positions


__all__ = ["Look", "Row", "draw_figure", "draw_overlay", "merge_pieces", "save_figure"]
