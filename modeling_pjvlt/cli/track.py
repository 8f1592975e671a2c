"""`pjvlt-track`: follow one target through a video, and write an annotated video and its boxes."""

import argparse
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..detection_pjvlt import DETECTOR
from ..evaluation.metrics import iou
from ..results_pjvlt import FORMATS, TrackingResults, make_result, pick_format, xywh
from ..signals import Stopped, exit_code, signal_of, terminations
from ..streams_pjvlt import DEFAULT_FPS, FrameReader, TimedFrame, is_address, public_name, read_ahead
from ..video_pjvlt import local_path, read_frames, refuse_outputs_over
from ..video_writer_pjvlt import VideoWriter
from ..visualization.drawing import TRUTH_COLOR, contact_strip, draw_box
from ..visualization.window import Window
from . import print_any_name
from .parser import CommandParser, silent_when_piped

EPILOG = """\
examples:
  follow the dog whose box in the first frame has its upper left corner at (120, 64), 90 wide and 70 high:
    pjvlt-track clip.mp4 --box 120 64 90 70 --text "white dog"

  a folder of pictures instead of a video (2.jpg comes before 10.jpg), results where you want them:
    pjvlt-track frames/ --box 120 64 90 70 --text "white dog" --output dog.mp4 --boxes dog.json

  the first camera, or a stream by its address, until Ctrl-C or for 500 frames; boxes as a table:
    pjvlt-track 0 --box 120 64 90 70 --text "white dog" --boxes dog.csv
    pjvlt-track rtsp://camera.local/stream --box 120 64 90 70 --text "white dog" --max_frames 500

  no box: a detector looks for what the sentence says in the first frame:
    pjvlt-track clip.mp4 --text "the white dog"

  see it live, and keep nothing but the boxes:
    pjvlt-track 0 --box 120 64 90 70 --text "white dog" --show --no_video

  no video at hand: the program draws a clip, follows its target and says how well that went:
    pjvlt-track --seed 3

Ctrl-C, SIGTERM, SIGHUP, or a video that breaks off, keep what was tracked so far. Live frames that come too fast are
skipped.

boxes, by the suffix of --boxes or by --format: csv has the header frame,x,y,w,h,score,time; txt has x,y,w,h, a line
for each frame; mot has frame (from 1),id,x,y,w,h,score,-1,-1,-1. The JSON file:
  {"video": "clip.mp4", "model": "...", "text": "white dog", "fps": 30.0,
   "frames": [{"frame": 0, "box": [120.0, 64.0, 90.0, 70.0], "score": 1.0, "time": 0.0}, ...]}
  box is x, y, width, height in pixels, inside the frame and to hundredths (--raw: as found); score is the confidence in
  [0, 1]; the first box is the one you gave. frame and time (seconds) are those of the source, from 0: skipped frames of
  a live one count, too.
"""
VIDEO_HELP = "video file, folder of pictures, index of a camera, or address of a stream; without it a clip is made"


@silent_when_piped
def main(argv: list[str] | None = None) -> None:
    """Run the command with `argv` (default: the command line).

    Raises:
        SystemExit: 2 after a one-line message about wrong arguments, unusable input or a full disk; 130 after Ctrl-C,
            143 after SIGTERM, 129 after SIGHUP. The message says what was written.
    """
    print_any_name()
    parser = _build_parser()
    args = parser.parse_args(spread_box(sys.argv[1:] if argv is None else argv))
    try:
        _run(args)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt as stop:
        parser.exit(exit_code(stop), f"{parser.prog}: stopped, {stop or 'nothing written'}\n")


