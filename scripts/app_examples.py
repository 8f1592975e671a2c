"""The example clips of the web page, which `app.py` draws when it starts; nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PROCEDURAL_SEED = 3
WIDTH, HEIGHT = 480, 270
RED, WHITE, BLUE, YELLOW = (200, 40, 35), (235, 230, 220), (45, 85, 165), (235, 190, 60)


@dataclass(frozen=True)
class Example:
    """A clip that is drawn at start, with its sentence and its box (x, y, w, h; whole pixels)."""

    path: Path
    text: str
    box: tuple[int, int, int, int]


def draw_examples(folder: Path, num_frames: int = 75) -> list[Example]:
    """Draw the clips into a folder: balloons over a valley, and a procedural clip."""
    from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
    from modeling_pjvlt.video_writer_pjvlt import VideoWriter

    clip = ProceduralClip(PROCEDURAL_SEED, num_frames=num_frames)
    frames, boxes = draw_balloons(num_frames)
    clips = {
        "balloons": (frames, "the red and white hot-air balloon", boxes[0]),
        "figures": (map(clip.frame, range(len(clip))), clip.text, clip.boxes[0]),
    }
    examples = []
    for name, (images, text, box) in clips.items():
        path = folder / f"{name}.mp4"
        with VideoWriter(path) as writer:
            for image in images:
                writer.write(image)
        examples.append(Example(path, text, tuple(round(float(value)) for value in box)))
    return examples


def draw_balloons(num_frames: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Three hot-air balloons over a valley, seen by a camera that pans and shakes a little.

    Returns RGB uint8 frames (height, width, 3), and (num_frames, 4) the boxes of the red and white balloon, xywh.
    """
    rng = np.random.default_rng(0)
    valley = _draw_valley(rng)
    balloons = [  # colours, height in pixels, start and path in the valley, how much it sways
        (_draw_balloon(BLUE, YELLOW), 62, (150, 60), (60, 25), 1.0),
        (_draw_balloon(RED, YELLOW), 48, (380, 40), (-90, 45), 2.1),
        (_draw_balloon(RED, WHITE), 78, (215, 130), (150, -70), 0.0),
    ]
    frames, boxes = [], []
    for index in range(num_frames):
        time = index / max(num_frames - 1, 1)
        scene = valley.copy()
        for sprite, height, (x, y), (dx, dy), phase in balloons:
            size = height * (1 + 0.25 * np.sin(2 * time + phase))
            angle = 6 * np.sin(7 * time + phase)
            turned = sprite.rotate(angle, Image.Resampling.BICUBIC)
            shown = turned.resize((round(size * 0.75), round(size)), Image.Resampling.LANCZOS)
            place = round(x + dx * time + 6 * np.sin(9 * time + phase)), round(y + dy * time)
            scene.paste(shown, place, shown)
            left, top, right, bottom = shown.getchannel("A").point(lambda a: 255 * (a > 128)).getbbox()
        pan, shake = 90 * time, 2 * np.sin(31 * time)
        view = round(pan + shake), round(12 + 3 * np.sin(23 * time))
        frame = np.asarray(scene.crop((*view, view[0] + WIDTH, view[1] + HEIGHT)), np.float32)
        frame += rng.normal(0, 3, frame.shape)
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
        boxes.append((place[0] + left - view[0], place[1] + top - view[1], right - left, bottom - top))
    return frames, np.array(boxes, float)


def _draw_valley(rng: np.random.Generator) -> Image.Image:
    """Sky with clouds above hills, each ridge lighter and bluer than the one before it; larger than a frame."""
    width, height = WIDTH + 110, HEIGHT + 30
    rows = np.linspace(0, 1, height)[:, None, None]
    image = np.broadcast_to(
        np.array([96, 150, 215]) * (1 - rows) + np.array([232, 226, 210]) * rows, (height, width, 3)
    )
    clouds = np.clip(1.8 * _noise(rng, height, width, (14, 4)) - 0.9, 0, 1)[..., None] * (1 - rows)
    image = image * (1 - 0.8 * clouds) + 250 * 0.8 * clouds
    ridges = (
        (0.58, 14, (128, 150, 170)),
        (0.66, 20, (104, 132, 120)),
        (0.76, 24, (86, 112, 66)),
        (0.9, 12, (112, 124, 58)),
    )
    for level, relief, color in ridges:
        line = level * height - relief * (_noise(rng, 1, width, (9, 1))[0] - 0.5) * 2
        mask = (np.arange(height)[:, None] >= line)[..., None]
        texture = 0.75 + 0.5 * _noise(rng, height, width, (90, 60))[..., None]
        image = np.where(mask, np.array(color) * texture, image)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))


def _noise(rng: np.random.Generator, height: int, width: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise in [0, 1], (height, width), of four octaves. cells: of the coarsest one, across and down."""
    total, weight = np.zeros((height, width)), 0.0
    for octave in range(4):
        columns, rows = (max(1, cell * 2**octave) for cell in cells)
        grid = Image.fromarray(rng.random((rows + 1, columns + 1)).astype(np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
        weight += 1 / 2**octave
    return np.clip(total / weight, 0, 1)


def _draw_balloon(first, second, side: int = 320) -> Image.Image:
    """A balloon with stripes of two colours, lit from the upper left: RGBA, three quarters as wide as it is high."""
    width, height = round(side * 0.75), side
    y, x = np.mgrid[:height, :width].astype(np.float32)
    down = y / (0.82 * height)
    radius = 0.48 * width * np.sin(np.pi * 0.92 * np.clip(down, 0, 1) ** 0.85) ** 0.6
    across = (x - width / 2) / np.maximum(radius, 1)
    inside = (np.abs(across) < 1) & (down > 0) & (down < 1)
    longitude = np.arcsin(np.clip(across, -1, 1))
    stripes = (np.floor(longitude / np.pi * 9 + 0.5) % 2 == 0)[..., None]
    light = 0.55 + 0.5 * np.clip(np.cos(longitude + 0.6) * (1.05 - 0.5 * down), 0, 1)
    color = np.where(stripes, np.array(first), np.array(second)) * light[..., None]
    pixels = np.dstack([np.clip(color, 0, 255), 255 * inside]).astype(np.uint8)
    balloon = Image.fromarray(pixels, "RGBA")
    draw, middle, bottom = ImageDraw.Draw(balloon), width / 2, 0.82 * height
    for side_of in (-1, 1):
        draw.line([middle + side_of * 26, bottom, middle + side_of * 18, 0.91 * height], (60, 45, 35, 255), 4)
    draw.rectangle([middle - 22, 0.9 * height, middle + 22, 0.985 * height], (110, 72, 40, 255))
    return balloon
