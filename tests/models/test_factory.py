import copy
import dataclasses
import inspect
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_wgan import InputError, RunConfig
from hf_wgan.models.factory import ARCHITECTURES, NetworkConfig, build_networks, has_option, shape_of
from hf_wgan.models.layers import CRITIC_STD, initialise_class_embeddings


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_are_built_with_their_own_defaults(architecture):
    with torch.device("meta"):
        networks = build_networks(NetworkConfig(architecture=architecture), 32, 1)
        for network, network_class in zip(networks, ARCHITECTURES[architecture]):
            assert type(network) is network_class and shape_of(network) == (1, 32, 32)
            default = network_class(32, 1)
            assert dict(network.config) | {"_use_default_values": 0} == dict(default.config) | {
                "_use_default_values": 0
            }


def test_options_reach_the_networks():
    options = {"latent_dim": 7, "generator_width": 3, "critic_width": 5, "num_extra_layers": 2}
    norms = {"generator_norm_type": "batch", "critic_norm_type": "instance"}
    options |= {"generator_upsampling": "nearest", "generator_modulated": True, "generator_output_skips": True}
    classes = {"num_classes": 2, "class_names": ["a", "b"]}
    generator, critic = build_networks(NetworkConfig(**options, **norms), 16, 2, **classes, spectral_norm=True)
    config = {**generator.config}
    expected = dict(sample_size=16, out_channels=2, latent_dim=7, width=3, num_extra_layers=2, norm_type="batch")
    assert {
        **expected,
        "upsampling": "nearest",
        "modulated": True,
        "output_skips": True,
    }.items() <= config.items() and classes.items() <= config.items()
    expected = dict(sample_size=16, in_channels=2, width=5, num_extra_layers=2, norm_type="instance", num_classes=2)
    assert {**expected, "spectral_norm": True}.items() <= dict(critic.config).items()
    norms = {type(module) for module in critic.modules() if "Norm2d" in type(module).__name__}
    assert norms == {nn.InstanceNorm2d}


@pytest.mark.parametrize("architecture", ["mlp", "resnet", "r3gan"])
def test_images_need_not_be_square(architecture):
    with torch.device("meta"):
        networks = build_networks(NetworkConfig(architecture=architecture), (32, 64), 3)
    assert [shape_of(network) for network in networks] == [(3, 32, 64)] * 2


@pytest.mark.parametrize(
    "architecture, option, value",
    [
        *((architecture, "num_extra_layers", 1) for architecture in ("mlp", "resnet", "r3gan")),
        *((architecture, "generator_norm_type", "batch") for architecture in ("mlp", "r3gan")),
        *((architecture, "critic_norm_type", "none") for architecture in ("mlp", "r3gan")),
        *((architecture, "critic_pooling", "sum") for architecture in ("dcgan", "mlp", "r3gan")),
        *((architecture, "generator_upsampling", "nearest") for architecture in ("mlp", "resnet", "r3gan")),
        *((architecture, "generator_modulated", True) for architecture in ("mlp", "resnet", "r3gan")),
        *((architecture, "generator_output_skips", True) for architecture in ("mlp", "resnet", "r3gan")),
        *((architecture, "num_blocks", 2) for architecture in ("dcgan", "mlp", "resnet")),
    ],
)
def test_options_that_an_architecture_lacks_are_refused(architecture, option, value):
    config = NetworkConfig(architecture=architecture, **{option: value})
    with pytest.raises(InputError, match=rf"{option}={value!r}: the {architecture} networks have no such option"):
        build_networks(config, 32, 1)


@pytest.mark.parametrize("option", ["latent_dim", "generator_width", "critic_width"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_zero_is_refused_and_not_taken_for_the_default(architecture, option):
    with pytest.raises(InputError, match="=0: must be"):
        build_networks(NetworkConfig(architecture=architecture, **{option: 0}), 32, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_help_names_every_architecture_and_the_defaults_of_its_signatures(architecture):
    help = {field.name: field.metadata["help"] for field in dataclasses.fields(NetworkConfig)}
    generator_class, critic_class = ARCHITECTURES[architecture]
    assert f"{architecture}: {generator_class.summary}" in help["architecture"]
    for option, network_class, argument in [
        ("latent_dim", generator_class, "latent_dim"),
        ("generator_width", generator_class, "width"),
        ("critic_width", critic_class, "width"),
    ]:
        default = inspect.signature(network_class.__init__).parameters[argument].default
        clause = next(part for part in re.split("[(;]", help[option]) if architecture in part.split(" for ")[-1])
        assert clause.split()[0] == ("by" if default is None else str(default))
    assert (architecture in help["critic_norm_type"]) == has_option(architecture, "critic_norm_type")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_prior_reaches_the_generator_alone(architecture):
    with torch.device("meta"):
        generator, critic = build_networks(NetworkConfig(architecture=architecture, latent_prior="uniform"), 32, 1)
    assert generator.config.latent_prior == "uniform" and "latent_prior" not in critic.config


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_classes_that_look_alike_begin_alike(architecture, spectral_norm):
    torch.manual_seed(0)
    config = NetworkConfig(architecture=architecture, generator_width=32, critic_width=32)
    networks = build_networks(config, 32, 1, num_classes=7, spectral_norm=spectral_norm)
    before = copy.deepcopy([network.state_dict() for network in networks])
    kinds = torch.tensor([0, 0, 0, 1, 1, 1])
    initialise_class_embeddings(*networks, torch.randn(2, 40)[kinds] + torch.randn(6, 40) / 10)
    is_alike, is_other = kinds == kinds[:, None], ~torch.eye(6, dtype=torch.bool)
    for network, weights in zip(networks, before):
        if spectral_norm and network is networks[1]:
            torch.testing.assert_close(network.state_dict(), weights, rtol=0, atol=0)
            continue
        if network.class_embedding is None:
            assert architecture == "resnet", "whose generator has scales and shifts of each class instead"
            continue
        after = network.class_embedding.weight.detach()
        assert torch.equal(after[6], weights["class_embedding.weight"][6]), "of a class of which nothing is known"
        similarity = F.cosine_similarity(after[:6, None], after[None, :6], dim=2)
        assert similarity[is_alike & is_other].mean() > 0.3 + similarity[~is_alike].mean()
        assert after[:6].std() == pytest.approx(1 if network is networks[0] else CRITIC_STD, rel=0.3)
        assert not torch.equal(after[0], after[1])


@pytest.mark.parametrize("preset", ["wgan-fast", "wgan-color", "wgan-gp", "r3gan-small"])
@pytest.mark.parametrize("resolution", [32, 64])
def test_what_looks_alike_does_not_make_the_critic_steep_at_first(preset, resolution):
    # A zero-centred penalty of 25 times the gradient flattened the critic, and it never scored images apart again.
    torch.manual_seed(0)
    config = RunConfig.resolve(preset=preset, resolution=resolution, num_clusters=50).networks
    generator, critic = build_networks(config, resolution, 3, num_classes=50)
    images, classes = (2 * torch.rand(8, 3, resolution, resolution) - 1).requires_grad_(), torch.arange(8)

    def steepness():
        (gradient,) = torch.autograd.grad(critic(images, classes).sum(), images)
        return gradient.flatten(1).norm(dim=1).mean().item()

    before = steepness()  # the vectors are 0
    initialise_class_embeddings(generator, critic, torch.randn(50, 100))
    assert before < steepness() < 5 * before


def test_networks_of_ones_own_without_such_vectors_stay_as_they_are():
    networks = nn.Linear(2, 2), nn.Linear(2, 2)
    initialise_class_embeddings(*networks, torch.randn(6, 40))
