"""Checks that the networks, images and processes of a run fit one another."""

import json
import zlib
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import ConfigMixin, ModelMixin
from torch import nn

from ..data import ImageSet, ImageStream
from ..models.factory import shape_of
from ..utils.console import say_once
from ..utils.errors import InputError, is_out_of_memory, one_line
from .changes import SECTIONS
from .config import TrainingConfig

BOUNDED = (nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Softmax)


def check_arguments(config: Any, callbacks: Any, record: Any, generator: Any, critic: Any) -> None:
    """Check the types of what a trainer is built with, and the networks as `check_networks` does.

    Raises:
        InputError: An argument is of another type.
    """
    if not isinstance(config, TrainingConfig):
        raise InputError(
            f"config of type {type(config).__name__}: must be a TrainingConfig; build_trainer takes what "
            "RunConfig.resolve returns"
        )
    if not (callbacks is None or isinstance(callbacks, (list, tuple))):
        raise InputError(f"callbacks={callbacks!r}: must be a list of callbacks")
    if not (record is None or isinstance(record, dict)):
        raise InputError(f"record={record!r}: must be a dictionary")
    if taken := [name for name in record or () if name in (*SECTIONS, "without_effect")]:
        raise InputError(f"record: {taken[0]!r} is an entry that the run writes itself; choose another name")
    try:
        json.dumps(record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"record={record!r}: must be what JSON can hold ({one_line(error)})") from error
    check_networks(generator, critic)


def check_same_images(dataset: ImageSet | ImageStream, accelerator: Accelerator) -> None:
    """Check that all processes have as many images and classes, and the same labels.

    A copy on another machine may be incomplete, and clusters depend on rounding, which processors do differently.

    Raises:
        InputError: They have not; in every process.
    """
    if accelerator.num_processes == 1 or isinstance(dataset, ImageStream):
        return
    checksum = 0 if dataset.labels is None else zlib.crc32(dataset.labels.numpy().tobytes())
    counts, checksums = zip(*gather_object([((len(dataset), dataset.num_classes), checksum)]))
    if len(set(counts)) > 1:
        having = "; ".join(f"process {rank}: {images:,} in {classes}" for rank, (images, classes) in enumerate(counts))
        raise InputError(
            f"{dataset.name}: the processes have different images or classes ({having} classes); give every machine "
            "the same files"
        )
    if len(set(checksums)) > 1:
        labels = "clusters" if dataset.has_clusters else "labels"
        remedy = "start them on processors of one kind" if dataset.has_clusters else "give every machine the same files"
        raise InputError(f"{dataset.name}: the processes have different {labels}; {remedy}")


def check_networks(generator: Any, critic: Any) -> None:
    """Check that the networks can be trained and saved, and are for the same images.

    Raises:
        InputError: They cannot, or are not.
    """
    required = {"generator": ("sample_size", "out_channels", "latent_dim"), "critic": ("sample_size", "in_channels")}
    for name, network in {"generator": generator, "critic": critic}.items():
        if not (isinstance(network, ModelMixin) and isinstance(network, ConfigMixin)):
            raise InputError(
                f"{name} of type {type(network).__name__}: must be a diffusers ModelMixin and ConfigMixin, to be saved "
                "and loaded; derive it from hf_wgan.models.network.Network and decorate its __init__ with "
                "@register_to_config"
            )
        config = getattr(network, "config", {})  # there is none where __init__ is not decorated
        for entry in required[name]:
            if entry not in config:
                raise InputError(
                    f"{name} of type {type(network).__name__}: its config has no {entry}; make it an argument of "
                    "__init__, decorated with @register_to_config"
                )
        if not any(weight.requires_grad for weight in network.parameters()):
            raise InputError(f"{name}: none of its weights can be trained; call {name}.requires_grad_(True)")
    if shape_of(generator) != shape_of(critic):
        raise InputError(
            f"the generator makes images of shape {shape_of(generator)}, the critic takes {shape_of(critic)}: "
            "build them for the same images"
        )
    *_, last = (layer for layer in critic.modules() if not [*layer.children()])
    if isinstance(last, BOUNDED):
        say_once(
            f"critic: its last layer is a {type(last).__name__}, which bounds the scores; a critic ends in a linear "
            "layer (Arjovsky et al. 2017): remove it."
        )


