"""The standard GAN that the claims compare with, with the generator's loss that does not saturate.

It is that of Goodfellow et al. 2014 (arXiv 1406.2661). Its critic is called a discriminator here, for its score is the
logit of a probability.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from hf_wgan.algorithm.step import RealBatch


class StandardGANRecord(NamedTuple):
    """Of one step: detached scalars."""

    discriminator_loss: (
        Tensor  # of the last of its steps: -E[log p(x)] - E[log(1 - p(G(z)))], 2 log 2 where it knows nothing
    )
    generator_loss: Tensor  # -E[log p(G(z))]


class StandardGANStep:
    """Called as `WGANStep` is, with the same networks.

    Args:
        generator: Latents to images.
        discriminator: Images to logits `(N,)`, high for real ones.
        generator_optimizer: Over the generator's parameters.
        discriminator_optimizer: Over the discriminator's.
        sample_latents: A number n to fresh latents `(n, latent_dim)`.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        generator_optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        sample_latents: Callable[[int], Tensor],
    ):
        self.generator, self.discriminator = generator, discriminator
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.sample_latents = sample_latents

    def __call__(self, real_batches: Iterator[RealBatch], num_discriminator_steps: int) -> StandardGANRecord:
        """Take `n_critic` discriminator steps, each on the next real batch, then one generator step."""
        for _ in range(num_discriminator_steps):
            batch = next(real_batches)
            discriminator_loss = self.discriminator_step(batch.images)
        return StandardGANRecord(discriminator_loss, self.generator_step(len(batch.images)))

    def discriminator_step(self, real_images: Tensor) -> Tensor:
        with torch.no_grad():
            fake_images = self.generator(self.sample_latents(len(real_images)))
        loss = softplus(-self.discriminator(real_images)).mean() + softplus(self.discriminator(fake_images)).mean()
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        return loss.detach()

    def generator_step(self, num_images: int) -> Tensor:
        self.discriminator.requires_grad_(False)
        loss = softplus(-self.discriminator(self.generator(self.sample_latents(num_images)))).mean()
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()
        self.discriminator.requires_grad_(True)
        return loss.detach()


def jensen_shannon_estimate(discriminator_loss: float) -> float:
    """Return `log 2 - loss / 2`, a lower bound of the divergence in nats (figure 4 of Arjovsky et al. 2017).

    It is between 0 and log 2 for a discriminator that is at least as good as chance.
    """
    return math.log(2) - discriminator_loss / 2
