import pytest
import torch
from torch import nn

from hf_wgan import DCGANCritic, DCGANGenerator, InputError, MLPCritic, MLPGenerator

PAIRS = [(DCGANGenerator, DCGANCritic), (MLPGenerator, MLPCritic)]


def built(generator_class, critic_class, size=16, channels=3, **both):
    return (
        generator_class(sample_size=size, out_channels=channels, latent_dim=5, width=4, **both),
        critic_class(sample_size=size, in_channels=channels, width=4, **both),
    )


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("norm_type", ["batch", "none"])
def test_dcgan_pairs_fit_at_every_size(size, norm_type):
    generator, critic = built(DCGANGenerator, DCGANCritic, size, norm_type=norm_type, num_extra_layers=1)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert critic(images).shape == (2,)
    has_batch_norm = [any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) for network in (generator, critic)]
    assert has_batch_norm == [norm_type == "batch"] * 2


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_fit_for_every_number_of_channels(pair, channels):
    generator, critic = built(*pair, channels=channels)
    assert critic(generator(torch.randn(3, 5))).shape == (3,)


@pytest.mark.parametrize("size, generator_parameters, critic_parameters", [(64, 3_576_704, 2_765_568)])
def test_dcgan_has_the_layers_of_the_authors_code(size, generator_parameters, critic_parameters):
    # Counted by hand for nz 100, nc 3, ngf = ndf = 64, no extra layers.
    assert sum(p.numel() for p in DCGANGenerator(size).parameters()) == generator_parameters
    assert sum(p.numel() for p in DCGANCritic(size).parameters()) == critic_parameters


def test_extra_layers_are_3x3_convolutions_at_the_finest_hidden_map():
    plain, extra = (built(DCGANGenerator, DCGANCritic, num_extra_layers=n) for n in (0, 2))
    for before, after in zip(plain, extra, strict=True):
        added = sum(p.numel() for p in after.parameters()) - sum(p.numel() for p in before.parameters())
        assert added == 2 * (4 * 4 * 3 * 3 + 2 * 4)  # width 4, with a batch norm each


def test_mlp_has_four_layers_of_512_units():
    linear = [layer for layer in MLPGenerator(32, 1).modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (100, 512),
        (512, 512),
        (512, 512),
        (512, 1024),
    ]
    assert isinstance(list(MLPCritic(32, 1).layers)[-1], nn.Linear)


def test_dcgan_weights_start_at_the_published_spread():
    for network in (DCGANGenerator(32), DCGANCritic(32)):
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                assert module.bias is None
                if module.weight.numel() > 10_000:
                    assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
                    assert abs(module.weight.mean().item()) < 0.001
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)
                assert not module.bias.any()


@pytest.mark.parametrize("pair", PAIRS)
def test_scores_are_unbounded_linear_in_the_last_layer_and_one_an_image(pair):
    _, critic = built(*pair)
    critic.eval()
    images = torch.rand(6, 3, 16, 16) * 2 - 1
    scores = critic(images)
    alone = torch.cat([critic(image[None]) for image in images])
    assert torch.allclose(scores, alone, atol=1e-6), "a score depends on its own image alone"
    assert scores.std() > 0, "nothing is averaged over the batch"

    last = [m for m in critic.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(1e6)
    assert torch.allclose(critic(images), 1e6 * scores, rtol=1e-3), "no squashing function after the last layer"


@pytest.mark.parametrize("pair", PAIRS)
def test_critics_can_be_differentiated_twice(pair):
    _, critic = built(*pair)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in critic.parameters())


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("pair", PAIRS)
def test_networks_survive_save_pretrained_in_every_variant_and_type(pair, index, tmp_path):
    network = built(*pair)[index].eval()
    network.save_pretrained(tmp_path)
    network.save_pretrained(tmp_path, variant="fp16")
    assert not list(tmp_path.rglob("*.bin"))
    for options in ({}, {"variant": "fp16"}):
        loaded = type(network).from_pretrained(tmp_path, **options)
        assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values()))
    assert type(network).from_pretrained(tmp_path, torch_dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: DCGANGenerator(48), "sample_size=48"),
        (lambda: DCGANCritic(512), "sample_size=512"),
        (lambda: DCGANGenerator(4), "sample_size=4"),
        (lambda: DCGANGenerator(out_channels=5), "out_channels=5"),
        (lambda: DCGANCritic(in_channels=0), "in_channels=0"),
        (lambda: DCGANGenerator(latent_dim=0), "latent_dim=0"),
        (lambda: DCGANCritic(width=-1), "width=-1"),
        (lambda: DCGANGenerator(num_extra_layers=-1), "num_extra_layers=-1"),
        (lambda: DCGANCritic(norm_type="layer"), "norm_type='layer'"),
        (lambda: MLPGenerator(0), "sample_size=0"),
        (lambda: MLPCritic(num_layers=0), "num_layers=0"),
        (lambda: MLPCritic(width=2.5), "width=2.5"),
    ],
)
def test_arguments_out_of_range_are_named(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("pair", PAIRS)
def test_wrong_shapes_are_named(pair):
    generator, critic = built(*pair)
    with pytest.raises(InputError, match=r"latents of shape \(2, 6\): must be \(N, 5\)"):
        generator(torch.randn(2, 6))
    with pytest.raises(InputError, match=r"images of shape \(2, 1, 16, 16\): must be \(N, 3, 16, 16\)"):
        critic(torch.randn(2, 1, 16, 16))
