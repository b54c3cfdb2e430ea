"""The differences between the run that wrote a checkpoint and the run that resumes it."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from ..data import DataConfig
from ..utils.errors import InputError, one_line
from .checkpoint import read_record
from .config import TrainingConfig
from .optimizers import schedules_with

HARMLESS = {
    prefix + field.name
    for prefix, options in {"training.": TrainingConfig, "dataset.config.": DataConfig}.items()
    for field in dataclasses.fields(options)
    if not field.metadata["matters"]
} | {"machine.num_processes", "machine.device"}
"""Settings that do not change the experiment. The batch size of one process is among them: `machine.global_batch_size`,
that of all processes and accumulation steps together, counts. So is the option `mixed_precision`: `machine` has the
precision in force."""
IN_THE_FINGERPRINT = (
    "dataset.name",
    "dataset.hub_id",
    "dataset.num_images",
    "dataset.config.",
    "generator.value_range",
)
NOT_IN_THE_FINGERPRINT = ("dataset.config.random_flip",)
NOT_IN_THAT_OF_A_STREAM = (
    "dataset.config.background",
    "dataset.config.center_crop",
    "dataset.config.channels",
    "dataset.config.resolution",
    "dataset.config.shuffle_buffer_size",
    "dataset.config.value_range",
    "dataset.config.width",
    "generator.value_range",
)
"""The fingerprint of a stream is of its first files as they are read, and not of the pixels that are made of them."""
OF_THE_START = ("resume_from_checkpoint", "overwrite_output_dir", "allow_config_change")  # how a run was started
LONGEST_LIST = 40  # characters of one in a message
SECTIONS = ("training", "constraint", "augmentation", "generator", "critic", "dataset", "machine", "versions")


class Change(NamedTuple):
    """A setting that differs."""

    name: str
    before: Any
    now: Any
    harmless: bool

    def __str__(self) -> str:
        return f"{self.name.removeprefix('training.')} is {_shown(self.now)}, was {_shown(self.before)}"


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Return the differences between two records of runs.

    Entries that only one of them has are left out, and so is how the runs were started.
    """
    before, now = (_flat({name: record.get(name) or {} for name in SECTIONS}) for record in (before, now))
    same_images = (
        bool(now.get("dataset.fingerprint")) and before.get("dataset.fingerprint") == now["dataset.fingerprint"]
    )

    def harmless(name: str) -> bool:
        if name == "training.max_train_steps":  # the length of the schedules
            ends = (now.get(f"training.{option}") for option in ("gradient_penalty_weight_end", "adam_beta2_end"))
            return now["training.lr_scheduler"] not in schedules_with("decays") and not any(ends)
        if name == "generator.class_names" and before[name] is None:  # training names the classes since then
            return True
        if same_images and name.startswith(IN_THE_FINGERPRINT):
            others = NOT_IN_THAT_OF_A_STREAM if now.get("dataset.config.streaming") else ()
            return name not in NOT_IN_THE_FINGERPRINT + others
        return name in HARMLESS or name.startswith("versions.")

    return [
        Change(name, before[name], value, harmless(name))
        for name, value in now.items()
        if name in before and before[name] != value and name.removeprefix("training.") not in OF_THE_START
    ]


def check_changes(checkpoint: Path, now: dict[str, Any], allow: bool, fits: bool) -> list[Change]:
    """Return what differs between the run that wrote a checkpoint and the run that resumes it.

    Args:
        checkpoint: The checkpoint's folder.
        now: The record of the run that resumes it.
        allow: Whether it may become another experiment.
        fits: Whether the weights of the checkpoint fit the networks of the run. Else it cannot become another one.

    Raises:
        InputError: It would become another experiment and may not or cannot, or the checkpoint has no record.
    """
    try:
        before = read_record(checkpoint)
    except OSError as error:
        raise InputError(
            f"resume_from_checkpoint: {checkpoint} has no record of its run ({one_line(error)})"
        ) from error
    differences = changes(before, now)
    others = [str(change) for change in differences if not change.harmless]
    if others and not (allow and fits):
        remedy = "--allow_config_change to continue with these"
        if not fits:
            remedy = f"train its model further, in another folder, with --pretrained_model_name_or_path {checkpoint}"
        raise InputError(
            f"resume_from_checkpoint: {checkpoint} is of another experiment: {'; '.join(others)}. Use the options of "
            f"that run, or {remedy}"
        )
    return differences


def _shown(value: Any) -> str:
    """Return a value as a message shows it: of a long list, such as a number for each cluster, the beginning."""
    text = repr(value)
    return f"{text[:LONGEST_LIST]}…" if isinstance(value, list) and len(text) > LONGEST_LIST else text


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(record)).items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
