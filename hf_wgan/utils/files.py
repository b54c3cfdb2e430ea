"""The names of a run's files, and replacing a file so that there is a complete one at any time."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import InputError

INDEX = "model_index.json"
CARD = "README.md"
CONFIG = "training_config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
SAMPLES = "samples"
CURVES = "curves.png"
BEST = "best"
NETWORKS = ("generator", "critic")
LOCK = ".lock"
CHECKPOINTS = "checkpoint-*"
CARRIED_CODE = "hf_wgan_*.py"


def checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    folders = [path for path in output_dir.glob(CHECKPOINTS) if path.name.rpartition("-")[2].isdecimal()]
    return sorted(folders, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint, from the name of its folder."""
    return int(checkpoint.name.rpartition("-")[2])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, whose file replaces another at the end, at once; after an error the other is left.

    A symbolic link in the place of either file is replaced, not followed.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # a link, or what an earlier process left
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which only one process at a time can; the system frees it if the process ends.

    A process may hold it several times. A disk that has no locks, or that cannot be written to, is used without.

    Raises:
        InputError: Another process holds it.
    """
    lock = FileLock(folder.resolve() / LOCK, timeout=0, is_singleton=True, thread_local=False)
    with ExitStack() as held:
        try:
            held.enter_context(lock)
        except Timeout as error:
            raise InputError(
                f"{str(folder)!r}: another process trains in this folder or writes to it (it holds {lock.lock_file}, "
                "which is free once that process has ended); wait for it, or name another folder"
            ) from error
        except (OSError, NotImplementedError):
            pass
        yield


def is_unused(folder: Path) -> bool:
    """Return whether a folder is missing, or empty but for what a killed process may leave."""
    hidden = (LOCK, ".*.tmp*", ".saving-*")
    return not folder.exists() or all(any(map(path.match, hidden)) for path in folder.iterdir())


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: whoever reads it sees the old content or the new."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path, folder: Path) -> str:
    """Return the content of a file of a folder; empty if there is no file, or only a link that leads outside."""
    return path.read_text(encoding="utf-8") if path.is_file() and not leads_outside(path, folder) else ""


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether a path in a folder goes through a symbolic link to a place outside the folder.

    The links of the Hub's cache do not count: they lead from a snapshot to the blobs beside it.
    """
    target, folder = path.resolve(), folder.resolve()
    snapshots = next((parent for parent in folder.parents if parent.name == "snapshots"), None)
    inside = [folder, snapshots.with_name("blobs")] if snapshots else [folder]
    return not any(target.is_relative_to(place) for place in inside)


def flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
