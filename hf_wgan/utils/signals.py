"""Signals that ask a run to end: it does so after the step in hand, and saves."""

import signal
import threading
from typing import Any

# Ctrl-C; a machine that is shut down; SLURM, ahead of time. Not every system has all of them.
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Interrupts:
    """A context in which the signals of `STOPPING` are written down. A second SIGINT acts as it did before."""

    def __init__(self) -> None:
        self.number = 0  # of the first such signal
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            self._before = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        self.number = self.number or number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
