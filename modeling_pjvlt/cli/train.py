"""`pjvlt-train`: train or fine-tune a PJVLT model from a recipe."""

import os
import shlex
import sys

from .. import _registration
from ..command_parser import silent_when_piped
from ..signals import exit_code
from . import print_any_name

INTERRUPTED = 130  # exit code of a run that a signal ended early, with a checkpoint


@silent_when_piped
def main(argv: list[str] | None = None) -> int:
    """Train, print where the checkpoint is, and push it with --push_to_hub.

    Returns the exit code: 2 for a user's mistake, 1 for a run that broke off or a checkpoint that could not be pushed,
    130 for a run that a signal ended with a checkpoint, 128 + the signal's number where there was no time for one.
    """
    print_any_name()
    try:
        with _registration.held():  # --help needs no model, and so no torch
            from ..training.command_line import parse_arguments

            args = parse_arguments(argv)
        from ..training.trainer import run

        result = run(args)
    except KeyboardInterrupt as stop:  # before the first step, or a second signal
        return _fail("interrupted; finished checkpoints are kept", exit_code(stop))
    except ModuleNotFoundError as error:
        return _fail(f"training needs {error.name}: pip install 'pjvlt[train]'")
    except FloatingPointError as error:
        return _fail(f"{error}; the model before this step and the batch are in {args.output_dir}/failure-*", 1)
    except (ValueError, FileNotFoundError) as error:
        return _fail(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(str(error), 1)
    if int(os.environ.get("RANK", "0")) > 0:  # in a distributed run, only the main process prints
        return INTERRUPTED if result.interrupted else 0
    if result.interrupted:
        print(
            f"\nInterrupted after step {result.steps}; its checkpoint is saved. To continue, repeat the command with "
            "--resume_from_checkpoint last."
        )
        return INTERRUPTED
    print(
        f"Last checkpoint: {result.folder}\n"
        f"  load it      PJVLTModel.from_pretrained({str(result.folder)!r})\n"
        f'  track        pjvlt-track VIDEO --box X Y W H --text "..." --model {shlex.quote(args.output_dir)}\n'
        f"  evaluate     pjvlt-eval --dataset_name NAME --model {shlex.quote(args.output_dir)}\n"
        "  train longer the same command with --resume_from_checkpoint last and a larger --max_train_steps"
    )
    return _push(args, result) if args.push_to_hub else 0


def _push(args, result) -> int:
    """Upload the last checkpoint. If that fails, it stays on disk, and the message says how to try again."""
    from dataclasses import asdict
    from pathlib import Path

    from ..hub.publishing import describe_hardware, push_checkpoint

    repo_id = args.hub_model_id or Path(args.output_dir).resolve().name
    try:
        address = push_checkpoint(
            result.folder,
            repo_id,
            arguments=asdict(args),
            metrics=result.metrics,
            datasets=args.dataset_name,
            hardware=describe_hardware(),
            evaluated_on=f"validation during training: {args.validation_dataset_name or 'procedural clips'}",
            private=args.hub_private_repo or None,
        )
    except (ValueError, OSError) as error:
        message = f"the checkpoint is not on the Hub: {error}\nIt is complete in {result.folder}"
        return _fail(f"{message}; try again with scripts/push_to_hub.py {result.folder} {repo_id}", 1)
    print(f"Pushed to {address}")
    return 0


def _fail(message: str, code: int = 2) -> int:
    print(f"pjvlt-train: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
