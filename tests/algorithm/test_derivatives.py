from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from conftest import seeded_rand
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from hf_wgan import DCGANCritic, R3GANCritic, ResNetCritic
from hf_wgan.algorithm import derivatives
from hf_wgan.algorithm.derivatives import FastDerivatives
from hf_wgan.algorithm.lipschitz import GradientPenalty

CONVOLUTIONS = [
    nn.Conv2d(6, 8, 4, 2, 1),
    nn.Conv2d(6, 8, 3, 2, 0, bias=False),
    nn.Conv2d(6, 8, (3, 2), (2, 3), (1, 0), dilation=(1, 2)),
    nn.Conv2d(6, 4, 3, 1, 1, groups=2),
    nn.Conv2d(6, 8, 1),
    nn.ConvTranspose2d(6, 8, 4, 2, 1),
    nn.ConvTranspose2d(6, 8, 3, 2, 1, output_padding=1, bias=False),
    nn.ConvTranspose2d(6, 4, 3, 2, 1, groups=2),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=repr)
def test_a_convolution_and_its_derivatives_of_both_orders(layer):
    layer = layer.double()
    images = torch.randn(2, 6, 7, 9, dtype=torch.double, requires_grad=True)
    parameters = list(layer.parameters())

    def convolved(images, *weights):
        with FastDerivatives():
            return torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), weights)), images)

    assert torch.allclose(convolved(images, *parameters), layer(images))
    assert torch.autograd.gradcheck(convolved, (images, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(convolved, (images, *parameters), fast_mode=True)


def normalised(layer, maps, *weights):
    with FastDerivatives():
        return torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), weights)), (maps,))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4, 2), (2, 3, 1, 1), (3, 4), (2, 3, 7)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_layer_norm_and_its_derivatives_of_both_orders(shape, layout, affine):
    if layout == torch.channels_last and len(shape) != 4:
        return
    layer = nn.GroupNorm(1, shape[1], affine=affine).double()
    weights = [nn.init.normal_(parameter) for parameter in layer.parameters()]
    maps = torch.randn(shape, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()
    assert torch.allclose(normalised(layer, maps, *weights), layer(maps), rtol=0, atol=1e-12)
    assert normalised(layer, maps, *weights).stride() == maps.stride()
    same([by_the_images_and_the_weights(score, maps, weights) for score in (partial(normalised, layer), layer)])
    assert torch.autograd.gradcheck(partial(normalised, layer), (maps, *weights))
    assert torch.autograd.gradgradcheck(partial(normalised, layer), (maps, *weights))


def test_the_gradients_of_a_penalty_of_layer_norms_in_bf16_are_as_exact_as_pytorchs():
    critic, images = built("DCGAN, layer norm", torch.channels_last)
    critic.float(), (images := images.float())
    gradients = {}
    for dtype, fast in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):

        def score(points, dtype=dtype, fast=fast):
            with fast_or_not(fast), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                return critic(points)

        critic.zero_grad()
        GradientPenalty(10.0, seeded_rand()).penalty(score, images, images.flip(0)).backward()
        values = [torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters()]
        gradients[dtype, fast] = torch.cat([value.flatten() for value in values])
    exact = gradients[torch.float32, False]
    rounding, own = ((gradients[torch.bfloat16, fast] - exact).norm() for fast in (False, True))
    assert 0 < own < 1.2 * rounding < 0.2 * exact.norm()


class Dynamic(nn.Module):
    """A dynamic convolution: the kernel is computed from the image."""

    def __init__(self):
        super().__init__()
        self.first, self.to_kernels, self.last = (
            nn.Conv2d(2, 8, 3, padding=1),
            nn.Linear(8, 8 * 8 * 9),
            nn.Conv2d(8, 1, 8),
        )

    def forward(self, images):
        maps = F.leaky_relu(self.first(images), 0.2)
        kernels = self.to_kernels(maps.mean((2, 3))).view(-1, 8, 3, 3)  # (N·8, 8, 3, 3)
        merged = maps.reshape(1, -1, *maps.shape[2:])  # (1, N·8, H, W)
        return self.last(F.relu(F.conv2d(merged, kernels, padding=1, groups=len(maps)).view_as(maps))).flatten()


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.value, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 8)
        self.query, self.key, self.scale = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1), nn.Parameter(torch.ones(1))

    def forward(self, images):
        maps = F.leaky_relu(self.first(images), 0.2)
        attention = (self.query(maps).flatten(2).transpose(1, 2) @ self.key(maps).flatten(2)).softmax(dim=-1)
        attended = (self.value(maps).flatten(2) @ attention.transpose(1, 2)).view_as(maps)
        return self.last(maps + self.scale * attended).flatten()


