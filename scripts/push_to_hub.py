"""Publish a trained checkpoint: weights, processor, the code for machines without this package, and a model card."""

import argparse
import sys
from pathlib import Path

EPILOG = """\
CHECKPOINT is a folder that training wrote: outputs/mine, or one of its checkpoints. If outputs/mine/arguments.json
exists, the arguments of the run go into the card; of folders on this machine it shows the last name only.

look first: write everything into a folder, with the card (README.md), and send nothing
  python scripts/push_to_hub.py outputs/mine/checkpoints/last/pretrained_model me/mine --dry_run look

then send it, with its scores
  hf auth login    # or set HF_TOKEN
  python scripts/push_to_hub.py outputs/mine/checkpoints/last/pretrained_model me/mine --private \\
      --metrics metrics.json --hardware "1 x H200, 3 hours"

metrics.json holds numbers by name; the part before a slash is the data the number was measured on:
  {"LaSOT/success_auc": 0.71, "LaSOT/precision": 0.78}
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Print the error in one line, without the usage, and exit with 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="push_to_hub",
        description="Publish a trained checkpoint on the Hugging Face Hub in one commit: weights, processor, the\n"
        "code that a machine without this package needs (trust_remote_code), and a model card.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "checkpoint", metavar="CHECKPOINT", help="folder with config.json, model.safetensors and the processor's files"
    )
    add("repo", metavar="REPO", help="model repository, user/name; created if it does not exist")
    add("--private", action="store_true", help="make a new repository private; nothing is sent to a public one")
    add("--metrics", metavar="JSON", help="JSON file of scores, numbers by name")
    add(
        "--evaluated_on",
        default="",
        metavar="TEXT",
        help="what metrics without a slash in their name were measured on",
    )
    add(
        "--datasets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="training data (default: from the arguments of the run)",
    )
    add("--hardware", default="", metavar="TEXT", help="what it was trained on, and for how long")
    add("--limits", nargs="+", default=[], metavar="TEXT", help="sentences to add to the card's limits")
    add("--citation", metavar="BIB", help="BibTeX file, for the card")
    add("--license", default="apache-2.0", help="of the weights, as the Hub names it (default: %(default)s)")
    add("--revision", metavar="BRANCH", help="branch to send it to, created if needed (default: main)")
    add("--commit_message", default="Upload PJVLT checkpoint", metavar="TEXT", help="default: %(default)s")
    add("--dry_run", metavar="FOLDER", help="write the files into this new folder, and send nothing")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Publish, or write a folder. Returns the exit code: 2 after a one-line error, 130 when interrupted."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        print(_run(args))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted; the checkpoint was not changed", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> str:
    from modeling_pjvlt.hub.publishing import push_checkpoint, read_metrics, read_run_arguments
    from modeling_pjvlt.run_folders import find_checkpoint

    args.checkpoint = find_checkpoint(args.checkpoint)
    place = push_checkpoint(
        args.checkpoint,
        args.repo,
        arguments=read_run_arguments(args.checkpoint),
        metrics=read_metrics(args.metrics) if args.metrics else None,
        datasets=args.datasets,
        hardware=args.hardware,
        license=args.license,
        evaluated_on=args.evaluated_on,
        limits=args.limits,
        citation=Path(args.citation).read_text(encoding="utf-8") if args.citation else "",
        private=args.private or None,
        revision=args.revision,
        commit_message=args.commit_message,
        dry_run=args.dry_run,
    )
    if args.dry_run is None:
        return f"pushed to {place}"
    return f"wrote {place}; its README.md is the card. Nothing was sent."


if __name__ == "__main__":
    sys.exit(main())
