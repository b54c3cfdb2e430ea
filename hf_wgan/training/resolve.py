"""The one place where a run's settings are resolved, for command lines, files and Python alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..data import DataConfig
from ..models.checks import has_clusters
from ..models.factory import NetworkConfig, has_option
from ..utils import hints
from ..utils.console import say_once
from ..utils.errors import InputError
from ..utils.options import (
    Options,
    check_typed,
    checked,
    depends_on,
    from_file,
    has_effect,
    option,
    option_fields,
    read_options,
    unknown_options,
)
from .components import INSTEAD_OF
from .config import NO_LIMIT, TrainingConfig
from .presets import PRESETS, preset_options

DIGITS_SIZE = {"resolution": 32, "max_train_steps": 3000, "output_dir": "wgan-digits"}
"""Defaults for the embedded digits with a preset. Not every architecture generates images of 16 pixels."""

DIGITS_DEFAULTS = {
    "resolution": 16,
    "generator_width": 32,
    "critic_width": 32,
    "generator_learning_rate": 2e-4,
    "critic_learning_rate": 2e-4,
    "latent_dim": 10,
    "class_conditional": True,
    "max_train_steps": 2000,
    "output_dir": "wgan-digits",
}
"""Defaults for the embedded digits without a preset: found by experiment, for a result worth looking at within a few
minutes on a CPU. Images this small tolerate four times the paper's learning rate. Fine-tuning keeps the model's own
classes."""

NOT_REPEATED = ("overwrite_output_dir", "resume_from_checkpoint", "allow_config_change", "push_to_hub")
"""What a run repeated from its record does not do again: replace, resume or publish something."""
OF_ARCHITECTURES = (
    "critic_norm_type",
    "critic_pooling",
    "num_blocks",
    "generator_upsampling",
    "generator_modulated",
    "generator_output_skips",
)
"""Options of presets that only some architectures have."""
REPLACES = (
    ("dataset_name", "train_data_dir"),
    ("train_data_dir", "dataset_name"),
    ("class_conditional", "num_clusters"),
    ("num_clusters", "class_conditional"),
)
"""Pairs of options: the first, given alone, replaces a value of the second from a preset or a lower layer."""


@dataclass(frozen=True)
class RunOptions(Options):
    """Presets."""

    preset: str | None = option(
        None,
        "Settings of a paper, or ours, all at once; explicit options override them.",
        choices=PRESETS,
        common=True,
        matters=False,
    )
    learning_rate: float | None = option(
        None, "Learning rate of both networks, unless the option of one of them says otherwise.", above=0, common=True
    )


OPTION_CLASSES = (RunOptions, DataConfig, NetworkConfig, TrainingConfig)
SECTIONS: dict[str, Any] = {"data": DataConfig, "networks": NetworkConfig, "training": TrainingConfig}
"""The sections that a file of options may have."""
FIELDS = {field.name: field for option_class in OPTION_CLASSES for field in option_fields(option_class)}

HINTS = hints.called_here(FIELDS) | hints.HINTS
"""Answers to options that a run does not have."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run: its images, its networks and its training.

    `RunConfig.resolve` builds one from options; `hf_wgan.training.build_trainer` builds its trainer.
    """

    data: DataConfig = field(default_factory=DataConfig)
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    preset: str | None = None
    explicit: frozenset[str] = frozenset()
    num_processes: int | None = None  # of the recorded run that is repeated

    def __new__(cls, *args: Any, **parts: Any) -> RunConfig:
        if unknown := [name for name in parts if name not in cls.__dataclass_fields__]:
            raise InputError(
                f"RunConfig: takes {', '.join(SECTIONS)}, not {', '.join(unknown)}; RunConfig.resolve takes options"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, part in SECTIONS.items():
            if not isinstance(getattr(self, name), part):
                raise InputError(
                    f"{name}={getattr(self, name)!r}: must be a {part.__name__}; RunConfig.resolve takes all options"
                )
        if self.preset is not None and "preset" not in self.explicit:
            raise InputError(
                f"preset={self.preset!r}: RunConfig takes settings as they are; RunConfig.resolve(preset="
                f"{self.preset!r}, ...) fills in those of a preset"
            )

    @classmethod
    def resolve(cls, config: str | os.PathLike[str] | Mapping[str, Any] | None = None, **options: Any) -> RunConfig:
        """Resolve the settings of a run, as `hf-wgan train` does.

        From the lowest to the highest, these override one another: the defaults of the options; where no data is named,
        those for the embedded digits; the preset; the file; the explicit options. A preset also overrides what is below
        the place where it is named, except that its clusters do not replace labels (`class_conditional`).

        Args:
            config: A YAML or JSON file of options, the `training_config.json` of an earlier run, or such a mapping.
            options: Fields of `DataConfig`, `NetworkConfig` and `TrainingConfig`; and `preset` and `learning_rate`,
                which sets the learning rates of both networks.

        Raises:
            InputError: There is no such option, a value is wrong, or values contradict each other.

        Example:
        ```py
        >>> from hf_wgan import RunConfig

        >>> config = RunConfig.resolve(preset="wgan-fast", train_data_dir="photos", max_train_steps=2000)
        >>> config.training.lipschitz
        'r1'
        ```
        """
        layers, num_processes = [options], None
        if not (config is None or isinstance(config, (str, os.PathLike, Mapping))):
            raise InputError(f"config={config!r}: must be the path of a file, or a mapping")
        if config is not None:
            content = config if isinstance(config, Mapping) else read_options(config)
            where = "config" if isinstance(config, Mapping) else f"config={os.fspath(config)!r}"
            layers.insert(0, _file_options(content, where))
            if _is_record(content):
                num_processes = _num_processes(_part(content, "machine"))
                _check_imports(_names(content, "imports"), where)
        _check_names(options, "options")
        return replace(cls._of_layers(layers), num_processes=num_processes)

    @classmethod
    def _of_layers(cls, layers: list[dict[str, Any]]) -> RunConfig:
        layers = [{name: checked(FIELDS[name], value) for name, value in layer.items()} for layer in layers]
        resolution = DataConfig.resolution
        for _ in range(2):  # a preset may depend on the size of the images, which any layer may name
            values, ranks, preset = _merged(layers, resolution)
            resolution = values.get("resolution", resolution)
        check_typed(FIELDS.values(), layers[-1].keys() & values, _with_defaults(values))
        values = effective(values, ranks)
        explicit = {name for layer in layers for name in with_learning_rate(layer)}
        for name in OF_ARCHITECTURES:
            if name not in explicit and not has_option(values.get("architecture", "dcgan"), name):
                values.pop(name, None)  # it comes from a preset for another architecture
        if values.get("streaming") and "num_clusters" not in explicit:
            values.pop("num_clusters", None)  # it comes from a preset for sets of images
        if values.get("max_train_minutes") is not None and "max_train_steps" not in explicit:
            values["max_train_steps"] = NO_LIMIT  # whoever names a time is not stopped by a number of steps before it
        values.pop("preset", None)

        def part(option_class: type) -> Any:
            return option_class(
                **{field.name: values[field.name] for field in fields(option_class) if field.name in values}
            )

        return cls(part(DataConfig), part(NetworkConfig), part(TrainingConfig), preset, frozenset(explicit))

    def options(self) -> dict[str, Any]:
        """Return every option that is not a secret, by name; `RunConfig.resolve(options)` gives the same settings."""
        parts = (self.data, self.networks, self.training)
        values = {name: value for part in parts for name, value in asdict(part).items()}
        return {"preset": self.preset} | {
            name: value for name, value in values.items() if not FIELDS[name].metadata["secret"]
        }


def _merged(
    layers: list[dict[str, Any]], resolution: int
) -> tuple[dict[str, Any], dict[str, tuple[int, bool]], str | None]:
    """Merge layers of options, of which later ones override earlier ones.

    Returns:
        The values; of each the number of its layer, and whether it was explicit there or came from a preset; and the
        preset.
    """
    values: dict[str, Any] = {}
    ranks: dict[str, tuple[int, bool]] = {}
    preset = None
    for number, layer in enumerate(layers):
        if layer.get("num_clusters") and layer.get("class_conditional"):
            raise InputError("num_clusters and class_conditional were both given: train on clusters, or on the labels")
        if layer.get("preset"):
            preset = layer["preset"]
            for name in [name for name, (_, is_explicit) in ranks.items() if not is_explicit]:
                del values[name], ranks[name]  # of the preset of a lower layer
            replaced = _replaced_by(values)
            of_preset = {
                name: value for name, value in preset_options(preset, resolution).items() if name not in replaced
            }
            values |= of_preset
            ranks |= dict.fromkeys(of_preset, (number, False))
        for name in _replaced_by(layer):
            values.pop(name, None)
            ranks.pop(name, None)
        explicit = with_learning_rate(layer)
        values |= explicit
        ranks |= dict.fromkeys(explicit, (number, True))
    if values.get("dataset_name") is None and values.get("train_data_dir") is None:
        defaults = dict(DIGITS_DEFAULTS if preset is None else DIGITS_SIZE)
        if values.get("pretrained_model_name_or_path"):
            defaults.pop("class_conditional", None)
        values = {name: value for name, value in defaults.items() if name not in _replaced_by(values)} | values
    return values, ranks, preset


def effective(values: dict[str, Any], ranks: Mapping[str, tuple[int, bool]]) -> dict[str, Any]:
    """Leave out options that have no effect because of others of a higher layer, such as those of a preset's optimizer.

    Those that have none beside the options of their own layer stay, and are an error.
    """
    everything = _with_defaults(values)

    def is_overridden(name: str) -> bool:
        lowest = (-1, False)
        return not has_effect(FIELDS[name], everything) and any(
            ranks.get(other, lowest) > ranks.get(name, lowest) for other in depends_on(FIELDS[name])
        )

    return {name: value for name, value in values.items() if not is_overridden(name)}


def _with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: field.default for name, field in FIELDS.items()}, **values}


def _replaced_by(options: Mapping[str, Any]) -> set[str]:
    """Return the options whose place is taken by others that are given."""
    return {replaced for name, replaced in REPLACES if options.get(name) and not options.get(replaced)}


def with_learning_rate(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with `learning_rate` replaced by those of the two networks, which override it.

    Raises:
        InputError: All three are there.
    """
    options = dict(options)
    both = options.pop("learning_rate", None)
    rates = {} if both is None else dict.fromkeys(("generator_learning_rate", "critic_learning_rate"), both)
    if rates and rates.keys() <= options.keys():
        raise InputError(f"learning_rate={both!r}: has no effect beside {' and '.join(rates)}; leave it out")
    return rates | options


