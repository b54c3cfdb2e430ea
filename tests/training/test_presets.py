"""Each preset against what its paper and its authors' code say, stated here a second time and in another form."""

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import nn

from hf_wgan import RunConfig
from hf_wgan.models.factory import build_networks
from hf_wgan.training.optimizers import build_optimizer, build_scheduler
from hf_wgan.training.presets import LARGER, PRESETS

LINEAR = (1.0, 0.5, 0.0)  # of the learning rate at the beginning, in the middle and at the end
CONSTANT = (1.0, 1.0, 1.0)
COSINE_TO_A_QUARTER = (1.0, 0.625, 0.25)


class Statement(NamedTuple):
    """What a paper says of a run on images of one size, three channels."""

    generator: int  # parameters without the constants that the next layer or the loss removes
    critic: int
    latents: tuple[int, str]
    norms: tuple[int, int]  # layers of normalisation in the generator and in the critic
    constraint: tuple[str, float]  # and clip value or weight
    optimizer: tuple[type, float, tuple[float, ...]]  # class, learning rate, betas or RMSProp's alpha
    decay: tuple[float, float, float]
    n_critic: int
    batch: tuple[int, int]  # images of a critic step and of a generator step
    weight_end: float | None = None
    beta2_end: float | None = None
    average: bool = False
    pooling: str | None = None
    interval: int = 1  # critic steps from one penalty to the next
    half_life: float = 0.05  # of the average, as a share of the steps so far
    clusters: int | None = None


def conv(inputs, outputs, size=3, bias=True):
    return inputs * outputs * size**2 + bias * outputs


def dcgan(finest, *, norm, image_to_vector):
    """A DCGAN with kernels of 4 pixels and no biases; `finest` lists the channels from the finest map on."""
    between = sum(conv(a, b, 4, False) for a, b in itertools.pairwise(finest))
    ends = conv(3, finest[0], 4, False) + conv(finest[-1], image_to_vector, 4, False)
    return between + ends + 2 * sum(norm)


def smooth_generator(latents, finest):
    """A DCGAN's generator with 3×3 kernels after nearest neighbours, and one more at full size.

    The scales and shifts of its batch norm are linear in the latents, but at full size, and each smaller map adds to
    the image by a 1×1 convolution.
    """
    between = sum(conv(b, a, 3, False) for a, b in itertools.pairwise(finest))
    norms = (latents + 1) * 2 * sum(finest[1:]) + 2 * finest[0]
    skips = sum(conv(a, 3, 1, False) for a in finest[1:])
    return 16 * latents * finest[-1] + between + conv(finest[0], 3, 3, False) + norms + skips


def resnet_generator(latents, maps, coarsest):
    """A linear layer to 4×4, blocks of batch norm, convolution, batch norm, convolution beside a shortcut, an end."""
    blocks = list(zip([coarsest, *maps], maps))
    inside = sum(2 * a + conv(a, b, 3, False) + 2 * b + conv(b, b) + conv(a, b, 1) for a, b in blocks)
    return (latents + 1) * 16 * coarsest + inside + 2 * maps[-1] + conv(maps[-1], 3)


def cifar_critic(width):
    """The critic for CIFAR-10 of WGAN-GP and of SNGAN: two blocks that halve the size, two that do not."""
    first = conv(3, width) + conv(width, width) + conv(3, width, 1)
    return first + 6 * conv(width, width) + conv(width, width, 1) + width


def critic_of_64_pixels(widths):
    """The critic of gan_64x64.py: layer norm before both convolutions, the first of them without biases."""
    pairs = list(itertools.pairwise(widths))
    inside = sum(2 * a + conv(a, a, 3, False) + 2 * a + conv(a, b) + conv(a, b, 1) for a, b in pairs)
    return conv(3, widths[0]) + inside + 16 * widths[-1]


def critic_of_128_pixels(widths):
    """The critic of SNGAN for ImageNet: blocks that halve the size, and a last one that does not."""
    first = conv(3, widths[0]) + conv(widths[0], widths[0]) + conv(3, widths[0], 1)
    inside = sum(conv(a, a) + conv(a, b) + conv(a, b, 1) for a, b in itertools.pairwise(widths))
    return first + inside + 2 * conv(widths[-1], widths[-1]) + widths[-1]


def r3gan(widths, num_blocks, ends):
    """Bottlenecks of twice the width in groups of 16 channels, with a bias before each activation."""
    inside = sum(num_blocks * (4 * w * w + 2 * w * 16 * 9 + 4 * w) for w in widths)
    return inside + sum(a * b for a, b in itertools.pairwise(widths)) + 3 * widths[0] + ends * widths[-1]


