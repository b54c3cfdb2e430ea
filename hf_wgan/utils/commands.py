"""The commands of this package, as messages and records spell them."""

import shlex
import shutil


def program() -> list[str]:
    """Return the words that start the command here: `hf-wgan` if it is on the PATH, else Python with this package."""
    return ["hf-wgan"] if shutil.which("hf-wgan") else ["python", "-m", "hf_wgan"]


def shell_command(*words: str) -> str:
    """Return a command line of this package to copy into a shell; the first word is the subcommand."""
    return shlex.join([*program(), *words])
