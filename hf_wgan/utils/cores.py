"""The cores that this process may use, those that other programs keep busy, and threads that wait for each other there.

OpenMP's threads wait by spinning. Where another program takes the core of one of them, the others spin until it comes
back, and training is ten and more times slower. Threads that sleep meanwhile (`OMP_WAIT_POLICY=PASSIVE`) compute the
same numbers; where all cores are free they are slower by a third (docs/speed.md#busy-machines).
"""

import math
import os
import sys
import time
from pathlib import Path

import psutil
import torch

from .linux import groups_of

SECONDS = 0.5  # to look at the cores, at least
WAIT_POLICY = "OMP_WAIT_POLICY"


class OtherPrograms:
    """Measures how many cores other programs keep busy, since it was built or `restart` was called."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin to measure."""
        self._began, self._busy, self._own = time.monotonic(), busy_seconds(), own_seconds()

    @property
    def seconds(self) -> float:
        """Return for how long it has measured."""
        return time.monotonic() - self._began

    def cores(self) -> float:
        """Return the mean number of cores that other programs kept busy; it waits until half a second is over."""
        time.sleep(max(0.0, SECONDS - self.seconds))
        others = (busy_seconds() - self._busy) - (own_seconds() - self._own)
        return min(max(others / self.seconds, 0.0), all_cores())


def all_cores() -> int:
    """Return the number of cores of the machine, which the time that cores are busy is measured over."""
    return psutil.cpu_count() or 1


def num_cores() -> int:
    """Return the number of whole cores that this process may use, by its affinity and its control groups."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(number, quota())))


def quota() -> float:
    """Return how many cores' time the control groups of this process grant, as those of Docker and Kubernetes do.

    PyTorch starts a thread for each core of the machine all the same.

    Returns:
        The smallest number of its group and those above; infinity where none has a limit.
    """
    return min(map(_granted, groups_of("cpu")), default=math.inf)


def _granted(group: Path) -> float:
    """Return how many cores' time a control group grants."""
    files = ["cpu.max"] if (group / "cpu.max").is_file() else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    try:
        microseconds, period = map(float, " ".join((group / name).read_text() for name in files).split())
    except (OSError, ValueError):  # there is no such file, or it says `max`
        return math.inf
    return microseconds / period if microseconds > 0 else math.inf


def spins() -> bool:
    """Return whether this process has several threads that wait for each other by spinning."""
    is_set = WAIT_POLICY in os.environ or "GOMP_SPINCOUNT" in os.environ
    return sys.platform == "linux" and torch.get_num_threads() > 1 and not is_set


def is_crowded(others: float) -> bool:
    """Return whether some thread of this process has to share its core, if others keep so many busy."""
    return all_cores() - others < torch.get_num_threads() - 0.5


def busy_seconds() -> float:
    """Return the time that all cores together have been busy, since the machine was started."""
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts the time of guests among that of users too.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - waiting - guests)


def own_seconds() -> float:
    """Return the processor time of this process, and of those that it has started."""
    total = 0.0
    process = psutil.Process()
    for part in (process, *process.children(recursive=True)):
        try:
            times = part.cpu_times()
        except psutil.Error:  # it has ended
            continue
        total += times.user + times.system
    return total