def r3gan_pair(widths, num_blocks):
    """The basis of 4×4 is weighted by 64 latents in the generator, and by one linear layer in the critic."""
    return r3gan(widths, num_blocks, 16 + 64), r3gan(widths, num_blocks, 16 + 1)


ADAM, RMSPROP = torch.optim.Adam, torch.optim.RMSprop
WGAN_GP = Statement(
    generator=resnet_generator(128, [128, 128, 128], 128),
    critic=cifar_critic(128),
    latents=(128, "normal"),
    norms=(7, 0),
    constraint=("gp", 10),
    optimizer=(ADAM, 2e-4, (0, 0.9)),
    decay=LINEAR,
    n_critic=5,
    batch=(64, 128),
    pooling="mean",
)
WGAN_GP_64 = WGAN_GP._replace(
    generator=resnet_generator(128, [512, 256, 128, 64], 512),
    critic=critic_of_64_pixels([64, 128, 256, 512, 512]),
    norms=(9, 8),
    optimizer=(ADAM, 1e-4, (0, 0.9)),
    decay=CONSTANT,
    batch=(64, 64),
    pooling="flatten",
)
SNGAN = Statement(
    generator=resnet_generator(128, [256, 256, 256], 256),
    critic=cifar_critic(128),
    latents=(128, "normal"),
    norms=(7, 0),
    constraint=("spectral", None),
    optimizer=(ADAM, 2e-4, (0, 0.9)),
    decay=LINEAR,
    n_critic=5,
    batch=(64, 128),
    pooling="sum",
)
R3GAN = Statement(
    *r3gan_pair([768] * 4, 2),
    latents=(64, "normal"),
    norms=(0, 0),
    constraint=("r1r2", 0.05),
    optimizer=(ADAM, 2e-4, (0, 0.9)),
    decay=COSINE_TO_A_QUARTER,
    n_critic=1,
    batch=(512, 512),
    weight_end=0.005,
    beta2_end=0.99,
    average=True,
)
R3GAN_SMALL = dict(zip(("generator", "critic"), r3gan_pair([32, 64, 128, 256], 1)))
STATEMENTS = {
    ("wgan", 64): Statement(
        generator=dcgan([64, 128, 256, 512], norm=[64, 128, 256, 512], image_to_vector=100),
        critic=dcgan([64, 128, 256, 512], norm=[128, 256, 512], image_to_vector=1),
        latents=(100, "normal"),
        norms=(4, 3),
        constraint=("clip", 0.01),
        optimizer=(RMSPROP, 5e-5, (0.99,)),
        decay=CONSTANT,
        n_critic=5,
        batch=(64, 64),
    ),
    ("wgan-gp", 32): WGAN_GP,
    ("wgan-gp", 64): WGAN_GP_64,
    ("wgan-lp", 32): WGAN_GP._replace(constraint=("lp", 10)),
    ("wgan-lp", 64): WGAN_GP_64._replace(constraint=("lp", 10)),
    ("dragan", 32): Statement(
        generator=dcgan([64, 128, 256], norm=[64, 128, 256], image_to_vector=100),
        critic=dcgan([64, 128, 256], norm=[], image_to_vector=1),
        latents=(100, "uniform"),
        norms=(3, 0),
        constraint=("dragan", 10),
        optimizer=(ADAM, 1e-4, (0.5, 0.9)),
        decay=CONSTANT,
        n_critic=1,
        batch=(128, 128),
    ),
    ("sngan", 32): SNGAN,
    ("sngan", 128): SNGAN._replace(
        generator=resnet_generator(128, [1024, 512, 256, 128, 64], 1024),
        critic=critic_of_128_pixels([64, 128, 256, 512, 1024]),
        norms=(11, 0),
    ),
    ("r3gan", 32): R3GAN,
    ("r3gan", 64): R3GAN._replace(
        **dict(zip(("generator", "critic"), r3gan_pair([384, 768, 768, 768, 768], 2))),
        constraint=("r1r2", 2),
        weight_end=0.2,
        batch=(256, 256),
    ),
    ("r3gan", 256): R3GAN._replace(
        **dict(zip(("generator", "critic"), r3gan_pair([96, 192, 384, 768, 768, 768, 768], 2))),
        constraint=("r1r2", 150),
        weight_end=15,
        batch=(256, 256),
    ),
    ("r3gan-small", 32): R3GAN._replace(  # of no paper: what docs/presets.md says
        **R3GAN_SMALL, constraint=("r1r2", 10), weight_end=1, optimizer=(ADAM, 1e-3, (0, 0.9)), batch=(64, 64)
    ),
    ("wgan-fast", 32): Statement(  # likewise
        generator=dcgan([64, 128, 256], norm=[64, 128, 256], image_to_vector=100),
        critic=dcgan([64, 128, 256], norm=[], image_to_vector=1),
        latents=(100, "normal"),
        norms=(3, 0),
        constraint=("r1", 10),
        optimizer=(ADAM, 1e-3, (0, 0.9)),
        decay=CONSTANT,
        n_critic=1,
        batch=(64, 64),
        interval=8,
        average=True,
    ),
    ("wgan-color", 64): Statement(  # likewise
        generator=smooth_generator(128, [16, 32, 64, 128, 256]),
        critic=dcgan([32, 64, 128, 256], norm=[], image_to_vector=1),
        latents=(128, "normal"),
        norms=(5, 0),
        constraint=("lp", 10),
        optimizer=(ADAM, 1e-3, (0, 0.9)),
        decay=CONSTANT,
        n_critic=1,
        batch=(32, 32),
        average=True,
        interval=4,
        half_life=0.1,
        clusters=1000,
    ),
}
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)


