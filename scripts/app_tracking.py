"""The work behind the web page of `app.py`: check a video, mark boxes, track, and keep the results."""

import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

MAX_MEGABYTES = 200
MAX_FPS = 60
MIN_BOX_SIDE = 4
MAX_LETTERS = 300
MAX_TARGETS = 6
NO_BOX = "There is no box yet. Draw one around the target, or find it by words, or type x, y, width, height."
# Without this list FFmpeg also opens playlists, which can make it read other files.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv"

Box = tuple[float, float, float, float]  # x, y, w, h in pixels


class Refused(ValueError):
    """The visitor's input cannot be used; the message says why, and what to do."""


@dataclass(frozen=True)
class Limits:
    """What the page accepts: seconds of video, pixels of a frame's longer side, megabytes of a file."""

    seconds: float = 30
    side: int = 1920
    megabytes: int = MAX_MEGABYTES

    def __str__(self) -> str:
        return f"up to {self.seconds:g} seconds, {self.side} pixels on the longer side, {self.megabytes} MB"


@dataclass(frozen=True)
class Video:
    """A checked video. `num_frames` is the number that the file announces, or None."""

    path: Path
    first_frame: np.ndarray
    fps: float
    num_frames: int | None

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.first_frame.shape[:2]


@dataclass(frozen=True)
class Result:
    """The files of one run, and `boxes`, the results of each target by its name: [`modeling_pjvlt.TargetsResults`]."""

    video: Path
    csv: Path
    json: Path
    boxes: dict[str, list[dict]]
    num_frames: int
    seconds: float

    @property
    def mean_score(self) -> float | None:
        """Mean confidence over all boxes that were tracked, not given; None if there are none."""
        scores = [box["score"] for results in self.boxes.values() for box in results if box["score"] < 1]
        return sum(scores) / len(scores) if scores else None


