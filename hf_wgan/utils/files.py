"""What the files of a run are called, once, and how one is written so that there is always a whole one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INDEX = "model_index.json"
CARD = "README.md"
CONFIG = "training_config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
SAMPLES = "samples"
CURVES = "curves.png"
BEST = "best"
NETWORKS = ("generator", "critic")
CHECKPOINTS = "checkpoint-*"
CARRIED_CODE = "hf_wgan_*.py"


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob(CHECKPOINTS) if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """By the folder's name."""
    return int(checkpoint.name.rpartition("-")[2])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, whose file replaces the other at once at the end, and is gone after an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces a file at once: whoever reads it finds the old content or the new."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def flush(path: Path) -> None:
    """Has a file or a folder on the disk, where the system can say so of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
