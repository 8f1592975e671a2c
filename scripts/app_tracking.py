"""What the web page of `app.py` does with a video, without the page: check it, mark its box, track, keep results."""

import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

MAX_MEGABYTES = 200
MAX_FPS = 60
MIN_BOX_SIDE = 4
MAX_LETTERS = 300
# Without such a list FFmpeg also opens playlists, which name other files to read.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv"


class Refused(ValueError):
    """What the visitor gave cannot be used; the message says in plain words why, and what to do."""


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
    """A checked video. `num_frames` is what the file announces, None where it does not say."""

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
    """Files of one tracking, and one (x, y, w, h, score) per frame; the first is the given box with score 1."""

    video: Path
    csv: Path
    json: Path
    boxes: list[tuple[float, float, float, float, float]]
    seconds: float

    @property
    def mean_score(self) -> float | None:
        """Mean confidence over all frames but the first, whose box was given."""
        scores = [row[4] for row in self.boxes[1:]]
        return sum(scores) / len(scores) if scores else None


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
            f"The frames are {width} x {height} pixels; the longer side may have {limits.side}. Make the video "
            "smaller first."
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
    """Width, height, seconds and announced frames, read without decoding a frame."""
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


def box_from_corners(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float, float]:
    """The box (x, y, w, h) between two opposite corners, in any order. Raises `Refused` where they are too close."""
    (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(first, second, strict=True))
    if min(x1 - x0, y1 - y0) < MIN_BOX_SIDE:
        raise Refused(
            "The two corners are too close together. Drag from one corner of the target to the opposite one."
        )
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)


def check_typed_box(values: Sequence[float | None], frame_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The typed x, y, w, h as floats, cut at the frame's edges. Raises `Refused`."""
    if any(value is None or not math.isfinite(value) for value in values):
        raise Refused(
            "There is no box yet. Draw one around the target, or find it by words, or type x, y, width, height."
        )
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


def mark_frame(
    frame: np.ndarray, corner: Sequence[float] | None = None, box: Sequence[float] | None = None
) -> np.ndarray:
    """A copy of the frame with a cross at the first corner, or with the box."""
    from modeling_pjvlt.visualization.drawing import PREDICTION_COLOR, draw_box

    if box is not None:
        return draw_box(frame, box)
    image = Image.fromarray(frame)
    if corner is not None:
        draw, (x, y), arm = ImageDraw.Draw(image), corner, max(6, round(min(image.size) / 30))
        for line in ((x - arm, y, x + arm, y), (x, y - arm, x, y + arm)):
            draw.line(line, fill=PREDICTION_COLOR, width=max(2, arm // 5))
    return np.array(image)


def track_video(
    shared,
    video: Video,
    box: Sequence[float],
    text: str,
    folder: Path,
    limits: Limits,
    report: Callable[[int, int | None], None] = lambda done, total: None,
) -> Result:
    """Track through a whole video in a session of its own and write the annotated video and the boxes.

    Args:
        shared: a `TrackingSession`, of which only the model and the processor are used.
        video: as `open_upload` returned it.
        box: x, y, w, h in the first frame.
        text: a sentence about the target; blank reads as "the target".
        folder: where `tracked.mp4`, `boxes.csv` and `boxes.json` go.
        limits: tracking stops where a file turns out longer than it said.
        report: called with the frames done and their announced number.

    Raises:
        Refused: the box, the sentence or the video cannot be used.
    """
    from modeling_pjvlt import TrackingSession, video_loop_pjvlt
    from modeling_pjvlt.processing_pjvlt import DEFAULT_SENTENCE
    from modeling_pjvlt.results_pjvlt import TrackingResults, make_result, xywh
    from modeling_pjvlt.streams_pjvlt import read_ahead
    from modeling_pjvlt.video_pjvlt import read_frames
    from modeling_pjvlt.video_writer_pjvlt import VideoWriter
    from modeling_pjvlt.visualization.drawing import draw_box

    text = check_sentence(text) or DEFAULT_SENTENCE
    box = check_typed_box(box, video.frame_size)
    session = TrackingSession(shared.model, shared.processor)
    started, rows = time.perf_counter(), []
    results = TrackingResults(fps=video.fps, text=text, source=video.path.name)
    try:
        with VideoWriter(folder / "tracked.mp4", video.fps) as writer:
            frames = read_ahead(read_frames(video.path)).timed()
            start = video_loop_pjvlt.TargetStart("target", box, text)
            for frame, (target,), size in video_loop_pjvlt.track_video(session, frames, [start]):
                if len(rows) >= _most_frames(limits) or frame.time > 1.01 * limits.seconds:
                    raise Refused(f"The video is longer than it says; {limits.seconds:g} seconds are allowed.")
                writer.write(draw_box(frame.image, target.box, score=target.score), frame.time)
                found = target.box, target.score, frame.time, size, target.lost, target.redetected
                results.append(make_result(len(results), *found))
                rows.append((*xywh(results[-1]), results[-1]["score"]))
                report(len(rows), video.num_frames)
    except FileNotFoundError as error:
        raise Refused("The video is no longer here. Please upload it again.") from error
    except ValueError as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"Stopped at frame {len(rows)}: {str(error).removeprefix(f'{video.path}: ')}") from error
    for name in ("boxes.csv", "boxes.json"):
        results.save(folder / name)
    seconds = time.perf_counter() - started
    return Result(folder / "tracked.mp4", folder / "boxes.csv", folder / "boxes.json", rows, seconds)


def summarise(result: Result, video: Video) -> str:
    """What the page says below the result, in Markdown."""
    count = len(result.boxes)
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

    def find(self, video: Video, text: str | None) -> tuple[float, float, float, float]:
        """The box (x, y, w, h) of what the sentence says in the first frame. Raises `Refused`."""
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
                box, _ = find_target(video.first_frame, text, self._loaded)
            except ValueError as error:
                raise Refused(str(error)) from error
        return check_typed_box(box, video.frame_size)


class ResultFolders:
    """Each visitor's results in a folder of their own: a new tracking replaces it, leaving the page deletes it."""

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
        """Delete what this visitor has left."""
        with self._lock:
            folder = self._folders.pop(visitor, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