@dataclass(frozen=True)
class Scene:
    """What a visitor has marked in a video so far; every change makes a new scene.

    video: None until there is one. target, frame: the target that is drawn now, and the frame it is drawn in. image:
    that frame. boxes: x, y, w, h by target and frame. texts: a sentence by target, in the order of the targets.
    tracked: the results of the last run, which the visitor may correct.
    """

    video: Video | None = None
    target: str = "1"
    frame: int = 0
    image: np.ndarray | None = None
    boxes: Mapping[tuple[str, int], Box] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=lambda: {"1": ""})
    tracked: Mapping[str, list[dict]] = field(default_factory=dict)

    @classmethod
    def of(cls, video: Video) -> "Scene":
        return cls(video, image=video.first_frame)

    @property
    def box(self) -> Box | None:
        """The box of the target and the frame that are drawn now, or None."""
        return self.boxes.get((self.target, self.frame))

    def mark(self, box: Box | None) -> "Scene":
        """The scene with this box, or none, for the target and the frame that are drawn now."""
        boxes = {place: other for place, other in self.boxes.items() if place != (self.target, self.frame)}
        if box is not None:
            boxes[self.target, self.frame] = box
        return replace(self, boxes=boxes)

    def say(self, text: str | None) -> "Scene":
        """The scene with this sentence for the target that is drawn now. Raises `Refused` for one that is too long."""
        return replace(self, texts={**self.texts, self.target: check_sentence(text)})

    def turn_to(self, frame: int) -> "Scene":
        """The scene in another frame. Raises `Refused` for a frame that cannot be read."""
        from modeling_pjvlt.video_pjvlt import read_frames

        try:
            image = next(read_frames(self.video.path).timed(frame)).image
        except (StopIteration, ValueError, OSError) as error:
            raise Refused(f"Frame {frame} of this video cannot be read.") from error
        return replace(self, frame=frame, image=image)

    def choose(self, target: str) -> "Scene":
        return replace(self, target=target)

    def add_target(self) -> "Scene":
        """The scene with one more target, which is drawn next. Raises `Refused` if the last one has no box yet."""
        if not any(target == self.target for target, _ in self.boxes):
            raise Refused("This target has no box yet. Draw one before you add another target.")
        if len(self.texts) >= MAX_TARGETS:
            raise Refused(f"The page tracks at most {MAX_TARGETS} targets at a time.")
        name = str(max(map(int, self.texts)) + 1)
        return replace(self, target=name, texts={**self.texts, name: ""})

    def remove_target(self) -> "Scene":
        """The scene without the target that is drawn now; if it was the only one, an empty target replaces it."""
        texts = {target: text for target, text in self.texts.items() if target != self.target} or {"1": ""}
        boxes = {place: box for place, box in self.boxes.items() if place[0] != self.target}
        return replace(self, texts=texts, boxes=boxes, target=next(reversed(texts)), tracked={})

    def starts(self) -> list:
        """The targets for `video_loop_pjvlt`: each starts at its first box and is corrected at its later ones.

        Raises `Refused` without a box, or for an invalid one.
        """
        from modeling_pjvlt.processing_pjvlt import DEFAULT_SENTENCE
        from modeling_pjvlt.video_loop_pjvlt import TargetStart

        if not self.boxes:
            raise Refused(NO_BOX)
        size = self.video.frame_size
        return [
            TargetStart(target, check_typed_box(self.boxes[target, frame], size), text or DEFAULT_SENTENCE, frame)
            for target, text in self.texts.items()
            for frame in sorted(frame for name, frame in self.boxes if name == target)
        ]

    def drawing(self, corner: Sequence[float] | None = None) -> np.ndarray | None:
        """The frame with its boxes, thin ones where targets were tracked, and with the first corner of a box."""
        from modeling_pjvlt.results_pjvlt import xywh
        from modeling_pjvlt.visualization.drawing import draw_box

        image, colors, named = self.image, self.colors(), len(self.texts) > 1
        for target, results in self.tracked.items():
            result = next((result for result in results if result["frame"] == self.frame), None)
            if result and target in colors and (target, self.frame) not in self.boxes:
                label = target if named else None
                image = draw_box(image, xywh(result), label, result["score"], colors[target], line_width=1)
        for (target, frame), box in self.boxes.items():
            if frame == self.frame and not (corner and target == self.target):
                image = draw_box(image, box, target if named else None, color=colors[target])
        if corner is not None:
            image = mark_corner(image, corner, colors[self.target])
        return image

    def colors(self) -> dict[str, tuple[int, int, int]]:
        """The colour of each target."""
        from modeling_pjvlt.results_pjvlt import TARGET_COLORS

        return dict(zip(self.texts, TARGET_COLORS * len(self.texts), strict=False))

    def listed(self) -> list[tuple[str, str]]:
        """For each target, its line in the list (sentence, and frames in which it has a box), and its name."""
        frames = {name: sorted(frame for target, frame in self.boxes if target == name) for name in self.texts}
        return [
            (f"{name}: {text or '(no sentence)'}, {f'box in {_joined(marked)}' if marked else 'no box yet'}", name)
            for (name, text), marked in zip(self.texts.items(), frames.values(), strict=True)
        ]


def open_upload(path: str | os.PathLike, limits: Limits) -> Video:
    """Check an uploaded file and decode its first frame. Raises `Refused`."""
    path = Path(path)
    if not path.is_file():
        raise Refused("The video is no longer here. Please upload it again.")
    num_bytes = path.stat().st_size
    if num_bytes == 0:
        raise Refused("The file is empty. Please upload a video.")
    if num_bytes > limits.megabytes * 1e6:
        raise Refused(
            f"The file has {num_bytes / 1e6:.0f} MB; {limits.megabytes} MB are allowed. Make it smaller first."
        )
    width, height, seconds, num_frames = _probe(path)
    if max(width, height) > limits.side:
        raise Refused(
            f"The frames are {width} x {height} pixels; the longer side may have at most {limits.side}. Make the "
            "video smaller first."
        )
    if seconds > 1.01 * limits.seconds or (num_frames or 0) > _most_frames(limits):
        frames = f" and {num_frames} frames" if num_frames else ""
        raise Refused(
            f"The video has {seconds:.1f} seconds{frames}; {limits.seconds:g} seconds at {MAX_FPS} frames a second "
            "are allowed. Cut it first."
        )
    from modeling_pjvlt.video_pjvlt import read_frames

    try:
        reader = read_frames(path)
        first_frame = next(iter(reader))
    except (ValueError, OSError) as error:
        raise Refused(
            "No image of this video can be decoded; the file may be cut off. Please upload another one."
        ) from error
    return Video(path, first_frame, reader.fps, num_frames)


