"""Procedural tracking clips with a sentence: unlimited, fast to draw, and made so that the sentence matters.

A clip shows a group of similar figures (one target, one to four distractors) over a moving background.

- The seed decides everything. Motion is a function of time alone, so neither the number of frames nor the order in
  which they are drawn changes a frame.
- `kind="appearance"`: the first frame shows the target (variant "clear").
- `kind="words"`: only the sentence tells the target from a distractor, because the first frame is altered. "grey": all
  figures are of one grey; "blurred": all are soft blobs; "hidden": all are covered. Place, size, tilt and aspect are
  drawn again between frame 0 and frame 1, so none of them identifies the target either.
- Every figure is a few polygons, filled by Pillow at three times the resolution inside its own window.

Coordinates are continuous frame pixels: pixel i covers [i, i + 1).
"""

from functools import cached_property

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .procedural_text import COLOURS, FORMS, PATTERNS, Look, describe

KINDS = ("appearance", "words")
WORD_VARIANTS = ("grey", "blurred", "hidden")

_LOOKALIKES = (("circle", "hexagon"), ("orange", "brown"))  # too similar for one clip when small or dark


def _regular(corners: int, radius: float = 1.0, inner: float | None = None) -> np.ndarray:
    """Corners of a regular polygon, or of a star if `inner` is the radius of its inner corners: (k, 2), tip up."""
    count = corners if inner is None else 2 * corners
    angle = np.arange(count) * 2 * np.pi / count - np.pi / 2
    radii = radius if inner is None else np.where(np.arange(count) % 2 == 0, radius, inner)
    return np.stack([radii * np.cos(angle), radii * np.sin(angle)], axis=1)


def _heart() -> np.ndarray:
    a = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = -(13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a))
    return np.stack([16 * np.sin(a) ** 3, y - 2.5], axis=1) / 16


_ARM = 0.34  # half the width of an arm of the cross
_RING_HOLE = _regular(40, 0.5)
_OUTLINES = {  # corners in figure units, where a figure spans about [-1, 1]
    "circle": _regular(48, 0.95),
    "square": _regular(4, 1.2) @ np.array([[1, 1], [-1, 1]]) / np.sqrt(2),
    "triangle": _regular(3, 1.12) + np.array([0, 0.22]),
    "star": _regular(5, 1.1, 0.48) + np.array([0, 0.06]),
    "diamond": _regular(4, 1.1) * [0.68, 1.0],
    "cross": np.array([(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)]),
    "ring": _regular(40, 1.0),
    "hexagon": _regular(6, 1.03),
    "heart": _heart(),
}
_OUTLINES["cross"] = np.concatenate([_OUTLINES["cross"], -_OUTLINES["cross"]])


def _pattern_polygons(pattern: str, period: float, angle: float) -> np.ndarray:
    """The second tone of a pattern in figure units: (polygons, corners, 2). `period` is that of the stripes."""
    if pattern == "plain":
        return np.zeros((0, 4, 2))
    steps = np.arange(-4, 5)
    quad = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2
    if pattern == "striped":
        polygons = quad * [4, 0.45 * period] + np.stack([0 * steps, steps * period], axis=1)[:, None]
    else:
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        if pattern == "dotted":
            cell, shape = period, _regular(10, 0.3)
        else:
            cell, shape = 0.62 * period, quad
            grid = grid[grid.sum(axis=1) % 2 == 0]
        grid = grid[np.hypot(*grid.T) * cell < 1.3]
        polygons = cell * (shape + grid[:, None])
    c, s = np.cos(angle), np.sin(angle)
    return polygons @ np.array([[c, s], [-s, c]])


def _inside_points(form: str) -> np.ndarray:
    """Points spread evenly over a form, in figure units: (k, 2)."""
    mask = Image.new("L", (24, 24))
    draw = ImageDraw.Draw(mask)
    draw.polygon(((_OUTLINES[form] + 1.2) * 10 - 0.5).ravel().tolist(), fill=1)
    if form == "ring":
        draw.polygon(((_RING_HOLE + 1.2) * 10 - 0.5).ravel().tolist(), fill=0)
    rows, columns = np.nonzero(np.asarray(mask))
    return (np.stack([columns, rows], axis=1) + 0.5) / 10 - 1.2


_INSIDE = {form: _inside_points(form) for form in FORMS}


