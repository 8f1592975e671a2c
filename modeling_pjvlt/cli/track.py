"""`pjvlt-track`: track targets through a video, and write their boxes and an annotated video."""

import argparse
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..command_parser import silent_when_piped
from ..evaluation.metrics import iou
from ..results_pjvlt import FORMATS, TARGET_COLORS, TargetsResults, TrackingResults, make_result, pick_format, xywh
from ..session_pjvlt import TargetSession, TrackedTarget
from ..signals import Stopped, exit_code, signal_of, terminations
from ..streams_pjvlt import DEFAULT_FPS, FrameReader, TimedFrame, is_address, public_name, read_ahead
from ..video_loop_pjvlt import TargetStart, TrackedFrame, check_direction, first_starts, track_both_ways
from ..video_pjvlt import local_path, read_frames, refuse_outputs_over
from ..video_writer_pjvlt import VideoWriter
from ..visualization.drawing import LABEL_SHARE, TRUTH_COLOR, contact_strip, draw_box
from ..visualization.window import Window
from . import print_any_name
from .track_arguments import build_parser, given_targets, spread_box

CLIP_TARGET = "target"  # of the clip that is made where there is no video


@silent_when_piped
def main(argv: list[str] | None = None) -> None:
    """Run the command with `argv` (default: the command line).

    Raises:
        SystemExit: 2 after a one-line message about wrong arguments, unusable input or a full disk; 130 after Ctrl-C,
            143 after SIGTERM, 129 after SIGHUP, with a message that says what was written.
    """
    print_any_name()
    parser = build_parser()
    args = parser.parse_args(spread_box(sys.argv[1:] if argv is None else argv))
    try:
        _run(args)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt as stop:
        parser.exit(exit_code(stop), f"{parser.prog}: stopped, {stop or 'nothing written'}\n")


def load_session(model: str, device: str, dtype: str, redetect: str | None = "local"):
    """A `TrackingSession` with a checkpoint, or an `OnnxTracker` with a folder that `pjvlt-export` wrote.

    Args:
        model: folder of a checkpoint, of a run or of an export, or a Hub repository.
        device: "auto" (CUDA, then MPS, then CPU), "cpu", "cuda" or "mps".
        dtype: "float32", "bfloat16" or "float16".
        redetect: where a lost target is searched; see `TargetSession`.

    Raises:
        ValueError: this machine lacks the device, or an export gets a device or type other than its own.
        OSError: there is no checkpoint.
    """
    from ..onnx.tracker import SETTINGS_FILE, OnnxTracker

    if (Path(model) / SETTINGS_FILE).is_file():
        if device not in ("auto", "cpu") or dtype != "float32":
            raise ValueError(
                f"{model} is an export, which runs on the CPU in its own type: leave --device and --dtype out"
            )
        return OnnxTracker(model, redetect=redetect)
    from ..run_folders import find_checkpoint

    model = find_checkpoint(model)
    import torch

    from modeling_pjvlt import PJVLTModel, PJVLTProcessor, TrackingSession

    device = _pick_device(device)
    # For a mistyped path, the Hub's own message would be about the letters that a repository's name may have.
    if model.startswith(("/", ".")) and not Path(model).is_dir():
        raise FileNotFoundError(f"{model}: no such checkpoint folder")
    network = PJVLTModel.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()
    return TrackingSession(network, PJVLTProcessor.from_pretrained(model), redetect=redetect)


class _Highlights:
    """A few annotated frames, evenly spread over a video of unknown length."""

    def __init__(self, count: int = 5):
        self.count = count
        self.step = 1
        self.offered = 0
        self.kept: list[tuple[int, np.ndarray]] = []

    def offer(self, number: int, frame: np.ndarray) -> None:
        """Keep every `step`-th frame; when there are too many, drop every other one and double the step."""
        if self.offered % self.step == 0:
            self.kept.append((number, frame))
        self.offered += 1
        if len(self.kept) > 4 * self.count:
            self.kept, self.step = self.kept[::2], 2 * self.step

    def save(self, path: Path) -> None:
        """Write the frames side by side as an image."""
        places = np.unique(np.linspace(0, len(self.kept) - 1, self.count).round().astype(int))
        chosen = [self.kept[place] for place in places]
        contact_strip([frame for _, frame in chosen], path, [f"frame {number}" for number, _ in chosen])


