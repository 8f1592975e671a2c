"""The parser of all commands: an error is one line and the usage, `--version` works, and closed pipes are silent."""

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
from .streams_pjvlt import hide_secrets

CLOSE = 0.75  # similarity from which on an option is suggested in place of an unknown one
PIPE_CLOSED = 141  # what a shell expects of a command whose reader has gone


def new_folder(text: str) -> Path:
    """Type of an argument: a folder to write, which is not there yet or empty."""
    try:
        check_new_folder(text)
    except FileExistsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are short, name the option that was meant, and hold no password."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def parse_args(self, args=None, namespace=None):
        """As usual, but an unknown option is the first error that is reported."""
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
        self.exit(2, f"{self.prog}: error: {line}\n{self.format_usage().strip()}; {self.prog} --help tells all\n")


def silent_when_piped(main: Callable) -> Callable:
    """A command's `main` that exits silently, with code 141, when the reader of its output has closed the pipe."""

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
