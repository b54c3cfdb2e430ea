from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hf_wgan import R3GANCritic, R3GANGenerator
from hf_wgan.algorithm.derivatives import FastDerivatives
from hf_wgan.models.r3gan import _Block, _Downsample, _Upsample


def blocks(network):
    return [module for module in network.modules() if isinstance(module, _Block)]


@pytest.mark.parametrize(
    "size, coarsest, widths",
    [
        (16, (4, 4), [8, 16, 32]),
        (256, (4, 4), [8, 16, 32, 64, 64, 64, 64]),
        ((16, 48), (4, 12), [8, 16, 32]),
        (96, (12, 12), [8, 16, 32, 64][:4]),
    ],
)
def test_pairs_mirror_each_other_and_widen_inwards_up_to_8_times(size, coarsest, widths):
    with torch.device("meta"):
        generator, critic = R3GANGenerator(size, width=8, num_blocks=2), R3GANCritic(size, width=8, num_blocks=2)
        images = generator(torch.empty(2, 64))
        assert critic(images).shape == (2,)
    assert [block.narrow.out_channels for block in blocks(critic)] == [width for width in widths for _ in range(2)]
    assert [block.narrow.out_channels for block in blocks(generator)] == [w for w in widths[::-1] for _ in range(2)]
    assert generator.basis.shape == (widths[-1], *coarsest)
    assert critic.basis.weight.shape == (widths[-1], 1, *coarsest)


@pytest.mark.parametrize(
    "size, width, widths",
    [
        (32, 768, [768] * 4),
        (64, 384, [384, *[768] * 4]),
        (256, 96, [96, 192, 384, *[768] * 4]),
    ],
)
def test_the_authors_widths_are_had_by_that_of_the_finest_map(size, width, widths):
    with torch.device("meta"):
        critic = R3GANCritic(size, width=width)
    assert [block.narrow.out_channels for block in blocks(critic)] == widths
    assert [block.convolve.groups for block in blocks(critic)] == [width // 8 for width in widths]


def test_default_networks_for_32_pixels_suit_a_cpu():
    for network in (R3GANGenerator(), R3GANCritic()):
        assert 500_000 < sum(parameter.numel() for parameter in network.parameters()) < 1_000_000


def test_blocks_are_inverted_bottlenecks_with_grouped_convolutions_and_no_normalisation():
    for network in (R3GANGenerator(), R3GANCritic()):
        for block in blocks(network):
            channels = block.narrow.out_channels
            assert block.convolve.in_channels == block.convolve.out_channels == 2 * channels
            assert block.convolve.groups == channels // 8
        assert not any("norm" in type(module).__name__.lower() for module in network.modules())


def test_blocks_start_as_the_identity():
    for network in (R3GANGenerator(), R3GANCritic()):
        for block in blocks(network):
            maps = torch.randn(1, block.narrow.out_channels, 4, 4)
            assert torch.equal(block(maps), maps)


def test_weights_start_at_the_spread_of_fixup():
    torch.manual_seed(0)
    for network in (R3GANGenerator(), R3GANCritic()):
        inside = 0
        for block in blocks(network):
            for layer in (block.widen, block.convolve):
                variance = 2 / (1 + 0.2**2) / layer.weight[0].numel() * len(blocks(network)) ** -0.5
                assert layer.weight.var().item() == pytest.approx(variance, rel=0.15)
                assert not layer.bias.any()
                inside += 1
        assert inside == 8


def test_maps_keep_most_of_their_variance_through_both_networks():
    torch.manual_seed(0)
    assert 0.05 < R3GANGenerator()(torch.randn(64, 64)).var() < 2
    images = torch.randn(64, 3, 1, 1).expand(-1, -1, 32, 32)  # the filters leave it to them, but not to noise
    assert 0.05 < R3GANCritic()(images).var() < 2


def test_upsampling_is_bilinear_within_the_border():
    maps = torch.randn(2, 3, 6, 8)
    expected = F.interpolate(maps, scale_factor=2, mode="bilinear")
    assert torch.allclose(_Upsample()(maps)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-6)


def test_downsampling_is_the_filter_1_3_3_1_along_both_sides():
    maps = torch.randn(1, 1, 6, 8)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = F.conv2d(maps, (taps[:, None] * taps)[None, None], stride=2, padding=1)
    assert torch.allclose(_Downsample()(maps), expected, atol=1e-6)


def test_resampling_up_and_down_are_each_others_transpose():
    small, large = torch.randn(1, 2, 4, 6), torch.randn(1, 2, 8, 12)
    assert torch.allclose((_Upsample()(small) * large).sum(), 4 * (small * _Downsample()(large)).sum(), atol=1e-4)


def test_what_the_smaller_size_cannot_show_is_gone_and_not_aliased():
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    assert _Downsample()(checkers)[..., 1:-1, 1:-1].abs().max() < 1e-6
    assert torch.allclose(_Downsample()(torch.ones(1, 2, 8, 8))[..., 1:-1, 1:-1], torch.ones(2, 2)), "the rest stays"


def test_the_generator_starts_from_a_basis_weighted_by_the_latents():
    generator = R3GANGenerator(16, width=8, latent_dim=5)
    latents, seen = torch.randn(2, 5), []
    generator.first.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    generator(latents)
    weights = latents @ generator.from_latents.weight.T
    assert torch.allclose(seen[0], torch.einsum("nc,chw->nchw", weights, generator.basis), atol=1e-6)
    assert isinstance(generator.basis, nn.Parameter)


class DtypesOfFilters(TorchDispatchMode):
    """Collects the dtypes in which single channels are filtered with a stride."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward):
            self.dtypes += [argument.dtype for argument in args[1:3] if is_filter(argument)]
        return function(*args, **(kwargs or {}))


def is_filter(argument):
    return isinstance(argument, torch.Tensor) and argument.ndim == 4 and tuple(argument.shape[1:]) == (1, 4, 4)


@pytest.mark.parametrize("ways", [FastDerivatives, nullcontext])
def test_a_cpu_resamples_in_float32_where_all_else_is_bfloat16(ways):
    """In bfloat16 this took half of the time of a step."""
    generator, critic = R3GANGenerator(32, width=8, latent_dim=4), R3GANCritic(32, width=8)
    critic.basis = nn.Conv2d(64, 64, (4, 4))  # whose kernels are no filters
    with torch.autocast("cpu", torch.bfloat16), DtypesOfFilters() as seen, ways():
        images = generator(torch.randn(2, 4))
        scores = critic(images)
        (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
        gradient.square().sum().backward()
    assert images.dtype == torch.bfloat16
    assert len(seen.dtypes) > 12 and set(seen.dtypes) == {torch.float32}, "3 levels, 2 networks, each with derivatives"
    with DtypesOfFilters() as seen, torch.no_grad():
        assert generator.to(torch.bfloat16)(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert seen.dtypes == [torch.float32] * 3


@pytest.mark.parametrize("layer", [_Upsample(), _Downsample()])
def test_resampled_bfloat16_is_resampled_float32_rounded(layer):
    maps = torch.randn(2, 3, 6, 8).bfloat16()
    assert torch.equal(layer(maps), layer(maps.float()).bfloat16())
