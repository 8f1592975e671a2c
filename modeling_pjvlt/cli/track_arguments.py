"""The arguments of `pjvlt-track`, and the targets that they give."""

import argparse
import csv
import json
import re
from dataclasses import replace
from pathlib import Path

from ..command_parser import CommandParser
from ..detection_pjvlt import DETECTOR, OWN_DETECTOR
from ..geometry_pjvlt import check_box
from ..results_pjvlt import FORMATS
from ..video_loop_pjvlt import DIRECTIONS, TargetStart, check_starts, target_starts

EPILOG = """\
examples:
  track the dog whose box in the first frame has its upper left corner at (120, 64), is 90 wide and 70 high:
    pjvlt-track clip.mp4 --box 120 64 90 70 --text "white dog"

  a folder of images instead of a video (2.jpg comes before 10.jpg), with results where you want them:
    pjvlt-track frames/ --box 120 64 90 70 --text "white dog" --output dog.mp4 --boxes dog.json

  the first camera, or a stream by its address, until Ctrl-C or for 500 frames; boxes as a table:
    pjvlt-track 0 --box 120 64 90 70 --text "white dog" --boxes dog.csv
    pjvlt-track rtsp://camera.local/stream --box 120 64 90 70 --text "white dog" --max_frames 500

  several targets, each with its box and its sentence; and the same from a file:
    pjvlt-track clip.mp4 --box 120 64 90 70 --text "white dog" --box 300 80 60 40 --text "the red ball"
    pjvlt-track clip.mp4 --targets targets.csv

  the box is given in frame 120 (the first is 0), and the target is tracked from there in both directions:
    pjvlt-track clip.mp4 --box 120 64 90 70 --text "white dog" --frame 120 --direction both

  no box: from the sentence, a detector finds the target in the first frame:
    pjvlt-track clip.mp4 --text "the white dog"

  watch it live, and save only the boxes:
    pjvlt-track 0 --box 120 64 90 70 --text "white dog" --show --no_video

  no video at hand: the program draws a clip, tracks its target and prints the mean overlap:
    pjvlt-track --seed 3

After Ctrl-C, SIGTERM, SIGHUP, or if the video breaks off, the results so far are saved. Live frames that come too fast
are skipped.

targets, by the suffix of --targets: csv has the header id,frame,x,y,w,h,text, of which id, frame and text may be
missing; json is a list of {"id": "dog", "frame": 0, "box": [120, 64, 90, 70], "text": "white dog"}. If an id is given
again in another frame, the target is corrected there.

boxes, by the suffix of --boxes or by --format: csv has the header frame,x,y,w,h,score,time,lost,redetected (for
several targets, id comes first); txt has x,y,w,h, a line for each frame, for one target; mot has frame (from 1),id
(from 1),x,y,w,h,score,-1,-1,-1. The JSON file:
  {"video": "clip.mp4", "model": "...", "text": "white dog", "fps": 30.0,
   "frames": [{"frame": 0, "box": [120.0, 64.0, 90.0, 70.0], "score": 1.0, "time": 0.0}, ...]}
  box is x, y, width, height in pixels, inside the frame, rounded to hundredths (not with --raw); score is the
  confidence in [0, 1]; the first box is the one you gave. frame and time (seconds) are those of the source, from 0;
  skipped frames of a live source count, too. "lost": true marks boxes that are guesses, "redetected": true a target
  that was found again. For several targets there is "targets": [{"id": "0", "text": "white dog", "frames": [...]},
  ...] instead of "text" and "frames".
"""
VIDEO_HELP = "video file, folder of images, index of a camera, or address of a stream; without it, a clip is drawn"
TARGET_FIELDS = {"id", "frame", "box", "text"}


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="pjvlt-track",
        usage="pjvlt-track VIDEO --box X Y W H --text SENTENCE [options]",
        description="Track targets through a video, from a box in one frame and a sentence for each.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("video", nargs="?", metavar="VIDEO", help=VIDEO_HELP)
    add(
        "--box", nargs=4, type=float, action="append", metavar=("X", "Y", "W", "H"),
        help="the target's box in the first frame: left, top, width, height in pixels, separated by spaces or commas; "
        "repeat it for each target (default: --detector finds the box)",
    )  # fmt: skip
    add(
        "--text",
        action="append",
        help='a sentence that describes the target, such as "white dog"; with several targets, one for each in the '
        'order of their boxes, or one for all (default: "the target")',
    )
    add("--targets", type=Path, metavar="FILE", help="instead of --box and --text: a .csv or .json file (see below)")
    add(
        "--frame",
        type=int,
        default=0,
        metavar="N",
        help="number of the frame in which --box is given (default: %(default)s, the first)",
    )
    add(
        "--direction",
        choices=DIRECTIONS,
        default="forward",
        help="track from that frame to the end, back to the first frame, or both (default: %(default)s)",
    )
    add(
        "--redetect",
        choices=["none", "local", "frame"],
        default="local",
        help="where a lost target is searched: where it was last seen, in a growing region there, or in the whole "
        "frame (default: %(default)s)",
    )
    add(
        "--detector",
        metavar="PATH_OR_REPO",
        default=DETECTOR,
        help=f'finds the box if none is given; "{OWN_DETECTOR}" is the tracker itself, which needs no download but '
        "finds fewer targets (default: %(default)s)",
    )
    add(
        "--model",
        metavar="PATH_OR_REPO",
        help="folder of a checkpoint, folder of a run (for its last checkpoint), Hub repository, or a folder that "
        "pjvlt-export wrote (default: the bundled checkpoint)",
    )
    add(
        "--output",
        type=Path,
        metavar="MP4",
        help="annotated video (default: outputs/<name>_tracked.mp4); a .png of a few frames goes beside it",
    )
    add("--boxes", type=Path, metavar="FILE", help="boxes and scores (default: beside the video, as .json)")
    add("--format", choices=list(FORMATS), help="format of the boxes (default: by the suffix of --boxes)")
    add("--no_video", action="store_true", help="write the boxes only, which is faster")
    add(
        "--show",
        action="store_true",
        help="show each frame in a window; q, Escape or closing it stops the command, as Ctrl-C does",
    )
    add("--quiet", action="store_true", help="print errors only")
    add("--max_frames", type=int, metavar="N", help="read only the first N frames (default: the whole video)")
    add("--raw", action="store_true", help="boxes as the network gives them: neither rounded nor clipped to the frame")
    add(
        "--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: the first of cuda, mps, cpu"
    )
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of the model (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of the clip drawn when there is no VIDEO (default: %(default)s)")
    return parser


def spread_box(argv: list[str]) -> list[str]:
    """The command line, with each box that is written with commas split into four arguments."""
    spread: list[str] = []
    for argument in argv:
        of_box = spread[-1:] == ["--box"] or (spread[-1:] and "--box" in spread[-4:-1] and "," in argument)
        if argument.startswith("--box="):
            spread.append("--box")
            argument, of_box = argument.removeprefix("--box="), True
        spread += [part for part in re.split(r"[,;\s]+", argument) if part] if of_box else [argument]
    return spread


def read_targets(path: Path) -> list[TargetStart]:
    """The targets of a .csv or .json file, as the epilog of `--help` describes them.

    Raises `ValueError` that names the file and the line or target, and `OSError` for a file that cannot be read.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"{path}: targets are read from .csv or .json")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8") from error
    rows = _csv_rows(path, content) if path.suffix.lower() == ".csv" else _json_rows(path, content)
    starts = []
    for number, (place, row) in enumerate(rows):
        try:
            text, target_id = row.get("text"), row.get("id")
            if not isinstance(text, str | None):
                raise ValueError(f"`text` must be a sentence, got {text!r}")
            frame = int(row.get("frame") or 0)
            target_id = str(number if target_id in (None, "") else target_id)
            starts.append(TargetStart(target_id, check_box(row["box"]), text or None, frame))
        except (ValueError, TypeError, KeyError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}, {place}: {reason}") from error
    try:
        check_starts(starts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return starts


def _csv_rows(path: Path, content: str) -> list[tuple[str, dict]]:
    reader = csv.DictReader(content.splitlines())
    missing = [name for name in "xywh" if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path}: the header has no {', '.join(missing)}; expected id,frame,x,y,w,h,text")
    return [(f"line {n}", {**row, "box": [row[name] for name in "xywh"]}) for n, row in enumerate(reader, 2)]


def _json_rows(path: Path, content: str) -> list[tuple[str, dict]]:
    try:
        rows = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'{path}: expected a list of targets, each {{"id", "frame", "box", "text"}}')
    for number, row in enumerate(rows):
        unknown = set(row) - TARGET_FIELDS
        if unknown:
            raise ValueError(
                f"{path}, target {number}: {sorted(unknown)[0]!r} is unknown; known are id, frame, box, text"
            )
    return [(f"target {number}", row) for number, row in enumerate(rows)]


def given_targets(args: argparse.Namespace) -> list[TargetStart]:
    """The targets of --box, --text and --targets; a box is None if a detector has to find it.

    Raises `ValueError` for arguments that exclude each other.
    """
    boxes, texts = args.box or [], args.text or []
    if args.targets is not None:
        if boxes or texts or args.frame:
            raise ValueError("--targets holds boxes, sentences and frames; leave --box, --text and --frame out")
        return read_targets(args.targets)
    if args.frame < 0:
        raise ValueError(f"--frame must be 0 or more, got {args.frame}")
    if boxes and len(texts) > len(boxes):
        raise ValueError(f"there are {len(texts)} --text, but {len(boxes)} --box; give each target both")
    if len(texts) < len(boxes) and len(texts) > 1:
        raise ValueError(
            f"there are {len(boxes)} --box, but {len(texts)} --text; give each target both, or one --text"
        )
    if not boxes and not any(text.strip() for text in texts):
        raise ValueError(
            "--box X Y W H is missing: give the target's box in the first frame, or --text alone, from which a "
            "detector finds the target"
        )
    texts = texts * len(boxes) if boxes and len(texts) == 1 else texts
    starts = target_starts(boxes or [None] * len(texts), texts or None, args.frame)
    return [replace(start, text=start.text if (start.text or "").strip() else None) for start in starts]
