"""The residual pair of WGAN-GP: Gulrajani et al. 2017 (arXiv 1704.00028), section 5 and the appendix's tables.

At 32 pixels the networks are those of the CIFAR-10 table. At 64 and 128 pixels the widths double from the image inwards
as in the authors' code for 64 pixels, whose critic has `pooling="flatten"`. With `pooling="sum"` the critic is that of
Miyato et al. 2018 (arXiv 1802.05957, tables 4 and 5).
"""

from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from ..algorithm.latents import check_latent_prior
from .checks import (
    check_at_least,
    check_choice,
    check_classes,
    check_images,
    check_labels,
    check_latents,
    check_num_parameters,
    coarsest_map,
    height_and_width,
)
from .layers import (
    CLASS_EMBEDDING_DIM,
    ClassVectors,
    PooledConv2d,
    UpsampledConv2d,
    add_spectral_norm,
    latent_embedding,
    normalization,
    projection,
    projection_embedding,
    with_class,
)
from .network import Network

GENERATOR_NORM_TYPES = ("batch", "none")
CRITIC_NORM_TYPES = ("layer", "batch", "instance", "none")
POOLINGS = ("mean", "sum", "flatten")


class ResNetGenerator(Network):
    """Map latent vectors to images: a linear layer to the coarsest map, then residual blocks that each double the size.

    By default 1,204,099 parameters, and 591,134,720 FLOPs for an image of 32 pixels (two a multiply-add).

    Args:
        sample_size: Height and width of the images in pixels: 32, 64 or 128, or two multiples of 32 up to 128.
        out_channels: Channels of the images, 1 to 4.
        latent_dim: Length of a latent vector.
        width: Channels of the finest map. At 32 pixels all maps have as many; else each coarser one twice those of the
            next finer. None for the paper's: 128 at 32 pixels, else 64.
        norm_type: `"batch"` for batch normalisation before every ReLU, or `"none"`.
        num_classes: Number of classes; None for an unconditional generator. With batch normalisation
            each class has its own scales and shifts in the blocks (Dumoulin et al. 2017, arXiv 1610.07629, as in the
            authors' code), else a learned vector beside the latent one.
        class_names: Names of the classes, kept in the config.
        class_frequencies: How often each class is drawn, in any unit, where a pipeline is asked for none; kept in the
            config. By default the classes come in turn.
        latent_prior: What latents are drawn from, kept in the config: a name in `PRIORS` (`"normal"`, `"uniform"`), or
            the name of a class, see `LatentPrior`.

    Raises:
        InputError: An argument is out of its range.
    """

    summary = "residual blocks of WGAN-GP"
    mixes_classes = True

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        out_channels: int = 3,
        latent_dim: int = 128,
        width: int | None = None,
        norm_type: str = "batch",
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        class_frequencies: list[int] | None = None,
        latent_prior: str = "normal",
    ):
        super().__init__()
        check_choice("out_channels", out_channels, (1, 2, 3, 4))
        check_at_least("latent_dim", latent_dim, 1)
        check_choice("norm_type", norm_type, GENERATOR_NORM_TYPES)
        check_classes(num_classes, class_names, class_frequencies)
        check_latent_prior(latent_prior, type(self))
        halvings, height, image_width = coarsest_map(sample_size, 32, 128)
        widths = _widths(width, halvings, _is_small(sample_size))[::-1]  # the finest last

        self.coarsest = (widths[0], height, image_width)
        self.class_embedding = None
        if num_classes is not None and norm_type == "none":
            self.class_embedding = latent_embedding(num_classes)
        num_inputs = latent_dim + (CLASS_EMBEDDING_DIM if self.class_embedding else 0)
        from_latents = num_inputs * widths[0] * height * image_width
        check_num_parameters(self, from_latents + _num_weights(widths) + 4 * (num_classes or 0) * sum(widths))
        self.from_latents = nn.Linear(num_inputs, widths[0] * height * image_width)
        self.blocks = nn.ModuleList(
            _ResidualBlock(before, after, norm_type, "up", num_classes)
            for before, after in pairwise([widths[0], *widths])
        )
        self.norm = _Normalization(norm_type, widths[-1])
        self.to_image = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        _initialize(self)
        if _is_small(sample_size):  # no ReLU follows, so without He et al.'s factor, which the code for larger ones has
            nn.init.xavier_uniform_(self.to_image.weight)

    def forward(self, latents: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Generate images.

        Args:
            latents: `(N, latent_dim)`.
            class_labels: `(N,)` int64 from 0 to `num_classes - 1`, or, for images between classes, the weights of all,
                `(N, num_classes)` floating; only with `num_classes`.

        Returns:
            Images, `(N, out_channels, H, W)` in [-1, 1].
        """
        check_latents(latents, self.config.latent_dim)
        check_labels(class_labels, latents.shape[0], self.config.num_classes, are_mixed=True)
        if self.class_embedding is not None:
            latents = with_class(latents, self.class_embedding(class_labels))  # (N, latent_dim + 32)
        maps = self.from_latents(latents).unflatten(1, self.coarsest)  # (N, C, 4, 4)
        for block in self.blocks:
            maps = block(maps, class_labels)  # (N, C', 2H, 2W)
        maps = F.relu(self.norm(maps))  # (N, C, H, W)
        return torch.tanh(self.to_image(maps))  # (N, out_channels, H, W)


class ResNetCritic(Network):
    """Map images to scores: unbounded, one for each image, high for images that look real.

    At 32 pixels two residual blocks that halve the size and two that do not; at more, blocks that halve it to 4 pixels,
    and one that does not. With `pooling="flatten"` a convolution at full size, then blocks that halve it to 4 pixels.

    By default 1,055,360 parameters, and 328,139,008 FLOPs for an image of 32 pixels (two a multiply-add).

    Args:
        sample_size: Height and width of the images in pixels: 32, 64 or 128, or two multiples of 32 up to 128.
        in_channels: Channels of the images, 1 to 4.
        width: Channels of the first map. At 32 pixels all maps have as many; else they double at each coarser one. None
            for the paper's: 128 at 32 pixels, else 64.
        norm_type: Normalisation before every ReLU but those at either end: `"layer"` as in the paper, `"instance"`,
            `"none"`, or `"batch"`, with which a score depends on the other images of the batch.
        num_classes: Number of classes; None for an unconditional critic. With classes the score is
            ψ(φ(x)) + ⟨embed(y), φ(x)⟩ (Miyato & Koyama 2018, arXiv 1802.05637, eq. 4), where φ is the pooled last map.
        pooling: What the linear layer gets: the `"mean"` or the `"sum"` over space after a ReLU, or the whole last map
            (`"flatten"`).
        spectral_norm: Whether every layer divides its weight by its largest singular value, that of the reshaped
            kernel (Miyato et al. 2018, arXiv 1802.05957).

    Raises:
        InputError: An argument is out of its range.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        width: int | None = None,
        norm_type: str = "layer",
        num_classes: int | None = None,
        spectral_norm: bool = False,
        pooling: str = "mean",
    ):
        super().__init__()
        check_choice("in_channels", in_channels, (1, 2, 3, 4))
        check_choice("norm_type", norm_type, CRITIC_NORM_TYPES)
        check_choice("spectral_norm", spectral_norm, (True, False))
        check_choice("pooling", pooling, POOLINGS)
        check_classes(num_classes)
        halvings, height, image_width = coarsest_map(sample_size, 32, 128)
        is_small = _is_small(sample_size)
        widths = _widths(width, halvings, is_small)  # the finest first
        num_features = widths[-1] * (height * image_width if pooling == "flatten" else 1)
        check_num_parameters(self, _num_weights(widths) + (1 + (num_classes or 0)) * num_features)

        self.first: nn.Module
        if pooling == "flatten":
            self.first = nn.Conv2d(in_channels, widths[0], 3, padding=1)
            self.blocks = nn.ModuleList(
                _ResidualBlock(before, after, norm_type, "down", first_bias=False)
                for before, after in pairwise([*widths, widths[-1]])
            )
        else:
            num_halving = 2 if is_small else halvings
            self.first = _FirstBlock(in_channels, widths[0])
            self.blocks = nn.ModuleList(
                _ResidualBlock(before, after, norm_type, "down") for before, after in pairwise(widths[:num_halving])
            )
            for _ in range(halvings + 1 - num_halving):
                self.blocks.append(_ResidualBlock(widths[-1], widths[-1], norm_type))
        self.score = nn.Linear(num_features, 1, bias=False)  # a constant would cancel in the loss of either network
        _initialize(self)
        if pooling == "flatten":
            nn.init.xavier_uniform_(self.first.get_parameter("weight"))  # no ReLU precedes it
        if num_classes is not None:
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
        maps = self.first(images)  # (N, C, H/2, W/2), or (N, C, H, W) without pooling
        for block in self.blocks:
            maps = block(maps)  # (N, 2C, H/2, W/2), at last (N, C, H, W)
        features = self._pooled(maps)  # (N, C), or (N, C·4·4)
        scores = self.score(features).squeeze(1)  # (N,)
        if class_labels is not None:
            scores = scores + projection(features, self.class_embedding(class_labels))  # (N,)
        return scores

    def _pooled(self, maps: torch.Tensor) -> torch.Tensor:
        if self.config.pooling == "flatten":
            return maps.flatten(1)
        maps = F.relu(maps)
        return maps.sum(dim=(2, 3)) if self.config.pooling == "sum" else maps.mean(dim=(2, 3))


