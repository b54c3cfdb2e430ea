"""The DCGAN pair that the Wasserstein GAN was published with: strided convolutions, no pooling, no hidden linear layer.

Architecture: Radford et al. 2015 (arXiv 1511.06434), in the layout of the code of Arjovsky et al. 2017 (arXiv
1701.07875): the widths double from the image inwards, and every convolution is without bias. The critic has no
in-place activation, so that it can be differentiated twice.
"""

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..errors import InputError
from .checks import check_at_least, check_choice, check_images, check_latents, check_num_parameters
from .network import Network

SMALLEST_MAP = 4  # height and width at which both networks switch between image and vector
NORM_TYPES = ("batch", "none")


class DCGANGenerator(Network):
    """Latent vectors to images.

    Args:
        sample_size: Height and width of the images in pixels, a power of two from 8 to 256.
        out_channels: Channels of the images, 1 to 4.
        latent_dim: Length of a latent vector, drawn from N(0, 1).
        width: Channels of the last hidden map; each coarser map has twice the channels of the next finer one.
        num_extra_layers: 3×3 convolutions at the finest hidden map, beyond those that upsample.
        norm_type: `"batch"` for batch normalisation after every hidden convolution, or `"none"`.

    Raises:
        InputError: an argument is out of its range.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        out_channels: int = 3,
        latent_dim: int = 100,
        width: int = 64,
        num_extra_layers: int = 0,
        norm_type: str = "batch",
    ):
        super().__init__()
        _check_architecture(sample_size, width, num_extra_layers, norm_type)
        check_choice("out_channels", out_channels, (1, 2, 3, 4))
        check_at_least("latent_dim", latent_dim, 1)

        channels = width * sample_size // (2 * SMALLEST_MAP)
        check_num_parameters(self, _num_weights(latent_dim, channels, width, num_extra_layers))
        layers = _hidden(nn.ConvTranspose2d(latent_dim, channels, 4, 1, 0, bias=False), norm_type, nn.ReLU())
        while channels > width:
            upsample = nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False)
            layers += _hidden(upsample, norm_type, nn.ReLU())
            channels //= 2
        for _ in range(num_extra_layers):
            layers += _hidden(nn.Conv2d(width, width, 3, 1, 1, bias=False), norm_type, nn.ReLU())
        layers += [nn.ConvTranspose2d(width, out_channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """
        Args:
            latents: `(N, latent_dim)`.

        Returns:
            Images, `(N, out_channels, sample_size, sample_size)` in [-1, 1].
        """
        check_latents(latents, self.config.latent_dim)
        return self.layers(latents[:, :, None, None])


class DCGANCritic(Network):
    """Images to scores: unbounded, one an image, high for what looks real.

    Args:
        sample_size: Height and width of the images in pixels, a power of two from 8 to 256.
        in_channels: Channels of the images, 1 to 4.
        width: Channels of the first hidden map; they double at each coarser one.
        num_extra_layers: 3×3 convolutions at the finest hidden map, beyond those that downsample.
        norm_type: `"batch"` for batch normalisation after every hidden convolution but the first, or `"none"`.

    Raises:
        InputError: an argument is out of its range.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 3,
        width: int = 64,
        num_extra_layers: int = 0,
        norm_type: str = "batch",
    ):
        super().__init__()
        _check_architecture(sample_size, width, num_extra_layers, norm_type)
        check_choice("in_channels", in_channels, (1, 2, 3, 4))

        channels = width * sample_size // (2 * SMALLEST_MAP)
        check_num_parameters(self, _num_weights(1, channels, width, num_extra_layers))
        layers = [nn.Conv2d(in_channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for _ in range(num_extra_layers):
            layers += _hidden(nn.Conv2d(width, width, 3, 1, 1, bias=False), norm_type, nn.LeakyReLU(0.2))
        channels, size = width, sample_size // 2
        while size > SMALLEST_MAP:
            downsample = nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False)
            layers += _hidden(downsample, norm_type, nn.LeakyReLU(0.2))
            channels, size = 2 * channels, size // 2
        layers += [nn.Conv2d(channels, 1, 4, 1, 0, bias=False), nn.Flatten(start_dim=0)]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """
        Args:
            images: `(N, in_channels, sample_size, sample_size)` in [-1, 1].

        Returns:
            Scores, `(N,)`, unbounded: a linear last layer and nothing after it.
        """
        check_images(images, self.config.in_channels, self.config.sample_size)
        return self.layers(images)


def _hidden(convolution: nn.Conv2d | nn.ConvTranspose2d, norm_type: str, activation: nn.Module) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(convolution.out_channels)] if norm_type == "batch" else []
    return [convolution, *norm, activation]


def _num_weights(vector: int, channels: int, width: int, num_extra_layers: int) -> int:
    """About how many: 4×4 kernels between a vector and the coarsest map, and between maps that halve their channels."""
    return 16 * vector * channels + 16 * 2 * channels**2 // 3 + 9 * width**2 * num_extra_layers


def _initialize(module: nn.Module) -> None:
    """Convolutions N(0, 0.02); batch norm scales N(1, 0.02) and shifts 0 (Radford et al. 2015; the authors' code)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _check_architecture(sample_size: int, width: int, num_extra_layers: int, norm_type: str) -> None:
    if sample_size not in (8, 16, 32, 64, 128, 256):
        raise InputError(
            f"sample_size={sample_size!r}: a DCGAN makes square images of 8, 16, 32, 64, 128 or 256 pixels; "
            "choose one of these, or the MLP networks for any other size"
        )
    check_at_least("width", width, 1)
    check_at_least("num_extra_layers", num_extra_layers, 0, 1000)
    check_choice("norm_type", norm_type, NORM_TYPES)
