"""`pjvlt-convert`: convert a benchmark, as its authors distribute it, to a tracking dataset on disk or on the Hub."""

import argparse
import sys

from ..command_parser import CommandParser, silent_when_piped
from ..signals import exit_code, stopped_by_signals
from . import print_any_name

BENCHMARKS = {
    "lasot": "CATEGORY/CATEGORY-1/{img, groundtruth.txt, nlp.txt, full_occlusion.txt, out_of_view.txt}",
    "lasotext": "the same layout",
    "got10k": "{train,val,test}/GOT-10k_Train_000001/{*.jpg, groundtruth.txt, meta_info.ini, *.label}",
    "trackingnet": "{TRAIN_0..11,TEST}/{anno, frames or zips}; --class_map FILE with lines ID<TAB>class",
    "coco": "annotations/instances_{train,val}2017.json, train2017, val2017",
    "tnl2k": "TNL2K_{train,test}_subset/NAME/{imgs, groundtruth.txt, language.txt}",
    "otb99": "OTB_videos/NAME/{img, groundtruth_rect.txt}, OTB_query_{train,test}/NAME.txt",
    "folders": "your own: NAME/{img, groundtruth_rect.txt or groundtruth.txt, language.txt}",
    "yolo": "your own: images/train/*.jpg, labels/train/*.txt, classes.tsv (number, name, supercategory)",
}


def build_parser() -> CommandParser:
    layouts = "\n".join(f"  {name:<12} {layout}" for name, layout in BENCHMARKS.items())
    parser = CommandParser(
        prog="pjvlt-convert",
        usage="pjvlt-convert BENCHMARK ROOT [--output FOLDER] [options]",
        description="Convert a benchmark's folder, as its authors distribute it, to a tracking dataset: one row per\n"
        "frame, in Parquet files that `load_tracking_dataset` and `pjvlt-train --dataset_name` read. If the command\n"
        "is killed, repeat it: it continues where it stopped.",
        epilog=f"layouts:\n{layouts}\n\nexample:\n  pjvlt-convert lasot LaSOTBenchmark --output lasot --num_proc 8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    parser.add_argument("root", metavar="ROOT", help="the benchmark's folder")
    parser.add_argument("--output", help="folder for the dataset (default: converted/BENCHMARK)")
    parser.add_argument("--push_to_hub", metavar="REPO", help="also upload it to this dataset repository")
    parser.add_argument(
        "--private", action="store_true", help="make a new repository private; nothing is sent to a public one"
    )
    parser.add_argument(
        "--license", default="unknown", help="the Hub's id of the licence, for the dataset card (default: unknown)"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        metavar="SPLIT",
        help="splits to convert, such as train or test (default: all that exist; `folders`: train only)",
    )
    parser.add_argument("--num_proc", type=int, default=1, help="number of processes that write files (default: 1)")
    parser.add_argument(
        "--sequences_per_shard", type=int, help="sequences in each file (default: as many as fill a few hundred MB)"
    )
    parser.add_argument(
        "--class_map",
        metavar="FILE",
        help="trackingnet: lines ID<TAB>class, which its training parts need; yolo: a file to read instead of "
        "ROOT/classes.tsv; the other benchmarks bring their classes",
    )
    parser.add_argument(
        "--sentences", metavar="FILE", help="lines SEQUENCE<TAB>SENTENCE, used instead of the benchmark's own"
    )
    parser.add_argument(
        "--check", choices=("fast", "full"), default="fast",
        help="fast: check the first and last bytes of every image; full: decode every image (default: fast)",
    )  # fmt: skip
    return parser


@silent_when_piped
def main(argv: list[str] | None = None) -> int:
    """Convert, report, push if asked. Returns the exit code: 2 for a user's mistake, 128 + its number for a signal."""
    print_any_name()
    args = build_parser().parse_args(argv)
    output = args.output or f"converted/{args.benchmark}"
    try:
        from huggingface_hub.utils import validate_repo_id

        from ..data.converters import convert
        from ..hub.dataset_publishing import push_folder

        if args.push_to_hub:
            validate_repo_id(args.push_to_hub)  # before a conversion that may take hours
        elif args.private:
            raise ValueError("--private does nothing without --push_to_hub.")
        with stopped_by_signals():
            reports = convert(
                args.benchmark, args.root, output, args.splits, args.num_proc, args.sequences_per_shard,
                args.class_map, args.check, args.license, sentences=args.sentences,
            )  # fmt: skip
        _print_reports(reports)
        if args.sentences and not any(report.given_text for report in reports.values()):
            print(
                f"pjvlt-convert: warning: {args.sentences} names none of these sequences, so it changes nothing; "
                f"sequences are called as in {next(iter(reports))!r} of {output}.",
                file=sys.stderr,
            )
        print(f"wrote {output}; load it with load_tracking_dataset({output!r}, split={next(iter(reports))!r})")
        if args.push_to_hub:
            print(f"pushed to {push_folder(output, args.push_to_hub, args.private or None)}")
    except ModuleNotFoundError as error:
        print(f"pjvlt-convert: error: converting needs {error.name}: pip install 'pjvlt[train]'", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"pjvlt-convert: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("\npjvlt-convert: interrupted; finished files are kept, run it again to continue", file=sys.stderr)
        return exit_code(stop)
    return 0


def _print_reports(reports: dict) -> None:
    for split, report in reports.items():
        if report.without_text == report.sequences > 1:
            print(
                f"pjvlt-convert: warning: none of the {report.sequences} sequences of {split} has a sentence, so each "
                'gets "the target"; give them sentences with --sentences FILE.',
                file=sys.stderr,
            )
    if any(report.skipped for report in reports.values()):
        print("left out, or to be checked:")
    for split, report in reports.items():
        for name, reason in report.skipped:
            print(f"  {split}: {name}: {reason}")
    for split, report in reports.items():
        print(
            f"{split}: {report.sequences} sequences, {report.frames} frames, {report.absent} of them absent, "
            f"{report.without_text} sequences without a sentence"
        )


if __name__ == "__main__":
    sys.exit(main())
