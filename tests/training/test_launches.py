"""How many kernels an iteration is on a GPU, where sending them is what takes the time."""

import pytest
import torch
from conftest import tiny_images
from launches import Launches
from torch import nn

from hf_wgan import DCGANCritic, DCGANGenerator, WGANTrainer
from hf_wgan.models.layers import BatchNorm2d, MapToVector, VectorToMap

PYTORCHS = {BatchNorm2d: nn.BatchNorm2d, MapToVector: nn.Conv2d, VectorToMap: nn.ConvTranspose2d}
BATCH_SIZE = 2


def networks(lipschitz):
    options = {"sample_size": 64, "width": 8}
    norm_type = "batch" if lipschitz == "clip" else "layer"
    return DCGANGenerator(out_channels=3, **options), DCGANCritic(in_channels=3, norm_type=norm_type, **options)


def plain_loop(lipschitz):
    """An iteration as anyone would write it from the paper, of PyTorch's own layers, the images on the device."""
    generator, critic = networks(lipschitz)
    for layer in (*generator.modules(), *critic.modules()):
        layer.__class__ = PYTORCHS.get(type(layer), type(layer))
    pixels = tiny_images(8, channels=3, size=64).images
    if lipschitz == "clip":
        optimizers = [torch.optim.RMSprop(each.parameters(), 5e-5, foreach=True) for each in (generator, critic)]
    else:
        optimizers = [torch.optim.Adam(each.parameters(), 1e-4, foreach=True) for each in (generator, critic)]

    def update(optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def penalty(real, fake):
        share = torch.rand(BATCH_SIZE, 1, 1, 1)
        points = (share * real + (1 - share) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        return 10 * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()

    def iteration():
        for _ in range(5):
            real = pixels[torch.randint(len(pixels), (BATCH_SIZE,))].float() / 127.5 - 1
            with torch.no_grad():
                fake = generator(torch.randn(BATCH_SIZE, 100))
            loss = critic(fake).mean() - critic(real).mean()
            update(optimizers[1], loss + penalty(real, fake) if lipschitz == "gp" else loss)
            if lipschitz == "clip":
                for parameter in critic.parameters():
                    parameter.data.clamp_(-0.01, 0.01)
        critic.requires_grad_(False)
        update(optimizers[0], -critic(generator(torch.randn(BATCH_SIZE, 100))).mean())
        critic.requires_grad_(True)

    return iteration


def trainer_step(make_config, lipschitz):
    optimizer = "rmsprop" if lipschitz == "clip" else "adam"
    config = make_config(n_critic=5, train_batch_size=BATCH_SIZE, lipschitz=lipschitz, optimizer=optimizer)
    trainer = WGANTrainer(*networks(lipschitz), tiny_images(8, channels=3, size=64), config)
    for optimizer in trainer.state.optimizers.values():
        for group in optimizer.param_groups:
            group["foreach"] = not group.get("fused")  # as PyTorch chooses on a GPU
    return trainer.step


def launches_of(iteration):
    iteration()
    with Launches() as launches:
        iteration()
    return launches.number


@pytest.mark.parametrize(("lipschitz", "most"), [("clip", 600), ("gp", 900)])
def test_an_iteration_is_fewer_kernels_than_a_plain_loops(tiny_config, lipschitz, most):
    own, plain = launches_of(trainer_step(tiny_config, lipschitz)), launches_of(plain_loop(lipschitz))
    gathering = 5  # of images that are on the GPU; a CPU indexes them without PyTorch
    assert own + gathering < min(plain, most), plain