def smooth_waves(
    rng: np.random.Generator, t: np.ndarray, shape: tuple[int, ...], period: tuple[float, float]
) -> np.ndarray:
    """Smooth random functions of time in [-1, 1], two sinusoids each: (len(t), *shape). Periods are in frames."""
    phase = rng.uniform(0, 2 * np.pi, (2, *shape))
    omega = 2 * np.pi / np.exp(rng.uniform(*np.log(period), (2, *shape)))
    t = t.reshape(-1, *[1] * len(shape))
    return 0.65 * np.sin(omega[0] * t + phase[0]) + 0.35 * np.sin(1.7 * omega[1] * t + phase[1])


def _mask(window: tuple[int, int, int, int], polygons: np.ndarray, holes: np.ndarray | None = None) -> Image.Image:
    """Antialiased mask, inside an xyxy window, of polygons (m, corners, 2) in frame pixels, with holes cut out."""
    x0, y0, x1, y1 = window
    factor = 3 if (x1 - x0) * (y1 - y0) < 10000 else 2
    mask = Image.new("L", ((x1 - x0) * factor, (y1 - y0) * factor))
    draw, origin = ImageDraw.Draw(mask), np.array([x0, y0])
    for group, value in ((polygons, 255), (holes, 0)):
        for corners in () if group is None else ((group - origin) * factor - 0.5).reshape(len(group), -1).tolist():
            draw.polygon(corners, fill=value)
    return mask.reduce(factor)


