"""Tracking clips made of photographs: unlimited, with real textures and exact boxes.

A clip is a moving scene. Its background is a photograph under a moving camera; its target either belongs to that
photograph (`kind="camera"`: target and surroundings move together, and most of these photographs are continued by
another one at their edges, because a large target would otherwise be surrounded by black) or is cut out of its
photograph and pasted over the background, which in three of four clips is another one (`kind="pasted"`: only the
target itself shows where it went). Distractors (of the target's class where there are some, or other parts of its
image) and an occluder move on their own. Light and blur change with time; noise and compression do not.

As in procedural clips, the seed decides everything, and motion is a function of time alone, so frames can be drawn in
any order. Coordinates are continuous pixels: pixel i covers [i, i + 1).
"""

import io
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from PIL import Image, ImageFilter

from .compositing import cut_outline, paste_outline, project, surrounded, translation, warp
from .photograph_text import describe
from .photographs import PhotographFolder, Target
from .procedural import smooth_waves
from .procedural_text import COLOURS

KINDS = ("camera", "pasted")
FRAME_HEIGHT = 240  # pixels; frames are 4 : 3, and smaller where the photograph does not cover them
LEAST_FRAME = 140 / 240  # of the frame's height: least shorter side of a photograph that no other one continues
TARGET_SIDES = np.array([16, 72]) / 240  # of the frame's height: range from which a target's sqrt(w h) is drawn
MAX_STRETCH = 2.5  # an image is not enlarged more than that
SURROUNDED_SHARE = 0.75  # of clips whose photograph is continued by another one at its edges
PHRASE_SHARE = 0.85  # of the sentences about a target that has phrases
# Objects in photographs are duller than the figures of procedural clips, so some names have a second colour.
NAMED_COLOURS = [
    *COLOURS.items(),
    ("grey", (128, 128, 128)),
    ("green", (70, 90, 50)),
    ("brown", (130, 100, 70)),
    ("blue", (110, 150, 210)),
]


def colour_word(image: Image.Image, target: Target) -> str:
    """The colour name nearest to the middle of a target; empty where its colours differ widely."""
    x, y, w, h = target.box
    box = tuple(
        int(v) for v in (x + w / 4, y + h / 4, max(x + 3 * w / 4, x + w / 4 + 1), max(y + 3 * h / 4, y + h / 4 + 1))
    )
    pixels = np.asarray(image.resize((8, 8), Image.Resampling.BOX, box), np.float32).reshape(-1, 3)
    if pixels.std(axis=0).max() > 50:
        return ""
    colours = np.array([rgb for _, rgb in NAMED_COLOURS])
    distance = np.linalg.norm(colours - np.median(pixels, axis=0), axis=1)
    return NAMED_COLOURS[int(distance.argmin())][0]


