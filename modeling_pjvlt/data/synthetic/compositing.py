"""What clips made of photographs are put together with: homographies, warped images, and outlines that are pasted.

Coordinates are continuous pixels: pixel i covers [i, i + 1).
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SEAM = 12  # pixels over which an image and its surroundings are blended


def translation(x: float, y: float) -> np.ndarray:
    """The homography (3, 3) that moves points by (x, y)."""
    return np.array([(1, 0, x), (0, 1, y), (0, 0, 1)], dtype=np.float64)


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(k, 2) points through a homography (3, 3)."""
    moved = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return moved[:, :2] / moved[:, 2:]


def warp(image: Image.Image, matrix: np.ndarray, window: tuple[int, int, int, int]) -> Image.Image:
    """The xyxy window of a frame into which a homography (image to frame) brings an image, without aliasing."""
    x0, y0, x1, y1 = window
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
    inverse = np.linalg.inv(matrix)
    shown = project(inverse, corners)  # the part of the image
    low = np.clip(np.floor(shown.min(axis=0)) - 2, 0, np.array(image.size) - 1).astype(int)
    high = np.clip(np.ceil(shown.max(axis=0)) + 2, low + 1, image.size).astype(int)
    shrink = np.sqrt(np.prod(shown.max(axis=0) - shown.min(axis=0)) / ((x1 - x0) * (y1 - y0)))
    factor = int(np.clip(round(float(shrink)), 1, min(high - low)))
    source = image.reduce(factor, (*low.tolist(), *high.tolist()))
    inverse = np.diag([1 / factor, 1 / factor, 1]) @ translation(*-low) @ inverse @ translation(x0, y0)
    inverse /= inverse[2, 2]
    fill = tuple(int(v) for v in np.asarray(image.reduce(max(min(image.size) // 4, 1))).reshape(-1, 3).mean(axis=0))
    bilinear = Image.Resampling.BILINEAR
    size, method = (x1 - x0, y1 - y0), Image.Transform.PERSPECTIVE
    return source.transform(size, method, inverse.ravel()[:8].tolist(), bilinear, fillcolor=fill)


def surrounded(image: Image.Image, other: Image.Image, margin: tuple[int, int]) -> Image.Image:
    """The image with a margin (left and right, above and below) that shows another image; the seam is soft."""
    width, height = image.size
    size = np.array((width + 2 * margin[0], height + 2 * margin[1]))
    cover = np.ceil(np.array(other.size) * (size / other.size).max()).astype(int)
    wide = other.resize(tuple(cover.tolist()), Image.Resampling.BILINEAR).crop((0, 0, *size.tolist()))
    steps = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in (width, height)]
    seam = np.minimum(*np.meshgrid(*steps)) * (255 / SEAM)
    wide.paste(image, margin, Image.fromarray(np.minimum(seam, 255).astype(np.uint8)))
    return wide


def paste_outline(canvas: Image.Image, outline: np.ndarray, texture, softness: float = 0.0) -> None:
    """Paste the part of `texture(window)` inside an outline (k, 2) into a canvas, with edges soft by some pixels."""
    margin = 1 + int(2 * softness)
    low = np.clip(np.floor(outline.min(axis=0)).astype(int) - margin, 0, canvas.size)
    high = np.clip(np.ceil(outline.max(axis=0)).astype(int) + margin, 0, canvas.size)
    if (high - low).min() < 1:
        return
    mask = Image.new("L", tuple((2 * (high - low)).tolist()))
    ImageDraw.Draw(mask).polygon((2 * (outline - low) - 0.5).ravel().tolist(), fill=255)
    mask = mask.reduce(2)
    if softness > 0:
        mask = mask.filter(ImageFilter.GaussianBlur(softness))
    window = (*low.tolist(), *high.tolist())
    canvas.paste(texture(window), window[:2], mask)


def cut_outline(outline: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """The part of an outline (k, 2) inside a frame of `limit` (width, height); the whole one if all is outside.

    The sides of the frame cut the polygon one after the other (Sutherland and Hodgman, "Reentrant polygon clipping",
    1974).
    """
    cut = outline
    for axis, side, edge in ((0, 1, 0), (1, 1, 0), (0, -1, limit[0]), (1, -1, limit[1])):
        depth = side * (cut[:, axis] - edge)  # of each corner behind the side, negative outside
        if (depth < 0).all():
            return outline
        if (depth >= 0).all():
            continue
        after, deeper = np.roll(cut, -1, axis=0), np.roll(depth, -1)
        crossing = (depth < 0) != (deeper < 0)
        share = depth / np.where(crossing, depth - deeper, 1)
        both = np.stack([cut, cut + share[:, None] * (after - cut)], axis=1)
        cut = both[np.stack([depth >= 0, crossing], axis=1)]
    return cut


__all__ = ["cut_outline", "paste_outline", "project", "surrounded", "translation", "warp"]
