"""The names of a run's files, and replacing a file so that there is a complete one at any time."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import InputError, one_line
from .linux import status

IS_WINDOWS = os.name == "nt"
INDEX = "model_index.json"
CARD = "README.md"
CONFIG = "training_config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
SAMPLES = "samples"
REAL = "real.png"  # among the samples: training images, which are never published
VIDEO = "training.webp"
GRID_SUFFIX = ".png"  # of sample grids: the name of any format that Pillow writes
CURVES = "curves.png"
BEST = "best"
BEST_RECORD = "best.json"  # in that folder: the step of the model, and the value that it was chosen by
NEW_BEST, OLD_BEST = ".best.tmp", ".best.old.tmp"  # while one replaces the other
NETWORKS = ("generator", "critic")
STARTING = ".starting"  # while a run in an empty folder has not begun
LOCK = ".lock"
TEMPORARY = ".*.tmp*"
SAVING = ".saving-*"
CHECKPOINTS = "checkpoint-*"
SET_ASIDE = "set-aside-"
MANIFEST = "manifest.json"
CARRIED_CODE = "hf_wgan_*.py"

_UMASK = os.umask(0o077)  # which only Linux tells without setting it; not later, when other threads may create files
os.umask(_UMASK)


def read_mapping(path: Path, remedy: str = "", sections: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Args:
        path: The file.
        remedy: What to do if it is damaged.
        sections: Entries that are mappings too.

    Raises:
        InputError: It is damaged. The message names it.
        OSError: It cannot be read.
    """
    remedy = remedy and f"; {remedy}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also where it is not UTF-8
        raise InputError(f"{path}: is damaged ({one_line(error)}){remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is damaged: it holds no mapping{remedy}")
    if missing := [name for name in sections if not isinstance(content.get(name), dict)]:
        raise InputError(f"{path}: is damaged: {missing[0]} is no mapping{remedy}")
    return content


def checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    folders = [path for path in output_dir.glob(CHECKPOINTS) if path.name.rpartition("-")[2].isdecimal()]
    return sorted(folders, key=step_of)


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a checkpoint of a run rather than a pipeline."""
    return (folder / MANIFEST).is_file() and not (folder / INDEX).exists()


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint, from the name of its folder."""
    return int(checkpoint.name.rpartition("-")[2])


def sample_grid(output_dir: Path, step: int) -> Path:
    """Return the file of the sample grid of a step."""
    return output_dir / SAMPLES / f"step-{step:06d}{GRID_SUFFIX}"


def sample_grids(output_dir: Path) -> list[Path]:
    """Return the sample grids of a run, oldest first."""
    grids = [path for path in (output_dir / SAMPLES).glob(f"step-*{GRID_SUFFIX}") if path.stem[5:].isdecimal()]
    return sorted(grids, key=lambda path: int(path.stem[5:]))


def manifest_files(checkpoint: Path) -> list[Path]:
    """Return the files of a checkpoint that its manifest names, and the manifest; none if it cannot be read."""
    try:
        names = json.loads((checkpoint / MANIFEST).read_text())
        paths = [Path(os.path.normpath(checkpoint / name)) for name in names]
        paths = [path for path in paths if path.is_relative_to(os.path.normpath(checkpoint))]
        return [*paths, checkpoint / MANIFEST]
    except (OSError, ValueError, TypeError):
        return []


def set_aside(folder: Path, name: str, is_replaceable: Callable[[Path], bool]) -> Path:
    """Rename a folder of a run, so that it is no part of the run any more, and return the new path.

    Args:
        folder: The folder.
        name: The new name. If there is a folder of that name, it is replaced, or a number is added to the name.
        is_replaceable: Returns whether nothing is lost with a folder of that name.
    """
    target, number = folder.with_name(name), 1
    while os.path.lexists(target) and (target.is_symlink() or not is_replaceable(target)):
        number += 1
        target = folder.with_name(f"{name}-{number}")
    shutil.rmtree(target, ignore_errors=True)
    return folder.rename(target)


