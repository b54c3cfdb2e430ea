"""Progress and messages for a person: a bar on a terminal and in a notebook, a line now and then in a log."""

import importlib.util
import os
import re
import sys
import time
from typing import Any, TextIO

from tqdm.auto import tqdm

from .launcher import number_of

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"  # tqdm's own rate would be one too many
SECONDS_BETWEEN_LINES = 30
LINES = 10  # the least number of lines in a log, evenly spread over the run


class Output:
    """A stream that outlives its reader: once nobody can read it any more, what is written to it is dropped.

    A run does not end because a terminal was closed or the program at the other end of a pipe has ended.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._silence()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._silence()

    def _silence(self) -> None:
        """Point the stream's descriptor to the null device, for all that writes to it until the process ends."""
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        except (OSError, ValueError):  # a stream without a descriptor, or a closed one
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:
        return self._stream is getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return hash(self._stream)


def in_notebook() -> bool:
    """Return whether this is a kernel that displays rich output, as Jupyter's, Colab's and Kaggle's are."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and "IPKernelApp" in getattr(ipython.get_ipython(), "config", ())


def stream() -> Any:
    """Return where a person reads; notebooks show what goes to stderr as if it were an error."""
    return Output(sys.stdout if in_notebook() else sys.stderr)


def without_controls(text: str) -> str:
    """Return text in which names of files or models cannot steer a terminal: control characters are replaced."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\N{REPLACEMENT CHARACTER}", text)


def say(message: str) -> None:
    """Print a line of its own, above a bar if there is one."""
    file = stream()
    tqdm.write(without_controls(message), file=file)
    file.flush()


def is_first_process() -> bool:
    """Return whether this is the process that prints what all processes of a run have in common."""
    return number_of("rank", 0) == 0


def say_once(message: str) -> None:
    """Print a line, in one of several processes."""
    if is_first_process():
        say(message)


def duration(seconds: float) -> str:
    """Return a length of time in words: in days, hours, minutes or seconds."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def progress_bar(total: int | None, unit: str, initial: int = 0, desc: str | None = None, disable: bool = False) -> Any:
    """Return tqdm's bar where it can be redrawn in place, and `Lines` elsewhere.

    Args:
        total: How many items there are; None if that is not known yet, but will be set.
        unit: What they are, with a space before it.
        initial: How many are done already.
        desc: What is being done.
        disable: Show nothing.
    """
    redrawn = importlib.util.find_spec("ipywidgets") is not None if in_notebook() else sys.stderr.isatty()
    if not redrawn:
        return Lines(total, unit, initial, desc, disable)
    file = None if in_notebook() else stream()
    return tqdm(total=total, initial=initial, desc=desc, bar_format=BAR, dynamic_ncols=True, disable=disable, file=file)


class Lines:
    """Print a line after each tenth of the whole or after half a minute, with the part of tqdm's interface in use."""

    def __init__(self, total: int | None, unit: str, initial: int = 0, desc: str | None = None, disable: bool = False):
        self.total, self.unit, self.initial, self.disable = total, unit, initial, disable
        self.n = self._said = initial
        self._desc, self._postfix = desc, ""
        self._started = self._said_at = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def set_description(self, desc: str) -> None:
        self._desc = desc

    def set_postfix_str(self, postfix: str, refresh: bool = True) -> None:
        self._postfix = postfix

    def update(self, n: int = 1) -> None:
        self.n += n
        self._said = min(self._said, self.n)
        late = time.monotonic() - self._said_at >= SECONDS_BETWEEN_LINES
        due = self.total is not None and (self.n >= self.total or self.n - self._said >= self.total / LINES)
        if due or late:
            self._say()

    def close(self) -> None:
        self._say()

    def _say(self) -> None:
        if self.disable or self.n == self._said:
            return
        self._said, self._said_at = self.n, time.monotonic()
        seconds = self._said_at - self._started
        elapsed = tqdm.format_interval(seconds)
        if self.total is None:
            done = f"{self.n:,}{self.unit}, {elapsed}"
        else:
            done = f"{self.n:,} of {self.total:,}{self.unit} ({self.n / self.total:.0%}), {elapsed}"
            if self.initial < self.n < self.total:
                left = seconds * (self.total - self.n) / (self.n - self.initial)
                done += f", {tqdm.format_interval(left)} to go"
        say(": ".join(filter(None, (self._desc, done, self._postfix))))
