"""Look inside a tracker: where in the search crop its score comes from, and which words its patches attend to."""

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from modeling_pjvlt import DEFAULT_CHECKPOINT, TrackingSession
from modeling_pjvlt.cli.track import load_session
from modeling_pjvlt.data.synthetic.procedural import KINDS, ProceduralClip
from modeling_pjvlt.image_processing_pjvlt import frame_to_crop, to_rgb
from modeling_pjvlt.processing_pjvlt import DEFAULT_SENTENCE
from modeling_pjvlt.signals import exit_code, stopped_by_signals
from modeling_pjvlt.video_pjvlt import DEFAULT_FPS, read_frames, refuse_outputs_over
from modeling_pjvlt.video_writer_pjvlt import VideoWriter
from modeling_pjvlt.visualization.gradcam import search_activation, word_weights
from modeling_pjvlt.visualization.looking_inside import Look, Row, draw_figure, merge_pieces, save_figure

DEFAULT_FRAMES = [10, 20, 40]
MAX_ROWS = 60
VIDEO_TOP_WEIGHT = 0.5  # the same blue means the same attention in all frames
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EPILOG = """\
what the figure shows:
  A row is a frame, a column a model. Each model tracks on its own, so each cell is the search crop that this model
  looked at, around its last box. Of a crop that reaches beyond the frame (where the model sees black), only the part
  inside is shown.
  warm colours   Grad-CAM: which parts of the crop raise the score of the cell that the box was read from, by the
                 features of --layer. It is scaled for each crop, so it shows where, never how much. Where nothing
                 raises the score, the cell says so.
  yellow, white  the predicted box and, in procedural clips, the ground truth (none while the target is out of sight).
  blue numbers   the percentage of their attention that the search patches give to a word in SAIEL 1, 2, ...; each
                 column sums to 100. Attention is what a layer reads, not what the predicted box depends on.

examples:
  a video and its sentence, with the bundled model:
    python scripts/visualize.py clip.mp4 --box 120 64 90 70 --text "white dog" --frames 0 30 60

  two models side by side, a row for every 25th frame, and a video of all frames:
    python scripts/visualize.py clip.mp4 --box 120 64 90 70 --text "white dog" --every 25 \\
      --model "without words=runs/none" "with words=runs/full" --output figure.png --video figure.mp4

  no video at hand: procedural clips, in which only the sentence identifies the target:
    python scripts/visualize.py --seed 1 2 3 --kind words --frames 20

  what an early layer contributes:
    python scripts/visualize.py --seed 1 --layer 0
"""


