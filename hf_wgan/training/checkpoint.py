"""Saving and resuming a run at a step, so that a process killed at any moment loses no whole checkpoint.

A checkpoint holds the training state, the step records that no report has read yet, the metrics so far, and the record
of the run.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME

from ..pipelines import WGANPipeline
from ..pipelines.loading import load_pipeline
from ..utils import files
from ..utils.errors import DiskError, InputError, is_out_of_memory, one_line
from .snapshot import measured, portable_copy
from .state import Progress, TrainingState

STATES = "optimizers.pt"
PROGRESS = "progress.json"
CLASS_COUNTS = "class_counts"  # among the states: how many training images each class has


@dataclass
class Checkpoint:
    """A run at a step, on the host: training may continue while it is written."""

    networks: dict[str, ModelMixin]  # by folder
    states: dict[str, Any]  # the rest of the training state, tensors and numbers
    progress: Progress
    record: dict[str, Any]  # the content of training_config.json
    metrics: str  # the lines of metrics.jsonl


def take_checkpoint(
    state: TrainingState,
    seconds: float,
    record: dict[str, Any],
    metrics: str,
    records: torch.Tensor,
    class_counts: torch.Tensor | None = None,
) -> Checkpoint:
    """Copy a run to the host.

    Args:
        state: The training state.
        seconds: Seconds of training so far.
        record: The content of `training_config.json`.
        metrics: The lines of `metrics.jsonl`.
        records: Step records that no report has read yet.
        class_counts: How many training images each class has, by which batch-norm statistics are measured; None if they
            are measured without.
    """
    names = (*state.networks, "progress")
    states = {name: value for name, value in state.state_dict().items() if name not in names}
    counts = {} if class_counts is None else {CLASS_COUNTS: class_counts}
    return Checkpoint(
        {name: portable_copy(network).to("cpu") for name, network in state.networks.items()},
        _host_copy({**states, "records": records, **counts}),
        replace(state.progress, seconds=seconds),
        record,
        metrics,
    )


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int | None) -> None:
    """Write under a temporary name, flush everything to the disk, then rename: `checkpoint-…` is always whole.

    Args:
        folder: `output_dir/checkpoint-000500`; `output_dir` exists.
        checkpoint: The content.
        keep: Number of the newest checkpoints to keep; None for all.

    Raises:
        DiskError: The checkpoint cannot be written. Earlier checkpoints stay.
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
        contents = {
            path.relative_to(temporary).as_posix(): path for path in sorted(temporary.rglob("*")) if path.is_file()
        }
        manifest = {name: {"size": path.stat().st_size, "sha256": _sha256(path)} for name, path in contents.items()}
        (temporary / files.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in [*temporary.rglob("*"), temporary]:
            files.permit(path)
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
    """Writes checkpoints one after another, in a thread, while training continues."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: DiskError | None = None

    def write(self, folder: Path, checkpoint: Checkpoint, keep: int | None) -> None:
        """Write as `write_checkpoint` does, once the previous checkpoint is written.

        Raises:
            DiskError: The previous checkpoint could not be written.
        """
        self.wait()

        def work() -> None:
            try:
                write_checkpoint(folder, checkpoint, keep)
            except DiskError as error:
                self._error = error

        # A daemon: a process that must end at once does not wait for it and loses no whole checkpoint.
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written, without waiting."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """Wait until no checkpoint is being written, whether that succeeds or not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Wait until no checkpoint is being written, and raise the error if that failed."""
        self.settle()
        self.check()


def load_checkpoint(folder: Path, state: TrainingState) -> Checkpoint:
    """Load the training state in place and return all that the checkpoint holds but the networks.

    Raises:
        InputError: The checkpoint is of other networks or optimizers.
    """
    try:
        states = torch.load(folder / STATES, map_location="cpu", weights_only=True)
        networks = {
            name: safetensors.torch.load_file(folder / name / SAFETENSORS_WEIGHTS_NAME) for name in state.networks
        }
        progress = files.read_mapping(folder / PROGRESS)
        state.load_state_dict({**states, **networks, "progress": progress})
        metrics = (folder / files.METRICS).read_text()
        return Checkpoint({}, states, replace(state.progress), read_record(folder), metrics)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = one_line(error)
        raise InputError(f"resume_from_checkpoint: {folder} cannot be resumed by this run ({why})") from error


def weights_fit(folder: Path, networks: Mapping[str, torch.nn.Module]) -> bool:
    """Return whether the weights in a checkpoint have the names and shapes of those of networks."""
    for name, network in networks.items():
        with safetensors.safe_open(folder / name / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
            saved = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118, as it is no mapping
        if saved != {key: list(tensor.shape) for key, tensor in network.state_dict().items()}:
            return False
    return True


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the run that wrote a checkpoint.

    Raises:
        InputError: It is damaged.
        OSError: It cannot be read.
    """
    remedy = "remove this checkpoint, and take another"
    return files.read_mapping(folder / files.CONFIG, remedy, ("training", *files.NETWORKS))


def checkpoints_for(output_dir: Path, choice: str) -> list[Path]:
    """Return the folders that `--resume_from_checkpoint` may mean, the first choice first; `"latest"` may find none.

    Whether they are whole is not checked: that takes reading all of them.

    Raises:
        InputError: There is none where a path says.
    """
    if choice != "latest":
        if not Path(choice).is_dir():
            raise InputError(f"resume_from_checkpoint={choice!r}: there is no checkpoint there; name latest, or a path")
        if not (Path(choice) / files.MANIFEST).exists() and (newest := files.checkpoints(Path(choice))[-1:]):
            raise InputError(
                f"resume_from_checkpoint={choice!r}: is the folder of a run; name a checkpoint in it, such as "
                f"{newest[0]}, or with output_dir={choice!r}, latest"
            )
        return [Path(choice)]
    return files.checkpoints(output_dir)[::-1]


def find_checkpoint(output_dir: Path, choice: str, say: Callable[[str], None] = lambda line: None) -> Path | None:
    """Return the folder that `--resume_from_checkpoint` means; None for `"latest"` before the first checkpoint.

    Args:
        output_dir: The run's folder.
        choice: `"latest"`, the newest that is whole, or a path.
        say: Called with a line for each damaged checkpoint that is passed over.

    Raises:
        InputError: There is none where `choice` says, or none that is whole.
    """
    folders = checkpoints_for(output_dir, choice)
    if not folders:
        return None
    for folder in folders:
        problem = damage(folder)
        if not problem:
            return folder
        if choice != "latest":
            raise InputError(f"resume_from_checkpoint={choice!r}: is damaged ({problem}); try latest")
        say(f"{folder} is damaged ({problem}) and passed over.")
    raise InputError(f"resume_from_checkpoint='latest': there is no whole checkpoint in {output_dir}")


def damage(folder: Path) -> str:
    """Return what is wrong with a checkpoint, by its manifest; an empty string if it is whole."""
    try:
        manifest = json.loads((folder / files.MANIFEST).read_text())
        for name, expected in manifest.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != expected["size"]:
                return f"{name} has {size:,} bytes instead of {expected['size']:,}"
            if _sha256(path) != expected["sha256"]:
                return f"{name} has another content than was written"
        return "" if PROGRESS in manifest else f"{files.MANIFEST} is not complete"
    except FileNotFoundError:
        return f"{files.MANIFEST} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{files.MANIFEST}: {one_line(error)}"


def pipeline_of(folder: Path, variant: str | None = None) -> WGANPipeline:
    """Return the pipeline that the run would have saved at a checkpoint.

    The generator has its averaged weights if there are any, and its batch-norm statistics are measured by the labels
    that the training images had. On the device of the run both are the same to the bit.

    Args:
        folder: The checkpoint.
        variant: `"raw"` for the generator's weights without averaging.

    Raises:
        InputError: The checkpoint is damaged, or holds networks of another package, or has no such variant.
    """
    if problem := damage(folder):
        raise InputError(f"{str(folder)!r}: the checkpoint is damaged ({problem})")
    record = read_record(folder)
    package = import_module(__name__.partition(".")[0])
    networks: dict[str, Any] = {}
    for name in files.NETWORKS:
        class_name = record[name].get("class")
        network_class = getattr(package, str(class_name), None)
        if network_class is None:
            raise InputError(
                f"{str(folder)!r}: its {name} is a {class_name}, a class of your own; resume the run, which saves a "
                "pipeline that knows where it is"
            )
        networks[name] = network_class.from_pretrained(folder / name)
    generator, training = networks["generator"], record["training"]
    states = torch.load(folder / STATES, map_location="cpu", weights_only=True)
    if variant and not (variant == "raw" and training["use_ema"]):
        remedy = "use raw, or leave it out" if training["use_ema"] else "leave it out"
        raise InputError(f"variant={variant!r}: {str(folder)!r} has none of this name; {remedy}")
    if training["use_ema"] and not variant:
        for parameter, average in zip(generator.parameters(), states["ema"]["shadow_params"]):
            parameter.data.copy_(average)
    class_counts = states.get(CLASS_COUNTS)  # which older ones do not hold
    generator = measured(generator, training["train_batch_size"], training["seed"], class_counts)
    return WGANPipeline(generator, networks["critic"].eval())


def load_model(name: str, revision: str | None = None, variant: str | None = None) -> WGANPipeline:
    """Load the pipeline of a checkpoint, or as `hf_wgan.pipelines.loading.load_pipeline` does.

    Raises:
        InputError: It cannot be loaded, or has no such revision or variant.
    """
    if not files.is_checkpoint(Path(name)):
        return load_pipeline(name, revision=revision, variant=variant)
    if revision:
        raise InputError(f"revision={revision!r}: has no effect with {name!r}, a checkpoint; leave it out")
    return pipeline_of(Path(name), variant)


def what_is_left(output_dir: Path) -> str:
    """Return how much of the disk is free and which checkpoint a run can resume from."""
    try:
        return f"{shutil.disk_usage(output_dir).free:,} bytes are free; {what_to_resume(output_dir)}"
    except OSError as error:
        return f"the folder cannot be read ({one_line(error)})"


def what_to_resume(output_dir: Path) -> str:
    """Return which checkpoint a run can resume from."""
    whole = next((folder for folder in reversed(files.checkpoints(output_dir)) if not damage(folder)), None)
    return f"{whole} is whole, to resume from" if whole else "there is no checkpoint to resume from"


def set_aside_after(output_dir: Path, step: int) -> list[Path]:
    """Rename the checkpoints of later steps than `step`, and remove temporary files. Return the new names."""
    for temporary in output_dir.glob(files.TEMPORARY):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    aside = []
    for folder in files.checkpoints(output_dir):
        if files.step_of(folder) > step:
            aside.append(_set_aside(folder))
    return aside


def _set_aside(folder: Path) -> Path:
    """Rename a checkpoint, in place of an earlier one of that name; whatever else has that name stays."""
    return files.set_aside(folder, files.SET_ASIDE + folder.name, _is_only_checkpoint)


def _remove(folder: Path) -> None:
    """Rename a checkpoint before removing it: whatever has the name of a checkpoint is whole.

    One that holds something else, which a person may have put there, is set aside.
    """
    if not folder.exists():
        return
    if _is_only_checkpoint(folder):
        shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.old.tmp")), ignore_errors=True)
    else:
        _set_aside(folder)


def _is_only_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds what a checkpoint's manifest names, and nothing else."""
    return {path for path in folder.rglob("*") if not path.is_dir()} <= set(files.manifest_files(folder))


def _host_copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _host_copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_host_copy(item) for item in value)
    return value


def _cannot_be_written(folder: Path, checkpoint: Checkpoint, error: Exception) -> str:
    networks = sum(_num_bytes(network.state_dict()) for network in checkpoint.networks.values())
    size = _num_bytes(checkpoint.states) + networks
    left = "memory is used up" if is_out_of_memory(error) else what_is_left(folder.parent)
    return f"{folder} cannot be written ({one_line(error)}): it takes {size:,} bytes; {left}"


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
