"""The one place where a run's settings are resolved, for command lines, files and Python alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..data import DataConfig
from ..models.factory import NetworkConfig, has_option
from ..utils.errors import InputError
from ..utils.options import Options, checked, from_file, nearest, option, option_fields, read_options
from .components import INSTEAD_OF
from .config import TrainingConfig
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

NO_LIMIT = 10**9  # steps

NOT_REPEATED = ("overwrite_output_dir", "resume_from_checkpoint", "allow_config_change", "push_to_hub")
"""What a run repeated from its record does not do again: replace, resume or publish something."""
OF_ARCHITECTURES = ("critic_norm_type", "critic_pooling", "num_blocks", "generator_upsampling", "generator_modulated")
"""Options of presets that only some architectures have."""
REPLACES = (
    ("dataset_name", "train_data_dir"),
    ("train_data_dir", "dataset_name"),
    ("class_conditional", "num_clusters"),  # labels, instead of a preset's clusters
)
"""Pairs of options: the first, given alone, replaces a value of the second from a preset or a lower layer."""

HINTS = {
    "num_epochs": "max_train_steps counts generator updates; an epoch is the number of images divided by "
    "train_batch_size × n_critic of them",
    "eval_batch_size": "num_validation_images is the number of images in a sample grid",
    "logging_dir": "trackers write into OUTPUT_DIR/logs; output_dir sets the folder",
    "save_images_epochs": "validation_steps is the number of steps between two sample grids",
    "save_model_epochs": "checkpointing_steps is the number of steps between two checkpoints",
    "logger": "report_to names the trackers",
    "momentum": "RMSProp runs without momentum, as in the paper; optimizer and adam_beta1 choose another optimizer",
    "scale_lr": "the learning rates are taken as they are; learning_rate sets both",
    "prediction_type": "a GAN predicts no noise: there is no such choice",
    "ddpm_num_steps": "a GAN generates in one step: there is no such choice",
    "local_rank": "start several processes with --num_processes",
    "num_workers": "dataloader_num_workers is the number of processes that decode a stream",
    "device": "Accelerate chooses the device; --cpu keeps to the CPU",
} | dict.fromkeys(("fp16", "bf16"), "use mixed_precision")
"""Answers to options of diffusers' example scripts and of other GAN code that are no options here."""

OTHER_NAMES = {
    "num_train_epochs": "num_epochs",
    "epochs": "num_epochs",
    "n_epochs": "num_epochs",
    "niter": "num_epochs",
    "lr": "learning_rate",
    "lr_g": "generator_learning_rate",
    "lr_d": "critic_learning_rate",
    "lrG": "generator_learning_rate",
    "lrD": "critic_learning_rate",
    "discriminator_learning_rate": "critic_learning_rate",
    "batch_size": "train_batch_size",
    "batchSize": "train_batch_size",
    "per_device_train_batch_size": "train_batch_size",
    "image_size": "resolution",
    "imageSize": "resolution",
    "img_size": "resolution",
    "size": "resolution",
    "nz": "latent_dim",
    "z_dim": "latent_dim",
    "latent_size": "latent_dim",
    "ngf": "generator_width",
    "ndf": "critic_width",
    "nc": "channels",
    "dataroot": "train_data_dir",
    "data_dir": "train_data_dir",
    "dataset": "dataset_name",
    "dataset_id": "dataset_name",
    "outf": "output_dir",
    "output": "output_dir",
    "experiment": "output_dir",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "weight_decay": "adam_weight_decay",
    "eps": "adam_epsilon",
    "warmup_steps": "lr_warmup_steps",
    "save_steps": "checkpointing_steps",
    "eval_steps": "evaluation_steps",
    "log_interval": "logging_steps",
    "max_steps": "max_train_steps",
    "manualSeed": "seed",
    "Diters": "n_critic",
    "critic_iters": "n_critic",
    "critic_iterations": "n_critic",
    "clip": "clip_value",
    "clip_lower": "clip_value",
    "clip_upper": "clip_value",
    "weight_clip": "clip_value",
    "lambda_gp": "gradient_penalty_weight",
    "gp_weight": "gradient_penalty_weight",
    "gp_lambda": "gradient_penalty_weight",
    "gradient_penalty": "lipschitz",
    "penalty": "lipschitz",
    "model": "architecture",
    "checkpoint": "resume_from_checkpoint",
    "resume": "resume_from_checkpoint",
    "tracker": "report_to",
    "ema": "use_ema",
}
"""Options of other programs, and what they are called here."""

EPOCHS = {"num_epochs"} | {name for name, here in OTHER_NAMES.items() if here == "num_epochs"}
HINTS |= {name: HINTS.get(here) or f"{name} is called {here} here" for name, here in OTHER_NAMES.items()}


