"""Checkpoints as `checkpoints/005000/pretrained_model`, each of which loads with `from_pretrained`, and `last`."""

import os
import shutil
from pathlib import Path


def save_checkpoint(output_dir: str | Path, step: int, model, processor) -> Path:
    """Write `checkpoints/<step>/pretrained_model` beside its place, rename it, and point `checkpoints/last` to it.

    Returns the folder that loads with `from_pretrained`. A kill at any moment leaves the previous `last` intact.
    """
    root = Path(output_dir) / "checkpoints"
    final, partial = root / f"{step:06d}", root / f".{step:06d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial / "pretrained_model")
    processor.save_pretrained(partial / "pretrained_model")
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    link = root / ".last.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    os.replace(link, root / "last")
    return final / "pretrained_model"
