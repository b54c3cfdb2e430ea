"""The datasets library's notation for parts of splits, such as `train[:50%]` and `train+test`, for every source."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..utils.errors import InputError

T = TypeVar("T")
SLICE = re.compile(r"(?P<name>[^\[\]+]+)\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\]")


@dataclass(frozen=True)
class Part:
    """A split, or a slice of one."""

    name: str
    start: str | None = None  # "10" or "10%"
    stop: str | None = None

    @property
    def is_whole(self) -> bool:
        return self.start is None and self.stop is None

    def bounds(self, length: int) -> tuple[int, int]:
        """Return the first row and the one after the last, of a split with this number of rows."""
        start, stop = _row(self.start, 0, length), _row(self.stop, length, length)
        return start, max(start, stop)


def parse_split(text: str) -> list[Part]:
    """Return the parts that a split names; none for an empty text.

    Raises:
        InputError: A slice is not written as `name[start:stop]`.
    """
    return [_part(word.strip(), text) for word in text.split("+") if word.strip()]


def is_part_of(text: str, other: str) -> bool:
    """Return whether all rows that one text names are certainly among those of another."""
    whole = parse_split(other)
    return all(part in whole or Part(part.name) in whole for part in parse_split(text))


def concatenated(parts: Sequence[tuple[Part, Sequence[T]]]) -> list[T]:
    """Return the rows of parts of splits, given all rows of each split."""
    result: list[T] = []
    for part, rows in parts:
        start, stop = part.bounds(len(rows))
        result += rows[start:stop]
    return result


def _part(word: str, text: str) -> Part:
    if "[" not in word:
        return Part(word)
    match = SLICE.fullmatch(word)
    if match is None:
        raise InputError(f"dataset_split={text!r}: must be a name, or a part as in train[:50%], train[100:200]")
    return Part(match["name"], match["start"], match["stop"])


def _row(text: str | None, default: int, length: int) -> int:
    if text is None:
        return default
    row = round(int(text[:-1]) * length / 100) if text.endswith("%") else int(text)
    return min(max(row + length if row < 0 else row, 0), length)