@dataclass(frozen=True)
class RunOptions(Options):
    """Presets."""

    preset: str | None = option(
        None,
        "Settings of a paper, all at once; explicit options override them.",
        choices=PRESETS,
        common=True,
        matters=False,
    )
    learning_rate: float | None = option(
        None, "Learning rate of both networks, unless the option of one of them says otherwise.", above=0, common=True
    )


OPTION_CLASSES = (RunOptions, DataConfig, NetworkConfig, TrainingConfig)
FIELDS = {field.name: field for option_class in OPTION_CLASSES for field in option_fields(option_class)}


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
        if config is not None:
            content = config if isinstance(config, Mapping) else read_options(config)
            where = "config" if isinstance(config, Mapping) else f"config={os.fspath(config)!r}"
            layers.insert(0, _file_options(content, where))
            if _is_record(content):
                num_processes = content["machine"].get("num_processes")
        for name in options:
            if name not in FIELDS:
                raise InputError(_unknown(name, "options"))
        return replace(cls._of_layers(layers), num_processes=num_processes)

    @classmethod
    def _of_layers(cls, layers: list[dict[str, Any]]) -> RunConfig:
        layers = [{name: checked(FIELDS[name], value) for name, value in layer.items()} for layer in layers]
        resolution = DataConfig.resolution
        for _ in range(2):  # a preset may depend on the size of the images, which any layer may name
            values, preset = _merged(layers, resolution)
            resolution = values.get("resolution", resolution)
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


def _merged(layers: list[dict[str, Any]], resolution: int) -> tuple[dict[str, Any], str | None]:
    """Return the values of layers of options, of which later ones override earlier ones, and the preset."""
    values: dict[str, Any] = {}
    preset = None
    for layer in layers:
        if layer.get("preset"):
            preset = layer["preset"]
            replaced = _replaced_by(values)
            values |= {
                name: value for name, value in preset_options(preset, resolution).items() if name not in replaced
            }
        for name in _replaced_by(layer):
            values.pop(name, None)
        values |= with_learning_rate(layer)
    if values.get("dataset_name") is None and values.get("train_data_dir") is None:
        defaults = dict(DIGITS_DEFAULTS if preset is None else DIGITS_SIZE)
        if values.get("pretrained_model_name_or_path"):
            defaults.pop("class_conditional", None)
        values = defaults | values
    return values, preset


def _replaced_by(options: Mapping[str, Any]) -> set[str]:
    """Return the options whose place is taken by others that are given."""
    return {replaced for name, replaced in REPLACES if options.get(name) and not options.get(replaced)}


def with_learning_rate(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with `learning_rate` replaced by those of the two networks, which override it."""
    options = dict(options)
    both = options.pop("learning_rate", None)
    rates = {} if both is None else dict.fromkeys(("generator_learning_rate", "critic_learning_rate"), both)
    return rates | options


def _file_options(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the options in a file's content: a flat mapping, one with a section for each part, or a run's record.

    Raises:
        InputError: A key is unknown.
    """
    if _is_record(content):
        return _record_options(content)
    options: dict[str, Any] = {}
    for name, value in content.items():
        section = value if name in ("data", "networks", "training") and isinstance(value, Mapping) else {name: value}
        for key, entry in section.items():
            if key not in FIELDS:
                raise InputError(_unknown(str(key), where))
            options[key] = from_file(FIELDS[key], entry)
    return options


def _is_record(content: Mapping[str, Any]) -> bool:
    return "training" in content and "dataset" in content


def _record_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that repeat the run with this record.

    Raises:
        InputError: The run had networks or images that no option names.
    """
    dataset = (record["dataset"] or {}).get("config")
    networks = record.get("networks")
    if networks is None or dataset is None:
        missing = "networks" if networks is None else "a dataset"
        raise InputError(
            f"config: this run was given {missing} in Python, which its record cannot repeat; repeat its own script"
        )
    for component in INSTEAD_OF:
        if component in record:
            raise InputError(
                f"config: this run was given its {component} in Python ({record[component]['class']}), which its "
                "record cannot repeat; repeat its own script"
            )
    values = {**dataset, **networks, **record["training"]}
    if record.get("preset"):
        values["preset"] = record["preset"]
    values["mixed_precision"] = record["machine"]["mixed_precision"]
    return {name: value for name, value in values.items() if name in FIELDS and name not in NOT_REPEATED}


def _unknown(name: str, where: str) -> str:
    answer = nearest(name, FIELDS, HINTS)
    return f"{where}: there is no option {name!r}" + (f"; {answer}" if answer else "")
