"""Speed, memory and size of PJVLT.

python scripts/benchmarks model                      parameters and multiply-accumulates of PJVLT-B, by part
python scripts/benchmarks model --model my-checkpoint
python scripts/benchmarks data                       speed and memory of the training data
python scripts/benchmarks data pairs                 only that part: pairs, index or memory
python scripts/benchmarks train                      steps per second, waiting for data, share of the matmul peak
python scripts/benchmarks train --model base --batch_size 128 --workers 14 --compile     on a GPU
python scripts/benchmarks evaluation                 how long scoring the boxes of a whole benchmark takes
python scripts/benchmarks load                       import, --help, from_pretrained of PJVLT-B: seconds and memory
python scripts/benchmarks soak                       memory over 20 000 frames of one session
python scripts/benchmarks tracking                   milliseconds per frame by stage, path, precision and targets
python scripts/benchmarks tracking --quick           one target, few repeats
python scripts/benchmarks tracking --busy 2          the same, while two processes keep the cores busy
python scripts/benchmarks tracking --device cuda     on a GPU, with torch.compile and CUDA graphs

MACs are counted by running the model once (convolutions, linear maps and attention); a sentence is 20 tokens.
"""

import argparse
from pathlib import Path

import torch
from machine import busy_processes
from model import describe_model
from tracking_cases import COMPILED, EAGER, EXPORTED, HELP


def add_tracking(commands) -> None:
    """Add the arguments of `tracking`."""
    tracking = commands.add_parser(
        "tracking",
        help="milliseconds per frame by stage, path, precision and targets",
        description=(
            "Times decoding, crop, network, box, and all of them end to end. The cases take turns in one process. "
            "Prints medians, quartiles, MACs, the share of this machine's matmul peak, and ratios with their goals. "
            "Leave the machine alone meanwhile. 16 targets take most of the time."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=HELP,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tracking.add_argument("--device", choices=["cpu", "cuda"], default=device, help=f"default here: {device}")
    tracking.add_argument(
        "--models", nargs="+", help="base, tiny, small, folders or Hub ids (default: base tiny; GPU: base)"
    )
    tracking.add_argument(
        "--cases",
        nargs="+",
        choices=EAGER + COMPILED + EXPORTED,
        help="cases to run, see below (default: the first four; on a GPU the compiled ones, too)",
    )
    tracking.add_argument("--compile", action="store_true", help="also the compiled cases")
    tracking.add_argument(
        "--precisions", nargs="+", choices=["fp32", "bf16", "fp16"], help="default: fp32 bf16; on a GPU: bf16 fp16"
    )
    tracking.add_argument(
        "--targets", nargs="+", type=int, help="targets in one video (default: 1 4 16; on a GPU: 1 32)"
    )
    tracking.add_argument("--repeats", type=int, default=9, help="turns of a case, fewer of slow ones (default: 9)")
    tracking.add_argument(
        "--compile_seconds", type=float, default=200, help="start no compilation after so many (default: 200)"
    )
    tracking.add_argument(
        "--num_threads", type=int, help="threads of every case (default: one for small models, else torch's number)"
    )
    tracking.add_argument(
        "--busy", type=int, default=0, metavar="N", help="beside N processes that each keep a core busy (default: 0)"
    )
    tracking.add_argument("--quick", action="store_true", help="one target and at most three repeats")
    tracking.add_argument("--output", type=Path, metavar="FILE", help="also write all measurements as JSON")


def run_tracking(args: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the device, and measure."""
    from tracking import benchmark_tracking

    on_gpu = args.device == "cuda"
    cases = args.cases or [*EAGER, *(COMPILED if on_gpu else [])]
    cases += [case for case in COMPILED if args.compile and case not in cases]
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    with busy_processes(args.busy):
        benchmark_tracking(
            args.models or (["base"] if on_gpu else ["base", "tiny"]),
            cases,
            args.precisions or (["bf16", "fp16"] if on_gpu else ["fp32", "bf16"]),
            args.targets or ([1] if args.quick else [1, 32] if on_gpu else [1, 4, 16]),
            min(args.repeats, 3) if args.quick else args.repeats,
            torch.device(args.device),
            args.compile_seconds,
            args.output,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    model = commands.add_parser("model", help="parameters and MACs by part")
    model.add_argument("--model", help="checkpoint whose config is used: folder or Hub id (default: PJVLT-B)")
    data = commands.add_parser("data", help="pairs per second, time to the first pair, memory")
    data.add_argument("part", nargs="?", choices=["pairs", "index", "memory"], help="default: all three")
    train = commands.add_parser("train", help="steps per second, waiting for data, share of the matmul peak")
    train.add_argument("--model", choices=["tiny", "small", "base"], default="tiny", help="default: tiny")
    train.add_argument("--batch_size", type=int, default=32, help="default: 32")
    train.add_argument("--steps", type=int, default=10, help="measured steps, after three to warm up (default: 10)")
    train.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="bf16", help="default: bf16")
    train.add_argument("--workers", type=int, default=0, help="processes that prepare pairs (default: 0)")
    train.add_argument("--compile", action="store_true", help="with torch.compile")
    commands.add_parser("evaluation", help="seconds to score 280 sequences with 685 000 frames, by protocol")
    load = commands.add_parser("load", help="seconds to import and to load PJVLT-B, and memory")
    load.add_argument(
        "--runs", type=int, default=5, help="runs in processes of their own, for the median (default: 5)"
    )
    soak = commands.add_parser("soak", help="memory of the process over many frames of one session")
    soak.add_argument("--frames", type=int, default=20_000, help="frames of the session (default: 20000)")
    add_tracking(commands)
    args = parser.parse_args()
    if args.command == "model":
        describe_model(args.model)
    elif args.command == "train":
        from train import benchmark_train

        benchmark_train(args.model, args.batch_size, args.steps, args.mixed_precision, args.workers, args.compile)
    elif args.command == "soak":
        from soak import benchmark_soak

        benchmark_soak(args.frames)
    elif args.command == "load":
        from load import benchmark_load

        benchmark_load(args.runs)
    elif args.command == "tracking":
        run_tracking(args)
    elif args.command == "evaluation":
        from evaluation import benchmark_evaluation

        benchmark_evaluation()
    else:
        from data import benchmark_data

        benchmark_data(args.part)