@contextmanager
def replacing(path: Path, is_flushed: bool = True) -> Iterator[Path]:
    """Yield a path to write to; at the end its file replaces another atomically, and after an error it does not.

    A symbolic link in the place of either file is replaced, not followed.

    Args:
        path: The file. What is yielded ends as it does.
        is_flushed: Whether the disk must have the content before the other file is replaced.

    Raises:
        OSError: The disk is full, or the like, also where a library has an error of its own for it.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    temporary.unlink(missing_ok=True)  # a link, or what an earlier process left
    try:
        with _disk_errors(path, temporary):
            yield temporary
        permit(temporary)
        if is_flushed:
            flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_in(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files replace those of a folder at the end, one by one, the index last.

    Whatever fails before, the folder is unchanged. Links in it are replaced, not followed. Files in which earlier
    weights were divided otherwise are removed.

    Raises:
        OSError: As in `replacing`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(SAVING):  # by a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=SAVING.rstrip("*"), dir=folder))
    try:
        with _disk_errors(folder):
            yield temporary
        for part in sorted(path for path in temporary.rglob("*") if path.is_dir()):
            target = folder / part.relative_to(temporary)
            if target.is_symlink():
                target.unlink()
            target.mkdir(exist_ok=True)
        paths = sorted(path for path in temporary.rglob("*") if path.is_file())
        for path in paths:
            permit(path)
            flush(path)
        for path in sorted(paths, key=lambda path: path.name == INDEX):
            path.replace(folder / path.relative_to(temporary))
        for path in paths:
            _remove_other_shards(folder / path.relative_to(temporary), {path.name for path in paths})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_other_shards(weights: Path, saved: Collection[str]) -> None:
    """Remove the files in which an earlier save left the same weights, divided otherwise."""
    division = re.fullmatch(r"(.+?)(-\d{5}-of-\d{5})?\.safetensors", weights.name)
    if division is None:
        return
    stem, _, variant = division[1].partition(".")
    listing = f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"
    same = re.compile(rf"{re.escape(division[1])}(-\d{{5}}-of-\d{{5}})?\.safetensors|{re.escape(listing)}")
    for path in weights.parent.iterdir():
        if path.name not in saved and same.fullmatch(path.name):
            path.unlink()


@contextmanager
def _disk_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn what libraries raise where a disk is full into an OSError that names the file, and not a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors, in the words of Rust
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        if re.search("PytorchStreamWriter|inline_container", str(error)):
            raise OSError(f"{path} cannot be written ({one_line(error)})") from error
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which only one process at a time can; the system frees it if the process ends.

    A process may hold it several times. A disk that has no locks, or that cannot be written to, is used without.

    Raises:
        InputError: Another process holds it.
    """
    path = folder.resolve() / LOCK
    if path.is_symlink():  # which filelock would follow, and empty the file
        path.unlink()
    lock = FileLock(path, timeout=0, is_singleton=True, thread_local=False)
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


def check_links(folder: Path) -> None:
    """Check that a folder to write to is not behind a link that leads nowhere, as to a disk that is not mounted.

    Raises:
        InputError: It is.
    """
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise InputError(
                f"output_dir={str(folder)!r}: {place} is a link to {os.readlink(place)}, which does not exist; create "
                "or mount that, or name another folder"
            )


def is_unused(folder: Path) -> bool:
    """Return whether a folder is missing, or empty but for what a process may leave that was killed at its start."""
    if not folder.exists():
        return True
    is_of_a_run = any((folder / name).exists() for name in (INDEX, CONFIG, METRICS)) or bool(checkpoints(folder))
    if (folder / STARTING).is_file() and not is_of_a_run:
        return True
    hidden = (LOCK, TEMPORARY, SAVING)
    return all(any(map(path.match, hidden)) for path in folder.iterdir())


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: whoever reads it sees the old content or the new."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path, folder: Path) -> str:
    """Return the content of a file of a folder; empty if there is no file, or only a link that leads outside."""
    return path.read_text(encoding="utf-8") if path.is_file() and not leads_outside(path, folder) else ""


def leads_outside(path: Path, folder: Path) -> bool:
    """Return whether a path in a folder goes through a symbolic link to a place outside the folder.

    The links of the Hub's cache do not count: they lead from a snapshot to the blobs beside it.
    """
    target, folder = path.resolve(), folder.resolve()
    snapshots = next((parent for parent in folder.parents if parent.name == "snapshots"), None)
    inside = [folder, snapshots.with_name("blobs")] if snapshots else [folder]
    return not any(target.is_relative_to(place) for place in inside)


def permit(path: Path) -> None:
    """Give a file or a folder at least the permissions of a new one.

    safetensors writes files, and tempfile creates folders, that only their owner can read.
    """
    with suppress(OSError):  # a disk without permissions
        path.chmod(path.stat().st_mode | ((0o777 if path.is_dir() else 0o666) & ~_umask()))


def _umask() -> int:
    """Return which permissions new files lack: on Linux now, elsewhere when this was imported."""
    umask = status("Umask")
    return _UMASK if umask is None else int(umask, 8)


def flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk.

    Windows writes out only what is open for writing, and has nothing of the kind for folders.
    """
    if IS_WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