def _covered(boxes: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Share of each box (n, 4), xywh, that the box in the same row of `over` covers."""
    low = np.maximum(boxes[:, :2], over[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], over[:, :2] + over[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=1) / boxes[:, 2:].prod(axis=1)


class _Motion:
    """The shape of a layer at any time: size, turn, stretch, shear and perspective around its middle.

    side: in frame pixels, of what is `source_side` wide in its image. vigour: how much the shape changes. reach: how
    far the layer extends from its middle, in pixels of its image.
    """

    def __init__(self, rng, t: np.ndarray, side: float, source_side: float, vigour: float, reach: float = 0.0):
        grow = smooth_waves(rng, t, (), (60, 300))
        self.scale = side / source_side * np.exp(0.35 * vigour * (grow - grow[:1]))  # (n,)
        turn = rng.choice([0.12, 0.12, 0.3, 0.8]) * vigour * smooth_waves(rng, t, (), (60, 300))
        stretch = np.exp(0.14 * vigour * smooth_waves(rng, t, (), (60, 300)))
        shear = 0.1 * vigour * smooth_waves(rng, t, (), (60, 300))
        self.perspective = 0.16 * vigour * smooth_waves(rng, t, (2,), (60, 300)) / max(source_side, reach)  # (n, 2)
        cos, sin = np.cos(turn), np.sin(turn)
        rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)  # (n, 2, 2)
        shape = np.stack([np.stack([stretch, shear], -1), np.stack([0 * shear, 1 / stretch], -1)], -2)
        self.linear = self.scale[:, None, None] * rotation @ shape

    def matrix(self, index: int, middle: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The homography (3, 3) that brings `middle` of the image to `place` of the frame."""
        around = np.eye(3)
        around[:2, :2] = self.linear[index]
        around[2, :2] = self.perspective[index]
        return translation(*place) @ around @ translation(*-middle)


class _Layer:
    """A cut-out that moves over the background. places: (n, 2), its middle in each frame. softness: of its edges."""

    def __init__(self, image: Image.Image, target: Target, motion: _Motion, places: np.ndarray, softness: float):
        self.image, self.target, self.motion, self.places, self.softness = image, target, motion, places, softness
        x, y, w, h = target.box
        self.middle = np.array([x + w / 2, y + h / 2])

    def matrix(self, index: int) -> np.ndarray:
        return self.motion.matrix(index, self.middle, self.places[index])

    def outline(self, index: int) -> np.ndarray:
        """(k, 2) corners in the frame."""
        return project(self.matrix(index), self.target.outline)

    def draw(self, canvas: Image.Image, index: int) -> None:
        paste_outline(
            canvas, self.outline(index), lambda window: warp(self.image, self.matrix(index), window), self.softness
        )


class PhotographClip:
    """A clip of one target in moving photographs, and a sentence for it.

    Args:
        photographs: what the clip is made of.
        seed: decides everything.
        num_frames: length of the clip; it changes neither the frames before its end nor their speed.
        kind: "camera" or "pasted"; drawn from the seed if None. Always "camera" for a target of which only the box is
            known.
        difficulty: in [0, 1], how much shapes and light change and how often there are distractors and occluders.
        times: of the frames, in frames from 0 on; by default 0, 1, and so on up to `num_frames`, which it replaces.
        frame_height: in pixels; targets grow with it.

    Attributes: `kind`, `text`, `size` (height and width of its frames). Raises `ValueError` for an image that cannot
    be read.
    """

    def __init__(
        self,
        photographs: PhotographFolder,
        seed: int,
        num_frames: int = 60,
        kind: str | None = None,
        difficulty: float = 1.0,
        times: Sequence[float] | None = None,
        frame_height: int = FRAME_HEIGHT,
    ) -> None:
        if kind not in (None, *KINDS):
            raise ValueError(f"kind must be None or one of {KINDS}, got {kind!r}")
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        self.photographs, self.seed, self.difficulty = photographs, seed, difficulty
        self.num_frames = num_frames if times is None else len(times)
        self.name = f"photograph-{seed:06d}"
        self._frame_size = frame_height, round(frame_height * 4 / 3)
        self._t = np.arange(num_frames, dtype=np.float64) if times is None else np.array(times, np.float64)
        rng = self._stream(0)
        drawn_kind = str(rng.choice(KINDS))  # also with a `kind`, so that the seed then gives the same target
        self._number, target = self._draw_target(rng)
        self.kind = "camera" if target.boxed else kind or drawn_kind
        image = photographs.image(self._number)
        self._side = float(np.exp(rng.uniform(*np.log(frame_height * TARGET_SIDES))))
        self.text = self._describe(rng, image, target)
        self._set_scene(self._stream(1), image, target)
        self._set_distractors(self._stream(2), target)
        self._set_occluder(self._stream(3))
        self._set_light(self._stream(4))

    def __len__(self) -> int:
        return self.num_frames

    def _stream(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number])

    def _draw_target(self, rng: np.random.Generator) -> tuple[int, Target]:
        """A labelled object in a share of the clips, if there are any; else a part of a random image."""
        labelled = self.photographs.labelled
        if labelled and rng.random() < self.photographs.labelled_share:
            number = labelled[int(rng.integers(len(labelled)))]
            objects = self.photographs.objects(number)
            if objects:
                return number, objects[int(rng.integers(len(objects)))]
        number = int(rng.integers(len(self.photographs)))
        return number, self.photographs.draw_region(rng, number)

    def _describe(self, rng: np.random.Generator, image: Image.Image, target: Target) -> str:
        """What people call the target, or else a sentence from its colour and its class."""
        if target.phrases and rng.random() < PHRASE_SHARE:
            return str(rng.choice(target.phrases))
        colour = colour_word(image, target) if rng.random() < 0.6 else ""
        noun = target.family if target.family and rng.random() < 0.2 else target.name
        return describe(rng, colour, noun)

    def _set_scene(self, rng: np.random.Generator, image: Image.Image, target: Target) -> None:
        """Set the background, its camera, and the target as a part of it or as a layer."""
        w, h = target.box[2:]
        vigour = 0.4 + 0.6 * self.difficulty
        source_side = float(np.sqrt(w * h))
        surrounded_by = None
        if self.kind == "camera" and rng.random() < SURROUNDED_SHARE:
            surrounded_by = self.photographs.image(int(rng.integers(len(self.photographs))))
        else:
            # A target that fills its photograph is shown large enough for its surroundings to be seen.
            least = source_side * LEAST_FRAME * self._frame_size[0] / min(image.size)
            self._side = max(self._side, least)
        self._side = min(self._side, MAX_STRETCH * source_side)
        reach = max(image.size) if self.kind == "camera" else 0.0
        motion = _Motion(rng, self._t, self._side, source_side, vigour, reach)
        if self.kind == "camera":
            self._set_camera_scene(rng, image, target, motion, surrounded_by)
        else:
            self._set_pasted_scene(rng, image, target, motion, vigour)

    def _set_camera_scene(
        self, rng: np.random.Generator, image: Image.Image, target: Target, motion: _Motion, other: Image.Image | None
    ) -> None:
        """The photograph under a moving camera; `other` continues it at its edges."""
        x, y, w, h = target.box
        margin, background = np.zeros(2, int), image
        if other is not None:
            missing = np.array(self._frame_size[::-1]) / (0.9 * motion.scale[0]) - image.size
            margin = np.clip(missing / 2, 0, image.size).astype(int)
            background = surrounded(image, other, tuple(margin.tolist()))
        extent = np.array(background.size) * motion.scale[0] * 0.9
        width, height = np.clip(extent, 32, self._frame_size[::-1]).astype(int).tolist()
        self.size = (height, width)
        places = self._path(rng)
        middle = np.array([x + w / 2, y + h / 2])
        low = np.array(self.size[::-1]) - motion.scale[:, None] * (np.array(image.size) + margin - middle)
        high = motion.scale[:, None] * (middle + margin)
        places = np.where(low < high, np.clip(places, low, np.maximum(low, high)), (low + high) / 2)
        self._background_number, self._background, self._margin = self._number, background, margin
        self._camera = [motion.matrix(i, middle, place) for i, place in enumerate(places)]
        self._target_outline, self._layers = target.outline, []

    def _set_pasted_scene(
        self, rng: np.random.Generator, image: Image.Image, target: Target, motion: _Motion, vigour: float
    ) -> None:
        """The target as a layer over a background with a camera of its own."""
        self.size = self._frame_size
        frame = np.array(self.size[::-1])
        same = rng.random() < 0.25
        self._background_number = self._number if same else int(rng.integers(len(self.photographs)))
        self._background, self._margin = self.photographs.image(self._background_number), np.zeros(2)
        shown = np.array(self._background.size)
        cover = (frame / shown).max() * rng.uniform(1.05, 1.6)
        camera = _Motion(rng, self._t, cover, 1.0, 0.3 * vigour)
        camera.perspective *= 0
        # The point of the background at which the camera looks is in the middle of the frame.
        room = np.maximum(shown - 1.02 * frame / camera.scale[:, None], 0) / 2
        points = shown / 2 + room * smooth_waves(rng, self._t, (2,), (60, 400))
        self._camera = [camera.matrix(i, point, frame / 2) for i, point in enumerate(points)]
        places = self._path(rng)
        softness = float(rng.choice([0.0, 0.6, 1.2]))
        self._target_outline, self._layers = None, [_Layer(image, target, motion, places, softness)]

    def _path(self, rng: np.random.Generator) -> np.ndarray:
        """A smooth path through the frame: (n, 2) pixels."""
        frame = np.array(self.size[::-1])
        room = np.maximum(frame / 2 - 0.4 * self._side, 0.1 * frame)
        period = float(np.exp(rng.uniform(np.log(60), np.log(400))))
        return frame / 2 + room * smooth_waves(rng, self._t, (2,), (period, 2 * period))

    def _set_distractors(self, rng: np.random.Generator, target: Target) -> None:
        """Other cut-outs that move around the target, behind it."""
        count = int(rng.integers(1, 4)) if rng.random() < 0.15 + 0.5 * self.difficulty else 0
        layers = []
        for _ in range(count):
            number, other = self._draw_distractor(rng, target)
            if other is None:
                continue
            side = self._side * np.exp(0.25 * rng.standard_normal())
            motion = _Motion(rng, self._t, side, float(np.sqrt(other.box[2:].prod())), 0.6)
            angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.03, 0.03) * self._t
            reach = self._side * (rng.uniform(1.1, 2.4) + 0.5 * smooth_waves(rng, self._t, (), (30, 120)))
            offset = reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            places = self._target_places() + offset
            layer = _Layer(self.photographs.image(number), other, motion, places, float(rng.choice([0.0, 0.6])))
            layers.append(layer)
        self._layers = [*layers, *self._layers]

    def _draw_distractor(self, rng: np.random.Generator, target: Target) -> tuple[int, Target | None]:
        """Something that can be confused with the target: of its class, of its image, or anything else."""
        chance = rng.random()
        if chance < 0.4:
            return self._number, self.photographs.draw_region(rng, self._number)
        number = self._number
        if self.photographs.labelled and chance < 0.8:
            number = self.photographs.labelled[int(rng.integers(len(self.photographs.labelled)))]
            objects = self.photographs.objects(number)
            alike = [o for o in objects if o.name and o.name == target.name] or objects
            if alike:
                return number, alike[int(rng.integers(len(alike)))]
        return number, self.photographs.draw_region(rng, number)

    def _target_places(self) -> np.ndarray:
        """Middles of the target's outline in the frame: (n, 2)."""
        outlines = [self._outline(i) for i in range(self.num_frames)]
        return np.array([(o.min(axis=0) + o.max(axis=0)) / 2 for o in outlines])

    def _outline(self, index: int) -> np.ndarray:
        if self._target_outline is not None:
            return project(self._camera[index], self._target_outline)
        return self._layers[-1].outline(index)

    def _set_occluder(self, rng: np.random.Generator) -> None:
        """In some clips, a part of an image that moves beside the target and hides some or most of it at times."""
        self._occluder = None
        if rng.random() > 0.25 * self.difficulty:
            return
        number = int(rng.integers(len(self.photographs)))
        cover = self.photographs.draw_region(rng, number)
        w, h = cover.box[2:]
        motion = _Motion(rng, self._t, self._side * rng.uniform(0.4, 1.1), float(np.sqrt(w * h)), 0.3)
        offset = self._side * (0.55 + 0.5 * smooth_waves(rng, self._t, (), (20, 80)))
        angle = rng.uniform(0, 2 * np.pi)
        places = self._target_places() + offset[:, None] * np.array([np.cos(angle), np.sin(angle)])
        self._occluder = _Layer(self.photographs.image(number), cover, motion, places, 0.0)

    def _set_light(self, rng: np.random.Generator) -> None:
        """Gain, contrast and colour cast over time, and the blur, noise and compression of the camera."""
        d = 0.3 + 0.7 * self.difficulty
        waves = smooth_waves(rng, self._t, (5,), (60, 400))
        self._gain = np.exp(0.25 * d * waves[:, :1] + 0.08 * d * waves[:, 1:4])  # (n, 3)
        self._gamma = np.exp(0.3 * d * waves[:, 4])
        self._blur = rng.uniform(0, 0.06) * self._side * d if rng.random() < 0.3 else 0.0
        self._smear = rng.uniform(0.05, 0.25) * self._side * d if rng.random() < 0.2 else 0.0
        self._smear_wave = smooth_waves(rng, self._t, (2,), (8, 40))
        self._blur_wave = smooth_waves(rng, self._t, (), (10, 60))
        self._noise = rng.uniform(2, 12) * d if rng.random() < 0.3 else 0.0
        self._quality = int(rng.integers(15, 80)) if rng.random() < 0.3 else None
        self._grey = rng.random() < 0.06

    @cached_property
    def boxes(self) -> np.ndarray:
        """The target's boxes: (n, 4) float32 xywh in frame pixels, clipped to the frame, occluders ignored."""
        return self._clipped([self._outline(index) for index in range(self.num_frames)])

    def _clipped(self, outlines: list[np.ndarray]) -> np.ndarray:
        """Boxes (n, 4) of the parts of outlines that are in the frame."""
        limit = np.array(self.size[::-1])
        inside = [cut_outline(outline, limit) for outline in outlines]
        corners = [np.clip((outline.min(axis=0), outline.max(axis=0)), 0, limit) for outline in inside]
        return np.array([(*low, *(high - low)) for low, high in corners], np.float32)

    @cached_property
    def visible(self) -> np.ndarray:
        """(n,) bool: False where at most 40 % of the target's box is inside the frame, or the box is tiny there.

        Occluders are ignored.
        """
        return self._inside([self._outline(i) for i in range(self.num_frames)], self.boxes)

    def _inside(self, outlines: list[np.ndarray], boxes: np.ndarray) -> np.ndarray:
        full_areas = np.array([np.ptp(outline, axis=0).prod() for outline in outlines])
        return (boxes[:, 2:].prod(axis=1) > 0.4 * full_areas) & (boxes[:, 2:].min(axis=1) >= 4)

    def draw_other(self, rng: np.random.Generator) -> tuple[np.ndarray, str] | None:
        """Another target in the same frames: its boxes, in the form of `boxes`, and its sentence.

        It is a part of the background, neither small nor large, in view in all frames, and neither the target nor a
        layer covers 30 % of it. None if five attempts find none.
        """
        number = self._background_number
        objects = self.photographs.objects(number)
        covers = [self.boxes]
        for layer in [*self._layers, self._occluder]:
            if layer is not None:
                covers.append(self._clipped([layer.outline(i) for i in range(self.num_frames)]))
        for attempt in range(5):
            if objects and attempt < 2:
                other = objects[int(rng.integers(len(objects)))]
            elif rng.random() < 2 * (1 - self.photographs.labelled_share):
                other = self.photographs.draw_region(rng, number)
            else:
                continue
            outlines = [project(matrix, other.outline) for matrix in self._camera]
            boxes = self._clipped(outlines)
            sides = np.sqrt(boxes[:, 2:].prod(axis=1))
            least, most = self._frame_size[0] * TARGET_SIDES
            fitting = (sides >= least) & (sides <= 1.5 * most)
            if not (self._inside(outlines, boxes) & fitting).all():
                continue
            if max(_covered(boxes, over).max() for over in covers) < 0.3:
                return boxes, self._describe(rng, self.photographs.image(number), other)
        return None

    def frame(self, index: int) -> np.ndarray:
        """One frame: (height, width, 3) uint8 RGB. Raises `IndexError` outside 0..len - 1."""
        if not 0 <= index < self.num_frames:
            raise IndexError(f"there is no frame {index} in a clip of {self.num_frames}")
        height, width = self.size
        shown = self._camera[index] @ translation(*-self._margin)
        canvas = warp(self._background, shown, (0, 0, width, height))
        for layer in self._layers:
            layer.draw(canvas, index)
        # Distractors stay behind a target that is a part of the background.
        if self._target_outline is not None and self._layers:
            outline = self._outline(index)
            paste_outline(canvas, outline, lambda window: warp(self._background, shown, window), 0.5)
        if self._occluder is not None:
            self._occluder.draw(canvas, index)
        return self._spoil(canvas, index)

    def _spoil(self, canvas: Image.Image, index: int) -> np.ndarray:
        """Light, blur, compression and noise."""
        levels = (np.arange(256) / 255) ** self._gamma[index]
        table = np.clip(255 * levels * self._gain[index][:, None], 0, 255).astype(np.uint8)
        canvas = canvas.point(table.ravel().tolist())
        if self._grey:
            canvas = canvas.convert("L").convert("RGB")
        if self._smear:
            radius = np.abs(self._smear * self._smear_wave[index]) / 2
            radius[int(radius.argmin())] = 0
            canvas = canvas.filter(ImageFilter.BoxBlur(tuple(radius.tolist())))
        if self._blur:
            canvas = canvas.filter(ImageFilter.BoxBlur(self._blur * abs(float(self._blur_wave[index]))))
        if self._quality is not None:
            memory = io.BytesIO()
            canvas.save(memory, "JPEG", quality=self._quality)
            canvas = Image.open(memory)
        pixels = np.asarray(canvas)
        if self._noise:
            rng = np.random.default_rng([self.seed, 5, index])
            shape = (*pixels.shape[:2], 1 if self._grey else 3)
            noise = rng.standard_normal(shape, dtype=np.float32) * self._noise
            pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        return pixels


__all__ = ["PhotographClip"]
