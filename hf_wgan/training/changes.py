"""What differs between the run that wrote a checkpoint and the one that goes on from it."""

import dataclasses
import json
from typing import Any, NamedTuple

from ..data import DataConfig
from .config import TrainingConfig

HARMLESS = {
    prefix + field.name
    for prefix, options in {"training.": TrainingConfig, "dataset.config.": DataConfig}.items()
    for field in dataclasses.fields(options)
    if not field.metadata["matters"]
} | {"machine.num_processes", "machine.device"}
"""What leaves the experiment what it is. The batch size of one process does: what counts is that of all processes and
accumulation steps together, `machine.global_batch_size`. So does `mixed_precision`: what came of it is in `machine`."""
IN_THE_FINGERPRINT = ("dataset.name", "dataset.hub_id", "dataset.num_images", "dataset.config.")
NOT_IN_THE_FINGERPRINT = ("dataset.config.random_flip",)
CONSTANT_SCHEDULERS = ("constant", "constant_with_warmup")
SECTIONS = ("training", "generator", "critic", "dataset", "machine", "versions")


class Change(NamedTuple):
    name: str
    before: Any
    now: Any
    harmless: bool

    def __str__(self) -> str:
        return f"{self.name.removeprefix('training.')} is {self.now!r}, was {self.before!r}"


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Between two records of runs, as in `training_config.json`. What only one of them knows is left out."""
    before, now = (_flat({name: record.get(name) or {} for name in SECTIONS}) for record in (before, now))
    same_images = (
        bool(now.get("dataset.fingerprint")) and before.get("dataset.fingerprint") == now["dataset.fingerprint"]
    )

    def harmless(name: str) -> bool:
        if name == "training.max_train_steps":  # the length of the schedule
            return now["training.lr_scheduler"] in CONSTANT_SCHEDULERS
        if same_images and name.startswith(IN_THE_FINGERPRINT):
            return name not in NOT_IN_THE_FINGERPRINT
        return name in HARMLESS or name.startswith("versions.")

    return [
        Change(name, before[name], value, harmless(name))
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(record)).items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