@dataclass
class Source:
    """A video or clip: its frames, the first box, the sentence and, of a procedural clip, the ground truth."""

    label: str
    frames: object
    fps: float
    box: list[float]
    text: str
    clip: ProceduralClip | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def main(argv: list[str] | None = None) -> None:
    """Run the script with `argv` (default: the command line). Exits with 2 and one line about what is wrong."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        with stopped_by_signals():
            run(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt as stop:
        parser.exit(exit_code(stop), f"{parser.prog}: interrupted, nothing written\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="visualize.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", nargs="?", metavar="VIDEO", help="video file or folder of images")
    add("--seed", type=int, nargs="+", metavar="N", help="procedural clips instead of a VIDEO, one for each seed")
    add("--kind", choices=KINDS, help="of the clips: what identifies the target, the first frame or only the sentence")
    add("--box", nargs=4, type=float, metavar=("X", "Y", "W", "H"), help="the target in the first frame, in pixels")
    add("--text", help="the sentence (default: a clip's own, for a VIDEO 'the target')")
    add(
        "--model",
        nargs="+",
        default=[DEFAULT_CHECKPOINT],
        metavar="NAME=PATH",
        help="checkpoints (folder or Hub id), a column each; NAME= may be left out (default: the bundled one)",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--frames", type=int, nargs="+", metavar="I", help="frames to show, 0 is the first (default: 10 20 40)"
    )
    shown.add_argument("--every", type=int, metavar="K", help="show every K-th frame instead")
    add("--layer", type=int, default=-1, help="layer of the joint encoder, 0 is the first (default: -1, the last)")
    add("--output", type=Path, default=Path("outputs/looking_inside.png"), metavar="PNG", help="default: %(default)s")
    add("--video", type=Path, metavar="MP4", help="also write the figures of all frames as a video; for one clip only")
    add(
        "--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: the first of cuda, mps, cpu"
    )
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> None:
    check_arguments(args)
    sources = open_sources(args)
    sessions = load_models(args)
    names, rows, session = list(sessions), [], next(iter(sessions.values()))
    for source in sources:
        with VideoWriter(args.video, source.fps) if args.video else nullcontext() as writer:
            last = None if args.video or args.every else max(args.frames)
            seen = set()
            for index, first, looks in look_at(source, sessions, args, last):
                seen.add(index)
                if looks is None:
                    continue
                row = make_row(source, index, first, looks, session)
                if writer is not None:
                    writer.write(np.asarray(draw_figure([row], names, VIDEO_TOP_WEIGHT, source.clip is not None)))
                if is_shown(args, index):
                    rows.append(row)
                if len(rows) > MAX_ROWS:
                    raise ValueError(f"the figure would have more than {MAX_ROWS} rows: raise --every")
            missing = [index for index in args.frames or [] if index not in seen]
            if missing:
                raise ValueError(f"{source.label} has no frame {missing[0]}, its last is {max(seen, default=-1)}")
    save_figure(draw_figure(rows, names), args.output)
    print(f"wrote {args.output}" + (f" and {args.video}" if args.video else ""))


def check_arguments(args: argparse.Namespace) -> None:
    if (args.source is None) == (args.seed is None):
        raise ValueError("give either a VIDEO or --seed; see --help")
    if args.source is not None and args.box is None:
        raise ValueError("--box X Y W H is missing: it says where the target is in the first frame")
    if args.seed is not None and args.box is not None:
        raise ValueError("--box needs a VIDEO; a clip has a box of its own")
    if args.source is not None and args.kind is not None:
        raise ValueError("--kind is for the procedural clips of --seed")
    if args.seed is not None and min(args.seed) < 0:
        raise ValueError(f"--seed must be 0 or more, got {min(args.seed)}")
    if args.video is not None and args.seed is not None and len(args.seed) > 1:
        raise ValueError(f"--video shows one clip, but there are {len(args.seed)} seeds")
    if args.every is not None and args.every < 1:
        raise ValueError(f"--every must be 1 or more, got {args.every}")
    if args.output.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"--output {args.output}: an image is written as one of {', '.join(IMAGE_SUFFIXES)}")
    refuse_outputs_over(args.source, *(path for path in (args.output, args.video) if path is not None))
    if args.every is None and args.frames is None:
        args.frames = DEFAULT_FRAMES
    if args.frames is not None and min(args.frames) < 0:
        raise ValueError(f"there is no frame {min(args.frames)}: the first is 0")


def is_shown(args: argparse.Namespace, index: int) -> bool:
    return index in args.frames if args.frames is not None else index % args.every == 0


def open_sources(args: argparse.Namespace) -> list[Source]:
    if args.source is not None:
        reader = read_frames(args.source)
        return [Source(Path(args.source).name, reader, reader.fps, args.box, args.text or DEFAULT_SENTENCE)]
    clips = [ProceduralClip(seed, kind=args.kind) for seed in args.seed]
    for clip in clips:
        if args.frames is not None and max(args.frames) >= len(clip):
            raise ValueError(f"a clip has no frame {max(args.frames)}, its last is {len(clip) - 1}")
    return [
        Source(
            f"seed {clip.seed}",
            map(clip.frame, range(len(clip))),
            DEFAULT_FPS,
            clip.boxes[0],
            args.text or clip.text,
            clip,
        )
        for clip in clips
    ]


def load_models(args: argparse.Namespace) -> dict[str, TrackingSession]:
    """A session for each column."""
    sessions = {}
    for argument in args.model:
        name, path = argument.split("=", 1) if "=" in argument else (Path(argument).name, argument)
        if name in sessions:
            raise ValueError(f"two models are called {name}: name them, as in --model first=PATH second=PATH")
        sessions[name] = load_session(path, args.device, args.dtype)
    return sessions


def look_at(
    source: Source, sessions: dict[str, TrackingSession], args: argparse.Namespace, last: int | None
) -> Iterator[tuple[int, np.ndarray, list[Look] | None]]:
    """Track with every model and yield (index, first frame, looks); looks is None for frames that are not shown."""
    first = None
    for session in sessions.values():
        for target_id in session.target_ids:
            session.remove_target(target_id)
    for index, frame in enumerate(source.frames):
        if index == 0:
            first = frame
            for session in sessions.values():
                session.add_target(frame, source.box, source.text, target_id="target")
        before = [session.box_of("target") for session in sessions.values()]
        if index > 0:
            for session in sessions.values():
                session.step(frame)
        looks = None
        if args.video or is_shown(args, index):
            looks = [
                look_once(session, source, args.layer, (first, frame), index, box)
                for session, box in zip(sessions.values(), before, strict=True)
            ]
        yield index, first, looks
        if last is not None and index >= last:
            return


def look_once(session: TrackingSession, source: Source, layer: int, frames: tuple, index: int, searched_box) -> Look:
    """What a model saw in `frames[1]`, where it searched around `searched_box` (xywh in frame pixels)."""
    processor, model = session.processor, session.model
    inputs = processor(
        frames[1], source.text, searched_box, template_images=frames[0], template_boxes=source.box, return_crops=True
    )
    place = inputs.pop("crops")[0]
    inputs = inputs.to(model.device)
    weights, words = word_weights(model, inputs), []
    table = np.zeros((0, 0))
    if weights:
        tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        words, table = merge_pieces(tokens, np.stack([w[0].cpu().numpy() for w in weights], axis=1))
    images, image = processor.image_processor, to_rgb(frames[1])
    clip = source.clip
    return Look(
        crop=to_image(images.crop(image, searched_box, images.search_factor, images.search_size)[0]),
        inside=part_inside(place, image.shape[1:], images.search_size),
        activation=search_activation(model, inputs, layer, session.window)[0].cpu().numpy(),
        box=frame_to_crop(session.box_of("target"), place).tolist(),
        true_box=frame_to_crop(clip.boxes[index], place).tolist()
        if clip is not None and clip.visible[index]
        else None,
        words=words,
        weights=table,
    )


def make_row(source: Source, index: int, first: np.ndarray, looks: list[Look], session: TrackingSession) -> Row:
    """A row of the figure; the template is cut as `session` cuts it."""
    images, first = session.processor.image_processor, to_rgb(first)
    template, place = images.crop(first, source.box, images.template_factor, images.template_size)
    left, top, right, bottom = part_inside(place, first.shape[1:], images.template_size)
    template = to_image(template)[top:bottom, left:right]
    return Row(f"{source.label}, frame {index}", template, source.text, looks)


def part_inside(place: Tensor, frame_size: Sequence[int], side: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom, in crop pixels, of the part of a crop that lies in the frame (height, width).

    place: (3,), left, top and scale of the crop. side: of the crop. A part has at least one pixel.
    """
    height, width = frame_size
    x, y, w, h = frame_to_crop([0, 0, width, height], place).tolist()
    left, top = (min(max(math.ceil(start), 0), side - 1) for start in (x, y))
    right, bottom = (min(max(math.floor(end), low + 1), side) for end, low in ((x + w, left), (y + h, top)))
    return left, top, right, bottom


def to_image(crop) -> np.ndarray:
    """(3, S, S) of 0..255 to (S, S, 3) uint8."""
    return crop.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


if __name__ == "__main__":
    main()
