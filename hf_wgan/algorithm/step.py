"""Algorithm 1 of Arjovsky et al. 2017 (arXiv 1701.07875), and nothing else: no device, no logging, no options."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .derivatives import FastDerivatives
from .lipschitz import Constraint, is_spectrally_normalised
from .losses import critic_loss, generator_loss, mean_score

MAX_SKIPPED_UPDATES = 100  # a float16 loss scale of 2^16 reaches 2^-84 by then: no scale will help


class RealBatch(NamedTuple):
    images: Tensor  # (N, C, H, W) in [-1, 1]
    class_labels: Tensor | None = None  # (N,) int64, for a conditional pair


class CriticStep(NamedTuple):
    """Of one critic step: detached scalars on the device, in float32 or wider."""

    real_score: Tensor  # mean score of the real images
    fake_score: Tensor  # and of the generated ones
    penalty: Tensor  # what was added to the loss
    loss: Tensor  # without the penalty; its negative is the Wasserstein estimate
    gradient_norm: Tensor  # of all parameters together, the penalty included


class GeneratorStep(NamedTuple):
    """Of one generator step, likewise."""

    loss: Tensor
    gradient_norm: Tensor


class StepRecord(NamedTuple):
    """Of one step, likewise, in the order in which they are computed.

    The critic's values are those of the last critic step, or of the first in which one was not finite.
    """

    real_score: Tensor
    fake_score: Tensor
    gradient_penalty: Tensor  # the mean over the critic steps
    critic_loss: Tensor
    critic_gradient_norm: Tensor
    critic_weight_norm: Tensor
    generator_loss: Tensor
    generator_gradient_norm: Tensor
    generator_weight_norm: Tensor


class WGANStep:
    """The two players' updates. A batch comes in one part or in several, over which gradients are accumulated.

    Args:
        generator: `(N, latent_dim)` to images `(N, C, H, W)`. May be wrapped for distributed training.
        critic: Images to scores `(N,)`. May be wrapped likewise.
        generator_optimizer: Over the generator's parameters.
        critic_optimizer: Over the critic's parameters.
        constraint: Keeps the critic Lipschitz.
        sample_latents: A number n to fresh latents `(n, latent_dim)`.
        backward: Differentiates a loss; a mixed precision or distributed runtime brings its own, which also divides by
            `num_parts`.
        penalty_interval: A penalty is computed at every so manieth critic step, times this number (lazy regularisation,
            Karras et al. 2020, arXiv 1912.04958, appendix B).
        augment: What real and generated images alike go through before the critic sees them; differentiable.
        num_parts: Parts of a batch, each of which is one item of the real batches.
        begin: Called before each part with its number, from 0.
        no_sync: Of a distributed runtime: a context in which the network's gradients stay with the process.
        penalty_dtype: Of the critic's passes for a penalty: float32, or bfloat16 by autocast. The penalty itself is in
            float32.
        fast: Whether to take the faster of several ways to the same numbers.
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
        num_parts: int = 1,
        begin: Callable[[int], None] = lambda part: None,
        no_sync: Callable[[nn.Module], AbstractContextManager] = nullcontext,
        penalty_dtype: torch.dtype = torch.float32,
        fast: bool = True,
    ):
        self.generator, self.critic = generator, critic
        self.generator_optimizer, self.critic_optimizer = generator_optimizer, critic_optimizer
        self.constraint = constraint
        self.sample_latents = sample_latents
        self.backward = backward
        self.penalty_interval = penalty_interval
        self.augment = augment
        self.num_parts, self.begin, self.no_sync = num_parts, begin, no_sync
        self.penalty_dtype, self.fast = penalty_dtype, fast
        # A penalty is for critics that score each image on its own. The power iterations of spectral normalisation,
        # one a pass, do count passes.
        self.one_pass = fast and constraint.has_penalty and not is_spectrally_normalised(_unwrapped(critic))
        self.critic_steps_made = 0

    def __call__(self, real_batches: Iterator[RealBatch], n_critic: int) -> StepRecord:
        """`n_critic` critic steps, each on the next real batch, then one generator step of the same size and labels."""
        critic_steps = []
        for _ in range(n_critic):
            parts = list(itertools.islice(real_batches, self.num_parts))
            critic_steps.append(self.critic_step(parts))
        critic, generator = _telling(critic_steps), self.generator_step(parts)
        return StepRecord._make([*critic, _norm(self.critic), *generator, _norm(self.generator)])

    def critic_step(self, parts: list[RealBatch]) -> CriticStep:
        """Lines 3 to 7: scores of real and generated images, a step of the critic's optimizer, and the constraint."""
        for _ in range(MAX_SKIPPED_UPDATES):
            self.critic_optimizer.zero_grad()
            values = [self._critic_pass(*part) for part in self._in_turn(parts, self.critic)]
            self.critic_optimizer.step()
            self.constraint.after_step(self.critic)
            if not _was_skipped(self.critic_optimizer):
                self.critic_steps_made += 1
                return CriticStep._make([*torch.stack(values).mean(dim=0), _gradient_norm(self.critic)])
        raise FloatingPointError(_never_finite("critic"))

    def _critic_pass(self, real_images: Tensor, class_labels: Tensor | None) -> Tensor:
        labels = () if class_labels is None else (class_labels,)
        with torch.no_grad():
            fake_images = _unwrapped(self.generator)(self.sample_latents(len(real_images)), *labels)
        real, fake = self.augment(real_images), self.augment(fake_images)
        if self.one_pass:
            both = self.critic(torch.cat([real, fake]), *(torch.cat([each, each]) for each in labels))
            real_scores, fake_scores = both.chunk(2)
        else:
            real_scores, fake_scores = self.critic(real, *labels), self.critic(fake, *labels)
        loss = critic_loss(real_scores, fake_scores)
        penalty = self._penalty(real, fake, labels)
        self.backward(loss if penalty is None else loss + penalty)
        means = mean_score(real_scores), mean_score(fake_scores)
        return torch.stack([*means, torch.zeros_like(loss) if penalty is None else penalty, loss]).detach()

    def _penalty(self, real_images: Tensor, fake_images: Tensor, labels: tuple[Tensor, ...]) -> Tensor | None:
        if not self.constraint.has_penalty or self.critic_steps_made % self.penalty_interval:
            return None
        critic = _unwrapped(self.critic)

        def score(images: Tensor) -> Tensor:
            # The class's own forward, as a mixed precision runtime wraps the instance's.
            half = self.penalty_dtype != torch.float32
            with (
                torch.autocast(images.device.type, self.penalty_dtype if half else None, enabled=half),
                FastDerivatives() if self.fast else nullcontext(),
            ):
                return type(critic).forward(critic, images, *labels)

        return self.penalty_interval * self.constraint.penalty(score, real_images, fake_images)

    def generator_step(self, parts: list[RealBatch]) -> GeneratorStep:
        """Lines 9 to 11: a step of the generator's optimizer up the critic's scores, the critic frozen. Of the real
        batch only its size and its labels count."""
        for _ in range(MAX_SKIPPED_UPDATES):
            self.generator_optimizer.zero_grad()
            losses = [self._generator_pass(*part) for part in self._in_turn(parts, self.generator)]
            self.generator_optimizer.step()
            if not _was_skipped(self.generator_optimizer):
                return GeneratorStep(torch.stack(losses).mean(), _gradient_norm(self.generator))
        raise FloatingPointError(_never_finite("generator"))

    def _generator_pass(self, real_images: Tensor, class_labels: Tensor | None) -> Tensor:
        labels = () if class_labels is None else (class_labels,)
        critic = _unwrapped(self.critic)
        with _frozen(critic):
            fake_images = self.augment(self.generator(self.sample_latents(len(real_images)), *labels))
            loss = generator_loss(critic(fake_images, *labels))
            self.backward(loss)
        return loss.detach()

    def _in_turn(self, parts: list[RealBatch], player: nn.Module) -> Iterator[RealBatch]:
        """The parts of a batch; processes average their gradients once, with the last."""
        for number, part in enumerate(parts):
            self.begin(number)
            with nullcontext() if number == len(parts) - 1 else self.no_sync(player):
                yield part


def critic_steps(step: int, n_critic: int, warmup: bool) -> int:
    """How many critic steps precede generator step `step`, counted from 0.

    With `warmup`, as the authors' own code does, 100 for each of the first 25 generator steps and for every 500th:
    the generator follows a critic that is close to its optimum from the beginning.
    """
    return max(n_critic, 100) if warmup and (step < 25 or step % 500 == 0) else n_critic


def _telling(steps: list[CriticStep]) -> Tensor:
    """`(5,)`: the values of the last step, or of the first in which one is not finite; the penalty's mean."""
    values = torch.stack([torch.stack(step) for step in steps])  # (n_critic, 5)
    finite = values.isfinite().all(dim=1)
    which = torch.where(finite.all(), len(steps) - 1, finite.int().argmin())
    told = values.index_select(0, which[None])[0]  # values[which] would wait for the device
    penalties = CriticStep._fields.index("penalty")
    told[penalties] = torch.where(finite.all(), values[:, penalties].mean(), told[penalties])
    return told


def _gradient_norm(model: nn.Module) -> Tensor:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _norm(model: nn.Module) -> Tensor:
    return torch.nn.utils.get_total_norm([parameter.detach() for parameter in model.parameters()])


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
