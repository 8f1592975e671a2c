"""`pjvlt-export`: export a checkpoint to ONNX or OpenVINO, to track without torch, or to `torch.export` programs."""

import argparse
import sys

from .. import DEFAULT_CHECKPOINT
from ..command_parser import CommandParser, silent_when_piped
from ..signals import exit_code, stopped_by_signals
from . import print_any_name

FORMATS = ("onnx", "openvino", "torch_export")
DTYPES = ("float32", "float16", "bfloat16")
EVALUATED_CLIPS = 20  # default with --int8, which can cost accuracy


def build_parser() -> CommandParser:
    parser = CommandParser(
        prog="pjvlt-export",
        usage="pjvlt-export --output_dir FOLDER [--model PATH_OR_REPO] [options]",
        description="Export a checkpoint to a folder. ONNX: tracker.onnx (in: search crop and the constants of\n"
        "template and sentence; out: three maps), template.onnx (in: template crop; out: its constants), text.onnx\n"
        "(in: a tokenised sentence; out: its constants), tokenizer.json and pjvlt_onnx.json (sizes and factors of\n"
        "the crops, normalisation). OpenVINO: the same three graphs as .xml and .bin. A batch holds any number of\n"
        "targets, a sentence up to 40 tokens. An export whose maps differ from PyTorch's is not kept.",
        epilog="examples:\n"
        "  pjvlt-export --output_dir pjvlt-onnx\n"
        "  pjvlt-export --model my-name/my-pjvlt --int8 --eval_dataset_name my-clips --output_dir pjvlt-int8\n"
        "  pjvlt-export --format torch_export --output_dir pjvlt-pt2\n\n"
        "track with it, no torch needed:\n"
        "  from modeling_pjvlt.onnx.tracker import OnnxTracker\n"
        '  tracker = OnnxTracker("pjvlt-onnx")\n'
        '  tracker.add_target(first_frame, box=[x, y, w, h], text="white dog")\n'
        "  (target,) = tracker.step(next_frame)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default=DEFAULT_CHECKPOINT, help="checkpoint: folder or Hub id (default: bundled)")
    add("--output_dir", required=True, help="folder to write; it must not exist yet")
    add("--overwrite_output_dir", action="store_true", help="replace an earlier export in that folder")
    add(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx, openvino, or torch_export for .pt2 files (default: onnx)",
    )
    add(
        "--dtype", choices=DTYPES, default="float32",
        help="type of the per-frame graph; 16 bits are for GPUs, bfloat16 for torch_export only (default: float32)",
    )  # fmt: skip
    add(
        "--int8", action="store_true",
        help="ONNX: 8-bit matmuls in tracker.onnx; prints how much success AUC this costs",
    )  # fmt: skip
    add(
        "--eval_clips", type=int, metavar="N",
        help=f"measure AUC on N procedural clips (default: {EVALUATED_CLIPS} with --int8, else none)",
    )  # fmt: skip
    add(
        "--eval_dataset_name", nargs="+", default=[], metavar="NAME",
        help="measure AUC also on a tracking dataset (Hub id or folder) or a folder of sequences; needs pjvlt[eval]",
    )  # fmt: skip
    add("--eval_split", help="split of those datasets (default: test, or the only one)")
    add(
        "--num_threads", type=int,
        help="threads for measuring speed and AUC (default: one for a small ONNX model, else the runtime's own)",
    )  # fmt: skip
    return parser


@silent_when_piped
def main(argv: list[str] | None = None) -> int:
    """Export, check, measure. Returns the exit code: 2 for a user's mistake, 128 + its number for a signal."""
    print_any_name()
    args = build_parser().parse_args(argv)
    try:
        _check(args)
        if args.int8 and args.eval_clips is None:
            args.eval_clips = EVALUATED_CLIPS
        from ..onnx.export import export

        with stopped_by_signals():
            export(args)
    except ModuleNotFoundError as error:
        extra = "eval" if error.name in ("datasets", "accelerate") else "export"
        return _fail(f"this needs {error.name}: pip install 'pjvlt[{extra}]'")
    except BrokenPipeError:
        raise
    except (ImportError, ValueError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        return _fail("interrupted; nothing was written", exit_code(stop))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises `ValueError` for arguments that exclude each other, before anything is loaded."""
    if args.format == "onnx" and args.dtype == "bfloat16":
        raise ValueError(
            "--dtype bfloat16: onnxruntime has no bfloat16 on a CPU; take float32, or --format torch_export."
        )
    if args.format == "torch_export" and (args.eval_clips or args.eval_dataset_name or args.num_threads):
        raise ValueError("--eval_clips, --eval_dataset_name and --num_threads are not for --format torch_export.")
    if args.int8 and args.format != "onnx":
        raise ValueError("--int8 is for --format onnx.")
    if args.format == "openvino" and args.dtype != "float32":
        raise ValueError(f"--format openvino is float32 only: leave --dtype {args.dtype} out.")
    if args.int8 and args.dtype != "float32":
        raise ValueError(f"--int8 starts from float32: leave --dtype {args.dtype} out.")
    for name in ("eval_clips", "num_threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")


def _fail(message: str, code: int = 2) -> int:
    print(f"pjvlt-export: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
