"""The pair of the R3GAN baseline: Huang et al. 2024 (arXiv 2501.05441), section 4; by default a small one.

Residual blocks without normalisation, with grouped convolutions; resampling without aliasing; no tricks. Both networks
mirror each other. The authors' have two blocks at each size and up to 768 channels; these defaults are for a CPU.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from ..algorithm.latents import check_latent_prior
from ..utils.errors import InputError
from .checks import (
    check_at_least,
    check_choice,
    check_classes,
    check_images,
    check_labels,
    check_latents,
    check_num_parameters,
    coarsest_map,
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

EXPANSION = 2  # channels inside a block, by those outside
CHANNELS_PER_GROUP = 16  # of the 3×3 convolutions, which makes the cardinality width / 8
WIDEST = 8  # the channels double from the image inwards, up to this many times the width
MAX_CHANNELS = 768  # and up to as many as the authors' networks have, unless the width is above them
SLOPE = 0.2  # of leaky ReLU below zero
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through a leaky ReLU (He et al. 2015)


class R3GANGenerator(Network):
    """Map latent vectors to images, by residual blocks at each size.

    The latents weight a learned basis of the coarsest map. The last layer is linear, so pixels may leave [-1, 1];
    the pipeline clamps them.

    By default 551,904 parameters, and 72,777,728 FLOPs for an image of 32 pixels (two a multiply-add).

    Args:
        sample_size: Height and width of the images in pixels: 16, 32, 64, 128 or 256, or two multiples of 16 up to 256.
        out_channels: Channels of the images, 1 to 4.
        latent_dim: Length of a latent vector.
        width: Channels of the finest map, a multiple of 8; each coarser one has twice those of the next finer, up to 8
            times the width and 768.
        num_blocks: Residual blocks at each size, 1 to 100.
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

    summary = "residual blocks without normalisation"
    mixes_classes = True

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        out_channels: int = 3,
        latent_dim: int = 64,
        width: int = 32,
        num_blocks: int = 1,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        class_frequencies: list[int] | None = None,
        latent_prior: str = "normal",
    ):
        super().__init__()
        check_choice("out_channels", out_channels, (1, 2, 3, 4))
        check_at_least("latent_dim", latent_dim, 1)
        check_classes(num_classes, class_names, class_frequencies)
        check_latent_prior(latent_prior, type(self))
        halvings, height, image_width = coarsest_map(sample_size, 16, 256)
        widths = _widths(width, num_blocks, halvings)[::-1]  # the finest last
        num_inputs = latent_dim + (CLASS_EMBEDDING_DIM if num_classes else 0)
        check_num_parameters(self, _num_weights(widths, num_blocks) + num_inputs * widths[0])

        if num_classes is not None:
            self.class_embedding = latent_embedding(num_classes)
        self.basis = nn.Parameter(torch.randn(widths[0], height, image_width))
        self.from_latents = nn.Linear(num_inputs, widths[0], bias=False)
        self.first = _blocks(widths[0], num_blocks)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 1, bias=False), _Upsample(), *_blocks(after, num_blocks))
            for before, after in pairwise(widths)
        )
        self.to_image = nn.Conv2d(widths[-1], out_channels, 1, bias=False)
        _initialize(self)

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
        maps = self.from_latents(latents)[:, :, None, None] * self.basis  # (N, C, 4, 4)
        maps = self.first(maps)  # (N, C, 4, 4)
        for stage in self.stages:
            maps = stage(maps)  # (N, C/2, 2H, 2W)
        return self.to_image(maps)  # (N, out_channels, H, W)


