"""The console commands, one module each."""

import io
import sys


def print_any_name() -> None:
    """Let standard output print file names that are not valid text, as standard error does: caf\\udce9.mp4."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
