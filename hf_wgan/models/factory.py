"""A generator and its critic by name, from one set of options."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import ModelMixin

from ..algorithm.latents import PRIORS, prior_name
from ..utils.errors import InputError
from ..utils.options import Options, option
from ..utils.registry import describe
from .checks import height_and_width
from .dcgan import DCGANCritic, DCGANGenerator
from .mlp import MLPCritic, MLPGenerator
from .r3gan import R3GANCritic, R3GANGenerator
from .resnet import ResNetCritic, ResNetGenerator

# A new architecture is a file beside this one and a line here.
ARCHITECTURES: dict[str, tuple[type[ModelMixin], type[ModelMixin]]] = {
    "dcgan": (DCGANGenerator, DCGANCritic),
    "mlp": (MLPGenerator, MLPCritic),
    "resnet": (ResNetGenerator, ResNetCritic),
    "r3gan": (R3GANGenerator, R3GANCritic),
}


def _defaults(argument: str, player: int = 0) -> str:
    """Return an argument's default in each architecture, from the signatures: `"100 for dcgan and mlp; 64 for r3gan"`.

    Args:
        argument: Name of an argument of the networks.
        player: 0 for the generators, 1 for the critics.
    """
    names: dict[Any, list[str]] = {}
    for name, pair in ARCHITECTURES.items():
        parameter = inspect.signature(pair[player].__init__).parameters.get(argument)
        if parameter is not None:
            names.setdefault(parameter.default, []).append(name)
    return "; ".join(
        f"{'by image size' if default is None else default} for {' and '.join(architectures)}"
        for default, architectures in names.items()
    )


def _having(argument: str) -> str:
    """Return the names of the architectures of which a network takes an argument."""
    return ", ".join(name for name, pair in ARCHITECTURES.items() if any(_takes(part, argument) for part in pair))


def _takes(network_class: type[ModelMixin], argument: str) -> bool:
    return argument in inspect.signature(network_class.__init__).parameters


@dataclass(frozen=True)
class NetworkConfig(Options):
    """Networks."""

    pretrained_model_name_or_path: str | None = option(
        None,
        "Pipeline on the Hub or in a folder, or checkpoint, whose networks training starts from; it decides on all "
        "options below.",
    )
    revision: str | None = option(
        None,
        "Branch, tag or commit of that pipeline.",
        needs={"pretrained_model_name_or_path": True},
    )
    variant: str | None = option(
        None,
        "Variant of that pipeline's weights, such as fp16.",
        needs={"pretrained_model_name_or_path": True},
    )
    architecture: str = option(
        "dcgan", f"Architecture of both networks. {describe(ARCHITECTURES)}.", choices=ARCHITECTURES
    )
    latent_dim: int | None = option(
        None, f"Length of the generator's latent vectors ({_defaults('latent_dim')}).", minimum=1
    )
    latent_prior: str = option(
        "normal",
        f"Distribution of the latents, kept in the generator's config. {describe(PRIORS)}; or MODULE:CLASS, a "
        "subclass of LatentPrior in an imported module.",
    )
    generator_width: int | None = option(
        None,
        f"Channels of the generator's last hidden map, or its hidden units ({_defaults('width')}).",
        minimum=1,
    )
    critic_width: int | None = option(
        None,
        f"Channels of the critic's first hidden map, or its hidden units ({_defaults('width', 1)}).",
        minimum=1,
    )
    num_clusters: int | None = option(
        None,
        "Train on clusters of the images, at most this many, as if they were classes: for images that vary much and "
        "have no labels. A set has at most one for six images.",
        minimum=1,
    )
    num_extra_layers: int = option(
        0,
        f"Additional 3x3 convolutions in each network, at its finest hidden map (only {_having('num_extra_layers')}).",
        minimum=0,
    )
    generator_norm_type: Literal["batch", "none"] | None = option(
        None, f"Normalisation in the generator, only {_having('norm_type')} ({_defaults('norm_type')})."
    )
    generator_modulated: bool | None = option(
        None,
        "Let the scales and shifts of the generator's batch normalisation follow from the latents, only "
        f"{_having('modulated')}.",
    )
    generator_output_skips: bool | None = option(
        None,
        f"Let the generator's smaller maps add to the image too, not the finest alone, only {_having('output_skips')}.",
    )
    critic_norm_type: Literal["batch", "layer", "instance", "none"] | None = option(
        None, f"Normalisation in the critic, only {_having('norm_type')} ({_defaults('norm_type', 1)})."
    )
    generator_upsampling: Literal["transposed", "nearest"] | None = option(
        None,
        "How the generator doubles the size: by transposed convolutions, or by nearest neighbours and convolutions, "
        f"only {_having('upsampling')} ({_defaults('upsampling')}).",
    )
    critic_pooling: Literal["mean", "sum", "flatten"] | None = option(
        None,
        "What the critic's last layer gets: the mean or the sum over space, or the whole map, only "
        f"{_having('pooling')} ({_defaults('pooling', 1)}).",
    )
    num_blocks: int | None = option(
        None,
        f"Residual blocks at each size in both networks, only {_having('num_blocks')} ({_defaults('num_blocks')}).",
        minimum=1,
    )

    def check(self) -> None:
        """Check that the prior exists."""
        prior_name(self.latent_prior, ARCHITECTURES[self.architecture][0])


def build_networks(
    config: NetworkConfig,
    sample_size: int | tuple[int, int],
    channels: int,
    num_classes: int | None = None,
    class_names: list[str] | None = None,
    class_frequencies: list[int] | None = None,
    spectral_norm: bool = False,
) -> tuple[ModelMixin, ModelMixin]:
    """Build the generator and the critic for images of one size.

    Args:
        config: The architecture and its options.
        sample_size: Height and width of the images, in pixels: one number, or two if they differ.
        channels: 1 to 4.
        num_classes: Number of classes for conditional networks, or None.
        class_names: Names of the classes, kept in the generator's config.
        class_frequencies: How often each class is drawn where none is asked for, likewise.
        spectral_norm: Whether every layer of the critic has spectral normalisation.

    Raises:
        InputError: The architecture cannot make such images, or lacks an option that was set.
    """
    generator_class, critic_class = ARCHITECTURES[config.architecture]
    generator_options = {
        "latent_dim": config.latent_dim,
        "latent_prior": None if config.latent_prior == "normal" else config.latent_prior,
        "generator_width": config.generator_width,
        "num_extra_layers": config.num_extra_layers or None,
        "generator_norm_type": config.generator_norm_type,
        "num_blocks": config.num_blocks,
        "generator_upsampling": config.generator_upsampling,
        "generator_modulated": config.generator_modulated,
        "generator_output_skips": config.generator_output_skips,
    }
    critic_options = {
        "critic_width": config.critic_width,
        "num_extra_layers": config.num_extra_layers or None,
        "critic_norm_type": config.critic_norm_type,
        "critic_pooling": config.critic_pooling,
        "num_blocks": config.num_blocks,
    }
    return (
        generator_class(
            sample_size,
            channels,
            **_arguments(generator_class, generator_options, config.architecture),
            num_classes=num_classes,
            class_names=class_names,
            class_frequencies=class_frequencies,
        ),
        critic_class(
            sample_size,
            channels,
            **_arguments(critic_class, critic_options, config.architecture),
            num_classes=num_classes,
            spectral_norm=spectral_norm,
        ),
    )


def has_option(architecture: str, option_name: str) -> bool:
    """Return whether an option that shapes a network, or both, exists for an architecture."""
    return any(_takes(network, _argument_of(option_name)) for network in ARCHITECTURES[architecture])


def _argument_of(option_name: str) -> str:
    return option_name.removeprefix("generator_").removeprefix("critic_")


def _arguments(network_class: type[ModelMixin], options: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Return the options that are set, by the names of the network's arguments."""
    arguments = {}
    for option_name, value in options.items():
        name = _argument_of(option_name)
        if value is None:
            continue
        if not _takes(network_class, name):
            raise InputError(f"{option_name}={value!r}: the {architecture} networks have no such option; leave it out")
        arguments[name] = value
    return arguments


def shape_of(network: ModelMixin) -> tuple[int, int, int]:
    """Return the shape `(C, H, W)` of the images that a generator makes or a critic takes."""
    config = network.config
    channels = config.out_channels if "out_channels" in config else config.in_channels
    return channels, *height_and_width(config.sample_size)
