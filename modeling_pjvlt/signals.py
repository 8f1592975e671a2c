"""Signals that end a command, raised like Ctrl-C, so that partly written files can be completed or removed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """A signal ended the command. `number` is the number of the signal."""

    def __init__(self, message: str = "", number: int = signal.SIGINT):
        super().__init__(message)
        self.number = number


def signal_of(stop: KeyboardInterrupt) -> int:
    """The number of the signal that stopped the command; that of Ctrl-C where `stop` has none."""
    return stop.number if isinstance(stop, Stopped) else signal.SIGINT


def exit_code(stop: KeyboardInterrupt) -> int:
    """Exit code that a shell expects after a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + signal_of(stop)


def terminations() -> list[int]:
    """SIGTERM (`kill`, `timeout`, containers, batch systems) and SIGHUP (a terminal that closes), where they exist.

    Without those that are ignored and stay so: `nohup` does that to SIGHUP.
    """
    numbers = [
        getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
    ]  # no SIGHUP on Windows
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP raise `Stopped`. Ignored ones stay ignored; other threads get no signals."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, _stop) for number in terminations()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame) -> None:
    raise Stopped(number=number)


__all__ = ["Stopped", "exit_code", "signal_of", "stopped_by_signals", "terminations"]