def _run(args: argparse.Namespace) -> None:
    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max_frames must be 1 or more, got {args.max_frames}")
    say = (lambda *words, **options: None) if args.quiet else print
    if args.video is not None:
        args.video = os.fspath(local_path(args.video))
    if args.video is None:
        reader, clip, starts = _make_clip(args)
        name, video = f"clip{args.seed}", f"procedural clip, seed {args.seed}"
    else:
        starts, clip = given_targets(args), None
        reader = read_ahead(read_frames(_source(args.video)))
        name, video = _source_name(args.video), public_name(_source(args.video))
    reader = reader.first(args.max_frames)
    check_direction(args.direction, reader)
    starts = _with_sentences(starts, say)
    if clip is not None:
        say(f'{video}; its sentence: "{starts[0].text}"')
    output, boxes_path = _output_paths(args, name, len(first_starts(starts)))
    shown = [Window(f"pjvlt-track: {video}")] if args.show else []
    if output is not None and args.direction == "forward":
        shown.append(VideoWriter(output, reader.fps))
    model = _find_model(args.model)
    redetect = None if args.redetect == "none" else args.redetect
    session = load_session(model, args.device, args.dtype, redetect)
    if any(start.box is None for start in starts):
        starts = _find_by_words(args, starts, session, say)

    start = time.perf_counter()
    tracked = _Tracked(starts, video, model, boxes_path, args.format, output, reader)
    frames = track_both_ways(lambda: copy(session), reader, starts, args.direction)
    progress = tqdm(total=reader.num_frames, desc="tracking", unit=" frames", disable=True if args.quiet else None)
    with _Interrupts() as interrupts:
        try:
            stopped = _follow(frames, tracked, shown, clip, interrupts, progress, args.raw)
            if args.direction != "forward":
                tracked.sort()
                if output is not None:
                    tracked.draw(VideoWriter(output, reader.fps), clip)
        except OSError as error:
            raise OSError(f"{error}; {tracked.rescue()}") from error
        except KeyboardInterrupt:
            raise Stopped(tracked.rescue(), interrupts.number) from None
        finally:
            frames.close()
        speed = tracked.num_frames / (time.perf_counter() - start)
        tracked.save()
    if isinstance(stopped, KeyboardInterrupt):
        raise Stopped(f"{tracked.what_is_kept()}{tracked.skipped()}", signal_of(stopped)) from stopped
    if stopped is not None:
        raise OSError(f"{stopped}; {tracked.what_is_kept()}{tracked.skipped()}") from stopped
    if clip is not None:
        boxes = np.array([xywh(result) for result in tracked.results[CLIP_TARGET]])
        seen = clip.visible[1 : len(boxes)]  # the first box was given
        overlap = iou(boxes[1:][seen], clip.boxes[1 : len(boxes)][seen])
        if len(overlap):
            say(f"mean overlap {overlap.mean():.2f} over {len(overlap)} frames")
    work = "decoding, tracking, drawing and encoding" if output else "decoding and tracking"
    say(f"{tracked.num_frames} frames at {speed:.1f} FPS ({work}){tracked.skipped()}")
    if output is None:
        say(f"wrote {boxes_path}")
    else:
        say(f"wrote {output}, {boxes_path} and {output.with_suffix('.png')} (a few frames to look at)")