def load_session(model: str, device: str, dtype: str):
    """Load a checkpoint into a `TrackingSession`, or what `pjvlt-export` made of one into an `OnnxTracker`.

    Args:
        model: folder or Hub repository.
        device: "auto" (CUDA, then MPS, then CPU), "cpu", "cuda" or "mps".
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        ValueError: this machine lacks the device, or an export is asked for another device or type than its own.
        OSError: there is no checkpoint.
    """
    from ..onnx.tracker import SETTINGS_FILE, OnnxTracker

    if (Path(model) / SETTINGS_FILE).is_file():
        if device not in ("auto", "cpu") or dtype != "float32":
            raise ValueError(f"{model} is an export, which runs on the CPU as it is: leave --device and --dtype out")
        return OnnxTracker(model)
    from ..training.run_folders import find_checkpoint

    model = find_checkpoint(model)
    import torch

    from modeling_pjvlt import PJVLTModel, PJVLTProcessor, TrackingSession

    device = _pick_device(device)
    # The Hub's own message for a mistyped path is about the letters that a repository's name may have.
    if model.startswith(("/", ".")) and not Path(model).is_dir():
        raise FileNotFoundError(f"{model}: no such checkpoint folder")
    network = PJVLTModel.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()
    return TrackingSession(network, PJVLTProcessor.from_pretrained(model))


def track_frames(
    session, frames: Iterable[TimedFrame], box: list[float] | Callable, text: str
) -> Iterator[tuple[TimedFrame, list[float], float]]:
    """Follow one target and yield (frame, box, score) for every frame; the first one yields `box` itself, score 1.

    Args:
        session: a `TrackingSession` without targets.
        frames: of a reader's `timed`; RGB uint8 images of shape (height, width, 3), all of one size.
        box: x, y, width, height of the target in the first frame, in pixels; or what finds it there.
        text: the sentence that describes it.

    Raises:
        ValueError: the box is unusable or not found, or a frame differs in size from the first one.
    """
    for index, frame in enumerate(frames):
        if index == 0:
            box = box(frame.image) if callable(box) else box
            session.add_target(frame.image, box=box, text=text, target_id="target")
            yield frame, [float(value) for value in box], 1.0
        else:
            (target,) = session.step(frame.image)
            yield frame, [float(value) for value in target.box], float(target.score)


def spread_box(argv: list[str]) -> list[str]:
    """The command line with a box that was written with commas as four words."""
    words: list[str] = []
    for word in argv:
        of_box = words[-1:] == ["--box"] or (words[-1:] and "--box" in words[-4:-1] and "," in word)
        if word.startswith("--box="):
            words.append("--box")
            word, of_box = word.removeprefix("--box="), True
        words += [part for part in re.split(r"[,;\s]+", word) if part] if of_box else [word]
    return words


class _Highlights:
    """A few annotated frames, evenly spread over a video whose length nobody has to know."""

    def __init__(self, count: int = 5):
        self.count = count
        self.step = 1
        self.offered = 0
        self.kept: list[tuple[int, np.ndarray]] = []

    def offer(self, number: int, frame: np.ndarray) -> None:
        """Keep every `step`-th frame; when there are twice too many, every other one goes and the step doubles."""
        if self.offered % self.step == 0:
            self.kept.append((number, frame))
        self.offered += 1
        if len(self.kept) > 4 * self.count:
            self.kept, self.step = self.kept[::2], 2 * self.step

    def save(self, path: Path) -> None:
        """Write the frames side by side as a picture, beside its place first."""
        places = np.unique(np.linspace(0, len(self.kept) - 1, self.count).round().astype(int))
        chosen = [self.kept[place] for place in places]
        partial = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
        try:
            contact_strip([frame for _, frame in chosen], partial, [f"frame {number}" for number, _ in chosen])
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="pjvlt-track",
        usage="pjvlt-track VIDEO --box X Y W H --text SENTENCE [options]",
        description="Follow one target through a video, from its box in the first frame and a sentence about it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("video", nargs="?", metavar="VIDEO", help=VIDEO_HELP)
    add(
        "--box", nargs=4, type=float, metavar=("X", "Y", "W", "H"),
        help="the target in the first frame: left, top, width, height in pixels, apart by blanks or commas (default: "
        "--detector finds it)",
    )  # fmt: skip
    add("--text", help='a sentence that describes the target, such as "white dog" (default: "the target")')
    add(
        "--detector",
        metavar="PATH_OR_REPO",
        default=DETECTOR,
        help="finds the box if none is given (default: %(default)s)",
    )
    add(
        "--model",
        metavar="PATH_OR_REPO",
        help="folder of a checkpoint or of a run (its last one counts), Hub repository, or a folder that pjvlt-export "
        "wrote (default: the bundled one)",
    )
    add(
        "--output",
        type=Path,
        metavar="MP4",
        help="annotated video (default: outputs/<name>_tracked.mp4); a .png of a few frames goes beside it",
    )
    add("--boxes", type=Path, metavar="FILE", help="boxes and scores (default: beside the video, as .json)")
    add("--format", choices=list(FORMATS), help="of the boxes (default: what the suffix of --boxes says)")
    add("--no_video", action="store_true", help="write the boxes only, which is faster")
    add(
        "--show",
        action="store_true",
        help="show each frame in a window; q, Escape or closing it stops, as Ctrl-C does",
    )
    add("--quiet", action="store_true", help="say nothing unless something goes wrong")
    add("--max_frames", type=int, metavar="N", help="stop after N frames (default: at the end of the video)")
    add("--raw", action="store_true", help="boxes as the network gives them: neither rounded nor clipped to the frame")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: the fastest there is")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the clip made when there is no VIDEO (default: %(default)s)")
    return parser


