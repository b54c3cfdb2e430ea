"""The words of a registry for a help text. A registry maps the names that a person can choose to classes."""

import inspect
from collections.abc import Mapping
from typing import Any


def describe(registry: Mapping[str, Any]) -> str:
    """Return every name with its summary: `"clip: clamp the weights; gp: …"`.

    Args:
        registry: Names to classes or functions; or to tuples of them, of which the first speaks for all.
    """
    return "; ".join(f"{name}: {summary_of(entry)}" for name, entry in registry.items())


def summary_of(entry: Any) -> str:
    """Return an entry's own `summary`, or else the first line of its docstring, without a full stop."""
    first = entry[0] if isinstance(entry, tuple) else entry
    summary = getattr(first, "summary", None) or (inspect.getdoc(first) or "").partition("\n")[0]
    return summary.strip().rstrip(".:")