class _Interrupts:
    """A context in which Ctrl-C, SIGTERM and SIGHUP are raised only while the next frame is awaited.

    So no frame is half written, and the files of the frames so far can be completed. A second Ctrl-C stops at once.
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
        """The next item of an iterator. Raises `Stopped` for a signal that came since the previous item."""
        self.is_waiting = True
        try:
            if self.count:
                raise Stopped(number=self.number)
            return next(frames)
        finally:
            self.is_waiting = False

    def _handle(self, number, frame) -> None:
        self.count, self.number = self.count + 1, number
        # A terminal that closes may send SIGHUP twice; only a second Ctrl-C asks to stop at once.
        if self.is_waiting or (self.count > 1 and number == signal.SIGINT):
            raise Stopped(number=number)


class _Tracked:
    """The results so far, and the files they are written to. output: None if no video is written.

    The box in a target's first frame was given, so a single frame is not worth saving.
    """

    def __init__(
        self,
        starts: list[TargetStart],
        video: str,
        model: str,
        path: Path,
        format: str | None,
        output: Path | None,
        reader: FrameReader,
    ):
        first = first_starts(starts)
        self.results = {
            name: TrackingResults(fps=reader.fps, text=start.text, source=video, model=model)
            for name, start in first.items()
        }
        self.labels = {
            name: start.text if name.isdigit() or len(first) == 1 else name for name, start in first.items()
        }
        self.colors = dict(zip(first, TARGET_COLORS * len(first), strict=False))
        self.path, self.format, self.output, self.reader = path, format, output, reader
        self.num_frames, self.highlights = 0, _Highlights()

    def add(self, tracked: TrackedFrame, raw: bool) -> None:
        """Add the results of one frame."""
        frame, targets, size = tracked
        for t in targets:
            result = make_result(frame.number, t.box, t.score, frame.time, None if raw else size, t.lost, t.redetected)
            self.results[t.target_id].append(result)
        self.num_frames += bool(targets)

    def sort(self) -> None:
        """Sort the frames by their numbers, after backward tracking."""
        for results in self.results.values():
            results.sort(key=lambda result: result["frame"])

    def image(self, frame: TimedFrame, targets: list[TrackedTarget], clip) -> np.ndarray:
        """The frame with its targets, each in its colour; with `clip`, also the ground truth box."""
        image = frame.image
        if clip is not None and clip.visible[frame.number]:
            image = draw_box(image, clip.boxes[frame.number], color=TRUTH_COLOR, line_width=1)
        for target in targets:
            label, color = self.labels[target.target_id], self.colors[target.target_id]
            label = f"{label} (lost)" if target.lost else label
            share = LABEL_SHARE / min(len(self.labels), 3)  # smaller, so that several labels do not hide the frame
            image = draw_box(image, target.box, label, target.score, color, label_share=share)
        return image

    def draw(self, writer: VideoWriter, clip) -> None:
        """Read the frames again and write the video, because they were not tracked in order."""
        targets: dict[int, list[TrackedTarget]] = {}
        for target_id, results in self.results.items():
            for result in results:
                target = TrackedTarget(target_id, xywh(result), result["score"], result["lost"])
                targets.setdefault(result["frame"], []).append(target)
        with writer:
            for frame in self.reader.timed():
                image = self.image(frame, targets.get(frame.number, []), clip)
                self.highlights.offer(frame.number, image)
                writer.write(image, frame.time)

    def save_boxes(self) -> None:
        results = self.results if len(self.results) > 1 else next(iter(self.results.values()))
        (TargetsResults(results) if len(self.results) > 1 else results).save(self.path, self.format)

    def save(self) -> None:
        """Write the boxes and the image of a few frames, once the video is complete.

        Raises an `OSError` that names all three files.
        """
        try:
            self.save_boxes()
        except OSError as error:
            if self.output is None:
                raise
            raise OSError(f"{error}; the video of {self.num_frames} frames is in {self.output}") from error
        if self.output is None:
            return
        image = self.output.with_suffix(".png")
        try:
            self.highlights.save(image)
        except OSError as error:
            raise OSError(f"{image}: cannot be written ({error.strerror or error}); {self.what_is_kept()}") from error

    def what_is_kept(self) -> str:
        """A phrase that says where the results so far are."""
        if self.output is None:
            return f"the boxes of {self.num_frames} frames so far are in {self.path}"
        return f"the {self.num_frames} frames so far are in {self.output} and {self.path}"

    def skipped(self) -> str:
        """The number of live frames that were skipped, as the end of a sentence; empty if there are none."""
        return f"; {self.reader.num_dropped} came too fast and were skipped" if self.reader.num_dropped else ""

    def rescue(self) -> str:
        """Save the boxes, if there are any, where the video cannot be saved. Returns a phrase about the result."""
        if self.num_frames < 2:
            return "nothing written"
        try:
            self.save_boxes()
        except OSError as error:
            return f"the boxes of {self.num_frames} frames are lost too: {error}"
        return f"no video written, but the boxes of {self.num_frames} frames are in {self.path}{self.skipped()}"


def _find_by_words(
    args: argparse.Namespace, starts: list[TargetStart], session: TargetSession, say: Callable
) -> list[TargetStart]:
    """The targets; those without a box get a function that finds it. A wrong detector's name fails here, at once."""
    from ..detection_pjvlt import OWN_DETECTOR, OwnDetector, find_target, load_detector

    if args.detector == OWN_DETECTOR:
        detector = OwnDetector(session)
    else:
        detector = load_detector(args.detector, _pick_device(args.device))

    def find(frame: np.ndarray, text: str):
        box, score = find_target(frame, text, detector)
        say(f"found {text!r} at {' '.join(f'{v:.0f}' for v in box)} (x, y, width, height), score {score:.2f}")
        return box

    return [replace(s, box=partial(find, text=s.text)) if s.box is None else s for s in starts]


