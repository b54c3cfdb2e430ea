"""Signals that ask a run to end: it ends after the current step, and saves."""

import signal
import threading
from typing import Any

from .launcher import end_with_launcher, outlive_launcher

# Ctrl-C; the end of a machine; SLURM, ahead of time; a closed terminal. Not every system has all of them.
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]


class Interrupts:
    """A context in which the signals of `STOPPING` are recorded. A second SIGINT acts as it did before.

    A SIGHUP that is ignored, as under `nohup`, stays ignored. The end of the launcher that started this process counts
    as a SIGTERM.
    """

    def __init__(self) -> None:
        self._number = 0  # of the first signal
        self._before: dict[int, Any] = {}

    @property
    def number(self) -> int:
        """Return the number of the first signal, or 0."""
        return self._number

    def __enter__(self) -> "Interrupts":
        end_with_launcher()
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            for number in STOPPING:
                if signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if not self._number:
            self._number = number
            outlive_launcher()  # which would end a run that is saved already, and pushes or says how to resume
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