def _probe(path: Path) -> tuple[int, int, float, int | None]:
    """Width, height, seconds and announced number of frames, read without decoding. Raises `Refused`."""
    import av

    from modeling_pjvlt.streams_pjvlt import ffmpeg_name, main_video

    try:
        with av.open(ffmpeg_name(path), options={"format_whitelist": FORMATS}) as container:
            if not container.streams.video:
                raise Refused("There are no images in this file, only sound. Please upload a video.")
            stream = main_video(container)
            fps = float(stream.average_rate or 30)
            num_frames = stream.frames or None
            seconds = max((container.duration or 0) / av.time_base, (num_frames or 0) / max(fps, 1e-3))
            return stream.codec_context.width, stream.codec_context.height, seconds, num_frames
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise Refused(
            "This file is not a video that can be read. Please upload an MP4, MOV, MKV, WebM or AVI."
        ) from error


def _most_frames(limits: Limits) -> int:
    return math.ceil(limits.seconds * MAX_FPS)


def box_from_corners(first: Sequence[float], second: Sequence[float]) -> Box:
    """The box (x, y, w, h) between two opposite corners, in any order. Raises `Refused` where they are too close."""
    (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(first, second, strict=True))
    if min(x1 - x0, y1 - y0) < MIN_BOX_SIDE:
        raise Refused(
            "The two corners are too close together. Drag from one corner of the target to the opposite one."
        )
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)


def check_typed_box(values: Sequence[float | None], frame_size: tuple[int, int]) -> Box:
    """The typed x, y, w, h as floats, cut at the frame's edges. Raises `Refused`."""
    if any(value is None or not math.isfinite(value) for value in values):
        raise Refused(NO_BOX)
    x, y, w, h = (float(value) for value in values)
    height, width = frame_size
    if min(w, h) < MIN_BOX_SIDE:
        raise Refused(f"The box is too small: its width and height must be at least {MIN_BOX_SIDE} pixels.")
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if min(right - left, bottom - top) < MIN_BOX_SIDE:
        raise Refused(f"The box lies outside the frame, which is {width} x {height} pixels.")
    return left, top, round(right - left, 3), round(bottom - top, 3)


def check_sentence(text: str | None) -> str:
    """The sentence in one line, which may be empty. Raises `Refused` where it is too long."""
    text = " ".join((text or "").split())
    if len(text) > MAX_LETTERS:
        raise Refused(f"The sentence has {len(text)} letters; one of up to {MAX_LETTERS} is enough.")
    return text