class _ResidualBlock(nn.Module):
    """Twice normalisation, ReLU and a 3×3 convolution, beside a shortcut.

    Resampling is by nearest neighbours (`"up"`) before the first convolution, or by the mean of 2×2 pixels (`"down"`)
    after the second, and part of it. The shortcut's 1×1 convolution, which commutes with both, is done at the smaller
    size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_type: str,
        resampling: str | None = None,
        num_classes: int | None = None,
        first_bias: bool = True,
    ):
        super().__init__()
        hidden = in_channels if resampling == "down" else out_channels
        subtracts_mean = norm_type in ("batch", "instance")  # of each channel, and with it the bias before it
        self.norm_1 = _Normalization(norm_type, in_channels, num_classes)
        convolution = UpsampledConv2d if resampling == "up" else _convolution
        self.conv_1 = convolution(in_channels, hidden, bias=first_bias and not subtracts_mean)
        self.norm_2 = _Normalization(norm_type, hidden, num_classes)
        self.conv_2 = (PooledConv2d if resampling == "down" else _convolution)(hidden, out_channels)
        is_identity = resampling is None and in_channels == out_channels
        self.shortcut = nn.Identity() if is_identity else nn.Conv2d(in_channels, out_channels, 1)
        self.up = nn.Upsample(scale_factor=2) if resampling == "up" else nn.Identity()
        self.down = nn.AvgPool2d(2) if resampling == "down" else nn.Identity()

    def forward(self, maps: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        hidden = F.relu(self.norm_1(maps, class_labels))  # (N, C, H, W)
        hidden = self.conv_1(hidden)  # (N, C', 2H, 2W) if up, else (N, C', H, W)
        hidden = F.relu(self.norm_2(hidden, class_labels))
        hidden = self.conv_2(hidden)  # (N, C'', H/2, W/2) if down
        return self.up(self.shortcut(self.down(maps))) + hidden


def _convolution(in_channels: int, out_channels: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


class _FirstBlock(nn.Module):
    """The critic's first block: an image is neither normalised nor passed through a ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_2 = PooledConv2d(out_channels, out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.conv_1(images))  # (N, C, H, W)
        hidden = self.conv_2(hidden)  # (N, C, H/2, W/2)
        return self.shortcut(F.avg_pool2d(images, 2)) + hidden


