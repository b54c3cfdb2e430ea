"""The multilayer perceptrons of Arjovsky et al. 2017 (arXiv 1701.07875, section 4.3): four layers, 512 ReLU units."""

from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from .checks import check_at_least, check_choice, check_images, check_latents, check_num_parameters
from .network import Network


class MLPGenerator(Network):
    """Latent vectors to images, with no notion of neighbouring pixels.

    As in the authors' code the last layer is linear, so pixels may leave [-1, 1]; the pipeline clamps them.

    Args:
        sample_size: Height and width of the images in pixels, 1 or more.
        out_channels: Channels of the images, 1 to 4.
        latent_dim: Length of a latent vector, drawn from N(0, 1).
        width: Units of a hidden layer.
        num_layers: Linear layers, the last one included, 1 or more.

    Raises:
        InputError: an argument is out of its range.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        out_channels: int = 3,
        latent_dim: int = 100,
        width: int = 512,
        num_layers: int = 4,
    ):
        super().__init__()
        check_at_least("sample_size", sample_size, 1)
        check_choice("out_channels", out_channels, (1, 2, 3, 4))
        check_at_least("latent_dim", latent_dim, 1)
        self.layers = _perceptron(self, latent_dim, width, out_channels * sample_size**2, num_layers)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """
        Args:
            latents: `(N, latent_dim)`.

        Returns:
            Images, `(N, out_channels, sample_size, sample_size)`, around [-1, 1].
        """
        check_latents(latents, self.config.latent_dim)
        size = self.config.sample_size
        return self.layers(latents).unflatten(1, (self.config.out_channels, size, size))


class MLPCritic(Network):
    """Images to scores: unbounded, one an image, high for what looks real.

    Args:
        sample_size: Height and width of the images in pixels, 1 or more.
        in_channels: Channels of the images, 1 to 4.
        width: Units of a hidden layer.
        num_layers: Linear layers, the last one included, 1 or more.

    Raises:
        InputError: an argument is out of its range.
    """

    @register_to_config
    def __init__(self, sample_size: int = 64, in_channels: int = 3, width: int = 512, num_layers: int = 4):
        super().__init__()
        check_at_least("sample_size", sample_size, 1)
        check_choice("in_channels", in_channels, (1, 2, 3, 4))
        self.layers = _perceptron(self, in_channels * sample_size**2, width, 1, num_layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """
        Args:
            images: `(N, in_channels, sample_size, sample_size)` in [-1, 1].

        Returns:
            Scores, `(N,)`, unbounded.
        """
        check_images(images, self.config.in_channels, self.config.sample_size)
        return self.layers(images.flatten(start_dim=1)).squeeze(1)


def _perceptron(network: Network, num_inputs: int, width: int, num_outputs: int, num_layers: int) -> nn.Sequential:
    check_at_least("width", width, 1)
    check_at_least("num_layers", num_layers, 1, 1000)
    check_num_parameters(network, (num_inputs + num_outputs + (num_layers - 2) * width) * width)
    sizes = [num_inputs, *[width] * (num_layers - 1), num_outputs]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])  # the last layer is linear
