"""A web page for the tracker: `python scripts/app.py`, then open the address that it prints.

Upload a video, draw a box on its first frame, write a sentence, and watch the target being followed. The functions
above `build` know nothing of the page. For a Hugging Face Space: `sdk: gradio`, `app_file: scripts/app.py`, and the
dependencies of `pjvlt[demo]` in its requirements.txt.
"""

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# In a Space the package is not installed but lies beside this folder; an installed one comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

MAX_MEGABYTES = 200
MAX_FPS = 60
MIN_BOX_SIDE = 4
MAX_LETTERS = 300
KEEP_SECONDS = 3600
EXAMPLE_SEEDS = (3, 9)
# Without such a list FFmpeg also opens playlists, which name other files to read.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv"

CSS = """
.gradio-container {max-width: 1200px !important; margin: 0 auto !important}
#frame img {cursor: crosshair}
#numbers .form {flex-wrap: nowrap}
#numbers .form > * {min-width: 0 !important}
#examples button {white-space: normal; text-align: left; justify-content: flex-start; font-weight: 400}
"""


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
class Example:
    """A clip that is drawn at start, with its sentence and its box (x, y, w, h)."""

    path: Path
    text: str
    box: tuple[float, float, float, float]


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
            f"The frames are {width} x {height} pixels; the longer side may have {limits.side}. Make the video smaller first."
        )
    if seconds > 1.01 * limits.seconds or (num_frames or 0) > _most_frames(limits):
        frames = f" and {num_frames} frames" if num_frames else ""
        raise Refused(
            f"The video has {seconds:.1f} seconds{frames}; {limits.seconds:g} seconds at {MAX_FPS} frames a second are "
            "allowed. Cut it first."
        )
    from modeling_pjvlt.video_pjvlt import read_frames

    try:
        reader = read_frames(path)
        first_frame = next(iter(reader))
    except (ValueError, OSError) as error:
        raise Refused(
            "No picture of this video can be decoded; the file may be cut off. Please upload another one."
        ) from error
    return Video(path, first_frame, reader.fps, num_frames)


def _probe(path: Path) -> tuple[int, int, float, int | None]:
    """Width, height, seconds and announced frames, read without decoding a frame."""
    import av

    from modeling_pjvlt.streams_pjvlt import ffmpeg_name, main_video

    try:
        with av.open(ffmpeg_name(path), options={"format_whitelist": FORMATS}) as container:
            if not container.streams.video:
                raise Refused("There is no picture in this file, only sound. Please upload a video.")
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
        raise Refused("The two corners are too close together. Click two opposite corners of the target.")
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)