def _source(video: str) -> int | str:
    """The index of a camera, unless a file has that name; otherwise the path or address as it is."""
    return int(video) if video.isascii() and video.isdigit() and not Path(video).exists() else video


def _make_clip(args: argparse.Namespace):
    for name in ("box", "targets"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} needs a VIDEO; the clip that is drawn without one has a target of its own")
    if args.frame:
        raise ValueError(
            "--frame needs a VIDEO; in the clip that is drawn without one, the target is given in frame 0"
        )
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {args.seed}")
    from ..data.synthetic.procedural import ProceduralClip

    clip = ProceduralClip(args.seed)
    frames = FrameReader(lambda: (clip.frame(i) for i in range(len(clip))), fps=DEFAULT_FPS, num_frames=len(clip))
    text = next((text for text in args.text or () if text.strip()), clip.text)
    return frames, clip, [TargetStart(CLIP_TARGET, clip.boxes[0], text)]


def _with_sentences(starts: list[TargetStart], say: Callable) -> list[TargetStart]:
    """The targets, with the default sentence for those without one; prints a note if there are any."""
    from ..processing_pjvlt import DEFAULT_SENTENCE

    if any(start.text is None for start in first_starts(starts).values()):
        note = f'note: no --text given, so the sentence is "{DEFAULT_SENTENCE}"; a better one helps'
        say(note, file=sys.stderr)
    return [start if start.text is not None else replace(start, text=DEFAULT_SENTENCE) for start in starts]


def _source_name(video: str) -> str:
    if isinstance(_source(video), int):
        return f"camera{int(video)}"
    if is_address(video):
        last = re.split(r"[?#]", public_name(video))[0].rstrip("/").rsplit("/", 1)[1]
        return re.sub(r"[^\w-]+", "_", last).strip("_") or "stream"
    path = Path(video).expanduser().resolve()
    return path.name if path.is_dir() else path.stem


def _output_paths(args: argparse.Namespace, name: str, num_targets: int) -> tuple[Path | None, Path]:
    if args.no_video and args.output is not None:
        raise ValueError(f"--no_video writes no video to --output {args.output}; --boxes names the file of the boxes")
    output = args.output or Path("outputs") / f"{name}_tracked.mp4"
    boxes = args.boxes or output.with_suffix(FORMATS[args.format or "json"])
    image = output.with_suffix(".png")  # of the highlights
    source = None if args.video is None else _source(args.video)
    refuse_outputs_over(source, boxes, *(() if args.no_video else (output, image)))
    if boxes.resolve() == output.resolve():
        raise ValueError(f"--output and --boxes both name {output}")
    if boxes.resolve() == image.resolve():
        raise ValueError(f"--boxes names {boxes}, to which a few annotated frames are written; choose another name")
    if pick_format(boxes, args.format) == "txt" and num_targets > 1:
        raise ValueError(f"{boxes}: txt holds one target only; choose json, csv or mot")
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
    from ..run_folders import find_checkpoint

    return model if (Path(model) / SETTINGS_FILE).is_file() else find_checkpoint(model)


def _default_checkpoint() -> str:
    from modeling_pjvlt import DEFAULT_CHECKPOINT

    return DEFAULT_CHECKPOINT


def _follow(frames, tracked: _Tracked, shown: list, clip, interrupts: _Interrupts, progress: tqdm, raw: bool):
    """Track all frames, add each to `tracked`, and draw those that are written or shown.

    Returns the exception that ended the video early, after at least two frames, or None. Raises exceptions before
    that, and the `OSError` of a video that cannot be written.
    """
    with ExitStack() as stack:
        for part in (*shown, progress):
            stack.enter_context(part)
        while True:
            try:
                tracked_frame = interrupts.next(frames)
            except StopIteration:
                return None
            except (ValueError, OSError, KeyboardInterrupt) as stopped:
                if tracked.num_frames < 2:
                    raise
                return stopped
            tracked.add(tracked_frame, raw)
            if shown:
                frame = tracked_frame.frame
                image = tracked.image(frame, tracked_frame.targets, clip)
                tracked.highlights.offer(frame.number, image)
                for part in shown:
                    part.write(image, frame.time)
                    if isinstance(part, Window) and part.is_closed:
                        interrupts.count += 1
            progress.update()


if __name__ == "__main__":
    main()
