"""Class numbers and class names from label columns of any type, or from folders."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..utils.errors import InputError

UNLABELLED = -1
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
RARE_SHARE = 0.1  # of an even share of the images, below which a class is named as rare
CLASSES_TO_NAME = 10


@dataclass(frozen=True)
class Labels:
    """Class numbers `(N,)` int64, -1 where an image has no label, and the name of each class."""

    numbers: np.ndarray
    names: list[str]


def labels_of(values: Iterable[Any], column: str, names: Sequence[str] | None = None) -> Labels | None:
    """Map the distinct values of a label column to numbers; the classes keep the values as their names.

    Numbers, and texts that are all numbers, are in numeric order; other texts are in alphabetical order. None, NaN,
    empty text and -1 mean that an image has no label; -1 is a class only beside 1 alone or other negative numbers.

    Args:
        values: Text, whole numbers, floats, booleans or None, one per image.
        column: Name of the column, for messages.
        names: Names of the classes 0, 1, …, if the column declares them (`datasets.ClassLabel`).

    Returns:
        The labels; None if not one image has a label.

    Raises:
        InputError: A value is a list, a dictionary, an image or the like.
    """
    places = None
    if isinstance(values, np.ndarray):  # of numbers, whose distinct values are quickly found
        values, places = np.unique(values, return_inverse=True)
    values = list(values)
    mapping = class_mapping(values, column, names)
    if not mapping.names:
        return None
    numbers = np.fromiter(map(mapping, values), np.int64, len(values))
    return Labels(numbers if places is None else numbers[places], mapping.names)


@dataclass(frozen=True)
class ClassMapping:
    """Map a value of a label column to its class number; -1 for values that are no class."""

    names: list[str]
    numbers: dict[Any, int]

    def __call__(self, value: Any) -> int:
        return self.numbers.get(_hashable(value), UNLABELLED)


def class_mapping(values: Iterable[Any], column: str, names: Sequence[str] | None = None) -> ClassMapping:
    """Build the mapping of `labels_of` from a sample of values; the arguments are the same."""
    try:
        distinct = {_hashable(value) for value in values}
    except TypeError as error:
        raise InputError(
            f"label_column={column!r}: holds {_kind(values)}; a label must be a number, a text, true or false"
        ) from error
    if names is not None:
        numbers = {value: value for value in distinct if isinstance(value, int) and 0 <= value < len(names)}
        return ClassMapping(list(map(printable, names)), numbers)
    meanings = {value: _meaning(value) for value in distinct}
    classes = {meaning for meaning in meanings.values() if meaning is not None}
    order: Callable[[Any], Any] = str
    if all(_as_number(value) is not None for value in classes):
        order = lambda value: (_as_number(value), str(value))  # noqa: E731
        if _is_missing_mark(classes):
            classes = {value for value in classes if _as_number(value) != UNLABELLED}
    ordered = sorted(classes, key=order)
    # True, 1, "1" and 1.0 are one class: the same name.
    class_names = list(dict.fromkeys(printable(str(value)) for value in ordered))
    index = {name: number for number, name in enumerate(class_names)}
    numbers = {value: index[printable(str(meaning))] for value, meaning in meanings.items() if meaning in classes}
    return ClassMapping(class_names, numbers)


def census(numbers: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return sentences about images without a label and about classes with very few images."""
    sentences = []
    if missing := int((numbers == UNLABELLED).sum()):
        sentences.append(f"{missing} of {len(numbers)} images have no label (none, NaN, empty, or -1).")
    counts = np.bincount(numbers[numbers >= 0], minlength=len(names))
    even_share = counts.sum() / max(1, len(names))
    limit = max(RARE_SHARE * even_share, min(2, even_share))
    rare = [number for number in np.argsort(counts, kind="stable") if counts[number] < limit]
    if rare and len(names) > 1:
        first = ", ".join(f"{names[number]} ({counts[number]})" for number in rare[:CLASSES_TO_NAME])
        more = ", …" if len(rare) > CLASSES_TO_NAME else ""
        sentences.append(f"{len(rare)} of {len(names)} classes have very few images: {first}{more}.")
    return sentences


def printable(text: str) -> str:
    """Return text without control characters and without bytes that are no UTF-8, for messages and class names."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _hashable(value: Any) -> Any:
    """Return a plain value that hashes; NaN becomes None, as no two of them are equal."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", None) == 0):
        value = value.item()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    hash(value)
    return value


def _meaning(value: Any) -> Any:
    """Return the class that a value names: a boolean, a number or a text; None where it says that there is none."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value).strip() or None


def _as_number(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else None
    return float(value) if isinstance(value, (bool, int, float)) else None


def _is_missing_mark(classes: set[Any]) -> bool:
    """Return whether -1 among these numbers stands for a missing label, as it does in the datasets library."""
    numbers = {_as_number(value) for value in classes}
    return numbers != {-1.0, 1.0} and not any(number is not None and number < 0 for number in numbers - {-1.0})


def _kind(values: Iterable[Any]) -> str:
    for value in values:
        try:
            hash(value)
        except TypeError:
            return {"list": "lists", "dict": "records", "ndarray": "arrays"}.get(
                type(value).__name__, "no plain values"
            )
    return "no plain values"
