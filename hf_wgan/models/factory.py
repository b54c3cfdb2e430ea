"""A generator and its critic by name, from one set of options."""

from dataclasses import dataclass
from typing import Literal

from diffusers import ModelMixin

from ..knobs import knob
from .dcgan import DCGANCritic, DCGANGenerator
from .mlp import MLPCritic, MLPGenerator


@dataclass(frozen=True)
class NetworkConfig:
    """Networks"""

    pretrained_model_name_or_path: str | None = knob(
        None, "Start from the networks of a pipeline on the Hub or in a folder, which then decides on all of these."
    )
    revision: str | None = knob(None, "Branch, tag or commit of that pipeline.")
    variant: str | None = knob(None, "Variant of that pipeline's weights, such as fp16.")
    architecture: Literal["dcgan", "mlp"] = knob("dcgan", "dcgan: convolutions; mlp: four fully connected layers.")
    latent_dim: int = knob(100, "Length of the generator's latent vectors.")
    generator_width: int | None = knob(
        None, "Channels of the generator's last hidden map, or its hidden units (64 for dcgan, 512 for mlp)."
    )
    critic_width: int | None = knob(
        None, "Channels of the critic's first hidden map, or its hidden units (64 for dcgan, 512 for mlp)."
    )
    num_extra_layers: int = knob(0, "dcgan: further 3x3 convolutions in each network, at its finest hidden map.")
    generator_norm_type: Literal["batch", "none"] = knob("batch", "dcgan: normalisation in the generator.")
    critic_norm_type: Literal["batch", "none"] = knob("batch", "dcgan: normalisation in the critic.")


def build_networks(config: NetworkConfig, sample_size: int, channels: int) -> tuple[ModelMixin, ModelMixin]:
    """The generator and the critic for square images.

    Args:
        config: Which architecture, how wide.
        sample_size: Height and width of the images, in pixels.
        channels: 1 to 4.

    Raises:
        InputError: the architecture cannot make such images.
    """
    if config.architecture == "mlp":
        return (
            MLPGenerator(sample_size, channels, config.latent_dim, config.generator_width or 512),
            MLPCritic(sample_size, channels, config.critic_width or 512),
        )
    return (
        DCGANGenerator(
            sample_size,
            channels,
            config.latent_dim,
            config.generator_width or 64,
            config.num_extra_layers,
            config.generator_norm_type,
        ),
        DCGANCritic(sample_size, channels, config.critic_width or 64, config.num_extra_layers, config.critic_norm_type),
    )


def shape_of(network: ModelMixin) -> tuple[int, int, int]:
    """The shape `(C, H, W)` of the images that a generator makes or a critic takes."""
    config = network.config
    channels = config.out_channels if "out_channels" in config else config.in_channels
    return channels, config.sample_size, config.sample_size
