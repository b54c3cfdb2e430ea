"""Saving and resuming a run at a step, so that a process killed at any moment loses no whole checkpoint.

A checkpoint holds both networks, what has a state besides (optimizers, schedules, average, loss scale), the counters,
the metrics so far and the record of the run. Latents, the order of the images and every other random number follow from
the seed and the step, and need no state.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME

from ..utils import files
from ..utils.errors import DiskError, InputError, one_line
from .snapshot import portable_copy

STATES = "optimizers.pt"
PROGRESS = "progress.json"
MANIFEST = "manifest.json"
SET_ASIDE = "set-aside-"


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # generator updates made
    critic_steps: int = 0
    images: int = 0  # real images drawn, by all processes together
    seconds: float = 0.0  # of training
    restores: int = 0  # returns to a checkpoint after a number that was not finite


@dataclass
class Checkpoint:
    """A run at a step, on the host: training may go on while it is written."""

    networks: dict[str, ModelMixin]  # by folder
    states: dict[str, Any]  # of tensors and numbers, as `state_dict()` gives them
    progress: Progress
    record: dict[str, Any]  # what training_config.json says
    metrics: str  # the lines of metrics.jsonl


def take_checkpoint(
    networks: dict[str, ModelMixin],
    others: dict[str, Any],
    progress: Progress,
    record: dict[str, Any],
    metrics: str,
    **states: Any,
) -> Checkpoint:
    """Copies a run to the host; what is not a tensor must not change from here on.

    Args:
        networks: By name.
        others: By name, whatever has a `state_dict()` of tensors and numbers.
        progress: The counters.
        record: What `training_config.json` says.
        metrics: The lines of `metrics.jsonl`.
        **states: More tensors and numbers, by name.
    """
    return Checkpoint(
        {name: portable_copy(network).to("cpu") for name, network in networks.items()},
        _host_copy({name: other.state_dict() for name, other in others.items()} | states),
        progress,
        record,
        metrics,
    )


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int | None) -> None:
    """Writes under a temporary name, has all of it on the disk, then renames: `checkpoint-…` is always whole.

    Args:
        folder: `output_dir/checkpoint-000500`; `output_dir` exists.
        checkpoint: The content.
        keep: How many of the newest checkpoints stay; None for all.

    Raises:
        DiskError: it cannot be written. Earlier checkpoints stay.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, network in checkpoint.networks.items():
            network.save_pretrained(temporary / name)
        torch.save(checkpoint.states, temporary / STATES)
        (temporary / PROGRESS).write_text(json.dumps(asdict(checkpoint.progress)) + "\n")
        (temporary / files.CONFIG).write_text(json.dumps(checkpoint.record, indent=2) + "\n")
        (temporary / files.METRICS).write_text(checkpoint.metrics)
        written = {str(path.relative_to(temporary)): path for path in sorted(temporary.rglob("*")) if path.is_file()}
        manifest = {name: {"size": path.stat().st_size, "sha256": _sha256(path)} for name, path in written.items()}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in [*temporary.rglob("*"), temporary]:
            files.flush(path)
        _remove(folder)
        temporary.rename(folder)
        files.flush(folder.parent)
        if keep is not None:
            for old in files.checkpoints(folder.parent)[:-keep]:
                _remove(old)
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise DiskError(_cannot_be_written(folder, checkpoint, error)) from error