def check_typed_box(values: Sequence[float | None], frame_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The typed x, y, w, h as floats, cut at the frame's edges. Raises `Refused`."""
    if any(value is None or not math.isfinite(value) for value in values):
        raise Refused(
            "There is no box yet. Click two opposite corners of the target in the picture, or type x, y, w, h."
        )
    x, y, w, h = (float(value) for value in values)
    height, width = frame_size
    if min(w, h) < MIN_BOX_SIDE:
        raise Refused(f"The box is too small: its width and height must be at least {MIN_BOX_SIDE} pixels.")
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if min(right - left, bottom - top) < MIN_BOX_SIDE:
        raise Refused(f"The box lies outside the picture, which is {width} x {height} pixels.")
    return left, top, round(right - left, 3), round(bottom - top, 3)


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

    text = " ".join((text or "").split()) or DEFAULT_SENTENCE
    if len(text) > MAX_LETTERS:
        raise Refused(f"The sentence has {len(text)} letters; one of up to {MAX_LETTERS} is enough.")
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
                writer.write(draw_box(frame.image, target.box, label=text, score=target.score), frame.time)
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


def draw_examples(folder: Path, seeds: Sequence[int] = EXAMPLE_SEEDS, num_frames: int = 60) -> list[Example]:
    """Draw procedural clips into a folder; nothing is downloaded."""
    from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
    from modeling_pjvlt.video_writer_pjvlt import VideoWriter

    examples = []
    for seed in seeds:
        clip = ProceduralClip(seed, num_frames=num_frames)
        with VideoWriter(folder / f"example{seed}.mp4") as writer:
            for index in range(len(clip)):
                writer.write(clip.frame(index))
        box = tuple(round(float(value), 1) for value in clip.boxes[0])
        examples.append(Example(folder / f"example{seed}.mp4", clip.text, box))
    return examples


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


def build(shared, limits: Limits, examples: Sequence[Example], folders: ResultFolders):
    """The page, a `gr.Blocks`. `shared` is the `TrackingSession` whose model all visitors share."""
    gr = import_gradio()
    import pandas as pd

    hint = "Click one corner of the target, then the opposite one."
    no_points = pd.DataFrame({"seconds": [], "confidence": []})
    no_results = [None, "", gr.update(value=no_points, visible=False)]
    no_results += [gr.update(value=None, visible=False), gr.update(value=None, visible=False)]

    def load(path):
        """The outputs of `loaded` for a new video, or for none."""
        empty = [None, None, None, None, None, None, None]
        if path is None:
            return [None, *empty, *no_results]
        try:
            video = open_upload(path, limits)
        except Refused as refusal:
            gr.Warning(str(refusal), title="This video cannot be used")
            return [None, *empty, *no_results]
        return [gr.skip(), video, None, video.first_frame, *empty[3:], *no_results]

    def load_example(example):
        video = open_upload(example.path, limits)
        marked = mark_frame(video.first_frame, box=example.box)
        return [None, video, None, marked, *example.box, *no_results, example.text]

    def click(video, corner, event: gr.SelectData):
        """Outputs: corner, picture, x, y, w, h."""
        if video is None:
            return [gr.skip()] * 6
        point = tuple(event.index)
        if corner is None:
            return [point, mark_frame(video.first_frame, corner=point), None, None, None, None]
        try:
            box = box_from_corners(corner, point)
        except Refused as refusal:
            gr.Warning(str(refusal), title="No box yet")
            return [None, video.first_frame, None, None, None, None]
        return [None, mark_frame(video.first_frame, box=box), *box]

    def show_typed(video, *values):
        """Outputs: corner, picture. Half a box is not drawn, and not yet a mistake."""
        if video is None:
            return [None, gr.skip()]
        try:
            return [None, mark_frame(video.first_frame, box=check_typed_box(values, video.frame_size))]
        except Refused:
            return [None, video.first_frame]

    def start_over(video):
        return [None, None if video is None else video.first_frame, None, None, None, None]

    def track(video, text, x, y, w, h, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        if video is None:
            return refuse("There is no video yet. Upload one or pick an example.")
        try:
            box = check_typed_box((x, y, w, h), video.frame_size)
            if not (text or "").strip():
                gr.Info('Without a sentence the tracker reads "the target"; a better one helps.')
            folder = folders.renew(request.session_hash)
            result = track_video(
                shared, video, box, text, folder, limits, lambda *done: progress(done, desc="tracking", unit="frames")
            )
        except Refused as refusal:
            return refuse(str(refusal))
        points = [(index / video.fps, row[4]) for index, row in enumerate(result.boxes)][1:]
        plot = gr.update(value=pd.DataFrame(points, columns=["seconds", "confidence"]), visible=len(points) > 1)
        files = [gr.update(value=str(path), visible=True) for path in (result.csv, result.json)]
        return [str(result.video), summarise(result, video), plot, *files]

    def refuse(message):
        gr.Warning(message, title="Not yet")
        return no_results

    def leave(request: gr.Request):
        folders.remove(request.session_hash)

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="PJVLT tracker", analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)) as page:
        video, corner = gr.State(None), gr.State(None)
        gr.Markdown(
            "# Follow one thing through a video\n"
            "Show the tracker its target once, with a box and a sentence; it finds it in every later frame."
        )
        with gr.Row():
            with gr.Column(min_width=340):
                gr.Markdown(f"### 1. Video\n{limits}".replace("\nup", "\nUp") + ". Deleted an hour later.")
                upload = gr.File(label="Video", file_types=["video"], elem_id="upload", height=120)
                with gr.Row(elem_id="examples"):
                    buttons = [gr.Button(f"Example: “{example.text}”", size="sm") for example in examples]
                gr.Markdown(f"### 2. Box\n{hint}")
                frame = gr.Image(
                    label="First frame", interactive=False, format="png", buttons=[], elem_id="frame", height=340
                )
                with gr.Row(elem_id="numbers"):
                    labels = {"x": "x", "y": "y", "w": "width", "h": "height"}
                    numbers = [gr.Number(None, label=text, elem_id=f"box-{name}") for name, text in labels.items()]
                again = gr.Button("Start over with the box", size="sm")
                gr.Markdown("### 3. Sentence")
                text = gr.Textbox(
                    label="What is the target?", placeholder="white dog on the left", elem_id="sentence", max_lines=3
                )
                go = gr.Button("Track", variant="primary", elem_id="track")
            with gr.Column(min_width=340):
                gr.Markdown("### 4. Result\nThe video with the target's box, and its confidence in every frame.")
                answer = gr.Video(label="Tracked video", interactive=False, elem_id="result", height=400)
                summary = gr.Markdown(elem_id="summary")
                plot = gr.LinePlot(
                    no_points, x="seconds", y="confidence", y_lim=[0, 1], height=200, visible=False, elem_id="plot",
                    x_title="seconds", y_title="confidence", show_label=False, buttons=[],
                )  # fmt: skip
                with gr.Row():
                    as_csv = gr.DownloadButton("Boxes as CSV", visible=False, elem_id="csv")
                    as_json = gr.DownloadButton("Boxes as JSON", visible=False, elem_id="json")
        results = [answer, summary, plot, as_csv, as_json]
        loaded = [upload, video, corner, frame, *numbers, *results]
        upload.upload(load, upload, loaded, show_progress_on=frame, api_visibility="private")
        upload.clear(lambda: load(None), None, loaded, **quick)
        for button, example in zip(buttons, examples, strict=True):
            button.click(lambda example=example: load_example(example), None, [*loaded, text], **quick)
        frame.select(click, [video, corner], [corner, frame, *numbers], **quick)
        for number in numbers:
            number.input(show_typed, [video, *numbers], [corner, frame], trigger_mode="always_last", **quick)
        again.click(start_over, video, [corner, frame, *numbers], **quick)
        go.click(
            track, [video, text, *numbers], results, concurrency_limit=1, concurrency_id="track",
            show_progress_on=answer, scroll_to_output=True, api_visibility="private",
        )  # fmt: skip
        page.unload(leave)
    return page.queue(max_size=20, default_concurrency_limit=4)