class SharedAndSeveralPaths(nn.Module):
    """One layer used at three depths, and the image used at three places, once as a kernel."""

    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(6, 1, 8)

    def forward(self, images):
        once = F.leaky_relu(self.shared(images), 0.2)
        twice = self.shared(F.relu(self.shared(once) + images))
        by_itself = F.conv2d(images.flatten(0, 1)[None], images.flatten(0, 1)[:, None, :3, :3], padding=1, groups=8)
        return self.last(torch.cat([once, twice * images, by_itself.view_as(images)], dim=1)).flatten()


class Residual(nn.Module):
    """What people write: activations in place, and sums into an activation's output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 8)

    def forward(self, images):
        maps = F.leaky_relu(self.first(images), 0.2)
        maps = F.leaky_relu(self.second(maps), 0.2, inplace=True)
        hidden = F.leaky_relu(self.second(maps), 0.2)
        hidden += maps
        return self.last(F.relu(hidden, inplace=True)).flatten()


class EnergyGradient(nn.Module):
    """A score that is itself a gradient, so that the penalty is a third derivative."""

    def __init__(self, *layers):
        super().__init__()
        last = nn.Conv2d(4, 4, 3, groups=2), nn.Softplus()
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softplus(), *layers, *last)

    def forward(self, images):
        points = images if images.requires_grad else images.clone().requires_grad_()
        (force,) = torch.autograd.grad(self.layers(points).sum(), points, create_graph=True)
        return force.square().flatten(1).sum(dim=1)


def of_layers(*layers):
    first, last = [nn.Conv2d(2, 8, 3, padding=1), nn.LeakyReLU(0.2)], [nn.Flatten(), nn.LazyLinear(1), nn.Flatten(0)]
    return nn.Sequential(*first, *layers, *last)


def parametrised(parametrise):
    return of_layers(parametrise(nn.Conv2d(8, 8, 3)), nn.ReLU(), parametrise(nn.ConvTranspose2d(8, 4, 4, 2)))


CRITICS = {
    "dynamic convolution": Dynamic,
    "self-attention": SelfAttention,
    "shared layers, several paths": SharedAndSeveralPaths,
    "in place": Residual,
    "a gradient for a score": EnergyGradient,
    "depthwise": lambda: of_layers(nn.Conv2d(8, 16, 3, groups=8), nn.ReLU(), nn.Conv2d(16, 16, 6, groups=16)),
    "grouped": lambda: of_layers(nn.Conv2d(8, 12, 4, 2, 1, groups=2), nn.ReLU(), nn.Conv2d(12, 8, 1, groups=4)),
    "dilated": lambda: of_layers(nn.Conv2d(8, 4, 3, (1, 2), 2, dilation=(2, 1)), nn.LeakyReLU(0.1)),
    "transposed": lambda: of_layers(nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1), nn.Tanh()),
    "transposed, grouped": lambda: of_layers(nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=4), nn.ReLU()),
    "padded beyond the stride": lambda: of_layers(nn.ConvTranspose2d(8, 4, 3, 1, 1, 1, dilation=2), nn.Tanh()),
    "spectral norm": lambda: parametrised(parametrizations.spectral_norm),
    "weight norm": lambda: parametrised(parametrizations.weight_norm),
    "DCGAN": lambda: DCGANCritic(16, 2, width=8, norm_type="none"),
    "DCGAN, layer norm": lambda: DCGANCritic(16, 2, width=8, norm_type="layer"),
    "DCGAN, spectral norm": lambda: DCGANCritic(16, 2, width=8, norm_type="none", spectral_norm=True),
    "layer norm and a smooth activation": lambda: of_layers(
        nn.GroupNorm(1, 8), nn.Tanh(), nn.GroupNorm(1, 8, affine=False)
    ),
    "a gradient of layer norms for a score": lambda: EnergyGradient(nn.GroupNorm(1, 4)),
    "ResNet": lambda: ResNetCritic(32, 2, width=4),
    "R3GAN": lambda: R3GANCritic(16, 2, width=8),
}


def built(name, layout=torch.contiguous_format):
    """The critic in float64, and four images that it takes."""
    torch.manual_seed(0)
    critic = CRITICS[name]()
    size = {"ResNet": 32, "R3GAN": 16}.get(name, 16 if "DCGAN" in name else 8)
    images = torch.randn(4, 2, size, size, dtype=torch.double)
    critic.double().eval()(images)  # in eval mode, so that spectral normalisation takes no power iterations between
    for parameter in critic.parameters():  # away from where weights start at zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return critic.to(memory_format=layout), images.to(memory_format=layout)


def fast_or_not(fast):
    return FastDerivatives() if fast else nullcontext()


def same(results):
    """To ten digits, of the largest where one is zero but for rounding. None, for work left out, stands for zeros."""
    fast, plain = results
    assert len(fast) == len(plain)
    largest = max(value.norm() for value in plain if value is not None)
    for index, pair in enumerate(zip(fast, plain)):
        a, b = (torch.zeros(()) if value is None else value for value in pair)
        assert (a - b).norm() <= 1e-10 * max(b.norm(), 1e-3 * largest), (
            index
        )  # some gradients are zero but for rounding


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", CRITICS)
def test_a_penalty_and_its_gradients_are_pytorchs_to_ten_digits(name, layout):
    critic, images = built(name, layout)
    results = []
    for fast in (True, False):

        def score(points, fast=fast):
            with fast_or_not(fast):
                return critic(points)

        penalty = GradientPenalty(10.0, seeded_rand()).penalty(score, images, images.flip(0))
        critic.zero_grad()
        (penalty + score(images).mean()).backward()
        results.append([penalty.detach(), *(parameter.grad for parameter in critic.parameters())])
    same(results)


class Generous(TorchDispatchMode):
    """Kernels that compute every gradient, also where no one asked for it, as some of CUDA's do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.native_batch_norm_backward.default:
            args = (*args[:-1], [True] * len(args[-1]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_that_no_one_asked_for_are_left_out(layout):
    critic, images = built("DCGAN, layer norm", layout)
    results = []
    for generous in (True, False):
        with Generous() if generous else nullcontext():
            penalised(critic, images, fast=True)
        results.append([parameter.grad for parameter in critic.parameters()])
    same(results)


def by_the_images_and_the_weights(score, images, weights):
    points = images.clone().requires_grad_()
    first = torch.autograd.grad(score(points).square().sum(), [points, *weights], create_graph=True)
    return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), [points, *weights], allow_unused=True)]


