"""Saving and resuming a run at a step: both networks, both optimizers, the loss scale and the counters.

Latents and the order of the images need no state: each follows from the seed and the step.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME

from ..errors import InputError, one_line
from ..files import checkpoints


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # generator updates made
    batches: int = 0  # real batches drawn
    seconds: float = 0.0  # of training


def portable_copy(model: ModelMixin) -> ModelMixin:
    """The network alone, as it is saved: float32 parameters of its own, in the ordinary memory layout, without the
    wrappers of a mixed precision runtime, in evaluation mode."""
    with torch.device("meta"):  # not from_config, which takes arguments that were given by position for defaults
        copy = type(model)(**settings_of(model))
    state = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def settings_of(model: ModelMixin) -> dict[str, Any]:
    """The arguments that the network was built with."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


def save_checkpoint(
    folder: Path, networks: dict[str, ModelMixin], others: dict[str, Any], progress: Progress, keep: int | None
) -> None:
    """Writes a checkpoint under a temporary name, then renames it: a folder named `checkpoint-…` is always whole.

    Args:
        folder: `output_dir/checkpoint-000500`.
        networks: By name; each goes into a folder of that name, in safetensors.
        others: By name, whatever has a `state_dict()` of tensors and numbers.
        progress: The counters.
        keep: How many of the newest checkpoints stay; None for all.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, network in networks.items():
        portable_copy(network).save_pretrained(temporary / name)
    torch.save({name: other.state_dict() for name, other in others.items()}, temporary / "optimizers.pt")
    (temporary / "progress.json").write_text(json.dumps(asdict(progress)) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    if keep is not None:
        for old in checkpoints(folder.parent)[:-keep]:
            shutil.rmtree(old)


def load_checkpoint(folder: Path, networks: dict[str, ModelMixin], others: dict[str, Any]) -> Progress:
    """Restores what `save_checkpoint` saved, in place.

    Raises:
        InputError: the checkpoint is not whole, or is one of other networks.
    """
    try:
        for name, network in networks.items():
            network.load_state_dict(safetensors.torch.load_file(folder / name / SAFETENSORS_WEIGHTS_NAME))
        states = torch.load(folder / "optimizers.pt", map_location="cpu", weights_only=True)
        for name, other in others.items():
            other.load_state_dict(states[name])
        return Progress(**json.loads((folder / "progress.json").read_text()))
    except Exception as error:
        why = one_line(error)
        raise InputError(f"resume_from_checkpoint: {folder} cannot be resumed by this run ({why})") from error


def find_checkpoint(output_dir: Path, wanted: str) -> Path:
    """The folder that `--resume_from_checkpoint` means.

    Raises:
        InputError: there is none.
    """
    if wanted != "latest":
        if not (Path(wanted) / "progress.json").is_file():
            raise InputError(f"resume_from_checkpoint={wanted!r}: there is no checkpoint there")
        return Path(wanted)
    found = checkpoints(output_dir)
    if not found:
        raise InputError(f"resume_from_checkpoint='latest': there is no checkpoint in {output_dir}")
    return found[-1]