def check_precision(generator: ModelMixin, critic: ModelMixin, accelerator: Accelerator) -> None:
    """Check that the weights of both networks are float32, or float64 without mixed precision.

    Raises:
        InputError: They are not.
    """
    names = {"generator": generator, "critic": critic}
    dtypes = {
        name: {weight.dtype for weight in network.parameters() if weight.is_floating_point()}
        for name, network in names.items()
    }
    for name, weights in dtypes.items():
        if weights not in ({torch.float32}, {torch.float64}):
            raise InputError(
                f"{name} with weights in {' and '.join(sorted(map(str, weights)))}: small updates are lost in half "
                'precision; pass float32 weights (.float()) and train with mixed_precision="bf16" or "fp16"'
            )
    if dtypes["generator"] != dtypes["critic"]:
        raise InputError(f"a generator in {generator.dtype} with a critic in {critic.dtype}: must be the same")
    if generator.dtype == torch.float64 and accelerator.mixed_precision != "no":
        raise InputError(
            f"mixed_precision={accelerator.mixed_precision!r} with float64 networks: has no effect on them; use "
            "mixed_precision='no' or pass float32 networks"
        )


@torch.no_grad()
def check_outputs(generator: ModelMixin, critic: ModelMixin) -> None:
    """Check the shapes of what both networks return, on two images.

    Raises:
        InputError: A network fails or returns another shape.
    """
    labels = (
        (torch.zeros(2, dtype=torch.int64, device=generator.device),) if generator.config.get("num_classes") else ()
    )
    latents = torch.zeros(2, generator.config.latent_dim, dtype=generator.dtype, device=generator.device)
    shape = (2, *shape_of(generator))
    images = _output("generator", generator, latents, labels)
    if images.shape != shape:
        raise InputError(
            f"the generator returns images of shape {tuple(images.shape)} for two latents: must be {shape}"
        )
    scores = _output("critic", critic, torch.zeros(shape, dtype=critic.dtype, device=critic.device), labels)
    if scores.shape != (2,):
        raise InputError(
            f"the critic returns scores of shape {tuple(scores.shape)} for two images: must be (2,); end its forward "
            "with .flatten()"
        )


def _output(name: str, network: ModelMixin, inputs: torch.Tensor, labels: tuple[torch.Tensor, ...]) -> torch.Tensor:
    training = network.training
    try:
        output = network.eval().forward(inputs, *labels)  # not compiled for a batch of two
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"the {name} fails for input of shape {tuple(inputs.shape)}: {one_line(error)}") from error
    finally:
        network.train(training)
    if not isinstance(output, torch.Tensor):
        raise InputError(f"the {name} returns a {type(output).__name__}: must be a tensor")
    return output


def check_classes(
    config: TrainingConfig, dataset: ImageSet | ImageStream, generator: ModelMixin, critic: ModelMixin
) -> None:
    """Check that the configuration, the labels and both networks agree on the classes.

    Raises:
        InputError: They do not.
    """
    for name, network in {"generator": generator, "critic": critic}.items():
        num_classes = network.config.get("num_classes")
        if bool(num_classes) != config.class_conditional:
            raise InputError(
                f"class_conditional={config.class_conditional} with a {name} of num_classes={num_classes}: build both "
                "networks with num_classes, or neither, and set class_conditional likewise"
            )
        if config.class_conditional and isinstance(dataset, ImageSet):
            if dataset.labels is None:
                raise InputError(f"class_conditional: {dataset.name} has no labels; set label_column")
            if not 0 <= int(dataset.labels.min()) <= int(dataset.labels.max()) < num_classes:
                raise InputError(
                    f"class_conditional: {dataset.name} has labels from {int(dataset.labels.min())} to "
                    f"{int(dataset.labels.max())}, the {name} has {num_classes} classes"
                )
