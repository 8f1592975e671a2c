"""Places and names of a run's checkpoints. Fast to import."""

import os
import re
from difflib import get_close_matches
from pathlib import Path

MODEL_FOLDER, LAST = "pretrained_model", "last"
CONFIG_FILE = "config.json"
BUNDLED = Path(__file__).parent / "pretrained"  # its folders are known by their names alone


def find_checkpoint(name_or_path: str) -> str:
    """The argument for `from_pretrained`: a checkpoint's folder or Hub id as it is, or the last checkpoint of a run.

    "pjvlt-small" and "pjvlt-tiny" are the checkpoints that ship with the package, unless there is a folder of this
    name.

    Raises `FileNotFoundError` for a folder without a checkpoint, and for a path where there is no folder.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        if (folder / CONFIG_FILE).is_file():
            return str(folder)
        for inside in (folder, folder / LAST, folder / "checkpoints" / LAST):
            step = inside.parent / os.readlink(inside) if inside.is_symlink() else inside
            if (step / MODEL_FOLDER / CONFIG_FILE).is_file():
                return str(step / MODEL_FOLDER)
        raise FileNotFoundError(
            f"{name_or_path}: there is no checkpoint in this folder: neither {CONFIG_FILE} nor checkpoints/{LAST} of "
            "a run."
        )
    if (BUNDLED / name_or_path / CONFIG_FILE).is_file() and folder.name == name_or_path:
        return str(BUNDLED / name_or_path)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name_or_path) or name_or_path.startswith("."):
        near = get_close_matches(folder.name, os.listdir(folder.parent) if folder.parent.is_dir() else [], 1)
        raise FileNotFoundError(
            f"{name_or_path}: no such checkpoint folder."
            + (f" Did you mean {folder.parent / near[0]}?" if near else "")
        )
    return name_or_path


def checkpoint_name(name_or_path: str) -> str:
    """A short name: RUN-STEP for a run's checkpoint, else the folder's name or the Hub id."""
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        return name_or_path
    *_, run, checkpoints, step, name = ("", "", "", *folder.resolve().parts)
    return f"{run}-{step}" if (checkpoints, name) == ("checkpoints", MODEL_FOLDER) else name