def along_a_direction_that_is_learnt(score, images, weights):
    """As in virtual adversarial training: the first derivative is by what the points are computed from."""
    direction = torch.zeros_like(images).requires_grad_()
    (first,) = torch.autograd.grad(score(images + direction).square().sum(), direction)
    points = (images + 0.1 * first).requires_grad_()
    return [first, *torch.autograd.grad(score(points).sum(), [points, *weights], allow_unused=True)]


def of_inner_maps(score, images, weights):
    """The first derivative is by something that is no leaf, the second by it and by the weights."""
    leaf = images.clone().requires_grad_()
    points = leaf * 1.5
    (first,) = torch.autograd.grad(score(points).sum(), points, create_graph=True)
    return [first, *torch.autograd.grad(first.square().sum(), [leaf, *weights], allow_unused=True)]


@pytest.mark.parametrize("way", [by_the_images_and_the_weights, along_a_direction_that_is_learnt, of_inner_maps])
@pytest.mark.parametrize("name", CRITICS)
def test_a_critic_may_be_differentiated_in_any_other_way(name, way):
    critic, images = built(name)

    def score(points, fast):
        with fast_or_not(fast):
            return critic(points)

    weights = list(critic.parameters())
    same([way(partial(score, fast=fast), images, weights) for fast in (True, False)])


