"""Which records of runs were written here: what the record of a stranger's model says about files is not followed."""

import hashlib
from contextlib import suppress
from pathlib import Path

from huggingface_hub.constants import HF_HOME


def remember_record(text: str) -> None:
    """Mark a record as written here, by an empty file in the Hugging Face cache that is named by its digest."""
    with suppress(OSError):  # the record then counts as somebody else's
        path = _mark(text)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def is_own_record(text: str) -> bool:
    """Return whether a record, to the byte, was written here."""
    return _mark(text).is_file()


def _mark(text: str) -> Path:
    return Path(HF_HOME, "hf_wgan", "runs", hashlib.sha256(text.encode()).hexdigest())