def _file_options(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the options in a file's content: a flat mapping, one with a section for each part, or a run's record.

    Raises:
        InputError: A key is unknown.
    """
    if _is_record(content):
        return _record_options(content)
    entries: list[tuple[str, str, Any]] = []  # section, name, value
    for name, value in content.items():
        if name in SECTIONS and not isinstance(value, Mapping):
            raise InputError(f"{where}: {name}={value!r}: must be a section of options, as `name: value` below it")
        entries += [(name, *entry) for entry in value.items()] if name in SECTIONS else [("", name, value)]
    _check_names([name for _, name, _ in entries], where)
    options: dict[str, Any] = {}
    for section, name, value in entries:
        if section and name not in {entry.name for entry in fields(SECTIONS[section])}:
            raise InputError(f"{where}: {name} is no option of {section}; put it outside of the sections")
        if name in options:
            raise InputError(f"{where}: {name}: both in a section and outside of it; keep one")
        options[name] = from_file(FIELDS[name], value)
    return options


def _check_names(names: Iterable[str], where: str) -> None:
    """Check that all names are options.

    Raises:
        InputError: Some are not.
    """
    if unknown := [str(name) for name in names if name not in FIELDS]:
        raise InputError(unknown_options(unknown, where, FIELDS, HINTS, SECTIONS))


def _check_imports(names: Sequence[str], where: str) -> None:
    """Check that what a recorded run imported is imported here too. A record could name any code, so nothing is.

    Raises:
        InputError: It is not.
    """
    for name in names:
        module = Path(name).stem if name.endswith(".py") else name
        if module not in sys.modules:
            raise InputError(f"{where}: the recorded run imported {name}; add --import {name}, or import it first")


def _is_record(content: Mapping[str, Any]) -> bool:
    return {"training", "dataset"} <= content.keys() and not content.keys().isdisjoint(("versions", "machine"))


def _record_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that repeat the run with this record.

    Raises:
        InputError: The run had networks or images that no option names.
    """
    dataset, training, machine = (_part(record, name) for name in ("dataset", "training", "machine"))
    for component in INSTEAD_OF:
        if component in record:
            raise InputError(
                f"config: this run was given its {component} in Python ({_part(record, component).get('class')}), "
                "which its record cannot repeat; repeat its own script"
            )
    for name, part in {"networks": record.get("networks"), "a dataset": dataset.get("config")}.items():
        if part is None:
            raise InputError(
                f"config: this run was given {name} in Python, which its record cannot repeat; repeat its own script"
            )
    if misplaced := sorted(record.keys() & FIELDS.keys() - {"preset", *INSTEAD_OF, "networks"}):
        raise InputError(
            f"config: {', '.join(misplaced)}: the record of a run has its options in training, networks and "
            "dataset.config; change them there, or beside --config"
        )
    if callbacks := _names(record, "callbacks"):
        say_once(f"config: the recorded run had callbacks of its own, which this one has not: {', '.join(callbacks)}.")
    values = {**_part(dataset, "config"), **_part(record, "networks"), **training}
    _check_names(values, "config: the record of a run")
    if record.get("preset"):
        values["preset"] = record["preset"]
    values["mixed_precision"] = machine.get("mixed_precision")
    values = {name: from_file(FIELDS[name], value) for name, value in values.items()}
    if values.get("num_clusters") or has_clusters(_part(record, "generator", default={})):
        values.pop("class_conditional", None)  # which a run with clusters records as on
    return {name: value for name, value in values.items() if _is_repeated(name)}


def _part(record: Mapping[str, Any], name: str, kind: Any = Mapping, default: Any = None) -> Any:
    """Return a part of a record.

    Raises:
        InputError: It is of another kind, as in a damaged file.
    """
    part = record.get(name, default)
    if not isinstance(part, kind):
        raise InputError(f"config: the record of the run is damaged: {name} is {part!r}")
    return part


def _names(record: Mapping[str, Any], name: str) -> list[str]:
    """Return a part of a record that is a list of names; none if it has no such part."""
    names = _part(record, name, list, [])
    for entry in names:
        _part({name: entry}, name, str)
    return names


def _num_processes(machine: Mapping[str, Any]) -> int:
    """Return the number of processes of a recorded run."""
    number = str(_part(machine, "num_processes", (int, str), 1))  # a text in YAML
    if not number.isdecimal() or int(number) == 0:
        raise InputError(f"config: the record of the run is damaged: num_processes is {machine['num_processes']!r}")
    return int(number)


def _is_repeated(name: str) -> bool:
    """Return whether a run that is repeated from its record takes an option from there."""
    return name not in NOT_REPEATED and depends_on(FIELDS[name]).isdisjoint(NOT_REPEATED)