def _window(corners: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The smallest xyxy window of whole pixels around some corners, inside the frame; at least one pixel."""
    height, width = size
    (x0, y0), (x1, y1) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    left, top = int(min(max(x0, 0), width - 1)), int(min(max(y0, 0), height - 1))
    return left, top, max(int(min(x1, width)), left + 1), max(int(min(y1, height)), top + 1)


def _texture(rng: np.random.Generator, size: tuple[int, int], level: float) -> Image.Image:
    """A dull image of (height, width) pixels and mean `level`: colour noise, bands or checks, small polygons."""
    small = (size[0] // 4, size[1] // 4)
    field = level + rng.uniform(-20, 20, 3) + np.zeros((*small, 3), np.float32)
    chroma, contrast = rng.uniform(0.1, 0.45), rng.uniform(20, 110)
    for cells, weight in ((3, 0.5), (8, rng.uniform(0, 0.4)), (24, rng.uniform(0, 0.4))):
        noise = rng.uniform(0, 255, (cells, cells + cells // 3, 3))
        noise = chroma * noise + (1 - chroma) * noise.mean(axis=-1, keepdims=True)
        smooth = Image.Resampling.BICUBIC if rng.random() < 0.8 else Image.Resampling.NEAREST
        octave = Image.fromarray(noise.astype(np.uint8)).resize(small[::-1], smooth)
        field += (weight * contrast / 127) * (np.asarray(octave, np.float32) - 127)
    field += _bands(rng, small)[..., None] * rng.uniform(8, 28) * rng.uniform(0.5, 1, 3)
    image = Image.fromarray(np.clip(field, 40, 205).astype(np.uint8))
    image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    if rng.random() < 0.45:
        _scatter(rng, image)
    return image


def _bands(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A ramp, stripes, checks or nothing at a random angle: (height, width), about [-1, 1]."""
    y, x = np.ogrid[: size[0], : size[1]]
    angle, density = rng.uniform(0, 2 * np.pi), rng.uniform(3, 12) * 2 * np.pi
    along = (x * np.cos(angle) + y * np.sin(angle)) / size[1]
    across = (y * np.cos(angle) - x * np.sin(angle)) / size[1]
    choice = rng.choice(["none", "none", "ramp", "stripes", "checks"])
    if choice == "ramp":
        return 3 * along
    if choice == "stripes":
        return np.clip(3 * np.sin(density * along), -1, 1)
    return np.clip(6 * np.sin(density * along) * np.sin(density * across), -1, 1) * (choice == "checks")


def _scatter(rng: np.random.Generator, image: Image.Image) -> None:
    """Draw small dull polygons all over an image, in place."""
    draw, count = ImageDraw.Draw(image), int(rng.integers(20, 90))
    centres = rng.uniform(0, 1, (count, 1, 2)) * image.size
    corners = centres + rng.uniform(2, 8, (count, 1, 1)) * rng.normal(0, 1, (count, 5, 2))
    greys = rng.uniform(50, 190, (count, 1)) + rng.uniform(-18, 18, (count, 3))
    for points, colour in zip(corners, greys.astype(int), strict=True):
        draw.polygon(points.ravel().tolist(), fill=tuple(colour.tolist()))


def _change(rng: np.random.Generator, look: Look, names: tuple[str, ...], values: dict[str, list[str]]) -> Look:
    """The look with other values for the named attributes."""
    changed = {name: str(rng.choice([v for v in values[name] if v != getattr(look, name)])) for name in names}
    return look._replace(**changed)


def _draw_looks(rng: np.random.Generator, variant: str) -> list[Look]:
    """The looks of the target and of one to four distractors, all different.

    The first distractor of a "words" clip differs from the target in one attribute only.
    """
    excluded = {pair[rng.integers(2)] for pair in _LOOKALIKES}
    values = {"colour": list(COLOURS), "pattern": list(PATTERNS), "form": list(FORMS)}
    values = {name: [v for v in options if v not in excluded] for name, options in values.items()}
    names = {"grey": ("colour",), "blurred": ("pattern", "form")}.get(variant, Look._fields)
    looks = [Look(*(str(rng.choice(values[name])) for name in Look._fields))]
    count = 2 + int(rng.integers(4))
    while len(looks) < count:
        max_changes = 1 if len(looks) == 1 and variant != "clear" else min(2, len(names))
        changed = tuple(rng.permutation(names)[: rng.integers(1, max_changes + 1)])
        look = _change(rng, looks[0], changed, values)
        if look not in looks:
            looks.append(look)
    return looks


def draw_cast(seed: int, kind: str | None = None) -> tuple[np.random.Generator, str, str, list[Look]]:
    """The first draws for the clip of a seed: its kind, its variant, and the looks of its figures, the target first.

    Returns the generator in the state after these draws, and the three.
    """
    rng = np.random.default_rng([seed, 0])
    drawn_kind, variant = str(rng.choice(KINDS)), str(rng.choice(WORD_VARIANTS))
    kind = kind or drawn_kind
    variant = variant if kind == "words" else "clear"
    return rng, kind, variant, _draw_looks(rng, variant)


class ProceduralClip:
    """A clip of one target among distractors, a sentence for it, and a sentence for a distractor.

    Args:
        seed: Decides everything; the same seed gives the same clip.
        num_frames: Length of the clip. It changes neither the frames before its end nor their speed.
        size: Height and width of a frame in pixels. Figures are 20 to 76 px at 240 x 320 and scale with it.
        kind: "appearance" or "words"; drawn from the seed if None.

    Attributes:
        name: Such as "procedural-000123".
        kind: "appearance" or "words".
        variant: "clear" for appearance clips; "grey", "blurred" or "hidden" for words clips.
        text: A sentence that is true of the target alone.
        wrong_text: A sentence that is true of the first distractor alone.
        looks: Looks of the target and of the distractors, in this order.
    """

    def __init__(
        self, seed: int, num_frames: int = 60, size: tuple[int, int] = (240, 320), kind: str | None = None
    ) -> None:
        if kind not in (None, *KINDS):
            raise ValueError(f"kind must be None or one of {KINDS}, got {kind!r}")
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        self.seed, self.num_frames, self.size = seed, num_frames, size
        self.name = f"procedural-{seed:06d}"
        rng, self.kind, self.variant, self.looks = draw_cast(seed, kind)
        self.text = describe(rng, self.looks[0], self.looks[1:])
        self.wrong_text = describe(rng, self.looks[1], [self.looks[0], *self.looks[2:]])
        self._unit = min(size[0] / 240, size[1] / 320)
        self._set_motion(self._stream(1))
        self._set_occluder(self._stream(2))
        self._set_tones(self._stream(3))
        self._set_camera(self._stream(4))

    def __len__(self) -> int:
        return self.num_frames

    def _stream(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number])

    def _set_motion(self, rng: np.random.Generator) -> None:
        """Set centres (n, k, 2) and matrices (n, k, 2, 2) of all figures, and the group's scale (n,), in pixels.

        The figures sit in the slots of a turning, wobbling ring. Each slot has its own place and size.
        """
        k, words = len(self.looks), self.kind == "words"
        t = np.arange(self.num_frames, dtype=np.float64)
        base = np.exp(rng.uniform(np.log(26), np.log(58)))
        scale = self._unit * base * np.exp(0.32 * smooth_waves(rng, t, (), (90, 400)))  # (n,), side of a figure
        order, first_order = rng.permutation(k), rng.permutation(k)
        slots = np.where((t[:, None] == 0) & words, first_order, order)  # (n, k)
        turn = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.06, 0.06) * t + 0.8 * smooth_waves(rng, t, (), (40, 160))
        angle = turn[:, None] + (2 * np.arange(k) + 0.45 * smooth_waves(rng, t, (k,), (25, 120))) * np.pi / k
        reach = (0.7 if k < 4 else 0.85) + 0.12 * smooth_waves(rng, t, (k,), (25, 120))
        ring = (reach * scale[:, None])[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        middle = self._path(rng, t, scale)
        centres = middle[:, None] + np.take_along_axis(ring, slots[..., None], axis=1)
        if words:  # start in the ring's middle: in frame 1, the target is no nearer to it than the distractors are
            shift = rng.uniform(-0.25, 0.25, 2) * scale[0]
            centres[0] += middle[0] + shift - centres[0, 0]
        half = 0.5 * scale[:, None] * np.take_along_axis(rng.uniform(0.87, 1.16, (1, k)), slots, axis=1)
        half = np.clip(half, 10 * self._unit, 38 * self._unit)
        own_time = np.where((t == 0) & words, -1234.5, t)  # frame 0 says nothing about later tilt and aspect
        tilt = 0.55 * smooth_waves(rng, own_time, (k,), (30, 150))
        stretch = np.exp(0.15 * smooth_waves(rng, own_time, (k,), (30, 150)))
        cos, sin, across, down = np.cos(tilt), np.sin(tilt), half * stretch, half / stretch
        self._matrices = np.stack([cos * across, -sin * down, sin * across, cos * down], -1).reshape(-1, k, 2, 2)
        edge = 0.7 * half[..., None]
        self._centres = np.clip(centres, edge, np.array(self.size[::-1]) - edge)
        self._scale = scale
        on_top = rng.random() < 0.6 and not words
        self._layers = [i for i in rng.permutation(k).tolist() if i or not on_top] + [0] * on_top

    def _path(self, rng: np.random.Generator, t: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Middle of the group, (n, 2) pixels: a smooth path, in half of the clips with small, abrupt jumps."""
        extent = np.array(self.size[::-1])
        room = np.maximum(extent / 2 - 1.3 * scale[:, None], 0.06 * extent)
        speed = rng.uniform(0.02, 0.18) * self._unit * 36
        period = 2 * np.pi * (extent.mean() / 3) / speed
        path = extent / 2 + room * smooth_waves(rng, t, (2,), (period, 2 * period))
        step = np.floor(t / rng.uniform(25, 70) + rng.random()) * 2.4 + rng.uniform(0, 2 * np.pi)
        jump = rng.choice([0, 0.25]) * scale
        return path + np.stack([jump * np.cos(step), jump * np.sin(step)], axis=1)

    def _set_occluder(self, rng: np.random.Generator) -> None:
        """In 30 % of the clips, a bar or blob that crosses the target repeatedly; outlines (n, c, 2) in pixels."""
        self._occluder = None
        if rng.random() > 0.3:
            return
        side, speed, heading = self._scale[0], rng.uniform(0.12, 0.4), rng.uniform(0, 2 * np.pi)
        bar = rng.random() < 0.6
        half = side * (np.array([rng.uniform(0.3, 0.75), rng.uniform(1.5, 3)]) if bar else rng.uniform(0.6, 0.9, 2))
        first = (half.max() / side + 1) / speed + rng.uniform(2, 40)
        t, every = np.arange(self.num_frames), first + rng.uniform(30, 90)
        lag = (t - first + every / 2) % every - every / 2
        lag = np.where(t < first, t - first, lag)
        turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
        travel = self._centres[:, 0] + (lag * speed * side)[:, None] * turn[0]
        self._occluder_half, self._occluder_turn, self._occluder_centres = half, turn, travel
        outline = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) if bar else _regular(32)
        self._occluder = travel[:, None] + (outline * half) @ turn
        self._occluder_is_bar = bar

    def _set_tones(self, rng: np.random.Generator) -> None:
        """Set the two RGB tones of each figure (a colour name means one RGB in a clip), and the patterns' polygons."""
        shift = {name: rng.uniform(-9, 9, 3) for name in COLOURS}
        dark_second = rng.random() < 0.5
        self._tones = []
        for look in self.looks:
            main = np.clip(COLOURS[look.colour] + shift[look.colour], 0, 255)
            luma = main @ (0.3, 0.59, 0.11)
            darken = dark_second if 90 < luma < 150 else luma >= 150
            share = {"white": 0.5, "black": 0.5}.get(look.colour, 0.8)
            second = main + share * ((0.0 if darken else 255.0) - main)
            self._tones.append((tuple(main.astype(int).tolist()), tuple(second.astype(int).tolist())))
        period, angle = rng.uniform(0.5, 0.66), rng.uniform(0, np.pi)
        self._patterns = {p: _pattern_polygons(p, period, angle) for p in {look.pattern for look in self.looks}}

    def _set_camera(self, rng: np.random.Generator) -> None:
        """Set the view's place in the background (n, 2), gains (n,), background level, noise strength and blur."""
        t = np.arange(self.num_frames)
        self._margin = int(40 * self._unit)
        speed = rng.choice([0, 1, 1])
        self._views = (self._margin * (1 + speed * smooth_waves(rng, t, (2,), (60, 400)))).astype(int)
        self._gains = np.exp(rng.uniform(0, 0.24) * smooth_waves(rng, t, (), (40, 200)) + rng.uniform(-0.12, 0.02))
        self._level = rng.uniform(80, 165)
        self._noise_step = int(rng.choice([1, 2, 3, 3, 4, 5]))
        self._soft = rng.random() < 0.15

    @cached_property
    def _background(self) -> Image.Image:
        size = self.size[0] + 2 * self._margin, self.size[1] + 2 * self._margin
        return _texture(self._stream(5), size, self._level)

    @cached_property
    def _cover_texture(self) -> Image.Image:
        """The texture of occluders and covers: grey, so that no colour name is true of them."""
        level = self._level + (60 if self._level < 122 else -60)
        return _texture(self._stream(6), self.size, level).convert("L").convert("RGB")

    @cached_property
    def _noise(self) -> np.ndarray:
        """Sensor noise in [-20, 20] as uint8 that wraps; larger than a frame, so that each frame cuts its own part."""
        shape = (self.size[0] + 32, self.size[1] + 32, 3)
        raw = np.frombuffer(self._stream(7).bytes(int(np.prod(shape))), np.int8).reshape(shape)
        total = (raw >> 4) + ((raw << 4) >> 4)  # two nibbles in [-8, 7]: about triangular
        return (total * np.int8(self._noise_step) >> 2).view(np.uint8)

    def _boxes_xyxy(self, number: int) -> np.ndarray:
        """Tight boxes of one figure as it is drawn, clipped to the frame: (n, 4)."""
        outline, matrices = _OUTLINES[self.looks[number].form], self._matrices[:, number].swapaxes(-1, -2)
        if self.variant in ("blurred", "hidden"):  # the first box must not reveal the form: it is that of a circle
            outline = np.concatenate([outline, outline[-1:].repeat(48 - len(outline), axis=0)])
            outline = np.where(np.arange(len(matrices))[:, None, None] == 0, _OUTLINES["circle"], outline)
        corners = outline @ matrices + self._centres[:, number, None]
        limit = np.array(self.size[::-1])
        return np.concatenate([np.clip(corners.min(1), 0, limit), np.clip(corners.max(1), 0, limit)], axis=1)

    @cached_property
    def _all_boxes(self) -> np.ndarray:
        """Boxes of all figures: (n, k, 4) float32 xywh in frame pixels."""
        boxes = np.stack([self._boxes_xyxy(i) for i in range(len(self.looks))], axis=1)
        boxes[..., 2:] -= boxes[..., :2]
        return boxes.astype(np.float32)

    @property
    def boxes(self) -> np.ndarray:
        """The target's boxes: (n, 4) float32 xywh in frame pixels, clipped to the frame; occluders are ignored."""
        return self._all_boxes[:, 0].copy()

    def distractor_boxes(self, index: int) -> np.ndarray:
        """The distractors' boxes in one frame: (k, 4) float32 xywh in frame pixels."""
        return self._all_boxes[index, 1:].copy()

    @cached_property
    def visible(self) -> np.ndarray:
        """(n,) bool: False where more than 70 % of the target is covered or outside the frame."""
        visible = self._seen(0)
        visible[0] &= self.variant != "hidden"
        return visible

    @cached_property
    def distractor_visible(self) -> np.ndarray:
        """(n,) bool: the same for the first distractor, of which `wrong_text` is true."""
        return self._seen(1)

    def _seen(self, number: int) -> np.ndarray:
        """(n,) bool: whether at least 30 % of a figure is inside the frame and not under an occluder."""
        points = _INSIDE[self.looks[number].form] @ self._matrices[:, number].swapaxes(-1, -2)
        points = points + self._centres[:, number, None]
        seen = ((points >= 0) & (points < np.array(self.size[::-1]))).all(axis=-1)  # (n, points)
        if self._occluder is not None:
            local = (points - self._occluder_centres[:, None]) @ self._occluder_turn.T / self._occluder_half
            reach = np.abs(local).max(axis=-1) if self._occluder_is_bar else np.hypot(*np.moveaxis(local, -1, 0))
            seen &= reach > 1
        return seen.mean(axis=1) >= 0.3

    def frame(self, index: int) -> np.ndarray:
        """One frame: (height, width, 3) uint8 RGB. Raises IndexError outside 0..len - 1."""
        if not 0 <= index < self.num_frames:
            raise IndexError(f"there is no frame {index} in a clip of {self.num_frames}")
        (height, width), (left, top) = self.size, self._views[index].tolist()
        canvas = self._background.crop((left, top, left + width, top + height))
        altered = self.variant if index == 0 else "clear"
        if altered == "grey":
            canvas = canvas.convert("L").convert("RGB")
        for number in self._layers:
            self._draw_figure(canvas, index, number, altered)
        if altered == "blurred":
            canvas = canvas.reduce(max(2, round(self._scale[0] / 12))).filter(ImageFilter.GaussianBlur(2.2))
            canvas = canvas.resize((width, height), Image.Resampling.BICUBIC)
        elif self._soft:
            canvas = canvas.reduce(2).resize(canvas.size, Image.Resampling.BILINEAR)
        if self._occluder is not None:
            self._draw_cover(canvas, self._occluder[index])
        row, column = index * 11 % 32, index * 19 % 32
        noise = self._noise[row : row + height, column : column + width]
        gain = np.clip(np.arange(256) * self._gains[index], 20, 235)  # room for the noise, so that it cannot wrap
        lit = np.asarray(canvas.point(gain.astype(int).tolist() * 3))
        return lit + (noise[..., :1] if altered == "grey" else noise)

    def _draw_figure(self, canvas: Image.Image, index: int, number: int, altered: str) -> None:
        """Paste one figure into the canvas; `altered` is the variant that this frame shows."""
        if altered == "hidden":
            x, y, w, h = self._all_boxes[index, number].tolist()
            self._draw_cover(canvas, np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]))
            return
        look, (main, second) = self.looks[number], self._tones[number]
        if altered == "grey":
            main, second = self._greys
        elif altered == "blurred":
            look = look._replace(pattern="plain", form="circle")
        matrix, centre = self._matrices[index, number].T, self._centres[index, number]
        outline = _OUTLINES[look.form] @ matrix + centre
        window = _window(outline, self.size)
        mask = _mask(window, outline[None], (_RING_HOLE @ matrix + centre)[None] if look.form == "ring" else None)
        canvas.paste(main, window, mask)
        if look.pattern != "plain":
            tone = _mask(window, self._patterns[look.pattern] @ matrix + centre)
            canvas.paste(second, window, ImageChops.multiply(mask, tone))

    @property
    def _greys(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Two greys for the figures of a grey first frame; the main one stands out from the background."""
        return ((200,) * 3, (100,) * 3) if self._level < 122 else ((52,) * 3, (150,) * 3)

    def _draw_cover(self, canvas: Image.Image, outline: np.ndarray) -> None:
        """Paste the cover texture into the canvas, inside an outline (corners in frame pixels)."""
        if (outline.max(axis=0) <= 0).any() or (outline.min(axis=0) >= self.size[::-1]).any():
            return
        window = _window(outline, self.size)
        canvas.paste(self._cover_texture.crop(window), window, _mask(window, outline[None]))