def mark_corner(image: np.ndarray, corner: Sequence[float], color: tuple[int, int, int]) -> np.ndarray:
    """A copy of the image with a cross at the first corner of a box."""
    marked = Image.fromarray(image)
    draw, (x, y), arm = ImageDraw.Draw(marked), corner, max(6, round(min(marked.size) / 30))
    for line in ((x - arm, y, x + arm, y), (x, y - arm, x, y + arm)):
        draw.line(line, fill=color, width=max(2, arm // 5))
    return np.array(marked)


def track_video(
    shared,
    scene: Scene,
    folder: Path,
    limits: Limits,
    report: Callable[[int, int | None], None] = lambda done, total: None,
) -> Result:
    """Track through a whole video in a session of its own and write the annotated video and the boxes.

    Args:
        shared: a `TrackingSession`, of which only the model and the processor are used.
        scene: video, boxes and sentences; a blank sentence reads as "the target".
        folder: where `tracked.mp4`, `boxes.csv` and `boxes.json` go.
        limits: a file that turns out longer than it announced is refused.
        report: called with the number of frames done and the announced number.

    Raises:
        Refused: a box, a sentence or the video cannot be used.
    """
    from modeling_pjvlt import TargetsResults, TrackingResults, TrackingSession, video_loop_pjvlt
    from modeling_pjvlt.results_pjvlt import make_result
    from modeling_pjvlt.streams_pjvlt import read_ahead
    from modeling_pjvlt.video_pjvlt import read_frames
    from modeling_pjvlt.video_writer_pjvlt import VideoWriter
    from modeling_pjvlt.visualization.drawing import draw_box

    starts, video, colors = scene.starts(), scene.video, scene.colors()
    session = TrackingSession(shared.model, shared.processor)
    started, done = time.perf_counter(), 0
    first = video_loop_pjvlt.first_starts(starts)
    results = TargetsResults(
        {name: TrackingResults(fps=video.fps, text=s.text, source=video.path.name) for name, s in first.items()}
    )
    try:
        with VideoWriter(folder / "tracked.mp4", video.fps) as writer:
            frames = read_ahead(read_frames(video.path)).timed()
            for frame, targets, size in video_loop_pjvlt.track_video(session, frames, starts):
                if done >= _most_frames(limits) or frame.time > 1.01 * limits.seconds:
                    raise Refused(f"The video is longer than it says; {limits.seconds:g} seconds are allowed.")
                image = frame.image
                for t in targets:
                    label = t.target_id if len(first) > 1 else ""
                    label = f"{label} lost".strip() if t.lost else label
                    image = draw_box(image, t.box, label, t.score, colors[t.target_id])
                    fields = t.box, t.score, frame.time, size, t.lost, t.redetected
                    results[t.target_id].append(make_result(frame.number, *fields))
                writer.write(image, frame.time)
                done += 1
                report(done, video.num_frames)
    except FileNotFoundError as error:
        raise Refused("The video is no longer here. Please upload it again.") from error
    except ValueError as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"Stopped at frame {done}: {str(error).removeprefix(f'{video.path}: ')}") from error
    for name in ("boxes.csv", "boxes.json"):
        (results if len(results) > 1 else next(iter(results.values()))).save(folder / name)
    seconds = time.perf_counter() - started
    return Result(folder / "tracked.mp4", folder / "boxes.csv", folder / "boxes.json", results, done, seconds)


def _joined(frames: Sequence[int]) -> str:
    return f"frame{'s' * (len(frames) > 1)} {', '.join(map(str, frames))}"


def summarise(result: Result, video: Video) -> str:
    """The line below the result, in Markdown."""
    count = result.num_frames
    lines = [f"{count} frames in {result.seconds:.1f} seconds, {count / result.seconds:.0f} a second"]
    if result.mean_score is not None:
        lines.insert(0, f"**Mean confidence {result.mean_score:.2f}**")
    if video.num_frames and count < video.num_frames:
        lines.append(f"only {count} of {video.num_frames} announced frames could be read; the file may be cut off")
    return " · ".join(lines)


class Detector:
    """Finds a target by words; loaded when it is first needed, and shared by all visitors.

    name: checkpoint for transformers' `zero-shot-object-detection`, folder or Hub id. device: where it runs.
    """

    def __init__(self, name: str, device=None):
        self.name, self.device = name, device
        self._loaded, self._lock = None, threading.Lock()

    def find(self, image: np.ndarray, text: str | None) -> Box:
        """The box (x, y, w, h) of the sentence's target in one image. Raises `Refused`."""
        from modeling_pjvlt.detection_pjvlt import find_target, load_detector

        text = check_sentence(text)
        if not text:
            raise Refused("There is no sentence yet. Write what the target is, or draw a box around it.")
        with self._lock:
            if self._loaded is None:
                try:
                    self._loaded = load_detector(self.name, self.device)
                except (OSError, ValueError, ImportError) as error:
                    raise Refused(
                        f"The detector {self.name} cannot be loaded on this machine. Please draw the box instead."
                    ) from error
            try:
                box, _ = find_target(image, text, self._loaded)
            except ValueError as error:
                raise Refused(str(error)) from error
        return check_typed_box(box, image.shape[:2])


class ResultFolders:
    """A folder of results for each visitor, which a new run replaces and leaving the page deletes."""

    def __init__(self, root: Path):
        self.root = root
        self._folders: dict[str, Path] = {}
        self._lock = threading.Lock()

    def renew(self, visitor: str) -> Path:
        """An empty folder for this visitor's next results."""
        folder = self.root / uuid.uuid4().hex
        folder.mkdir(parents=True)
        with self._lock:
            old, self._folders[visitor] = self._folders.get(visitor), folder
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def remove(self, visitor: str) -> None:
        """Delete this visitor's results."""
        with self._lock:
            folder = self._folders.pop(visitor, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
