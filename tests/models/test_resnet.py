import pytest
import torch
from torch import nn

from hf_wgan import ResNetCritic, ResNetGenerator


def convolutions(network, size=3):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (size, size)]


def sizes_of_maps(network, blocks, example):
    """The shape (C, H, W) of the map after each of the blocks."""
    shapes = []
    for block in blocks:
        block.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
    network(example)
    return shapes


def test_networks_for_32_pixels_are_those_of_the_cifar_10_table():
    with torch.device("meta"):
        generator, critic = ResNetGenerator(), ResNetCritic()
        maps = sizes_of_maps(generator, generator.blocks, torch.empty(1, 128))
        assert maps == [(128, 8, 8), (128, 16, 16), (128, 32, 32)]
        maps = sizes_of_maps(critic, [critic.first, *critic.blocks], torch.empty(1, 3, 32, 32))
        assert maps == [(128, 16, 16), (128, 8, 8), (128, 8, 8), (128, 8, 8)]
    assert (generator.from_latents.in_features, generator.from_latents.out_features) == (128, 128 * 4 * 4)
    assert len(convolutions(generator)) == 7 and len(convolutions(critic)) == 8
    assert len(convolutions(generator, 1)) == 3 and len(convolutions(critic, 1)) == 2, (
        "else the shortcut is the identity"
    )


@pytest.mark.parametrize(
    "size, generator_maps, critic_maps",
    [
        (64, [(512, 8, 8), (256, 16, 16), (128, 32, 32), (64, 64, 64)], [64, 128, 256, 512, 512]),
        (
            (64, 128),
            [(512, 8, 16), (256, 16, 32), (128, 32, 64), (64, 64, 128)],
            [64, 128, 256, 512, 512],
        ),
        (
            128,
            [(1024, 8, 8), (512, 16, 16), (256, 32, 32), (128, 64, 64), (64, 128, 128)],
            [64, 128, 256, 512, 1024, 1024],
        ),
        (96, [(256, 24, 24), (128, 48, 48), (64, 96, 96)], [64, 128, 256, 256]),
    ],
)
def test_larger_networks_double_their_widths_inwards(size, generator_maps, critic_maps):
    with torch.device("meta"):
        generator, critic = ResNetGenerator(size), ResNetCritic(size)
        assert sizes_of_maps(generator, generator.blocks, torch.empty(1, 128)) == generator_maps
        height, width = generator_maps[-1][1:]
        maps = sizes_of_maps(critic, [critic.first, *critic.blocks], torch.empty(1, 3, height, width))
    assert [channels for channels, _, _ in maps] == critic_maps
    coarsest = tuple(side >> len(generator_maps) for side in (height, width))
    assert maps[-1][1:] == maps[-2][1:] == coarsest, "the last block does not halve the size"


def test_the_critic_without_pooling_is_that_of_the_authors_code_for_64_pixels():
    with torch.device("meta"):
        critic = ResNetCritic(64, pooling="flatten")
        maps = sizes_of_maps(critic, [critic.first, *critic.blocks], torch.empty(1, 3, 64, 64))
    assert maps == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    assert critic.score.in_features == 512 * 4 * 4
    assert [norm.num_channels for norm in critic.modules() if isinstance(norm, nn.GroupNorm)] == (
        [64, 64, 128, 128, 256, 256, 512, 512]
    )
    assert all(block.conv_1.bias is None and block.conv_2.bias is not None for block in critic.blocks)
    critic = ResNetCritic(width=4, pooling="flatten", num_classes=3)
    images = torch.rand(2, 3, 32, 32)
    assert critic(images, torch.tensor([0, 1])).shape == (2,)
    assert critic.first.weight.std().item() == pytest.approx((2 / (9 * (3 + 4))) ** 0.5, rel=0.2), "no ReLU precedes it"


def test_pooling_is_the_sum_or_the_mean_over_space():
    torch.manual_seed(0)
    mean = ResNetCritic(width=4)
    total = ResNetCritic(width=4, pooling="sum")
    total.load_state_dict(mean.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(total(images), 8 * 8 * mean(images), rtol=1e-4)


def test_weights_start_uniform_with_the_variance_of_the_authors_code():
    torch.manual_seed(0)
    generator, critic = ResNetGenerator(width=64), ResNetCritic(width=64)
    for layer in [m for network in (generator, critic) for m in network.modules()]:
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or layer.weight.numel() < 2000:
            continue
        fan_out, fan_in = layer.weight.shape[0] * layer.weight[0, 0].numel(), layer.weight[0].numel()
        is_he = layer.weight.ndim == 4 and layer.kernel_size == (3, 3)
        std = ((4 if is_he else 2) / (fan_in + fan_out)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05), layer
        assert layer.weight.abs().max().item() == pytest.approx(3**0.5 * std, rel=0.02), "uniform"
        assert layer.bias is None or not layer.bias.any()
    output = generator.to_image.weight
    assert output.std().item() == pytest.approx((2 / (9 * (64 + 3))) ** 0.5, rel=0.1), "no ReLU follows it"
    output = ResNetGenerator(64, width=16).to_image.weight
    assert output.std().item() == pytest.approx((4 / (9 * (16 + 3))) ** 0.5, rel=0.1), "the code for 64 pixels"


def test_shortcuts_and_resampling_commute():
    """So that the shortcut's convolution may be done at the smaller size, unlike in the authors' code."""
    maps, convolution = torch.randn(2, 3, 8, 8), nn.Conv2d(3, 5, 1)
    for resample in (nn.AvgPool2d(2), nn.Upsample(scale_factor=2)):
        assert torch.allclose(resample(convolution(maps)), convolution(resample(maps)), atol=1e-6)


def test_each_class_has_its_own_scales_and_shifts_in_the_generators_blocks():
    generator = ResNetGenerator(width=4, num_classes=3, latent_dim=5).train()
    latents, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.allclose(generator(latents, labels), generator(latents, labels * 0)), "at first all are alike"
    norm = generator.blocks[0].norm_1
    with torch.no_grad():
        norm.scales.weight[1] = 3.0
        norm.shifts.weight[1] = -2.0
    maps = torch.randn(6, 4, 4, 4) + 5
    plain = nn.functional.batch_norm(maps, None, None, training=True)
    expected = torch.where((labels == 1)[:, None, None, None], 3 * plain - 2, plain)
    assert torch.allclose(norm(maps, labels), expected, atol=1e-5)
    names = [name for name in generator.state_dict() if "scales" in name]
    assert names == [f"blocks.{block}.norm_{place}.scales.weight" for block in range(3) for place in (1, 2)]
    assert generator.from_latents.in_features == 5, "no embedding beside the latents too"


def test_a_generator_without_batch_norm_gets_the_class_beside_the_latents():
    generator = ResNetGenerator(width=4, num_classes=3, latent_dim=5, norm_type="none")
    assert generator.from_latents.in_features == 5 + 32
    assert not any("scales" in name or "norm" in name for name in generator.state_dict())
