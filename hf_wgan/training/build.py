"""From a run's settings to its trainer: images, networks, classes, held-out images."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from diffusers import ModelMixin

from ..algorithm.lipschitz import Constraint, SpectralNormalization, build_constraint
from ..data import DataConfig, ImageSet, ImageStream, class_means, clustered, load_images
from ..models.checks import has_clusters
from ..models.factory import NetworkConfig, build_networks, shape_of
from ..models.layers import initialise_class_embeddings
from ..pipelines import WGANPipeline
from ..utils.console import say, say_once
from ..utils.errors import InputError, check_type
from .checkpoint import load_model
from .resolve import RunConfig
from .run_folder import check_output_dir
from .trainer import WGANTrainer


def build_trainer(config: RunConfig, record: dict[str, Any] | None = None, **objects: Any) -> WGANTrainer:
    """Load the images and build the networks and the trainer of a run, as `hf-wgan train` does.

    Args:
        config: The settings, from `RunConfig.resolve`.
        record: Further entries for `training_config.json`, such as the command that started the run.
        objects: Further arguments of `WGANTrainer`, such as `callbacks` or `constraint`.

    Raises:
        InputError: The settings do not fit each other, the images or the machine. Nothing has been written by then.

    Example:
    ```py
    >>> from hf_wgan import RunConfig, build_trainer

    >>> trainer = build_trainer(RunConfig.resolve(max_train_steps=100))
    >>> pipeline = trainer.train()
    ```
    """
    check_type("config", config, RunConfig, ", as RunConfig.resolve returns")
    # What can be wrong is found before the images are decoded, which may take long.
    check_output_dir(config.training)
    constraint = objects.get("constraint")
    if constraint is None:
        config.training.check_effects()
        constraint = build_constraint(config.training.lipschitz)
    networks = _Networks(config, isinstance(constraint, SpectralNormalization))
    if isinstance(constraint, Constraint):
        with torch.device("meta"):
            constraint.check(networks.build(channels=1)[1])
    dataset = load_images(networks.data_config)
    training = config.training
    if networks.num_clusters:
        dataset = networks.with_clusters(dataset, networks.num_clusters, training.seed)
        training = replace(training, class_conditional=True)
    elif training.class_conditional:
        dataset = networks.with_classes(dataset)
    set_seed(training.seed)
    generator, critic = networks.build(dataset.shape[0])
    record = {"preset": config.preset, "networks": asdict(networks.config), **networks.record, **(record or {})}
    trainer = WGANTrainer(generator, critic, dataset, training, record=record, **objects)
    number, recorded = trainer.accelerator.num_processes, config.num_processes
    if recorded not in (None, number):
        say_once(
            f"config: the recorded run had {recorded} processes and this one has {number}, whose steps are others; "
            f"--num_processes {recorded} repeats it."
        )
    return trainer


class _Networks:
    """The networks of a run: new ones, or those of a published pipeline."""

    def __init__(self, config: RunConfig, spectral_norm: bool):
        self.config, self.data_config = config.networks, config.data
        self.options: dict[str, Any] = {"spectral_norm": spectral_norm}
        self.record: dict[str, Any] = {}
        self.published: WGANPipeline | None = None
        self.clustered: ImageSet | None = None
        self.num_clusters = self.config.num_clusters
        if self.num_clusters and config.data.streaming:
            raise InputError(
                f"num_clusters={self.num_clusters}: clusters are of the whole set, and this is a stream; leave one out"
            )
        if name := self.config.pretrained_model_name_or_path:
            self.published = load_model(name, self.config.revision, self.config.variant)
            self.data_config = _data_for(self.published, config)
            # Those of a preset have no effect, and a run that is repeated from its record has only explicit ones.
            default = NetworkConfig()
            self.config = replace(
                self.config, **{option: getattr(default, option) for option in _decided(self.published)}
            )
            trained = self.published.generator.config
            self.num_clusters = trained.num_classes if has_clusters(trained) else None
            for option, value in {
                "class_conditional": config.training.class_conditional,
                "streaming": config.data.streaming,
            }.items():
                if self.num_clusters and value:
                    raise InputError(
                        f"{option}=True: {name} was trained on clusters, and other images get clusters of their whole "
                        "set; leave it out"
                    )
            if not Path(name).is_dir():
                self.record["base_model"] = name

    def with_classes(self, dataset: ImageSet | ImageStream) -> ImageSet | ImageStream:
        """Make the networks conditional on the classes of a dataset, and return its images that have a class."""
        names = self.published and self.published.generator.config.get("class_names")
        dataset = dataset.of_classes(list(names or [])) if isinstance(dataset, ImageSet) else dataset.labelled()
        self.options["num_classes"], self.options["class_names"] = _classes(dataset)
        return dataset

    def with_clusters(self, dataset: ImageSet | ImageStream, num_clusters: int, seed: int) -> ImageSet:
        """Make the networks conditional on clusters of a dataset, and return its images with these as labels."""
        assert isinstance(dataset, ImageSet)
        say_once(f"Grouping {len(dataset):,} images by k-means (num_clusters={num_clusters}).")
        dataset = clustered(dataset, num_clusters, seed)
        assert dataset.labels is not None
        frequencies = torch.bincount(dataset.labels).tolist()
        sizes = " to ".join(f"{size:,}" for size in sorted({min(frequencies), max(frequencies)}))
        say_once(f"{len(frequencies)} cluster{'s' * (len(frequencies) > 1)} of {sizes} images.")
        if self.published:
            frequencies += [0] * (self.published.generator.config.num_classes - len(frequencies))
            self.published.generator.register_to_config(class_frequencies=frequencies)
        self.options["num_classes"], self.options["class_frequencies"] = len(frequencies), frequencies
        self.clustered = dataset
        return dataset

    def build(self, channels: int) -> tuple[ModelMixin, ModelMixin]:
        """Return the generator and the critic for images with this number of channels."""
        if self.published and self.published.critic:
            return self.published.generator, self.published.critic
        height, width = self.data_config.sample_size
        sample_size = height if width == height else (height, width)  # a number in the networks' configs
        generator, critic = build_networks(self.config, sample_size, channels, **self.options)
        if self.clustered is not None:
            initialise_class_embeddings(generator, critic, class_means(self.clustered))
        return (self.published.generator if self.published else generator), critic


def _classes(dataset: ImageSet | ImageStream) -> tuple[int, list[str] | None]:
    """Return the number of classes and their names, if they have names."""
    if dataset.label_names:
        return len(dataset.label_names), dataset.label_names
    labels = getattr(dataset, "labels", None)
    if labels is None:
        raise InputError(f"class_conditional: {dataset.name} has no labels; set label_column")
    return int(labels.max()) + 1, None


def _decided(published: WGANPipeline) -> set[str]:
    """Return the options that a published model decides on: those that shape its networks."""
    shaping = {field.name for field in fields(NetworkConfig)} - {"pretrained_model_name_or_path", "revision", "variant"}
    if published.critic is None:
        shaping = {option for option in shaping if option.startswith(("generator_", "latent_", "num_clusters"))}
    return shaping


def _data_for(published: WGANPipeline, config: RunConfig) -> DataConfig:
    """Return the data options with size, channels and, by default, the range of values of networks that exist already.

    Raises:
        InputError: An explicit option contradicts these networks.
    """
    name = config.networks.pretrained_model_name_or_path
    default = NetworkConfig()
    if published.critic is None:
        say(f"{name} has no critic: a new one is trained.")
    shaping = {
        option
        for option in _decided(published) & config.explicit
        if getattr(config.networks, option) != getattr(default, option)
    }
    if shaping:
        raise InputError(
            f"{', '.join(sorted(shaping))}: {name} has its networks already; leave out the options that shape new ones"
        )
    channels, height, width = shape_of(published.generator)
    for option, value in {"resolution": height, "width": width, "channels": channels}.items():
        requested = getattr(config.data, option)
        if option in config.explicit and requested not in (None, value):
            raise InputError(f"{option}={requested}: {name} generates images with {value}; leave it out")
    config.data.check_effects()
    return config.data.changed(
        resolution=height,
        width=None if width == height else width,
        channels=channels,
        value_range=config.data.value_range or published.generator.config.get("value_range"),
    )
