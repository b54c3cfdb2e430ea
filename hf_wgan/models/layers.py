"""Parts that several networks share: layers between a map and a vector, normalisation, spectral norm, classes."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

CLASS_EMBEDDING_DIM = 32
MAX_COMPONENTS = 64
CRITIC_STD = 0.05  # of the vectors of classes; longer ones make the critic so steep that R1 flattens it for good


def normalization(norm_type: str, channels: int, affine: bool = True) -> nn.Module:
    """Build the normalisation of maps `(N, C, H, W)` by its name.

    Args:
        norm_type: The dimensions that mean and variance are taken over. `"batch"`: N, H, W; `"layer"`: C, H, W, as in
            WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028, section 4); `"instance"`: H, W; `"none"`: none.
        channels: C.
        affine: Whether each channel has a learned scale and shift.
    """
    if norm_type == "batch":
        return BatchNorm2d(channels, affine=affine)
    if norm_type == "layer":
        return nn.GroupNorm(1, channels, affine=affine)
    if norm_type == "instance":
        return nn.InstanceNorm2d(channels, affine=affine)
    return nn.Identity()


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that counts its batches only where its statistics depend on their number.

    PyTorch's own counts every batch, which takes a kernel as small as it is without effect.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:  # (N, C, H, W)
        if not self.training or self.momentum is None:
            return super().forward(maps)
        self._check_input_dim(maps)
        return F.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )


class ModulatedBatchNorm2d(nn.Module):
    """Batch normalisation whose scales and shifts are a linear function of each image's own latent vector.

    The latents act on maps of every size then, not on the coarsest alone (Chen et al. 2019, arXiv 1810.01365, whose
    function has a hidden layer).

    Args:
        channels: C.
        latent_dim: Length of the latent vectors, with the classes joined to them if there are any.
    """

    def __init__(self, channels: int, latent_dim: int):
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.modulation = nn.Linear(latent_dim, 2 * channels)
        nn.init.normal_(self.modulation.weight, 0.0, 0.02)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, maps: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:  # (N, C, H, W), (N, L)
        maps = self.norm(maps)
        scales, shifts = self.modulation(latents).to(maps.dtype)[:, :, None, None].chunk(2, dim=1)
        return maps * (1 + scales) + shifts


class MapToVector(nn.Conv2d):
    """Convolve a map with kernels of its own size, as one matrix product.

    This is several times faster than PyTorch's convolution on a CPU. The weights are those of `Conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, map_size: int):
        super().__init__(in_channels, out_channels, map_size, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:  # (N, C, S, S) to (N, out_channels, 1, 1)
        # In the order that channels-last memory has, so that nothing is copied.
        rows, kernels = maps.permute(0, 2, 3, 1).flatten(1), self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(rows, kernels)[:, :, None, None]


class VectorToMap(nn.ConvTranspose2d):
    """Apply a transposed convolution to a single pixel, likewise. The weights are those of `ConvTranspose2d`."""

    def __init__(self, in_channels: int, out_channels: int, map_size: int):
        super().__init__(in_channels, out_channels, map_size, bias=False)

    def forward(  # (N, C, 1, 1) to (N, out_channels, S, S)
        self, vectors: torch.Tensor, output_size: list[int] | None = None
    ) -> torch.Tensor:
        rows = vectors.flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten(1)
        return rows.unflatten(1, (*self.kernel_size, self.out_channels)).permute(0, 3, 1, 2)


class UpsampledConv2d(nn.Conv2d):
    """Double the size by nearest neighbours, then convolve with 3×3 kernels, as one transposed convolution.

    Its 4×4 kernels are those of `Conv2d`, each summed over the 2×2 places of a pixel that was repeated. That takes 4 of
    9 products, and no map of the doubled size is made before. The weights are those of `Conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:  # (N, C, H, W) to (N, out_channels, 2H, 2W)
        kernels = _summed_over_four_places(self.weight).flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(maps, kernels, self.bias, stride=2, padding=1)


class PooledConv2d(nn.Conv2d):
    """Convolve with 3×3 kernels, then take the mean of 2×2 pixels, as one convolution, likewise."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:  # (N, C, H, W) to (N, out_channels, H/2, W/2)
        return F.conv2d(maps, _summed_over_four_places(self.weight) / 4, self.bias, stride=2, padding=1)


def _summed_over_four_places(kernels: torch.Tensor) -> torch.Tensor:  # (O, I, 3, 3) to (O, I, 4, 4)
    wide = F.pad(kernels, (0, 1)) + F.pad(kernels, (1, 0))  # (O, I, 3, 4)
    return F.pad(wide, (0, 0, 0, 1)) + F.pad(wide, (0, 0, 1, 0))


def doubled(images: torch.Tensor) -> torch.Tensor:  # (N, C, H, W) to (N, C, 2H, 2W)
    """Double the size by bilinear interpolation, as two matrix products.

    The derivative of PyTorch's own sums in any order on a GPU, so that no run could be repeated exactly.
    """
    for _ in range(2):  # along the rows, then along the columns
        weights = torch.eye(images.shape[3], device=images.device)
        weights = F.interpolate(weights[None], scale_factor=2.0, mode="linear")[0]  # (W, 2W)
        images = (images @ weights.to(images.dtype)).transpose(2, 3)
    return images


class SpectralNorm(parametrizations._SpectralNorm):
    """PyTorch's spectral normalisation, which takes no power iterations of weights that have no values yet.

    On the meta device, where networks are built to be loaded, they would take fifty times as long as on a CPU.
    """

    def _power_method(self, weight_mat: torch.Tensor, n_power_iterations: int) -> None:
        if not weight_mat.is_meta:
            super()._power_method(weight_mat, n_power_iterations)


def add_spectral_norm(network: nn.Module) -> None:
    """Make every convolution, linear layer and embedding divide its weight by its largest singular value.

    The singular value of a convolution is that of its kernel reshaped to a matrix of `out_channels` rows (Miyato et al.
    2018, arXiv 1802.05957, section 2.1), not that of the convolution as a map between images. Every forward pass in
    training mode takes one power iteration. Initialise the weights first: a zero weight cannot be normalised.
    """
    for module in list(network.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.Embedding)):
            parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight))


