"""The exceptions for input that a person can mend: a line from a script, a `ValueError` to Python users."""


class InputError(ValueError):
    """A bad argument, file or dataset. The message names the argument, its value, and what would be right."""


class BadImageError(InputError):
    """A picture that cannot be used. The message names it and says why."""


def one_line(error: Exception) -> str:
    """The message of another library's error, to be part of a line of ours."""
    return " ".join(str(error).split())[:300]
