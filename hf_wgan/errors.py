"""The exceptions that a person can mend: a line from a script, an exception to Python users."""


class InputError(ValueError):
    """A bad argument, file or dataset. The message names the argument, its value, and what would be right."""


class BadImageError(InputError):
    """A picture that cannot be used. The message names it and says why."""


class PushError(RuntimeError):
    """A push to the Hub that failed. The message says why, and the one command that finishes it."""


def one_line(error: Exception) -> str:
    """The message of another library's error, to be part of a line of ours."""
    return " ".join(str(error).split())[:300]
