"""The parser of all commands: errors are one line and the usage, `--version` works, closed pipes give no traceback."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path

from . import __version__
from .files_pjvlt import check_new_folder
from .run_folders import find_checkpoint
from .streams_pjvlt import hide_secrets

CLOSE = 0.75  # least similarity of an option that is suggested for an unknown one
MODEL_HELP = "folder of a checkpoint or a run, pjvlt-small, pjvlt-tiny, or a Hub id (default: pjvlt-small)"
PIPE_CLOSED = 141  # exit code that shells expect after SIGPIPE (128 + 13)


def new_folder(text: str) -> Path:
    """Type of an argument: a folder to write, which does not exist yet or is empty."""
    try:
        check_new_folder(text)
    except FileExistsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def checkpoint(text: str) -> str:
    """Type of an argument: a checkpoint's folder, that of a run, a bundled one's name, or a Hub id."""
    try:
        return find_checkpoint(text)
    except FileNotFoundError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are short, suggest the closest option, and hide passwords."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def parse_args(self, args=None, namespace=None):
        """Like argparse, but an unknown option is the first error that is reported."""
        args = sys.argv[1:] if args is None else list(args)
        for word in args[: args.index("--")] if "--" in args else args:
            self._check_option(word)
        return super().parse_args(args, namespace)

    def _check_option(self, word: str) -> None:
        known, flag = self._option_string_actions, word.partition("=")[0]
        is_option = re.match(r"--?[A-Za-z_]", flag) and " " not in flag
        if not is_option or flag in known or (flag.startswith("--") and any(name.startswith(flag) for name in known)):
            return
        names = [name for name in known if "-" not in name.lstrip("-")]  # HfArgumentParser knows each in two spellings
        close = get_close_matches("--" + flag.lstrip("-").replace("-", "_"), names, 2, CLOSE)
        self.error(f"there is no option {flag}" + (f"; did you mean {' or '.join(close)}?" if close else ""))

    def error(self, message: str):
        """Print the error in one line and the usage in another, and exit with 2."""
        line = hide_secrets(" ".join(message.split()))
        self.exit(2, f"{self.prog}: error: {line}\n{self.format_usage().strip()}; see {self.prog} --help\n")


def silent_when_piped(main: Callable) -> Callable:
    """Wrap a command's `main` so that it exits silently, with code 141, when the reader of its output is gone."""

    @wraps(main)
    def run(argv: list[str] | None = None):
        try:
            try:
                return main(argv)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
            raise SystemExit(PIPE_CLOSED) from None

    return run