def test_every_preset_has_a_statement():
    assert {name for name, _ in STATEMENTS} == set(PRESETS) and set(LARGER) <= set(PRESETS)


@pytest.mark.parametrize("name, size", STATEMENTS)
def test_the_networks_are_those_of_the_paper(name, size):
    config, stated = RunConfig.resolve(preset=name, train_data_dir="photos", resolution=size), STATEMENTS[name, size]
    with torch.device("meta"):
        networks = build_networks(config.networks, size, 3, spectral_norm=config.training.lipschitz == "spectral")
    numbers = tuple(sum(parameter.numel() for parameter in network.parameters()) for network in networks)
    assert numbers == (stated.generator, stated.critic)
    norms = tuple(sum(isinstance(module, NORMS) for module in network.modules()) for network in networks)
    assert norms == stated.norms
    generator = networks[0].config
    assert (generator.latent_dim, generator.latent_prior) == stated.latents
    assert networks[1].config.get("pooling") == stated.pooling


@pytest.mark.parametrize("name, size", STATEMENTS)
def test_the_game_and_the_optimizers_are_those_of_the_paper(name, size):
    config, stated = RunConfig.resolve(preset=name, train_data_dir="photos", resolution=size), STATEMENTS[name, size]
    training = config.training
    values = {"clip": training.clip_value, "spectral": None}
    assert (training.lipschitz, values.get(training.lipschitz, training.gradient_penalty_weight)) == stated.constraint
    assert (training.gradient_penalty_weight_end, training.adam_beta2_end) == (stated.weight_end, stated.beta2_end)
    batch = training.train_batch_size
    assert (batch, batch * training.generator_batch_ratio) == stated.batch
    assert (training.n_critic, training.use_ema) == (stated.n_critic, stated.average)
    assert (training.ema_rampup_ratio, config.networks.num_clusters) == (stated.half_life, stated.clusters)
    assert (training.penalty_interval, training.gradient_accumulation_steps) == (stated.interval, 1)
    assert not training.augmentation

    kind, rate, decay_rates = stated.optimizer
    steps = training.max_train_steps
    for learning_rate in (training.generator_learning_rate, training.critic_learning_rate):
        optimizer = build_optimizer(nn.Linear(2, 1), learning_rate, training)
        scheduler = build_scheduler(optimizer, training)
        (group,) = optimizer.param_groups
        assert type(optimizer) is kind and group["eps"] == 1e-8 and group["weight_decay"] == 0
        assert group.get("betas", (group.get("alpha"),)) == decay_rates and not group.get("momentum")
        (factor,) = scheduler.lr_lambdas
        assert group["initial_lr"] == rate
        assert [factor(step) for step in (0, steps // 2, steps)] == pytest.approx(stated.decay)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_each_option_for_all_sizes_or_for_larger_ones(name):
    """Else a value for larger images would be set on the default of another preset."""
    for options in LARGER.get(name, {}).values():
        assert options.keys() <= PRESETS[name].keys()


def test_the_size_of_the_images_may_be_named_in_any_layer(tmp_path):
    (tmp_path / "run.yaml").write_text("resolution: 32\ntrain_data_dir: photos\n")
    resolved = [
        RunConfig.resolve(tmp_path / "run.yaml", preset="wgan-gp"),
        RunConfig.resolve(tmp_path / "run.yaml", preset="wgan-gp", resolution=64),
        RunConfig.resolve(train_data_dir="photos", preset="wgan-gp"),
        RunConfig.resolve(preset="wgan-gp"),  # the digits, of 32 pixels
    ]
    assert [config.networks.critic_pooling for config in resolved] == ["mean", "flatten", "flatten", "mean"]
