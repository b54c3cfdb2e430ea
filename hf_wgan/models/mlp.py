"""The multilayer perceptrons of Arjovsky et al. 2017 (arXiv 1701.07875, section 4.3): four layers, 512 ReLU units."""

from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..algorithm.latents import check_latent_prior
from .checks import (
    check_at_least,
    check_choice,
    check_classes,
    check_images,
    check_labels,
    check_latents,
    check_num_parameters,
    height_and_width,
)
from .layers import (
    CLASS_EMBEDDING_DIM,
    add_spectral_norm,
    latent_embedding,
    projection,
    projection_embedding,
    with_class,
)
from .network import Network


class MLPGenerator(Network):
    """Map latent vectors to images, with no notion of neighbouring pixels.

    As in the authors' code the last layer is linear, so pixels may leave [-1, 1]; the pipeline clamps them.

    By default 6,880,768 parameters, and 13,733,888 FLOPs for an image of 64 pixels (two a multiply-add).

    Args:
        sample_size: Height and width of the images in pixels, 1 or more: one number, or two if they differ.
        out_channels: Channels of the images, 1 to 4.
        latent_dim: Length of a latent vector.
        width: Units of a hidden layer.
        num_layers: Linear layers, the last one included, 1 or more.
        num_classes: Number of classes, each with a learned vector beside the latent one; None for an
            unconditional generator.
        class_names: Names of the classes, kept in the config.
        class_frequencies: How often each class is drawn, in any unit, where a pipeline is asked for none; kept in the
            config. By default the classes come in turn.
        latent_prior: What latents are drawn from, kept in the config: a name in `PRIORS` (`"normal"`, `"uniform"`), or
            the name of a class, see `LatentPrior`.

    Raises:
        InputError: An argument is out of its range.
    """

    summary = "four fully connected layers"
    mixes_classes = True

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 64,
        out_channels: int = 3,
        latent_dim: int = 100,
        width: int = 512,
        num_layers: int = 4,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        class_frequencies: list[int] | None = None,
        latent_prior: str = "normal",
    ):
        super().__init__()
        height, image_width = height_and_width(sample_size)
        check_choice("out_channels", out_channels, (1, 2, 3, 4))
        check_at_least("latent_dim", latent_dim, 1)
        check_classes(num_classes, class_names, class_frequencies)
        check_latent_prior(latent_prior, type(self))
        num_inputs = latent_dim + (CLASS_EMBEDDING_DIM if num_classes else 0)
        self.layers = _perceptron(self, num_inputs, width, out_channels * height * image_width, num_layers)
        if num_classes is not None:
            self.class_embedding = latent_embedding(num_classes)

    def forward(self, latents: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Generate images.

        Args:
            latents: `(N, latent_dim)`.
            class_labels: `(N,)` int64 from 0 to `num_classes - 1`, or, for images between classes, the weights of all,
                `(N, num_classes)` floating; only with `num_classes`.

        Returns:
            Images, `(N, out_channels, H, W)`, around [-1, 1].
        """
        check_latents(latents, self.config.latent_dim)
        check_labels(class_labels, latents.shape[0], self.config.num_classes, are_mixed=True)
        if class_labels is not None:
            latents = with_class(latents, self.class_embedding(class_labels))  # (N, latent_dim + 32)
        pixels = self.layers(latents)  # (N, C·H·W)
        return pixels.unflatten(1, (self.config.out_channels, *height_and_width(self.config.sample_size)))


class MLPCritic(Network):
    """Map images to scores: unbounded, one for each image, high for images that look real.

    By default 6,817,793 parameters, and 13,632,512 FLOPs for an image of 64 pixels (two a multiply-add).

    Args:
        sample_size: Height and width of the images in pixels, 1 or more: one number, or two if they differ.
        in_channels: Channels of the images, 1 to 4.
        width: Units of a hidden layer.
        num_layers: Linear layers, the last one included, 1 or more.
        num_classes: Number of classes; None for an unconditional critic. With classes the score is
            ψ(φ(x)) + ⟨embed(y), φ(x)⟩ (Miyato & Koyama 2018, arXiv 1802.05637, eq. 4), where φ is the last hidden
            vector.
        spectral_norm: Whether every layer divides its weight by its largest singular value (Miyato et al. 2018, arXiv
            1802.05957).

    Raises:
        InputError: An argument is out of its range.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 64,
        in_channels: int = 3,
        width: int = 512,
        num_layers: int = 4,
        num_classes: int | None = None,
        spectral_norm: bool = False,
    ):
        super().__init__()
        height, image_width = height_and_width(sample_size)
        check_choice("in_channels", in_channels, (1, 2, 3, 4))
        check_choice("spectral_norm", spectral_norm, (True, False))
        check_classes(num_classes)
        self.layers = _perceptron(self, in_channels * height * image_width, width, 1, num_layers)
        if num_classes is not None:
            num_features = width if num_layers > 1 else in_channels * height * image_width
            check_num_parameters(self, num_classes * num_features)
            self.class_embedding = projection_embedding(num_classes, num_features, spectral_norm)
        if spectral_norm:
            add_spectral_norm(self)

    def forward(self, images: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Score images.

        Args:
            images: `(N, in_channels, H, W)` in [-1, 1].
            class_labels: `(N,)` int64 from 0 to `num_classes - 1`; only with `num_classes`.

        Returns:
            Scores, `(N,)`, unbounded.
        """
        check_images(images, self.config.in_channels, self.config.sample_size)
        check_labels(class_labels, images.shape[0], self.config.num_classes)
        pixels = images.flatten(start_dim=1)  # (N, C·H·W)
        if class_labels is None:
            return self.layers(pixels).squeeze(1)  # (N,)
        features = self.layers[:-1](pixels)  # (N, width)
        scores = self.layers[-1](features).squeeze(1)  # (N,)
        return scores + projection(features, self.class_embedding(class_labels))  # (N,)


def _perceptron(network: Network, num_inputs: int, width: int, num_outputs: int, num_layers: int) -> nn.Sequential:
    check_at_least("width", width, 1)
    check_at_least("num_layers", num_layers, 1, 1000)
    check_num_parameters(network, (num_inputs + num_outputs + (num_layers - 2) * width) * width)
    sizes = [num_inputs, *[width] * (num_layers - 1), num_outputs]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])  # the last layer is linear
