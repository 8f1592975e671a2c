"""`pjvlt-track`: follow one target through a video, and write an annotated video and its boxes."""

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..evaluation.metrics import iou
from ..processing_pjvlt import DEFAULT_SENTENCE
from ..video_pjvlt import DEFAULT_FPS, FrameReader, VideoWriter, read_frames
from ..visualization.drawing import TRUTH_COLOR, contact_strip, draw_box

EPILOG = """\
examples:
  follow the dog whose box in the first frame has its upper left corner at (120, 64), 90 wide and 70 high:
    pjvlt-track clip.mp4 --box 120 64 90 70 --text "white dog"

  a folder of pictures instead of a video (2.jpg comes before 10.jpg), results where you want them:
    pjvlt-track frames/ --box 120 64 90 70 --text "white dog" --output dog.mp4 --boxes dog.json

  no video at hand: the program draws a clip, follows its target and says how well that went:
    pjvlt-track --seed 3

the JSON file:
  {"video": "clip.mp4", "model": "...", "text": "white dog", "fps": 30.0,
   "frames": [{"frame": 0, "box": [120.0, 64.0, 90.0, 70.0], "score": 1.0}, ...]}
  box is x, y, width, height in pixels of the frame; score is the confidence in [0, 1]. Frame 0 is the box you gave.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Say what is wrong in one line, without the usage text in front of it, and exit with 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def main(argv: list[str] | None = None) -> None:
    """Run the command with `argv` (default: the command line).

    Raises:
        SystemExit: 2 after a one-line message about wrong arguments or unusable input, 130 after Ctrl-C.
    """
    parser = _build_parser()
    args = parser.parse_args(argv)
    try:
        _run(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped, nothing written\n")


def load_session(model: str, device: str, dtype: str):
    """Load a checkpoint into a `TrackingSession`.

    Args:
        model: folder or Hub repository.
        device: "auto" (CUDA, then MPS, then CPU), "cpu", "cuda" or "mps".
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        ValueError: this machine lacks the device.
        OSError: there is no checkpoint.
    """
    import torch
    from transformers.utils import logging

    from modeling_pjvlt import PJVLTModel, PJVLTProcessor, TrackingSession

    device = _pick_device(device)
    # The Hub's own message for a mistyped path is about the letters that a repository's name may have.
    if model.startswith(("/", ".")) and not Path(model).is_dir():
        raise FileNotFoundError(f"{model}: no such checkpoint folder")
    logging.disable_progress_bar()
    network = PJVLTModel.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()
    return TrackingSession(network, PJVLTProcessor.from_pretrained(model))


def track_frames(
    session, frames: Iterable[np.ndarray], box: list[float], text: str
) -> Iterator[tuple[np.ndarray, list[float], float]]:
    """Follow one target and yield (frame, box, score) for every frame; the first one yields `box` itself, score 1.

    Args:
        session: a `TrackingSession` without targets.
        frames: RGB uint8 arrays of shape (height, width, 3), all of one size.
        box: x, y, width, height of the target in the first frame, in pixels.
        text: the sentence that describes it.

    Raises:
        ValueError: the box is unusable, or a frame differs in size from the first one.
    """
    for index, frame in enumerate(frames):
        if index == 0:
            session.add_target(frame, box=box, text=text, target_id="target")
            yield frame, [float(value) for value in box], 1.0
        else:
            (target,) = session.step(frame)
            yield frame, [float(value) for value in target.box], float(target.score)


class _Highlights:
    """A few annotated frames, evenly spread over a video whose length nobody has to know."""

    def __init__(self, count: int = 5):
        self.count = count
        self.step = 1
        self.kept: list[tuple[int, np.ndarray]] = []

    def offer(self, index: int, frame: np.ndarray) -> None:
        """Keep every `step`-th frame; when there are twice too many, every other one goes and the step doubles."""
        if index % self.step == 0:
            self.kept.append((index, frame))
        if len(self.kept) > 4 * self.count:
            self.kept, self.step = self.kept[::2], 2 * self.step

    def save(self, path: Path) -> None:
        """Write the frames side by side as a picture, beside its place first."""
        places = np.unique(np.linspace(0, len(self.kept) - 1, self.count).round().astype(int))
        chosen = [self.kept[place] for place in places]
        partial = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
        try:
            contact_strip([frame for _, frame in chosen], partial, [f"frame {index}" for index, _ in chosen])
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pjvlt-track",
        description="Follow one target through a video, from its box in the first frame and a sentence about it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("video", nargs="?", metavar="VIDEO", help="video file or folder of pictures; without it a clip is made")
    add(
        "--box", nargs=4, type=float, metavar=("X", "Y", "W", "H"),
        help="the target in the first frame: left, top, width, height in pixels",
    )  # fmt: skip
    add("--text", help=f'a sentence that describes the target, such as "white dog" (default: "{DEFAULT_SENTENCE}")')
    add("--model", metavar="PATH_OR_REPO", help="checkpoint folder or Hub repository (default: the bundled one)")
    add(
        "--output",
        type=Path,
        metavar="MP4",
        help="annotated video (default: outputs/<name>_tracked.mp4); a .png of a few frames goes beside it",
    )
    add("--boxes", type=Path, metavar="JSON", help="boxes and scores (default: beside the video, as .json)")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: the fastest there is")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the clip made when there is no VIDEO (default: %(default)s)")
    return parser


def _run(args: argparse.Namespace) -> None:
    if args.video is None:
        reader, clip = _make_clip(args)
        name, video, box, text = f"clip{args.seed}", f"procedural clip, seed {args.seed}", clip.boxes[0], clip.text
    else:
        reader, clip = _open_source(args), None
        name, video, box, text = _source_name(args.video), args.video, args.box, DEFAULT_SENTENCE
    text = _sentence(args.text, text)
    if clip is not None:
        print(f'{video}; its sentence: "{text}"')
    output, boxes_path = _output_paths(args, name)
    writer = VideoWriter(output, reader.fps)
    model = args.model or _default_checkpoint()
    session = load_session(model, args.device, args.dtype)

    start = time.perf_counter()
    highlights = _Highlights()
    records = _track_to_video(session, reader, box, text, writer, clip, highlights)
    speed = len(records) / (time.perf_counter() - start)
    header = {"video": video, "model": model, "text": text, "fps": reader.fps}
    _write_boxes(boxes_path, header, records)
    highlights.save(output.with_suffix(".png"))
    if clip is not None:
        boxes = np.array([record["box"] for record in records])
        seen = clip.visible[1:]  # the first box was given
        overlap = iou(boxes[1:][seen], clip.boxes[1:][seen])
        print(f"mean overlap {overlap.mean():.2f} over {len(overlap)} frames")
    print(f"{len(records)} frames at {speed:.1f} FPS (decoding, tracking, drawing and encoding)")
    print(f"wrote {output}, {boxes_path} and {output.with_suffix('.png')} (a few frames to look at)")


def _open_source(args: argparse.Namespace) -> FrameReader:
    if args.box is None:
        raise ValueError(
            "--box X Y W H is missing: the box in the first frame picks the target, and the sentence describes it; "
            "finding the target from the sentence alone is not possible yet"
        )
    return read_frames(args.video)


def _make_clip(args: argparse.Namespace):
    if args.box is not None:
        raise ValueError("--box needs a VIDEO; the clip that is made without one has a box of its own")
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {args.seed}")
    from ..data.procedural import ProceduralClip

    clip = ProceduralClip(args.seed)
    frames = FrameReader(lambda: (clip.frame(i) for i in range(len(clip))), fps=DEFAULT_FPS, num_frames=len(clip))
    return frames, clip


def _sentence(given: str | None, fallback: str) -> str:
    if given is not None and given.strip():
        return given
    if fallback == DEFAULT_SENTENCE:
        print(f'note: no --text given, so the sentence is "{DEFAULT_SENTENCE}"; a better one helps', file=sys.stderr)
    return fallback


def _source_name(video: str) -> str:
    path = Path(video).expanduser().resolve()
    return path.name if path.is_dir() else path.stem


def _output_paths(args: argparse.Namespace, name: str) -> tuple[Path, Path]:
    output = args.output or Path("outputs") / f"{name}_tracked.mp4"
    boxes = args.boxes or output.with_suffix(".json")
    if args.video is not None and Path(args.video).expanduser().resolve() in (output.resolve(), boxes.resolve()):
        raise ValueError(f"{args.video} is the video to read; write the results elsewhere")
    if output.resolve() == boxes.resolve():
        raise ValueError(f"--output and --boxes both name {output}")
    return output, boxes


def _pick_device(device: str) -> str:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_available in available.items() if is_available)
    if not available[device]:
        raise ValueError(f"--device {device}: PyTorch finds no such device on this machine")
    return device


def _default_checkpoint() -> str:
    from modeling_pjvlt import DEFAULT_CHECKPOINT

    return DEFAULT_CHECKPOINT


def _track_to_video(session, reader: FrameReader, box, text: str, writer: VideoWriter, clip, highlights) -> list[dict]:
    records = []
    with (
        writer,
        tqdm(total=reader.num_frames, desc="tracking", unit=" frames", disable=None) as progress,
    ):
        for frame, box_xywh, score in track_frames(session, reader, list(box), text):
            if clip is not None and clip.visible[len(records)]:
                frame = draw_box(frame, clip.boxes[len(records)], color=TRUTH_COLOR, line_width=1)
            annotated = draw_box(frame, box_xywh, label=text, score=score)
            writer.write(annotated)
            highlights.offer(len(records), annotated)
            records.append({"frame": len(records), "box": [round(v, 3) for v in box_xywh], "score": round(score, 4)})
            progress.update()
    return records


def _write_boxes(path: Path, header: dict, records: list[dict]) -> None:
    """Write the JSON file, a line per frame, to a temporary file first."""
    lines = ",\n".join(json.dumps(record) for record in records)
    head = json.dumps(header, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        partial.write_text(f'{head[:-1]}, "frames": [\n{lines}\n]}}\n', encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