def penalised(critic, images, fast):
    points = images.clone().requires_grad_()
    with fast_or_not(fast):
        scores = critic(points)
    (gradient,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    critic.zero_grad()
    ((gradient.flatten(1).norm(dim=1) - 1).square().mean() + scores.mean()).backward()


def test_gradients_by_weights_are_left_out_of_the_first_pass():
    """Nobody receives them there: a second of the work would be thrown away."""
    critic, images = built("grouped")
    points = images.clone().requires_grad_()
    with FastDerivatives():
        scores = critic(points)
    with torch.profiler.profile() as profile:
        torch.autograd.grad(scores.sum(), points, create_graph=True)
    names = [event.key for event in profile.key_averages()]
    assert "_InputGradient" in names and "_WeightGradient" not in names


def test_a_bias_is_added_by_the_convolution_itself():
    with torch.profiler.profile() as profile, FastDerivatives():
        nn.Conv2d(3, 4, 3)(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
    names = [event.key for event in profile.key_averages()]
    assert "_Convolution" in names and not any(name.startswith("aten::add") for name in names)


def test_rectifiers_keep_what_pytorchs_keep():
    images = torch.randn(2, 4, 5, 5, requires_grad=True)
    with FastDerivatives():
        for activation, kept in ((F.relu, "output"), (F.leaky_relu, "input")):
            source = images * 1.0
            output = activation(source)
            (source if kept == "output" else output).add_(1.0)  # what is not kept may be changed
            output.sum().backward()
    assert torch.equal(F.relu(torch.tensor([-float("inf"), 1.0])), torch.tensor([0.0, 1.0]))
    with FastDerivatives():
        assert torch.equal(F.relu(torch.tensor([-float("inf"), 1.0])), torch.tensor([0.0, 1.0]))
        assert torch.equal(F.leaky_relu(torch.tensor([-2.0]), -0.5), torch.tensor([1.0]))


@pytest.mark.parametrize("name", CRITICS)
def test_autocast_gives_finite_penalties_near_those_of_single_precision(name):
    critic, images = built(name)
    critic, images = critic.float(), images.float()
    penalties = {}
    for fast in (True, False):

        def score(points, fast=fast):
            with torch.autocast("cpu", torch.bfloat16), fast_or_not(fast):
                return critic(points).float()

        penalties[fast] = GradientPenalty(10.0, seeded_rand()).penalty(score, images, images.flip(0))
        penalties[fast].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())
    assert penalties[True].item() == pytest.approx(penalties[False].item(), rel=0.2)


def test_a_critic_without_normalisation_is_not_gone_through_twice():
    """With rectifiers and no normalisation the penalty depends on the images by their signs alone."""
    critic = DCGANCritic(sample_size=16, in_channels=1, width=8, norm_type="none")
    images = torch.randn(4, 1, 16, 16)
    counts = []
    for fast in (False, True):
        with torch.profiler.profile() as profile:
            penalised(critic, images, fast)
        names = ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::_convolution")
        counts.append(sum(event.count for event in profile.key_averages() if event.key in names))
    plain, fast = counts
    assert fast < plain


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_gradients_of_bfloat16_weights_by_a_matrix_product(kind):
    """As near to those of float32 as PyTorch's own are, in the mean: of one draw in fifty they are not."""
    far = {"plain": [], "fast": []}
    for _ in range(8):
        layer = kind(32, 40, 4, 2, 1).to(memory_format=torch.channels_last)
        images = torch.randn(3, 32, *([8, 8] if kind is nn.Conv2d else [4, 4]))
        found = {}
        for name, context in {"plain": torch.enable_grad(), "fast": FastDerivatives()}.items():
            for enabled in (True, False):
                layer.zero_grad()
                with context, torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                    output = layer(images)
                assert output.dtype == (torch.bfloat16 if enabled else torch.float32)
                (output.float() ** 2).mean().backward()
                found[name, enabled] = layer.weight.grad.clone()
        exact = found["plain", False]
        for name, distances in far.items():
            distances.append((found[name, True] - exact).norm().item() / exact.norm().item())
    assert np.mean(far["fast"]) < 1.1 * np.mean(far["plain"]) < 0.02


@pytest.mark.parametrize(("size", "channels", "uses"), [(8, 32, True), (8, 16, False), (16, 32, False), (2, 32, False)])
def test_the_matrix_product_is_for_many_channels_and_small_maps(monkeypatch, size, channels, uses):
    calls = []
    product = derivatives.weight_gradient_by_product
    monkeypatch.setattr(derivatives, "weight_gradient_by_product", lambda *a: calls.append(1) or product(*a))
    layer = nn.Conv2d(channels, channels, 4, 2, 1).to(memory_format=torch.channels_last)
    with FastDerivatives(), torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(3, channels, size, size)).float().sum().backward()
    assert bool(calls) == uses


def test_other_forms_are_left_to_pytorch():
    with FastDerivatives():
        assert nn.Conv2d(1, 1, 3, padding="same")(torch.zeros(1, 1, 5, 5)).shape == (1, 1, 5, 5)
        assert nn.Conv2d(1, 2, 3)(torch.zeros(1, 5, 5)).shape == (2, 3, 3)
        assert nn.Conv1d(1, 2, 3)(torch.zeros(1, 1, 5)).shape == (1, 2, 3)


def test_a_layer_norm_may_have_a_bias_alone():
    maps, bias = torch.randn(2, 3, 4, 4), torch.randn(3)
    expected = F.group_norm(maps, 1, None, bias)
    with FastDerivatives():
        assert torch.allclose(F.group_norm(maps, 1, None, bias), expected, atol=1e-6)
