"""How many threads a tracker runs on, on a CPU.

A small model gains little from a second thread, and loses much where other programs run: OpenMP's threads wait for each
other by spinning, so that one that has to wait for a core holds up all the others.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

SMALL = 30_000_000  # parameters that a frame runs through; a model with fewer takes one thread
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # of the environment, by which users choose
_FIRST = torch.get_num_threads()  # when this module was imported
_DEFAULTS = {os.cpu_count(), (os.cpu_count() or 1) // 2}  # torch takes one thread for each core, or physical core


def users_choice() -> int | None:
    """The number of threads that the user has set, by the environment or `torch.set_num_threads`; None if by neither."""
    threads = torch.get_num_threads()
    is_chosen = any(name in os.environ for name in SETTINGS) or threads != _FIRST or _FIRST not in _DEFAULTS
    return threads if is_chosen else None


def tracking_threads(model: nn.Module) -> int:
    """How many threads a frame of this model takes: the user's number, one for a small model, else torch's own number."""
    chosen = users_choice()
    if chosen is not None:
        return chosen
    text_encoder = getattr(model, "text_encoder", None)
    size = sum(p.numel() for p in model.parameters())
    size -= sum(p.numel() for p in text_encoder.parameters()) if text_encoder is not None else 0
    return 1 if size < SMALL else torch.get_num_threads()


def limited_to(num_threads: int):
    """A context in which torch runs on so many threads; afterwards on as many as before."""
    return nullcontext() if torch.get_num_threads() == num_threads else _limited_to(num_threads)


@contextmanager
def _limited_to(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["limited_to", "tracking_threads", "users_choice"]
