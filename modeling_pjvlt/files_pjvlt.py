"""Files and folders that appear under their names only when they are complete.

Everything is written to a hidden file or folder beside the target and renamed at the end. So a reader finds either the
old or the new content, even if the program is stopped.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PARTIAL = ".partial"


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path of the same name to write a file to, which takes the place of `path` when the block ends well.

    When the block ends with an error, what was written is deleted and `path` stays as it was. Several processes may
    replace the same file at once. The folder of `path` must exist.
    """
    path = Path(path)
    with TemporaryDirectory(PARTIAL, f".{path.name}.", path.parent) as folder:
        partial = Path(folder) / path.name
        yield partial
        os.replace(partial, path)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace a text file, in UTF-8. File names that are not valid Unicode are written with escapes."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_new_folder(path: str | os.PathLike) -> None:
    """Raises `FileExistsError` unless a folder can be written there without the loss of anything."""
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} already exists and is not empty; choose another folder")


def partial_folder(path: Path) -> Path:
    """The folder that `replacing_folder` yields: while it is open, other processes may write to it, too."""
    return path.with_name(f".{path.name}{PARTIAL}")


@contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `path` when the block ends well.

    When the block ends with an error, what was written is deleted and `path` stays as it was. What a killed run left
    is deleted first, so only one process may replace a folder at a time. Missing parents are made.
    """
    path = Path(path)
    partial, old = partial_folder(path), path.with_name(f".{path.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path, name: str = "") -> None:
    """Delete what killed runs left in `folder` of files whose names begin with `name`.

    No other process may be writing there.
    """
    for leftover in folder.glob(f".{name}*{PARTIAL}"):
        shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
