"""`pjvlt-convert-weights`: convert another tracker's published weights to a folder that `from_pretrained` loads."""

import argparse
import sys

from ..command_parser import CommandParser, silent_when_piped
from ..signals import exit_code, stopped_by_signals
from . import print_any_name

SOURCES = ("ostrack",)


def build_parser() -> CommandParser:
    parser = CommandParser(
        prog="pjvlt-convert-weights",
        usage="pjvlt-convert-weights ostrack CHECKPOINT --output FOLDER",
        description="Write a published tracker's checkpoint as a folder that from_pretrained and all commands load.\n"
        "ostrack: OSTrack's OSTrack_ep0300.pth.tar, which its authors publish under the MIT licence; download it\n"
        "yourself. Only tensors are read from the file; no code in it is executed. OSTrack uses no sentence.\n"
        "Candidate elimination is off, even for weights that were trained with it.",
        epilog="examples:\n"
        "  pjvlt-convert-weights ostrack OSTrack_ep0300.pth.tar --output ostrack\n"
        "  pjvlt-track clip.mp4 --box 120 64 90 70 --model ostrack\n\n"
        "a language model that starts from it:\n"
        '  PJVLTModel.from_backbones(tracker="ostrack", text="google-bert/bert-base-uncased")',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", choices=SOURCES, metavar="SOURCE", help="the tracker: ostrack")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the file that its authors publish")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to write; must be new or empty")
    return parser


@silent_when_piped
def main(argv: list[str] | None = None) -> int:
    """Convert and report. Returns the exit code: 2 for a user's mistake, 128 + its number for a signal."""
    print_any_name()
    args = build_parser().parse_args(argv)
    try:
        from ..convert_ostrack_weights import convert

        with stopped_by_signals():
            model = convert(args.checkpoint, args.output)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"pjvlt-convert-weights: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("pjvlt-convert-weights: interrupted; nothing was written", file=sys.stderr)
        return exit_code(stop)
    config = model.config
    print(
        f"wrote {args.output}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, template "
        f"{config.template_size}, search region {config.search_size} pixels; it uses no sentence, and candidate "
        "elimination is off"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
