"""Algorithm 1 of Arjovsky et al. 2017 (arXiv 1701.07875), and nothing else: no device, no logging, no options."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..lipschitz import Constraint
from ..losses import critic_loss, generator_loss

MAX_SKIPPED_UPDATES = 100  # a float16 loss scale of 2^16 reaches 2^-84 by then: no scale will help


class StepLosses(NamedTuple):
    """Detached scalars on the device, in float32. The Wasserstein estimate is the negative of `critic_loss`."""

    critic_loss: Tensor  # of the last critic step, on the batch it was trained with
    generator_loss: Tensor


class WGANStep:
    """The two players' updates.

    Args:
        generator: `(N, latent_dim)` to images `(N, C, H, W)`. May be wrapped for distributed training.
        critic: Images to scores `(N,)`. May be wrapped likewise.
        generator_optimizer: Over the generator's parameters.
        critic_optimizer: Over the critic's parameters.
        constraint: Keeps the critic Lipschitz; called after each critic optimizer step.
        sample_latents: A number n to fresh latents `(n, latent_dim)`.
        backward: Differentiates a loss; a mixed precision or distributed runtime brings its own.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        generator_optimizer: Optimizer,
        critic_optimizer: Optimizer,
        constraint: Constraint,
        sample_latents: Callable[[int], Tensor],
        backward: Callable[[Tensor], None] = Tensor.backward,
    ):
        self.generator, self.critic = generator, critic
        self.generator_optimizer, self.critic_optimizer = generator_optimizer, critic_optimizer
        self.constraint = constraint
        self.sample_latents = sample_latents
        self.backward = backward

    def __call__(self, real_images: Iterator[Tensor], n_critic: int) -> StepLosses:
        """`n_critic` critic steps, each on the next real batch, then one generator step of the same batch size."""
        for _ in range(n_critic):
            images = next(real_images)
            critic_loss_ = self.critic_step(images)
        return StepLosses(critic_loss_, self.generator_step(len(images)))

    def critic_step(self, real_images: Tensor) -> Tensor:
        """Lines 3 to 7: scores of real and generated images, a step of the critic's optimizer, then the constraint."""
        for _ in range(MAX_SKIPPED_UPDATES):
            with torch.no_grad():
                fake_images = _unwrapped(self.generator)(self.sample_latents(len(real_images)))
            loss = critic_loss(self.critic(real_images), self.critic(fake_images))
            self.critic_optimizer.zero_grad()
            self.backward(loss)
            self.critic_optimizer.step()
            self.constraint(self.critic)
            if not _was_skipped(self.critic_optimizer):
                return loss.detach()
        raise FloatingPointError(_never_finite("critic"))

    def generator_step(self, batch_size: int) -> Tensor:
        """Lines 9 to 11: a step of the generator's optimizer up the critic's scores, the critic frozen."""
        for _ in range(MAX_SKIPPED_UPDATES):
            critic = _unwrapped(self.critic)
            with _frozen(critic):
                loss = generator_loss(critic(self.generator(self.sample_latents(batch_size))))
                self.generator_optimizer.zero_grad()
                self.backward(loss)
            self.generator_optimizer.step()
            if not _was_skipped(self.generator_optimizer):
                return loss.detach()
        raise FloatingPointError(_never_finite("generator"))


def critic_steps(step: int, n_critic: int, warmup: bool) -> int:
    """How many critic steps precede generator step `step`, counted from 0.

    With `warmup`, as the authors' own code does, 100 for each of the first 25 generator steps and for every 500th:
    the generator follows a critic that is close to its optimum from the beginning.
    """
    return max(n_critic, 100) if warmup and (step < 25 or step % 500 == 0) else n_critic


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel wrapper, for the player whose gradients this half of the step does
    not take: the wrapper would wait for gradients that never come."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _was_skipped(optimizer: Optimizer) -> bool:
    """Whether a float16 loss scaler found an overflow and left the parameters alone: then the step does not count."""
    return getattr(optimizer, "step_was_skipped", False)


def _never_finite(player: str) -> str:
    return (
        f"the {player}'s gradients overflowed at {MAX_SKIPPED_UPDATES} loss scales in a row: "
        'lower the learning rate, or train with mixed_precision="bf16" or "no"'
    )