def import_gradio():
    """Gradio, told before its import to report nothing to anyone."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the page needs Gradio: pip install "pjvlt[demo]"') from error
    return gradio


def launch(page, limits: Limits, port: int | None) -> None:
    """Serve the page until Ctrl-C; on this machine only, unless GRADIO_SERVER_NAME says otherwise."""
    gr = import_gradio()
    local = ["system-ui", "sans-serif"]
    page.launch(
        server_port=port,
        max_file_size=f"{limits.megabytes}mb",
        theme=gr.themes.Default(font=local, font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        share=False,
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", metavar="PATH_OR_REPO", help="checkpoint folder or Hub repository (default: the bundled one)")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: the fastest there is")
    add("--port", type=int, help="default: GRADIO_SERVER_PORT, or the first free one from 7860")
    add("--max_seconds", type=float, default=Limits.seconds, help="of a video (default: %(default)s)")
    add("--max_side", type=int, default=Limits.side, help="of a frame, in pixels (default: %(default)s)")
    args = parser.parse_args(argv)
    if not (args.max_seconds > 0 and args.max_side > 0):
        parser.error("--max_seconds and --max_side must be above 0")
    from modeling_pjvlt.signals import terminations

    for number in terminations():
        signal.signal(number, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="pjvlt-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "cache")
        try:
            import_gradio()
            from modeling_pjvlt import DEFAULT_CHECKPOINT
            from modeling_pjvlt.cli.track import load_session

            shared = load_session(args.model or DEFAULT_CHECKPOINT, args.device, "float32")
        except (ImportError, ValueError, OSError) as error:
            parser.error(" ".join(str(error).split()))
        limits = Limits(args.max_seconds, args.max_side)
        page = build(shared, limits, draw_examples(Path(folder)), ResultFolders(Path(folder) / "results"))
        launch(page, limits, args.port)


if __name__ == "__main__":
    main()
