"""A generator and its critic by name, from one set of options."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import ModelMixin

from ..algorithm.latents import PRIORS
from ..utils.errors import InputError
from ..utils.options import Options, option
from ..utils.registry import describe
from .checks import height_and_width
from .dcgan import DCGANCritic, DCGANGenerator
from .mlp import MLPCritic, MLPGenerator
from .r3gan import R3GANCritic, R3GANGenerator
from .resnet import ResNetCritic, ResNetGenerator

ARCHITECTURES: dict[str, tuple[type[ModelMixin], type[ModelMixin]]] = {
    "dcgan": (DCGANGenerator, DCGANCritic),
    "mlp": (MLPGenerator, MLPCritic),
    "resnet": (ResNetGenerator, ResNetCritic),
    "r3gan": (R3GANGenerator, R3GANCritic),
}


@dataclass(frozen=True)
class NetworkConfig(Options):
    """Networks."""

    pretrained_model_name_or_path: str | None = option(
        None, "Start from the networks of a pipeline on the Hub or in a folder, which then decides on all of these."
    )
    revision: str | None = option(None, "Branch, tag or commit of that pipeline.")
    variant: str | None = option(None, "Variant of that pipeline's weights, such as fp16.")
    architecture: Literal["dcgan", "mlp", "resnet", "r3gan"] = option(
        "dcgan",
        "dcgan: strided convolutions; mlp: four fully connected layers; resnet: the residual blocks of WGAN-GP; "
        "r3gan: residual blocks without normalisation.",
        common=True,
    )
    latent_dim: int | None = option(
        None,
        "Length of the generator's latent vectors (100 for dcgan and mlp, 128 for resnet, 64 for r3gan).",
        minimum=1,
    )
    latent_prior: str = option(
        "normal",
        f"Distribution of the latents, kept in the generator's config ({describe(PRIORS)}); or module:Class, a "
        "subclass of LatentPrior in a module that --import names.",
    )
    generator_width: int | None = option(
        None,
        "Channels of the generator's last hidden map, or its hidden units (64 for dcgan, 512 for mlp, 32 for r3gan; "
        "for resnet 128 at 32 pixels, else 64).",
        minimum=1,
    )
    critic_width: int | None = option(
        None, "Channels of the critic's first hidden map, or its hidden units (as for the generator).", minimum=1
    )
    num_extra_layers: int = option(
        0, "dcgan: further 3x3 convolutions in each network, at its finest hidden map.", minimum=0
    )
    generator_norm_type: Literal["batch", "none"] | None = option(
        None, "dcgan, resnet: normalisation in the generator (batch)."
    )
    critic_norm_type: Literal["batch", "layer", "instance", "none"] | None = option(
        None, "dcgan, resnet: normalisation in the critic (batch for dcgan, layer for resnet)."
    )


def build_networks(
    config: NetworkConfig,
    sample_size: int | tuple[int, int],
    channels: int,
    num_classes: int | None = None,
    class_names: list[str] | None = None,
    spectral_norm: bool = False,
) -> tuple[ModelMixin, ModelMixin]:
    """The generator and the critic for images of one size.

    Args:
        config: Which architecture, how wide.
        sample_size: Height and width of the images, in pixels: one number, or two if they differ.
        channels: 1 to 4.
        num_classes: How many classes of images both know; None for networks that know of none.
        class_names: Their names, kept in the generator's config.
        spectral_norm: Whether every layer of the critic has spectral normalisation.

    Raises:
        InputError: the architecture cannot make such images, or lacks an option that was set.
    """
    generator_class, critic_class = ARCHITECTURES[config.architecture]
    generator_options = {
        "latent_dim": config.latent_dim,
        "latent_prior": None if config.latent_prior == "normal" else config.latent_prior,
        "generator_width": config.generator_width,
        "num_extra_layers": config.num_extra_layers or None,
        "generator_norm_type": config.generator_norm_type,
    }
    critic_options = {
        "critic_width": config.critic_width,
        "num_extra_layers": config.num_extra_layers or None,
        "critic_norm_type": config.critic_norm_type,
    }
    return (
        generator_class(
            sample_size,
            channels,
            **_arguments(generator_class, generator_options, config.architecture),
            num_classes=num_classes,
            class_names=class_names,
        ),
        critic_class(
            sample_size,
            channels,
            **_arguments(critic_class, critic_options, config.architecture),
            num_classes=num_classes,
            spectral_norm=spectral_norm,
        ),
    )


def has_norm_type(architecture: str) -> bool:
    """Whether its critic can be normalised in one way or another."""
    return "norm_type" in inspect.signature(ARCHITECTURES[architecture][1].__init__).parameters


def _arguments(network_class: type[ModelMixin], options: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Those options that were set, by the names of the network's arguments."""
    known = inspect.signature(network_class.__init__).parameters
    arguments = {}
    for option_name, value in options.items():
        name = option_name.removeprefix("generator_").removeprefix("critic_")
        if value is None:
            continue
        if name not in known:
            raise InputError(f"{option_name}={value!r}: the {architecture} networks have no such option; leave it out")
        arguments[name] = value
    return arguments


def shape_of(network: ModelMixin) -> tuple[int, int, int]:
    """The shape `(C, H, W)` of the images that a generator makes or a critic takes."""
    config = network.config
    channels = config.out_channels if "out_channels" in config else config.in_channels
    return channels, *height_and_width(config.sample_size)