class _Normalization(nn.Module):
    """Normalisation; if it is batch normalisation and there are classes, each with its own scales and shifts."""

    def __init__(self, norm_type: str, channels: int, num_classes: int | None = None):
        super().__init__()
        self.num_classes = num_classes if norm_type == "batch" else None
        self.norm = normalization(norm_type, channels, affine=self.num_classes is None)
        if self.num_classes is not None:  # the classes start alike, as batch normalisation does: scales 1, shifts 0
            self.scales = ClassVectors(self.num_classes, channels)
            self.shifts = ClassVectors(self.num_classes, channels)
            nn.init.ones_(self.scales.weight)
            nn.init.zeros_(self.shifts.weight)

    def forward(self, maps: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        maps = self.norm(maps)  # (N, C, H, W)
        if self.num_classes is None:
            return maps
        scales = self.scales(class_labels)[:, :, None, None]  # (N, C, 1, 1)
        shifts = self.shifts(class_labels)[:, :, None, None]  # (N, C, 1, 1)
        return maps * scales + shifts


def _is_small(sample_size: Any) -> bool:
    """Return whether the authors' networks for images of 32 pixels are meant, not those for 64 pixels."""
    return min(height_and_width(sample_size)) < 64


def _widths(width: int | None, halvings: int, is_small: bool) -> list[int]:
    """Return the channels at each size, the finest first; one for each time that the size is halved."""
    if width is None:
        width = 128 if is_small else 64
    check_at_least("width", width, 1)
    return [width if is_small else width * 2**level for level in range(halvings)]


def _num_weights(widths: list[int]) -> int:
    """Estimate the number of weights: two 3×3 kernels a block."""
    return sum(18 * width**2 for width in widths)


def _initialize(network: nn.Module) -> None:
    """Initialise as in the authors' code: uniform weights, zero biases.

    3×3 convolutions have variance 4 / (fan in + fan out), He et al.'s for layers beside a ReLU, of the mean of both
    fans. Shortcuts and linear layers pass what they get on, so half of that: Glorot & Bengio's.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            is_3x3 = isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
            nn.init.xavier_uniform_(module.weight, gain=2**0.5 if is_3x3 else 1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
