"""What is left out of a text that others will read: credentials, and where files lie on this machine."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

_SECRET_NAME = r"token|key|secret|passw|passphrase|credential|signature"
_SECRET_OPTION = re.compile(rf"--?[\w.-]*({_SECRET_NAME})[\w.-]*", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=.*", re.DOTALL)
_NAMED = re.compile(rf"[\w.-]*({_SECRET_NAME})[\w.-]*\s*[:=].*", re.IGNORECASE | re.DOTALL)
_SETS_VARIABLE = ("-e", "--env", "--set-env")
_USER_PART = re.compile(r"(?<=://)[^/\s?#]*@")
_QUERY = re.compile(rf"(?<=[?&])[\w.-]*({_SECRET_NAME})[\w.-]*=[^&\s#]*&?", re.IGNORECASE)
_TOKEN = re.compile(  # the forms of Hugging Face, GitHub, GitLab, Slack, AWS and the `sk-` of several services
    r"\b(hf_[A-Za-z0-9]{16,}|gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{8,}|glpat-[\w-]{8,}|xox[a-z]-[\w-]{8,}"
    r"|AKIA\w{8,}|sk-[\w-]{16,})"
    r"|\bBearer\s+\S+"
)
_LOCAL_PATH = re.compile(
    r"(?<![\w./\\~])"  # the path begins a word
    r"(?:(?:file|zip):/+|~[\w.-]*[/\\]+|[A-Za-z]:[/\\]+|(?:\.\.[/\\]+)+|(?<!:)[/\\]+|(?<=:)[/\\](?![/\\]))"
    r"(?=[^\s/\\])[^'\"<>|,;\n]*"
)


def without_local_paths(text: str) -> str:
    """Return a text with only the last part of absolute paths, and of paths that begin with `~` or `..`.

    Example:
        >>> without_local_paths("--train_data_dir=/home/me/photos of cats")
        '--train_data_dir=photos of cats'
    """
    return _LOCAL_PATH.sub(lambda path: re.split(r"[/\\]", path[0].rstrip("/\\ "))[-1], text)


def public(value: Any) -> Any:
    """Return a value of JSON in which no string names a place on this machine or holds credentials.

    The value of a key `command` is taken as a command line.
    """
    if isinstance(value, Mapping):
        return {
            key: public_command(content) if key == "command" and isinstance(content, str) else public(content)
            for key, content in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(map(public, value))
    return " ".join(without_credentials([without_local_paths(value)])) if isinstance(value, str) else value


def public_command(command: str) -> str:
    """Return a command line without credentials and without the places of files."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return shlex.join(without_local_paths(" ".join(word.split("\n"))) for word in without_credentials(words))


def without_credentials(words: Sequence[str]) -> list[str]:
    """Return the words of a command without what looks like credentials.

    Options whose names contain `token`, `key`, `secret`, `password` and the like are removed with their values,
    environment assignments are removed, URLs lose their user part and their signatures, and tokens of well-known forms
    are replaced by `***`. A word that is a command itself, as after `bash -c`, is treated in the same way.

    Args:
        words: The words, as in `sys.argv`.

    Example:
        >>> without_credentials(["HF_TOKEN=hf_abc", "train", "--hub_token", "hf_abc", "--seed", "1"])
        ['train', '--seed', '1']
    """
    public: list[str] = []
    follows_secret = False
    for word in words:
        is_value = follows_secret and not word.startswith("--")
        follows_secret = False
        if is_value:
            continue
        name, has_value, _ = word.partition("=")
        if public[-1:] == ["-c"]:  # a command for a shell
            public.append(_without_parts(word, is_command=True))
        elif _SECRET_OPTION.fullmatch(name):
            follows_secret = not has_value
        elif _ASSIGNMENT.fullmatch(word) or _NAMED.fullmatch(word):
            if public and public[-1] in _SETS_VARIABLE:
                public.pop()
        else:
            public.append(_without_parts(word))
    return public


def _without_parts(word: str, is_command: bool = False) -> str:
    """Return a word without the credentials within it."""
    if is_command or re.search(r"\s", word):
        try:
            inner = shlex.split(word)
        except ValueError:  # an apostrophe in a sentence
            inner = word.split()
        public = without_credentials(inner)
        if public != inner:
            return shlex.join(public)
    word = _USER_PART.sub("", word)
    word = _QUERY.sub("", word).rstrip("?&") if "://" in word else word
    return _TOKEN.sub("***", word)
