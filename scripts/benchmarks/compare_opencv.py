"""Compare PJVLT checkpoints with OpenCV's trackers in one run: same frames, same scores, on the CPU.

python scripts/benchmarks/compare_opencv.py                                            on 200 procedural clips
python scripts/benchmarks/compare_opencv.py --dataset_name my-videos other-videos      each, and all together
python scripts/benchmarks/compare_opencv.py --dataset_name my-videos --model outputs/a outputs/b --trackers csrt \\
    --plot success.png
python scripts/benchmarks/compare_opencv.py --vit object_tracking_vittrack_2023sep.onnx \\
    --nano object_tracking_nano_backbone.onnx object_tracking_nano_head.onnx

CSRT, KCF and MIL come with OpenCV; the networks of VitTrack and NanoTrack have to be given as ONNX files, such as
those of github.com/opencv/opencv_zoo. VitTrack runs twice: "as shipped", and as it was trained. OpenCV divides 1 by
the standard deviations as if their four numbers were one quaternion, and does not turn BGR into RGB.

A dataset is whatever `pjvlt-eval` takes: a Hub id, a folder that `pjvlt-convert` wrote, a folder of
NAME/{img, groundtruth_rect.txt or groundtruth.txt, language.txt}, or `procedural`.

How it compares
- Every tracker gets the first frame's box, PJVLT also the sequence's sentence. No tracker is restarted.
- A frame is decoded once. PJVLT gets it as RGB, OpenCV as BGR; decoding and that conversion are timed apart.
- FPS is frames after the first over the time in OpenCV's `update` or in `TrackingSession.step`, which cuts the crop
  too. PyTorch and OpenCV may use equally many threads.
- Where OpenCV reports failure, its last box counts; where PJVLT reports `lost`, its best guess counts. "Lost" is
  the share of such frames.
- OpenCV's trackers take and give whole pixels, PJVLT fractions of pixels; nothing is rounded for the scores.
- MB is the size of the files that hold a tracker's weights.

Needs opencv-contrib: pip install "pjvlt[compare]"
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from opencv_trackers import CLASSICAL, OPENCV, OpenCVTracker, PJVLTTracker, create_nano, create_vit, opencv_class

from modeling_pjvlt.files_pjvlt import replacing, write_text

PROTOCOL_NAMES = ("otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot")
BORDER_PROTOCOLS = ("otb", "lasot", "tnl2k")  # written for coordinates that begin at 1
CHUNK = 32  # frames decoded before the trackers take turns: enough to start with cold caches, few enough for memory
TOGETHER = "all together"
STRICT_IOU = 0.75  # IoU above which a box fits its target closely


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset_name", nargs="+", default=["procedural"], metavar="NAME", help="datasets (default: procedural)"
    )
    parser.add_argument("--split", default="test", help="split of the datasets (default: test)")
    parser.add_argument(
        "--model", nargs="+", metavar="NAME", help="checkpoints: folders or Hub ids (default: bundled)"
    )
    parser.add_argument(
        "--trackers",
        nargs="*",
        choices=CLASSICAL,
        default=CLASSICAL,
        metavar="NAME",
        help="trackers of OpenCV: csrt, kcf, mil (default: all three)",
    )
    parser.add_argument("--vit", type=Path, metavar="FILE", help="also VitTrack, with this network")
    parser.add_argument(
        "--nano", type=Path, nargs=2, metavar=("BACKBONE", "HEAD"), help="also NanoTrack, with these two networks"
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOL_NAMES,
        default="lasot",
        help="scoring rules (default: lasot); in the success curve of `otb`, `lasot` and `tnl2k`, frames whose target "
        "has x or y <= 0 count as missed for every tracker",
    )
    parser.add_argument("--max_sequences", type=int, metavar="N", help="only the first N sequences of each dataset")
    parser.add_argument(
        "--max_frames", type=int, metavar="N", help="only the first N frames of each sequence, at least 2"
    )
    parser.add_argument(
        "--num_threads", type=int, help="threads for PyTorch and for OpenCV (default: PyTorch's number)"
    )
    parser.add_argument("--per_sequence", action="store_true", help="also print a table of all sequences")
    parser.add_argument("--output", metavar="FILE", help="write settings, scores, speeds and boxes as JSON")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the success curves: .png, .svg or .pdf (needs matplotlib)"
    )
    return parser


@dataclass
class Run:
    """The results of one tracker, by sequence.

    boxes: (n, 4) xywh. seconds: in its `step`. lost: number of frames in which it reported the target as lost.
    megabytes: size of the files that hold its weights.
    """

    megabytes: float = 0.0
    boxes: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def fps(self, keys: list[str]) -> tuple[float, float]:
        """Frames per second after the first frame: the median over sequences, and that of all frames together."""
        tracked = {key: len(self.boxes[key]) - 1 for key in keys}
        each = [tracked[key] / self.seconds[key] for key in keys]
        return statistics.median(each), sum(tracked.values()) / sum(self.seconds[key] for key in keys)

    def lost_share(self, keys: list[str]) -> float:
        """Percentage of the tracked frames in which the target was reported as lost."""
        return 100 * sum(self.lost[k] for k in keys) / sum(len(self.boxes[k]) - 1 for k in keys)


@dataclass
class Preparation:
    """Seconds spent outside of all trackers, to decode and to convert, and the number of frames."""

    decode: float = 0.0
    convert: float = 0.0
    frames: int = 0


Images = dict[str, list[np.ndarray]]  # "RGB" and "BGR" -> frames, uint8 (H, W, 3)
Start = Callable[[Images, object], OpenCVTracker | PJVLTTracker]  # (first frames, sequence) -> a tracker


def compare(
    sequence, key: str, length: int, starts: dict[str, Start], runs: dict[str, Run], spent: Preparation, on_frames
) -> None:
    """Track the first `length` frames of one sequence with every tracker; they take turns every CHUNK frames.

    starts: name -> the function that makes the tracker. runs: name -> the run that `key` is added to. on_frames:
    called with the number of frames that all trackers have finished.
    """
    trackers, boxes = {}, {name: np.zeros((length, 4)) for name in starts}
    seconds, lost = dict.fromkeys(starts, 0.0), dict.fromkeys(starts, 0)
    for begin in range(0, length, CHUNK):
        indices = range(begin, min(begin + CHUNK, length))
        began = time.perf_counter()
        images = {"RGB": [sequence.frame(index) for index in indices]}
        decoded = time.perf_counter()
        images["BGR"] = [np.ascontiguousarray(frame[..., ::-1]) for frame in images["RGB"]]
        spent.decode, spent.convert = spent.decode + decoded - began, spent.convert + time.perf_counter() - decoded
        spent.frames += len(indices)
        for name, start in starts.items():
            if begin == 0:
                trackers[name] = start(images, sequence)
                boxes[name][0] = sequence.boxes[0]
            tracker = trackers[name]
            for index, frame in zip(indices, images[tracker.order], strict=True):
                if index > 0:
                    began = time.perf_counter()
                    box, is_lost = tracker.step(frame)
                    seconds[name] += time.perf_counter() - began
                    boxes[name][index], lost[name] = box, lost[name] + is_lost
        on_frames(len(indices))
    for name, run in runs.items():
        run.boxes[key], run.seconds[key], run.lost[key] = boxes[name], seconds[name], lost[name]


def build_starts(
    models: list[str], kinds: list[str], vit: Path | None = None, nano: list[Path] | None = None
) -> tuple[dict[str, Start], dict[str, float]]:
    """For each tracker's name, the function that starts it, and the size of its weights in MB.

    Raises `ValueError` for two models of one name, `ImportError` where OpenCV lacks a tracker, and what loading
    raises.
    """
    for path in filter(None, [vit, *(nano or [])]):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such network; github.com/opencv/opencv_zoo has some")
    import torch

    from modeling_pjvlt import PJVLTModel, PJVLTProcessor
    from modeling_pjvlt.run_folders import checkpoint_name, find_checkpoint

    for kind in (*kinds, *(["vit"] if vit else []), *(["nano"] if nano else [])):
        opencv_class(kind)
    starts, sizes = {}, {}
    for path in models:
        path = find_checkpoint(path)
        name = checkpoint_name(path)
        if name in starts:
            raise ValueError(f"Two models are called {name!r}; rename a folder.")
        model = PJVLTModel.from_pretrained(path, dtype=torch.float32)
        processor = PJVLTProcessor.from_pretrained(path)
        sizes[name] = file_megabytes(sorted(Path(path).glob("*.safetensors")))
        starts[name] = lambda images, sequence, model=model, processor=processor: PJVLTTracker(
            model, processor, sequence.text, images["RGB"][0], sequence.boxes[0]
        )

    def add(name: str, create: Callable, files: list[Path], order: str = "BGR") -> None:
        sizes[name] = file_megabytes(files)
        starts[name] = lambda images, sequence: OpenCVTracker(create, images[order][0], sequence.boxes[0], order)

    for kind in kinds:
        add(OPENCV[kind], lambda kind=kind: opencv_class(kind).create(), [])
    if vit:
        add("VitTrack as shipped", lambda: create_vit(vit, as_trained=False), [vit])
        add("VitTrack", lambda: create_vit(vit, as_trained=True), [vit], "RGB")
    if nano:
        add("NanoTrack", lambda: create_nano(*nano), nano)
    return starts, sizes


def file_megabytes(files: list[Path]) -> float:
    return sum(file.stat().st_size for file in files) / 1e6


@dataclass
class Comparison:
    """All measurements. groups: dataset -> keys of its sequences. truth: the ground truth of all keys."""

    runs: dict[str, Run]
    groups: dict[str, list[str]]
    truth: object
    spent: Preparation
    protocol: str

    def scores(self, name: str, keys: list[str]):
        """`BenchmarkScores` of one tracker on some sequences."""
        from modeling_pjvlt.evaluation.runner import GroundTruth, score

        truth = GroundTruth({k: self.truth.boxes[k] for k in keys}, {k: self.truth.absent[k] for k in keys}, None)
        return score(self.protocol, self.runs[name].boxes, truth, {})

    def strict_share(self, name: str, keys: list[str]) -> float:
        """Percent of later frames with a visible target whose IoU is above `STRICT_IOU`; mean of sequences."""
        from modeling_pjvlt.evaluation.metrics import iou

        shares = []
        for key in keys:
            visible = ~np.asarray(self.truth.absent[key][1:], bool)
            if visible.any():
                overlaps = iou(self.runs[name].boxes[key][1:][visible], self.truth.boxes[key][1:][visible])
                shares.append((overlaps > STRICT_IOU).mean())
        return 100 * float(np.mean(shares))


def run_comparison(args: argparse.Namespace) -> Comparison:
    """Load models and data, track with all trackers, and return the measurements."""
    import torch
    from tqdm.auto import tqdm

    from modeling_pjvlt import DEFAULT_CHECKPOINT
    from modeling_pjvlt.evaluation.runner import GroundTruth, ground_truth
    from modeling_pjvlt.evaluation.sequences import load_sequences

    if args.max_frames is not None and args.max_frames < 2:
        raise ValueError(f"--max_frames must be at least 2, got {args.max_frames}: the first frame is given.")
    starts, sizes = build_starts(args.model or [DEFAULT_CHECKPOINT], args.trackers, args.vit, args.nano)
    args.num_threads = args.num_threads or torch.get_num_threads()
    torch.set_num_threads(args.num_threads)
    if args.trackers or args.vit or args.nano:
        import cv2

        cv2.setNumThreads(args.num_threads)
    truth, groups, sequences = GroundTruth({}, {}, None), {}, {}
    for name in args.dataset_name:
        group = Path(name).resolve().name if Path(name).is_dir() else name
        if group in groups:
            raise ValueError(f"Two datasets are called {group!r}; compare them one by one.")
        loaded = load_sequences(name, args.split)[: args.max_sequences]
        loaded_truth = ground_truth(loaded)
        if not loaded_truth.known:
            raise ValueError(f"{name}: the ground truth is not public, there is nothing to compare with.")
        groups[group] = [f"{group}/{sequence.name}" for sequence in loaded]
        for key, sequence in zip(groups[group], loaded, strict=True):
            sequences[key] = sequence
            truth.boxes[key] = loaded_truth.boxes[sequence.name][: args.max_frames]
            truth.absent[key] = loaded_truth.absent[sequence.name][: args.max_frames]
    short = [key for key, boxes in truth.boxes.items() if len(boxes) < 2]
    if short:
        raise ValueError(f"{len(short)} sequences have a single frame: {short[:5]}.")
    if len(groups) > 1:
        groups[TOGETHER] = list(sequences)
    comparison = Comparison({name: Run(sizes[name]) for name in starts}, groups, truth, Preparation(), args.protocol)
    total = sum(len(boxes) for boxes in truth.boxes.values())
    with tqdm(total=total, unit="frame", disable=None) as bar:
        for key, sequence in sequences.items():
            bar.set_description(key)
            length = len(truth.boxes[key])
            try:
                compare(sequence, key, length, starts, comparison.runs, comparison.spent, bar.update)
            except ValueError as error:
                raise ValueError(f"Sequence {key!r}: {error}") from error
            done = list(comparison.runs[next(iter(starts))].boxes)
            bar.set_postfix({name: f"{comparison.scores(name, done)['auc']:.1f}" for name in starts})
    return comparison


def overall_table(comparison: Comparison, group: str) -> str:
    """Markdown: a row for each tracker, best AUC first."""
    keys = comparison.groups[group]
    rows = []
    for name, run in comparison.runs.items():
        scores, (median, overall) = comparison.scores(name, keys), run.fps(keys)
        strict = comparison.strict_share(name, keys)
        speed = median, overall, run.lost_share(keys), run.megabytes
        rows.append((scores["auc"], strict, scores["precision"], *speed, name))
    lines = [
        f"{group} ({len(keys)} sequences, {sum(len(comparison.truth.boxes[k]) for k in keys)} frames, protocol "
        f"`{comparison.protocol}`)\n",
        f"| tracker | AUC | IoU > {STRICT_IOU}, % | precision | FPS (median of sequences) | FPS (all frames) | lost, "
        "% | MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for auc, strict, precision, median, overall, lost, megabytes, name in sorted(rows, reverse=True):
        figures = " | ".join(f"{value:.1f}" for value in (auc, strict, precision, median, overall, lost, megabytes))
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)


def sequence_table(comparison: Comparison) -> str:
    """Markdown: AUC and FPS of every tracker on every sequence."""
    names = list(comparison.runs)
    lines = [
        "| sequence | frames | " + " | ".join(f"{name}: AUC | FPS" for name in names) + " |",
        "|---|---:|" + "---:|---:|" * len(names),
    ]
    for key, boxes in comparison.truth.boxes.items():
        cells = [
            f"{comparison.scores(name, [key])['auc']:.1f} | {run.fps([key])[0]:.0f}"
            for name, run in comparison.runs.items()
        ]
        lines.append(f"| {key} | {len(boxes)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def environment(args: argparse.Namespace) -> dict:
    import torch

    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": args.num_threads}
    if args.trackers or args.vit or args.nano:
        import cv2

        machine["opencv"] = cv2.__version__
    return machine


def as_json(comparison: Comparison, args: argparse.Namespace) -> dict:
    """Settings, scores in percent, FPS, and every box."""
    spent = comparison.spent
    groups = {
        group: {
            name: {
                **comparison.scores(name, keys),
                **dict(zip(("fps_median", "fps"), run.fps(keys), strict=True)),
                "strict": comparison.strict_share(name, keys),
                "lost": run.lost_share(keys),
                "megabytes": run.megabytes,
            }
            for name, run in comparison.runs.items()
        }
        for group, keys in comparison.groups.items()
    }
    sequences = {
        key: {
            name: {
                **comparison.scores(name, [key]),
                "fps": run.fps([key])[0],
                "lost": run.lost_share([key]),
                "boxes": run.boxes[key].tolist(),
            }
            for name, run in comparison.runs.items()
        }
        for key in comparison.truth.boxes
    }
    return {
        "protocol": comparison.protocol,
        "environment": environment(args),
        "decode_ms": 1000 * spent.decode / spent.frames,
        "bgr_ms": 1000 * spent.convert / spent.frames,
        "datasets": groups,
        "sequences": sequences,
    }


def plot_success(comparison: Comparison, path: str) -> None:
    """Success curves of all trackers over all sequences. Raises `ImportError` without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="overlap threshold", ylabel="frames, %", xlim=(0, 1), ylim=(0, 100), title="Success (AUC)"
    )
    by_name = {name: comparison.scores(name, list(comparison.truth.boxes)) for name in comparison.runs}
    for name, scores in sorted(by_name.items(), key=lambda item: -item[1]["auc"]):
        axes.plot(scores.thresholds["success"], scores.curves["success"], label=f"{name} ({scores['auc']:.1f})")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)


def main(argv: list[str] | None = None) -> int:
    """Compare and print. Returns the exit code: 2 for a user's mistake, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    try:
        comparison = run_comparison(args)
        for group in comparison.groups:
            print(f"\n{overall_table(comparison, group)}")
        spent = comparison.spent
        print(
            f"\nNot in the FPS, per frame: decoding {1000 * spent.decode / spent.frames:.2f} ms, RGB to BGR (OpenCV "
            f"only) {1000 * spent.convert / spent.frames:.2f} ms."
        )
        print(", ".join(f"{name} {value}" for name, value in environment(args).items()))
        border = comparison.truth.at_border() if args.protocol in BORDER_PROTOCOLS else 0
        if border:
            print(
                f"{border} frames have a target whose x or y is not positive. For every tracker, the success curve of "
                f"`{args.protocol}` counts them as missed. `--protocol pytracking` scores them like all others."
            )
        if args.per_sequence:
            print(f"\n{sequence_table(comparison)}")
        if args.output:
            write_text(args.output, json.dumps(as_json(comparison, args), indent=1))
        if args.plot:
            plot_success(comparison, args.plot)
    except (ImportError, ValueError, OSError) as error:
        print(f"compare_opencv.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare_opencv.py: error: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