def _run(args: argparse.Namespace) -> None:
    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max_frames must be 1 or more, got {args.max_frames}")
    say = (lambda *words, **options: None) if args.quiet else print
    if args.video is not None:
        args.video = os.fspath(local_path(args.video))
    if args.video is None:
        reader, clip = _make_clip(args)
        name, video, box, text = f"clip{args.seed}", f"procedural clip, seed {args.seed}", clip.boxes[0], clip.text
    else:
        reader, clip = _open_source(args), None
        name, video = _source_name(args.video), public_name(_source(args.video))
        box, text = args.box or _find_by_words(args, say), None
    text = _sentence(args.text, text, say)
    if clip is not None:
        say(f'{video}; its sentence: "{text}"')
    output, boxes_path = _output_paths(args, name)
    shown = [Window(f"pjvlt-track: {video}")] if args.show else []
    if output is not None:
        shown.append(VideoWriter(output, reader.fps))
    model = _find_model(args.model)
    session = load_session(model, args.device, args.dtype)

    start = time.perf_counter()
    results = TrackingResults(fps=reader.fps, text=text, source=video, model=model)
    tracked = _Tracked(results, boxes_path, args.format, output, reader)
    frames = track_frames(session, islice(reader.timed(), args.max_frames), box, text)
    num_frames = min(n for n in (reader.num_frames, args.max_frames, float("inf")) if n is not None)
    progress = tqdm(
        total=None if num_frames == float("inf") else num_frames,
        desc="tracking", unit=" frames", disable=True if args.quiet else None,
    )  # fmt: skip
    with _Interrupts() as interrupts:
        try:
            stopped = _follow(frames, tracked, shown, clip, interrupts, progress, args.raw)
        except OSError as error:
            raise OSError(f"{error}; {tracked.rescue()}") from error
        except KeyboardInterrupt:
            raise Stopped(tracked.rescue(), interrupts.number) from None
        finally:
            frames.close()
        speed = len(results) / (time.perf_counter() - start)
        tracked.save()
    if isinstance(stopped, KeyboardInterrupt):
        raise Stopped(f"{tracked.told()}{tracked.skipped()}", signal_of(stopped)) from stopped
    if stopped is not None:
        raise OSError(f"{stopped}; {tracked.told()}{tracked.skipped()}") from stopped
    if clip is not None:
        boxes = np.array([xywh(result) for result in results])
        seen = clip.visible[1 : len(boxes)]  # the first box was given
        overlap = iou(boxes[1:][seen], clip.boxes[1 : len(boxes)][seen])
        if len(overlap):
            say(f"mean overlap {overlap.mean():.2f} over {len(overlap)} frames")
    work = "decoding, tracking, drawing and encoding" if output else "decoding and tracking"
    say(f"{len(results)} frames at {speed:.1f} FPS ({work}){tracked.skipped()}")
    if output is None:
        say(f"wrote {boxes_path}")
    else:
        say(f"wrote {output}, {boxes_path} and {output.with_suffix('.png')} (a few frames to look at)")


