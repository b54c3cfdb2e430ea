"""Exceptions whose cause a person can correct: one line from a command, an exception for Python users."""

import re


class InputError(ValueError):
    """A bad argument, file or dataset. The message names the argument, its value, and what would be right."""


class BadImageError(InputError):
    """A picture that cannot be used. The message names it and says why."""


class DiskError(OSError):
    """A file that cannot be written. The message names it, says why, and what is left."""


class NotFiniteError(FloatingPointError):
    """A loss, score, gradient or weight that is no longer a number. The message names it and the step."""


class ProcessLostError(RuntimeError):
    """Another process of the run has ended, and this one cannot go on alone."""


class DeviceMemoryError(RuntimeError):
    """The memory of a device or of the host is used up. The message names the options that need less."""


class CallbackError(RuntimeError):
    """A training callback that raised an error. The message names the callback, the event and the step."""


class ExportError(RuntimeError):
    """An exported file that does not do what the pipeline does. The message says by how much."""


class PushError(RuntimeError):
    """A push to the Hub that failed. The message says why, and the one command that finishes it."""


def check_type(name: str, value: object, expected: type, remedy: str) -> None:
    """Check the type of an argument.

    Raises:
        InputError: It is another one. The remedy follows "must be a TYPE".
    """
    if isinstance(value, expected):
        return
    shown = repr(value)
    argument = f"{name}={shown}" if len(shown) <= 60 and "\n" not in shown else f"{name} of type {type(value).__name__}"
    article = "an" if expected.__name__[0] in "AEIOU" else "a"
    raise InputError(f"{argument}: must be {article} {expected.__name__}{remedy}")


def check_is_name(option: str, name: str) -> None:
    """Check that a name of a folder or a repository is no address of the web.

    Raises:
        InputError: It is one.
    """
    scheme, is_address, rest = name.partition("://")
    if is_address and scheme in ("http", "https"):
        host, *parts = rest.strip("/").split("/")
        parts = parts[1:] if parts[:1] in (["datasets"], ["spaces"]) else parts
        repository = "/".join(parts[:2]) if host == "huggingface.co" else ""
        raise InputError(
            f"{option}={name!r}: is an address; "
            + (f"name {repository}" if repository else "download it, and name what is here")
        )


def one_line(error: BaseException) -> str:
    """Return the message of another library's error on one line, without colours, to be part of a message of ours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:300]


OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "can't allocate memory",
    "not enough memory",
)
"""What PyTorch and its libraries report, in errors without a type of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was used up: on CUDA, which has a type of error for it, on MPS, or on the host."""
    is_torch = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    is_raw = is_torch or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_raw and not isinstance(error, DeviceMemoryError)


def memory_error(what: str, error: BaseException, remedy: str) -> DeviceMemoryError:
    """Return the error that says what used up the memory, and what needs less.

    Args:
        what: What was done.
        error: The error of another library, for which `is_out_of_memory` holds.
        remedy: What to do, as a command to the reader.
    """
    cause = one_line(error).split(". ")[0] or type(error).__name__
    return DeviceMemoryError(f"{what} takes more memory than there is ({cause}): {remedy}")
