"""How many threads a tracker uses on a CPU.

A small model gains little from a second thread, and loses much while other programs run: OpenMP's threads wait for
each other by spinning, so one thread that waits for a core delays all the others.
"""

import os

import torch
from torch import nn

SMALL = 30_000_000  # a model with fewer parameters in its per-frame part uses one thread
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # of the environment, by which users choose
_FIRST = torch.get_num_threads()  # when this module was imported
_DEFAULTS = {os.cpu_count(), (os.cpu_count() or 1) // 2}  # torch takes one thread for each core, or physical core
_ours: int | None = None  # what `set_threads` has set for a model


def users_choice() -> int | None:
    """The number of threads that the user has set, in the environment or in torch; None if neither is set."""
    threads = torch.get_num_threads()
    if any(name in os.environ for name in SETTINGS):
        return threads
    return None if threads == _ours or (threads == _FIRST and _FIRST in _DEFAULTS) else threads


def tracking_threads(model: nn.Module) -> int:
    """How many threads a frame of this model takes: the user's number, 1 for a small model, else torch's own."""
    chosen = users_choice()
    if chosen is not None:
        return chosen
    text_encoder = getattr(model, "text_encoder", None)
    size = sum(p.numel() for p in model.parameters())
    size -= sum(p.numel() for p in text_encoder.parameters()) if text_encoder is not None else 0
    return 1 if size < SMALL else _FIRST


def set_threads(model: nn.Module) -> None:
    """Set torch's number of threads for this model. A number that the user has set stays.

    It is set for the whole process, not for each frame: torch drops prepared data whenever the number changes.
    """
    global _ours
    threads = tracking_threads(model)
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
        _ours = threads


__all__ = ["set_threads", "tracking_threads", "users_choice"]