class R3GANCritic(Network):
    """Map images to scores: unbounded, one for each image, high for images that look real.

    There are residual blocks at each size, then each channel's own weights over the coarsest map, and a linear layer.

    By default 535,776 parameters, and 72,753,664 FLOPs for an image of 32 pixels (two a multiply-add).

    Args:
        sample_size: Height and width of the images in pixels: 16, 32, 64, 128 or 256, or two multiples of 16 up to 256.
        in_channels: Channels of the images, 1 to 4.
        width: Channels of the first map, a multiple of 8; they double at each coarser one, up to 8 times the width
            and 768.
        num_blocks: Residual blocks at each size, 1 to 100.
        num_classes: Number of classes; None for an unconditional critic. With classes the score is
            ψ(φ(x)) + ⟨embed(y), φ(x)⟩ (Miyato & Koyama 2018, arXiv 1802.05637, eq. 4), where φ is what the linear
            layer ψ gets.
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
        width: int = 32,
        num_blocks: int = 1,
        num_classes: int | None = None,
        spectral_norm: bool = False,
    ):
        super().__init__()
        check_choice("in_channels", in_channels, (1, 2, 3, 4))
        check_choice("spectral_norm", spectral_norm, (True, False))
        check_classes(num_classes)
        halvings, height, image_width = coarsest_map(sample_size, 16, 256)
        widths = _widths(width, num_blocks, halvings)  # the finest first
        check_num_parameters(self, _num_weights(widths, num_blocks) + (num_classes or 0) * widths[-1])

        self.from_image = nn.Conv2d(in_channels, widths[0], 1, bias=False)
        self.stages = nn.ModuleList(
            nn.Sequential(*_blocks(before, num_blocks), _Downsample(), nn.Conv2d(before, after, 1, bias=False))
            for before, after in pairwise(widths)
        )
        self.last = _blocks(widths[-1], num_blocks)
        self.basis = nn.Conv2d(widths[-1], widths[-1], (height, image_width), groups=widths[-1], bias=False)
        self.score = nn.Linear(widths[-1], 1, bias=False)
        _initialize(self, starts_as_identity=not spectral_norm)
        if num_classes is not None:
            self.class_embedding = projection_embedding(num_classes, widths[-1], spectral_norm)
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
        maps = self.from_image(images)  # (N, C, H, W)
        for stage in self.stages:
            maps = stage(maps)  # (N, 2C, H/2, W/2)
        maps = self.last(maps)  # (N, C, 4, 4)
        features = self.basis(maps).flatten(start_dim=1)  # (N, C)
        scores = self.score(features).squeeze(1)  # (N,)
        if class_labels is not None:
            scores = scores + projection(features, self.class_embedding(class_labels))  # (N,)
        return scores


class _Block(nn.Module):
    """Widen, convolve in groups, narrow, and add: an inverted bottleneck."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = EXPANSION * channels
        self.widen = nn.Conv2d(channels, hidden, 1)
        self.convolve = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // CHANNELS_PER_GROUP)
        self.narrow = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        hidden = F.leaky_relu(self.widen(maps), SLOPE)  # (N, 2C, H, W)
        hidden = F.leaky_relu(self.convolve(hidden), SLOPE)  # (N, 2C, H, W)
        return maps + self.narrow(hidden)  # (N, C, H, W)


class _Upsample(nn.Module):
    """To twice the size, by the filter [1, 3, 3, 1] / 4 along each side: bilinear interpolation."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return _resampled(F.conv_transpose2d, maps, 4.0)  # (N, C, 2H, 2W)


class _Downsample(nn.Module):
    """To half the size, by the filter [1, 3, 3, 1] / 8 along each side: its transpose."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return _resampled(F.conv2d, maps, 1.0)  # (N, C, H/2, W/2)


def _resampled(convolve: Callable[..., torch.Tensor], maps: torch.Tensor, gain: float) -> torch.Tensor:
    """Filter each channel with a stride of 2, in float32 instead of bfloat16 on a CPU.

    oneDNN has no fast kernel that spreads small maps of single channels over large ones in bfloat16: these layers took
    half of the time of a step.
    """
    if maps.device.type == "cpu" and maps.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            return _resampled(convolve, maps.float(), gain).to(maps.dtype)
    filters = gain * _filters(maps)
    return convolve(maps, filters, stride=2, padding=1, groups=len(filters))


def _filters(maps: torch.Tensor) -> torch.Tensor:
    """Return the kernel [1, 3, 3, 1] / 8 along both sides for each channel, `(C, 1, 4, 4)`.

    Computed and not kept: a buffer that is not saved would be lost where a network is built without memory and then
    filled from a file.
    """
    places = torch.arange(4, device=maps.device, dtype=maps.dtype)
    taps = (2 - (places - 1.5).abs()) / 4
    return (taps[:, None] * taps).expand(maps.shape[1], 1, 4, 4)


def _blocks(channels: int, num_blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(num_blocks)))


def _widths(width: int, num_blocks: int, halvings: int) -> list[int]:
    """Return the channels at each size, the finest first."""
    check_at_least("width", width, CHANNELS_PER_GROUP // EXPANSION)
    check_at_least("num_blocks", num_blocks, 1, 100)
    if width * EXPANSION % CHANNELS_PER_GROUP:
        raise InputError(f"width={width}: must be a multiple of {CHANNELS_PER_GROUP // EXPANSION}")
    return [min(width * min(2**level, WIDEST), max(width, MAX_CHANNELS)) for level in range(halvings + 1)]


def _num_weights(widths: list[int], num_blocks: int) -> int:
    """Estimate the number of weights: two 1×1 kernels and a grouped 3×3 one a block."""
    return num_blocks * sum(EXPANSION * width * (2 * width + 9 * CHANNELS_PER_GROUP) for width in widths)


def _initialize(network: nn.Module, starts_as_identity: bool = True) -> None:
    """Initialise as in the R3GAN code: normal weights, zero biases.

    A map keeps its variance however many blocks it passes, except for what the filters take.

    A layer without an activation has variance 1 / fan in. In a block, those before one have that times the square of
    the leaky ReLU's gain, shrunk as L ** (-1 / 4) for L blocks (Zhang et al. 2019, arXiv 1901.09321, for three layers
    a block). The last layer of a block starts at 0, so that the block starts as the identity; with spectral
    normalisation, which would divide by that, it starts like any other layer.
    """
    blocks = [module for module in network.modules() if isinstance(module, _Block)]
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0.0, 1 / math.sqrt(fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for block in blocks:
            for layer in (block.widen, block.convolve):
                layer.weight.mul_(GAIN * len(blocks) ** -0.25)
            if starts_as_identity:
                block.narrow.weight.zero_()
