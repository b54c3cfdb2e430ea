"""The processes of a run, as the environment of their launcher states them, and its end, which is that of the run.

This imports little, as the package imports it first: the launcher may end while the rest is imported.
"""

import _thread
import os
import re
import signal
import threading
import time

import psutil

from .errors import InputError

NUMBERS = {
    "size": ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    "rank": ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
    "local rank": ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
}
"""Environment variables of torchrun and of MPI's launchers: the number of processes, and which of them this is."""
OF_LAUNCHERS = {"MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE"}.union(*NUMBERS.values())
SECONDS_BETWEEN_LOOKS = 1.0  # at whether the launcher is still there


def number_of(what: str, default: int) -> int:
    """Return a number in `NUMBERS` as the launcher states it; one that is empty counts as none.

    Raises:
        InputError: It is no whole number.
    """
    for name in NUMBERS[what]:
        if text := os.environ.get(name):
            if not text.isdecimal():
                raise InputError(f"{name}={text!r} in the environment: must be a whole number")
            return int(text)
    return default


def drop_empty_variables() -> None:
    """Remove empty environment variables of launchers and of Accelerate, which does not take them for unset ones."""
    for name, value in list(os.environ.items()):
        if not value.strip() and (name in OF_LAUNCHERS or name.startswith("ACCELERATE_")):
            del os.environ[name]


def _parent() -> tuple[psutil.Process | None, list[str]]:
    """Return the process that started this one, and its command line."""
    try:
        parent = psutil.Process().parent()
        return parent, parent.cmdline() if parent else []
    except psutil.Error:  # it is another user's
        return None, []


_FIRST = os.getpid(), _parent()  # when this was imported
_watches: dict[int, threading.Thread] = {}  # by process: a fork has no thread of the one that it comes from


def _launcher() -> psutil.Process | None:
    """Return torchrun's agent or Accelerate's launcher if it has started this process."""
    number, parent = _FIRST
    process, words = parent if number == os.getpid() else _parent()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # which the agent sets for every process
        return process
    is_accelerate = any(re.match(r"accelerate([-.]|$)", os.path.basename(word)) for word in words[:4])
    return process if is_accelerate else None


def end_with_launcher() -> None:
    """Send SIGTERM to this process once its launcher has ended, as `accelerate launch` passes none on.

    A run that trains is then saved. Called again, or where there is no launcher, this does nothing.
    """
    launcher, number = _launcher(), os.getpid()
    if launcher is not None and number not in _watches:
        _watches[number] = threading.Thread(target=_watch, args=(launcher,), name="launcher", daemon=True)
        _watches[number].start()


def outlive_launcher() -> None:
    """Let the launcher end without a SIGTERM: this process ends by itself, as a signal has reached both."""
    _watches.pop(os.getpid(), None)


def _watch(launcher: psutil.Process) -> None:
    # A parent that nobody waits for stays in the table of processes; Windows does not change the parent's number.
    while os.getppid() == launcher.pid and launcher.is_running():
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if _watches.get(os.getpid()) is not threading.current_thread():
        return
    from .console import say

    say("The launcher of this process has ended, so the run ends, too.")
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        _thread.interrupt_main(signal.SIGTERM)
