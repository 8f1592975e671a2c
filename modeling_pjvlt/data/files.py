"""Text files that are never half written."""

import os
from pathlib import Path


def write_beside(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # of names of files
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