class _Interrupts:
    """While this context lasts, Ctrl-C, SIGTERM and SIGHUP are raised only where the next frame is waited for.

    So no frame is written half, and the files of what was tracked so far can be finished. A second Ctrl-C is at once.
    """

    def __init__(self):
        self.count, self.number, self.is_waiting = 0, signal.SIGINT, False
        self.before = {}

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is threading.main_thread():
            numbers = terminations()
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                numbers.append(signal.SIGINT)
            self.before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def next(self, frames: Iterator):
        """The next item of an iterator. Raises `Stopped` for a signal that came since the one before, too."""
        self.is_waiting = True
        try:
            if self.count:
                raise Stopped(number=self.number)
            return next(frames)
        finally:
            self.is_waiting = False

    def _handle(self, number, frame) -> None:
        self.count, self.number = self.count + 1, number
        # A terminal that closes may send SIGHUP twice, which is no impatience.
        if self.is_waiting or (self.count > 1 and number == signal.SIGINT):
            raise Stopped(number=number)


class _Tracked:
    """What was tracked so far, and where it goes. output: None where no video is written.

    The box of the first frame was given, so that one frame alone is nothing to keep.
    """

    def __init__(
        self, results: TrackingResults, path: Path, format: str | None, output: Path | None, reader: FrameReader
    ):
        self.results, self.path, self.format, self.output, self.reader = results, path, format, output, reader
        self.highlights = _Highlights()

    def save(self) -> None:
        """Write the boxes and the few frames beside a video that is complete. Raises `OSError` that names all three."""
        try:
            self.results.save(self.path, self.format)
        except OSError as error:
            if self.output is None:
                raise
            raise OSError(f"{error}; the video of {len(self.results)} frames is in {self.output}") from error
        if self.output is None:
            return
        picture = self.output.with_suffix(".png")
        try:
            self.highlights.save(picture)
        except OSError as error:
            raise OSError(f"{picture}: cannot be written ({error.strerror or error}); {self.told()}") from error

    def told(self) -> str:
        """Where everything is that was tracked so far."""
        if self.output is None:
            return f"the boxes of {len(self.results)} frames so far are in {self.path}"
        return f"the {len(self.results)} frames so far are in {self.output} and {self.path}"

    def skipped(self) -> str:
        """How many live frames nobody had time for, as the end of a sentence; empty where there are none."""
        return f"; {self.reader.num_dropped} came too fast and were skipped" if self.reader.num_dropped else ""

    def rescue(self) -> str:
        """Save the boxes where the video cannot be, if there are any, and say whether that worked."""
        if len(self.results) < 2:
            return "nothing written"
        try:
            self.results.save(self.path, self.format)
        except OSError as error:
            return f"the boxes of {len(self.results)} frames are lost too: {error}"
        return f"no video written, but the boxes of {len(self.results)} frames are in {self.path}{self.skipped()}"


def _open_source(args: argparse.Namespace) -> FrameReader:
    if args.box is None and not (args.text or "").strip():
        raise ValueError(
            "--box X Y W H is missing: the box in the first frame picks the target; with --text alone a detector looks for "
            "what it says"
        )
    return read_ahead(read_frames(_source(args.video)))


def _find_by_words(args: argparse.Namespace, say: Callable) -> Callable:
    """What finds the box in the first frame; the detector is loaded now, so that a mistake in its name comes at once."""
    from ..detection_pjvlt import find_target, load_detector

    detector = load_detector(args.detector, _pick_device(args.device))

    def find(frame: np.ndarray):
        box, score = find_target(frame, args.text, detector)
        say(f"found it at {' '.join(f'{v:.0f}' for v in box)} (x, y, width, height), score {score:.2f}")
        return box

    return find


def _source(video: str) -> int | str:
    """The index of a camera, unless a file has that name; otherwise the path or address as it is."""
    return int(video) if video.isascii() and video.isdigit() and not Path(video).exists() else video


