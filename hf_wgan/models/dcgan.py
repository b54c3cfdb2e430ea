"""The DCGAN pair that the Wasserstein GAN was published with: strided convolutions, no pooling, no hidden linear layer.

Architecture: Radford et al. 2015 (arXiv 1511.06434), in the layout of the code of Arjovsky et al. 2017 (arXiv
1701.07875): the widths double from the image inwards, and every convolution is without bias. The critic has no
in-place activation, so that it can be differentiated twice.
"""

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

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
)
from .layers import (
    CLASS_EMBEDDING_DIM,
    MapToVector,
    ModulatedBatchNorm2d,
    UpsampledConv2d,
    VectorToMap,
    add_spectral_norm,
    doubled,
    latent_embedding,
    normalization,
    projection,
    projection_embedding,
    with_class,
)
from .network import Network

SMALLEST_MAP = 4  # height and width at which both networks switch between image and vector
GENERATOR_NORM_TYPES = ("batch", "none")
UPSAMPLINGS = ("transposed", "nearest")
CRITIC_NORM_TYPES = ("batch", "layer", "instance", "none")


class DCGANGenerator(Network):
    """Map latent vectors to images.

    By default 3,576,704 parameters, and 209,256,448 FLOPs for an image of 64 pixels (two a multiply-add).

    Args:
        sample_size: Height and width of the images in pixels, a power of two from 8 to 256.
        out_channels: Channels of the images, 1 to 4.
        latent_dim: Length of a latent vector.
        width: Channels of the last hidden map; each coarser map has twice the channels of the next finer one.
        num_extra_layers: 3×3 convolutions at the finest hidden map, beyond those that upsample.
        norm_type: `"batch"` for batch normalisation after every hidden convolution, or `"none"`.
        num_classes: Number of classes, each with a learned vector beside the latent one; None for an
            unconditional generator.
        class_names: Names of the classes, kept in the config.
        class_frequencies: How often each class is drawn, in any unit, where a pipeline is asked for none; kept in the
            config. By default the classes come in turn.
        latent_prior: What latents are drawn from, kept in the config: a name in `PRIORS` (`"normal"`, `"uniform"`), or
            the name of a class, see `LatentPrior`.
        upsampling: `"transposed"` for strided transposed convolutions, as published; `"nearest"` for nearest neighbours
            and 3×3 convolutions, which leave no chequered pattern, up to a map of half the width at full size.
        modulated: Whether the scales and shifts of batch normalisation follow from the latent vector, but for a map of
            full size, where that takes long (`ModulatedBatchNorm2d`).
        output_skips: Whether the last map of each smaller size adds to the image too, by 1×1 convolutions, and not the
            finest alone (Karras et al. 2020, arXiv 1912.04958, figure 7b).

    Raises:
        InputError: An argument is out of its range.
    """

    summary = "strided convolutions, as the WGAN was published with"
    mixes_classes = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        out_channels: int = 3,
        latent_dim: int = 100,
        width: int = 64,
        num_extra_layers: int = 0,
        norm_type: str = "batch",
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        class_frequencies: list[int] | None = None,
        latent_prior: str = "normal",
        upsampling: str = "transposed",
        modulated: bool = False,
        output_skips: bool = False,
    ):
        super().__init__()
        _check_architecture(sample_size, width, num_extra_layers)
        check_choice("norm_type", norm_type, GENERATOR_NORM_TYPES)
        check_choice("upsampling", upsampling, UPSAMPLINGS)
        check_choice("modulated", modulated, (True, False))
        check_choice("output_skips", output_skips, (True, False))
        if modulated and norm_type != "batch":
            raise InputError(
                f"modulated=True with norm_type={norm_type!r}: there is no batch normalisation to modulate"
            )
        check_choice("out_channels", out_channels, (1, 2, 3, 4))
        check_at_least("latent_dim", latent_dim, 1)
        check_classes(num_classes, class_names, class_frequencies)
        check_latent_prior(latent_prior, type(self))

        channels = width * sample_size // (2 * SMALLEST_MAP)
        num_inputs = latent_dim + (CLASS_EMBEDDING_DIM if num_classes else 0)
        check_num_parameters(self, _num_weights(num_inputs, channels, width, num_extra_layers))
        modulated_by = num_inputs if modulated else None
        layers = _hidden(VectorToMap(num_inputs, channels, SMALLEST_MAP), norm_type, nn.ReLU(), modulated_by)
        last_maps = []  # of each smaller size: the number of the layer that makes it, and its channels
        while channels > width:
            last_maps.append((len(layers) - 1, channels))
            layers += _hidden(_upsampling(upsampling, channels, channels // 2), norm_type, nn.ReLU(), modulated_by)
            channels //= 2
        for _ in range(num_extra_layers):
            layers += _hidden(nn.Conv2d(width, width, 3, 1, 1, bias=False), norm_type, nn.ReLU(), modulated_by)
        last_maps.append((len(layers) - 1, width))
        if upsampling == "nearest":
            finest = max(width // 2, 1)
            layers += _hidden(_upsampling(upsampling, width, finest), norm_type, nn.ReLU())
            layers += [nn.Conv2d(finest, out_channels, 3, 1, 1, bias=False), nn.Tanh()]
        else:
            layers += [_upsampling(upsampling, width, out_channels), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.skips = nn.ModuleDict()
        for number, channels in last_maps if output_skips else []:
            self.skips[str(number)] = nn.Conv2d(channels, out_channels, 1, bias=False)
        if num_classes is not None:
            self.class_embedding = latent_embedding(num_classes)
        self.apply(_initialize)

    def forward(self, latents: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Generate images.

        Args:
            latents: `(N, latent_dim)`.
            class_labels: `(N,)` int64 from 0 to `num_classes - 1`, or, for images between classes, the weights of all,
                `(N, num_classes)` floating; only with `num_classes`.

        Returns:
            Images, `(N, out_channels, sample_size, sample_size)` in [-1, 1].
        """
        check_latents(latents, self.config.latent_dim)
        check_labels(class_labels, latents.shape[0], self.config.num_classes, are_mixed=True)
        if class_labels is not None:
            latents = with_class(latents, self.class_embedding(class_labels))  # (N, latent_dim + 32)
        maps = latents[:, :, None, None]
        images: torch.Tensor | None = None  # as far as the smaller maps make them
        for number, layer in enumerate(self.layers):
            if images is not None and isinstance(layer, nn.Tanh):
                maps = maps + images
            # Not by its class: diffusers runs the code beside the weights again, for each network.
            maps = layer(maps, latents) if hasattr(layer, "modulation") else layer(maps)
            if str(number) in self.skips:
                part = self.skips[str(number)](maps)
                images = doubled(part if images is None else images + part)
        return maps  # (N, C, H, W)


class DCGANCritic(Network):
    """Map images to scores: unbounded, one for each image, high for images that look real.

    By default 2,765,568 parameters, and 207,634,432 FLOPs for an image of 64 pixels (two a multiply-add).

    Args:
        sample_size: Height and width of the images in pixels, a power of two from 8 to 256.
        in_channels: Channels of the images, 1 to 4.
        width: Channels of the first hidden map; they double at each coarser one.
        num_extra_layers: 3×3 convolutions at the finest hidden map, beyond those that downsample.
        norm_type: Normalisation after every hidden convolution but the first: `"batch"`, `"layer"`, `"instance"` or
            `"none"`. Only the last three score each image on its own.
        num_classes: Number of classes; None for an unconditional critic. With classes the score is
            ψ(x) + ⟨embed(y), φ(x)⟩ (Miyato & Koyama 2018, arXiv 1802.05637, eq. 4), where φ is the last hidden map
            summed over space, and ψ the last convolution of that map.
        spectral_norm: Whether every layer divides its weight by its largest singular value, that of the reshaped
            kernel (Miyato et al. 2018, arXiv 1802.05957).

    Raises:
        InputError: An argument is out of its range.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 3,
        width: int = 64,
        num_extra_layers: int = 0,
        norm_type: str = "batch",
        num_classes: int | None = None,
        spectral_norm: bool = False,
    ):
        super().__init__()
        _check_architecture(sample_size, width, num_extra_layers)
        check_choice("norm_type", norm_type, CRITIC_NORM_TYPES)
        check_choice("in_channels", in_channels, (1, 2, 3, 4))
        check_choice("spectral_norm", spectral_norm, (True, False))
        check_classes(num_classes)

        channels = width * sample_size // (2 * SMALLEST_MAP)
        check_num_parameters(self, _num_weights(1 + (num_classes or 0), channels, width, num_extra_layers))
        layers = [nn.Conv2d(in_channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for _ in range(num_extra_layers):
            layers += _hidden(nn.Conv2d(width, width, 3, 1, 1, bias=False), norm_type, nn.LeakyReLU(0.2))
        channels, size = width, sample_size // 2
        while size > SMALLEST_MAP:
            downsample = nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False)
            layers += _hidden(downsample, norm_type, nn.LeakyReLU(0.2))
            channels, size = 2 * channels, size // 2
        layers += [MapToVector(channels, 1, SMALLEST_MAP), nn.Flatten(start_dim=0)]
        self.layers = nn.Sequential(*layers)
        if num_classes is not None:
            self.class_embedding = projection_embedding(num_classes, channels, spectral_norm)
        self.apply(_initialize)
        if spectral_norm:
            add_spectral_norm(self)

    def forward(self, images: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Score images.

        Args:
            images: `(N, in_channels, sample_size, sample_size)` in [-1, 1].
            class_labels: `(N,)` int64 from 0 to `num_classes - 1`; only with `num_classes`.

        Returns:
            Scores, `(N,)`, unbounded: a linear last layer and nothing after it.
        """
        check_images(images, self.config.in_channels, self.config.sample_size)
        check_labels(class_labels, images.shape[0], self.config.num_classes)
        if class_labels is None:
            return self.layers(images)  # (N,)
        features = self.layers[:-2](images)  # (N, C, 4, 4)
        scores = self.layers[-2:](features)  # (N,)
        return scores + projection(features.sum(dim=(2, 3)), self.class_embedding(class_labels))  # (N,)


def _upsampling(kind: str, in_channels: int, out_channels: int) -> nn.Conv2d | nn.ConvTranspose2d:
    if kind == "nearest":
        return UpsampledConv2d(in_channels, out_channels, bias=False)
    return nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=False)


def _hidden(
    convolution: nn.Conv2d | nn.ConvTranspose2d, norm_type: str, activation: nn.Module, modulated_by: int | None = None
) -> list[nn.Module]:
    channels = convolution.out_channels
    if modulated_by is not None:
        return [convolution, ModulatedBatchNorm2d(channels, modulated_by), activation]
    norm = [normalization(norm_type, channels)] if norm_type != "none" else []
    return [convolution, *norm, activation]


def _num_weights(vector: int, channels: int, width: int, num_extra_layers: int) -> int:
    """Estimate the number of weights.

    There are 4×4 kernels between a vector and the coarsest map, and between maps that halve their channels.
    """
    return 16 * vector * channels + 16 * 2 * channels**2 // 3 + 9 * width**2 * num_extra_layers


def _initialize(module: nn.Module) -> None:
    """Initialise convolutions N(0, 0.02), batch norm scales N(1, 0.02) and shifts 0.

    As in Radford et al. 2015 and in the authors' code. Other normalisations, which the authors do not have, keep
    PyTorch's initial scales 1 and shifts 0.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _check_architecture(sample_size: int, width: int, num_extra_layers: int) -> None:
    if type(sample_size) is not int or sample_size not in (8, 16, 32, 64, 128, 256):
        raise InputError(
            f"sample_size={sample_size!r}: a DCGAN makes square images of 8, 16, 32, 64, 128 or 256 pixels; "
            "choose one of these, or other networks: resnet and r3gan for sides in multiples of 32 and 16, mlp for any"
        )
    check_at_least("width", width, 1)
    check_at_least("num_extra_layers", num_extra_layers, 0, 1000)
