import numpy as np
import pytest
import torch
from torch import nn

from hf_wgan import DCGANCritic, ResNetCritic
from hf_wgan.algorithm.derivatives import FastDerivatives

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


def penalised(critic, images, fast):
    points = images.clone().requires_grad_()
    with FastDerivatives() if fast else torch.enable_grad():
        scores = critic(points)
    (gradient,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    loss = (gradient.flatten(1).norm(dim=1) - 1).square().mean() + scores.mean()
    critic.zero_grad()
    loss.backward()
    return [parameter.grad for parameter in critic.parameters()]


@pytest.mark.parametrize("norm_type", ["none", "layer"])
@pytest.mark.parametrize("kind", [DCGANCritic, ResNetCritic])
def test_a_penalty_has_the_same_gradients(kind, norm_type):
    torch.manual_seed(0)
    critic = kind(sample_size=32, in_channels=1, width=8, norm_type=norm_type).double()
    images = torch.randn(4, 1, 32, 32, dtype=torch.double)
    for fast, plain in zip(penalised(critic, images, True), penalised(critic, images, False)):
        assert torch.allclose(fast, plain, rtol=1e-9, atol=1e-12)


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
        images = torch.randn(3, 32, 8, 8)
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


def test_other_forms_are_left_to_pytorch():
    with FastDerivatives():
        assert nn.Conv2d(1, 1, 3, padding="same")(torch.zeros(1, 1, 5, 5)).shape == (1, 1, 5, 5)
        assert nn.Conv2d(1, 2, 3)(torch.zeros(1, 5, 5)).shape == (2, 3, 3)
        assert nn.Conv1d(1, 2, 3)(torch.zeros(1, 1, 5)).shape == (1, 2, 3)