class CheckpointWriter:
    """Writes checkpoints one after the other, in a thread that does not hold up training."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: DiskError | None = None

    def write(self, folder: Path, checkpoint: Checkpoint, keep: int | None) -> None:
        """As `write_checkpoint`, once the one before is written.

        Raises:
            DiskError: the one before could not be written.
        """
        self.wait()

        def work() -> None:
            try:
                write_checkpoint(folder, checkpoint, keep)
            except DiskError as error:
                self._error = error

        # A daemon: a process that has to end at once does not wait for it, and loses nothing that was whole.
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what went wrong by now, without waiting."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """Waits until no checkpoint is in hand, whether it could be written or not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Raises what went wrong, once the checkpoint in hand is written."""
        self.settle()
        self.check()


def _stepping_as_here(state: dict[str, Any], other: Any) -> dict[str, Any]:
    """The state of an optimizer, but for how it goes about a step, which is a matter of the machine."""
    for group, here in zip(state.get("param_groups", ()), getattr(other, "param_groups", ())):
        group |= {name: here[name] for name in ("foreach", "fused", "capturable") if name in here}
    return state


def load_checkpoint(folder: Path, networks: dict[str, ModelMixin], others: dict[str, Any]) -> Checkpoint:
    """Restores networks and others in place, and returns all that the checkpoint holds but the networks.

    Raises:
        InputError: it is one of other networks or optimizers.
    """
    try:
        states = torch.load(folder / STATES, map_location="cpu", weights_only=True)
        for name, network in networks.items():
            network.load_state_dict(safetensors.torch.load_file(folder / name / SAFETENSORS_WEIGHTS_NAME))
        for name, other in others.items():
            other.load_state_dict(_stepping_as_here(states[name], other))
        progress = Progress(**json.loads((folder / PROGRESS).read_text()))
        return Checkpoint({}, states, progress, read_record(folder), (folder / files.METRICS).read_text())
    except Exception as error:
        why = one_line(error)
        raise InputError(f"resume_from_checkpoint: {folder} cannot be resumed by this run ({why})") from error


def read_record(folder: Path) -> dict[str, Any]:
    """What the run that wrote a checkpoint was told."""
    return json.loads((folder / files.CONFIG).read_text())


def checkpoints_for(output_dir: Path, wanted: str) -> list[Path]:
    """The folders that `--resume_from_checkpoint` may mean, the first choice first. Whether they are whole, which takes
    reading all of them, is not looked at.

    Raises:
        InputError: there is none.
    """
    if wanted != "latest":
        if not Path(wanted).is_dir():
            raise InputError(f"resume_from_checkpoint={wanted!r}: there is no checkpoint there")
        return [Path(wanted)]
    found = files.checkpoints(output_dir)
    if not found:
        raise InputError(f"resume_from_checkpoint='latest': there is no checkpoint in {output_dir}")
    return found[::-1]


def find_checkpoint(output_dir: Path, wanted: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder that `--resume_from_checkpoint` means.

    Args:
        output_dir: Of the run.
        wanted: `"latest"`, which is the newest that is whole, or a path.
        say: Told of each damaged one that is passed over.

    Raises:
        InputError: there is none, or the one named is damaged.
    """
    for folder in checkpoints_for(output_dir, wanted):
        problem = damage(folder)
        if not problem:
            return folder
        if wanted != "latest":
            raise InputError(f"resume_from_checkpoint={wanted!r}: is damaged ({problem}); try latest")
        say(f"{folder} is damaged ({problem}) and passed over.")
    raise InputError(f"resume_from_checkpoint='latest': there is no whole checkpoint in {output_dir}")


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, by its manifest; empty if it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != expected["size"]:
                return f"{name} has {size:,} bytes instead of {expected['size']:,}"
            if _sha256(path) != expected["sha256"]:
                return f"{name} has another content than was written"
        return "" if PROGRESS in manifest else f"{MANIFEST} is not complete"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST}: {one_line(error)}"


def what_is_left(output_dir: Path) -> str:
    """Return how much of the disk is free and which checkpoint a run can resume from."""
    try:
        free = f"{shutil.disk_usage(output_dir).free:,} bytes are free"
        whole = next((folder for folder in reversed(files.checkpoints(output_dir)) if not damage(folder)), None)
    except OSError as error:
        return f"the folder cannot be read ({one_line(error)})"
    return f"{free}; " + (f"{whole} is whole, to go on from" if whole else "there is no checkpoint to go on from")


def set_aside_after(output_dir: Path, step: int) -> list[Path]:
    """Renames the checkpoints of later steps, which a run that goes on from `step` leaves behind, and removes what
    writing left half done. Returns the new names."""
    for rest in output_dir.glob(".*.tmp"):
        shutil.rmtree(rest, ignore_errors=True)
    aside = []
    for folder in files.checkpoints(output_dir):
        if files.step_of(folder) > step:
            target = folder.with_name(SET_ASIDE + folder.name)
            shutil.rmtree(target, ignore_errors=True)
            aside.append(folder.rename(target))
    return aside


def _remove(folder: Path) -> None:
    """Under another name first: what keeps the name of a checkpoint is whole."""
    if folder.exists():
        shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.old.tmp")), ignore_errors=True)


def _host_copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _host_copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_host_copy(item) for item in value)
    return value


def _cannot_be_written(folder: Path, checkpoint: Checkpoint, error: Exception) -> str:
    needed = _num_bytes(checkpoint.states) + sum(_num_bytes(each.state_dict()) for each in checkpoint.networks.values())
    return f"{folder} cannot be written ({one_line(error)}): it takes {needed:,} bytes; {what_is_left(folder.parent)}"


def _num_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    return sum(map(_num_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