def _make_clip(args: argparse.Namespace):
    if args.box is not None:
        raise ValueError("--box needs a VIDEO; the clip that is made without one has a box of its own")
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {args.seed}")
    from ..data.synthetic.procedural import ProceduralClip

    clip = ProceduralClip(args.seed)
    frames = FrameReader(lambda: (clip.frame(i) for i in range(len(clip))), fps=DEFAULT_FPS, num_frames=len(clip))
    return frames, clip


def _sentence(given: str | None, of_clip: str | None, say: Callable) -> str:
    if given is not None and given.strip():
        return given
    if of_clip is not None:
        return of_clip
    from ..processing_pjvlt import DEFAULT_SENTENCE

    say(f'note: no --text given, so the sentence is "{DEFAULT_SENTENCE}"; a better one helps', file=sys.stderr)
    return DEFAULT_SENTENCE


def _source_name(video: str) -> str:
    if isinstance(_source(video), int):
        return f"camera{int(video)}"
    if is_address(video):
        last = re.split(r"[?#]", public_name(video))[0].rstrip("/").rsplit("/", 1)[1]
        return re.sub(r"[^\w-]+", "_", last).strip("_") or "stream"
    path = Path(video).expanduser().resolve()
    return path.name if path.is_dir() else path.stem


def _output_paths(args: argparse.Namespace, name: str) -> tuple[Path | None, Path]:
    if args.no_video and args.output is not None:
        raise ValueError(f"--no_video leaves no use for --output {args.output}; --boxes names the file of the boxes")
    output = args.output or Path("outputs") / f"{name}_tracked.mp4"
    boxes = args.boxes or output.with_suffix(FORMATS[args.format or "json"])
    image = output.with_suffix(".png")  # of the highlights
    source = None if args.video is None else _source(args.video)
    refuse_outputs_over(source, boxes, *(() if args.no_video else (output, image)))
    if boxes.resolve() == output.resolve():
        raise ValueError(f"--output and --boxes both name {output}")
    if boxes.resolve() == image.resolve():
        raise ValueError(f"--boxes names {boxes}, where a few annotated frames go; choose another name")
    pick_format(boxes, args.format)
    return None if args.no_video else output, boxes


def _pick_device(device: str) -> str:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_available in available.items() if is_available)
    if not available[device]:
        raise ValueError(f"--device {device}: PyTorch finds no such device on this machine")
    return device


def _find_model(model: str | None) -> str:
    """The checkpoint's folder or Hub id, or an export's folder."""
    if model is None:
        return _default_checkpoint()
    from ..onnx.tracker import SETTINGS_FILE
    from ..training.run_folders import find_checkpoint

    return model if (Path(model) / SETTINGS_FILE).is_file() else find_checkpoint(model)


def _default_checkpoint() -> str:
    from modeling_pjvlt import DEFAULT_CHECKPOINT

    return DEFAULT_CHECKPOINT


def _follow(frames, tracked: _Tracked, shown: list, clip, interrupts: _Interrupts, progress: tqdm, raw: bool):
    """Track, and draw what is written or shown; `tracked.results` grows by a dict for each frame.

    Returns what broke the video off after more than its first frame, or None. Raises whatever comes before that, and
    the `OSError` of a video that cannot be written.
    """
    results = tracked.results
    with ExitStack() as stack:
        for part in (*shown, progress):
            stack.enter_context(part)
        while True:
            try:
                frame, box, score = interrupts.next(frames)
            except StopIteration:
                return None
            except (ValueError, OSError, KeyboardInterrupt) as stopped:
                if len(results) < 2:
                    raise
                return stopped
            size = None if raw else frame.image.shape[:2]
            results.append(make_result(frame.number, box, score, frame.time, size))
            if shown:
                image = frame.image
                if clip is not None and clip.visible[frame.number]:
                    image = draw_box(image, clip.boxes[frame.number], color=TRUTH_COLOR, line_width=1)
                image = draw_box(image, box, label=results.text, score=score)
                tracked.highlights.offer(frame.number, image)
                for part in shown:
                    part.write(image, frame.time)
                    if isinstance(part, Window) and part.is_closed:
                        interrupts.count += 1
            progress.update()


if __name__ == "__main__":
    main()
