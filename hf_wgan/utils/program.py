"""Which program this process runs, and what Ctrl-C prints while it still imports.

This imports nothing else, as the package imports it first: importing torch and diffusers takes seconds.
"""

import sys
from pathlib import PurePath
from types import TracebackType

COMMAND, PACKAGE = "hf-wgan", "hf_wgan"


def is_own_command() -> bool:
    """Return whether the program is `hf-wgan` or `python -m hf_wgan`, rather than one that imports the package."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # while Python looks for the module
        return any(word.partition(".")[0] == PACKAGE for word in sys.orig_argv)
    return PurePath(program).stem.removesuffix("-script") == COMMAND


def say_stopped(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print what an error that nothing handles means; a hook as `sys.excepthook` is one.

    After a KeyboardInterrupt Python ends the process by SIGINT, for which a shell has the exit code 130.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("Stopped at once.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


if is_own_command():
    sys.excepthook = say_stopped
