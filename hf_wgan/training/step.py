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


class RealBatch(NamedTuple):
    images: Tensor  # (N, C, H, W) in [-1, 1]
    class_labels: Tensor | None = None  # (N,) int64, for a conditional pair


class StepLosses(NamedTuple):
    """Detached scalars on the device, in float32. The Wasserstein estimate is the negative of `critic_loss`."""

    critic_loss: Tensor  # of the last critic step, on the batch it was trained with, without the penalty
    generator_loss: Tensor
    penalty: Tensor  # what was added to the critic's loss, the mean over the critic steps


class WGANStep:
    """The two players' updates.

    Args:
        generator: `(N, latent_dim)` to images `(N, C, H, W)`. May be wrapped for distributed training.
        critic: Images to scores `(N,)`. May be wrapped likewise.
        generator_optimizer: Over the generator's parameters.
        critic_optimizer: Over the critic's parameters.
        constraint: Keeps the critic Lipschitz.
        sample_latents: A number n to fresh latents `(n, latent_dim)`.
        backward: Differentiates a loss; a mixed precision or distributed runtime brings its own.
        penalty_interval: A penalty is computed at every so manieth critic step, times this number (lazy regularisation,
            Karras et al. 2020, arXiv 1912.04958, appendix B).
        augment: What real and generated images alike go through before the critic sees them; differentiable.
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
        penalty_interval: int = 1,
        augment: Callable[[Tensor], Tensor] = lambda images: images,
    ):
        self.generator, self.critic = generator, critic
        self.generator_optimizer, self.critic_optimizer = generator_optimizer, critic_optimizer
        self.constraint = constraint
        self.sample_latents = sample_latents
        self.backward = backward
        self.penalty_interval = penalty_interval
        self.augment = augment
        self.critic_steps_made = 0
        self._penalties: list[Tensor] = []  # of the critic steps before the next generator step

    def __call__(self, real_batches: Iterator[RealBatch], n_critic: int) -> StepLosses:
        """`n_critic` critic steps, each on the next real batch, then one generator step of the same size and labels."""
        self._penalties.clear()
        for _ in range(n_critic):
            batch = next(real_batches)
            critic_loss_ = self.critic_step(*batch)
        generator_loss_ = self.generator_step(len(batch.images), batch.class_labels)
        penalty = sum(self._penalties, torch.zeros_like(critic_loss_)) / n_critic
        return StepLosses(critic_loss_, generator_loss_, penalty)

    def critic_step(self, real_images: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Lines 3 to 7: scores of real and generated images, a step of the critic's optimizer, and the constraint."""
        labels = () if class_labels is None else (class_labels,)
        for _ in range(MAX_SKIPPED_UPDATES):
            with torch.no_grad():
                fake_images = _unwrapped(self.generator)(self.sample_latents(len(real_images)), *labels)
            real, fake = self.augment(real_images), self.augment(fake_images)
            loss = critic_loss(self.critic(real, *labels), self.critic(fake, *labels))
            penalty = self._penalty(real, fake, labels)
            self.critic_optimizer.zero_grad()
            self.backward(loss if penalty is None else loss + penalty)
            self.critic_optimizer.step()
            self.constraint.after_step(self.critic)
            if not _was_skipped(self.critic_optimizer):
                self.critic_steps_made += 1
                return loss.detach()
        raise FloatingPointError(_never_finite("critic"))

    def _penalty(self, real_images: Tensor, fake_images: Tensor, labels: tuple[Tensor, ...]) -> Tensor | None:
        if not self.constraint.has_penalty or self.critic_steps_made % self.penalty_interval:
            return None
        critic = _unwrapped(self.critic)

        def score(images: Tensor) -> Tensor:
            # The class's own forward, as a mixed precision runtime wraps the instance's.
            with torch.autocast(images.device.type, enabled=False):
                return type(critic).forward(critic, images, *labels)

        penalty = self.penalty_interval * self.constraint.penalty(score, real_images, fake_images)
        self._penalties.append(penalty.detach())
        return penalty

    def generator_step(self, batch_size: int, class_labels: Tensor | None = None) -> Tensor:
        """Lines 9 to 11: a step of the generator's optimizer up the critic's scores, the critic frozen."""
        labels = () if class_labels is None else (class_labels,)
        for _ in range(MAX_SKIPPED_UPDATES):
            critic = _unwrapped(self.critic)
            with _frozen(critic):
                fake_images = self.augment(self.generator(self.sample_latents(batch_size), *labels))
                loss = generator_loss(critic(fake_images, *labels))
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