class ClassVectors(nn.Embedding):
    """A learned vector for each class, initialised like a latent vector: N(0, 1). Images can be between classes."""

    def forward(self, classes: torch.Tensor) -> torch.Tensor:
        """Return the vectors `(N, E)` of classes `(N,)` int64, or the sums weighted by `(N, num_classes)` float."""
        return classes.to(self.weight.dtype) @ self.weight if classes.is_floating_point() else super().forward(classes)


def latent_embedding(num_classes: int) -> ClassVectors:
    """Return the vectors of classes for a generator's input."""
    return ClassVectors(num_classes, CLASS_EMBEDDING_DIM)


def with_class(latents: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """Join latents `(N, L)` and embedded classes `(N, E)` to the generator's input `(N, L + E)`."""
    return torch.cat([latents, embedded.to(latents.dtype)], dim=1)


def projection_embedding(num_classes: int, channels: int, spectral_norm: bool) -> nn.Embedding:
    """Return a learned vector for each class, which features are projected on.

    It starts at 0, so that classes make no difference at first. Spectral normalisation would divide by that 0; with it
    the vectors start as N(0, 1).
    """
    embedding = nn.Embedding(num_classes, channels)
    if not spectral_norm:
        nn.init.zeros_(embedding.weight)
    return embedding


def initialise_class_embeddings(generator: nn.Module, critic: nn.Module, means: torch.Tensor) -> None:
    """Initialise the vectors of classes by what their images look like.

    What is learnt of one class then holds for those that resemble it, until each has learnt what is its own. Otherwise
    many classes of few images each take long to learn. A part of the generator's vectors is random, so that they
    differ.

    Args:
        generator: Conditional on classes.
        critic: Likewise. Networks without a `class_embedding` stay as they are.
        means: Any features of all classes, `(num_classes, F)`, or of the first of them.
    """
    left, singular_values, _ = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    features = (left * singular_values.sqrt())[:, :MAX_COMPONENTS]  # so that the largest do not hide the others
    features = features / features.square().sum(1).mean().sqrt().clamp(min=1e-12)  # (num_classes, P), rows of length 1
    for network, std, random_part in ((generator, 1.0, 0.15), (critic, CRITIC_STD, 0.0)):
        embedding = getattr(network, "class_embedding", None)
        if isinstance(embedding, nn.Embedding) and not parametrize.is_parametrized(embedding):
            projected = features @ nn.init.normal_(torch.empty(features.shape[1], embedding.embedding_dim))
            noise = nn.init.normal_(torch.empty_like(projected))
            with torch.no_grad():
                vectors = (1 - random_part) ** 0.5 * projected + random_part**0.5 * noise
                embedding.weight[: len(vectors)].copy_(std * vectors)


def projection(features: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """Compute what the class adds to each score, `(N,)`: ⟨embed(y), φ(x)⟩.

    See Miyato & Koyama 2018, arXiv 1802.05637, eq. 4.

    Args:
        features: φ(x), `(N, C)`.
        embedded: embed(y), `(N, C)`.
    """
    return (embedded * features).sum(dim=1)
