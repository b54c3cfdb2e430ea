"""Algorithm 1 of Arjovsky et al. 2017 (arXiv 1701.07875), line by line.

How its passes are run (precision, parts of a batch, several processes, fast paths) is in `execution.py`, what a step
reports in `records.py`. There is no device, no logging and no option here.
"""

import itertools
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..utils.errors import InputError
from .execution import Execution, frozen, scores_images_apart, unwrapped
from .latents import described
from .lipschitz import Constraint
from .losses import critic_loss, generator_loss, mean_score
from .records import CriticRecord, GeneratorRecord, StepRecord, gradient_norm, summarize, weight_norm


class RealBatch(NamedTuple):
    """Real images and, for class-conditional networks, their classes."""

    images: Tensor  # (N, C, H, W) in [-1, 1]
    class_labels: Tensor | None = None  # (N,) int64


class WGANStep:
    """One iteration of Algorithm 1: `n_critic` critic steps and one generator step.

    Args:
        generator: Latents `(N, latent_dim)` to images `(N, C, H, W)`. May be wrapped for distributed training.
        critic: Images to scores `(N,)`. May be wrapped likewise.
        generator_optimizer: Optimizer of the generator's parameters.
        critic_optimizer: Optimizer of the critic's parameters.
        constraint: Keeps the critic Lipschitz.
        sample_latents: A number n to fresh latents `(n, latent_dim)`.
        augment: Differentiable function of images that real and generated images pass before the critic scores them.
        penalty_interval: The penalty is computed every `penalty_interval` critic steps and scaled by that factor (lazy
            regularisation, Karras et al. 2020, arXiv 1912.04958, appendix B).
        generator_batch_ratio: Images of a generator step, as a multiple of those of a critic step.
        execution: How the passes are run; by default plainly, in one process.

    Example:
        >>> step = WGANStep(
        ...     generator,
        ...     critic,
        ...     generator_optimizer=torch.optim.RMSprop(generator.parameters(), 5e-5),
        ...     critic_optimizer=torch.optim.RMSprop(critic.parameters(), 5e-5),
        ...     constraint=WeightClipping(0.01),
        ...     sample_latents=lambda n: torch.randn(n, 100),
        ... )
        >>> record = step((RealBatch(images) for images in batches), n_critic=5)
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        *,
        generator_optimizer: Optimizer,
        critic_optimizer: Optimizer,
        constraint: Constraint,
        sample_latents: Callable[[int], Tensor],
        augment: Callable[[Tensor], Tensor] = lambda images: images,
        penalty_interval: int = 1,
        generator_batch_ratio: int = 1,
        execution: Execution | None = None,
    ):
        self.generator, self.critic = generator, critic
        self.generator_optimizer, self.critic_optimizer = generator_optimizer, critic_optimizer
        self.constraint = constraint
        self.sample_latents, self.augment = sample_latents, augment
        self.penalty_interval, self.generator_batch_ratio = penalty_interval, generator_batch_ratio
        self.execution = execution or Execution()
        apart = scores_images_apart(unwrapped(critic))
        self.scores_in_one_pass = self.execution.fast_paths and constraint.has_penalty and apart
        self.num_critic_steps = 0  # since the beginning of the run

    def __call__(self, real_batches: Iterator[RealBatch], n_critic: int) -> StepRecord:
        """Take `n_critic` critic steps, each on the next real batch, then one generator step."""
        critic_records = []
        for _ in range(n_critic):  # line 2
            batch = list(itertools.islice(real_batches, self.execution.num_parts))  # line 3, usually in one part
            critic_records.append(self.critic_step(batch))
        generator_record = self.generator_step(batch)
        values = [*summarize(critic_records), weight_norm(self.critic), *generator_record, weight_norm(self.generator)]
        return StepRecord._make(values)

    def critic_step(self, batch: list[RealBatch]) -> CriticRecord:
        """Update the critic once: lines 4 to 7."""
        values = self.execution.minimize(self.critic_objective, self.critic, self.critic_optimizer, batch)  # line 6
        self.constraint.after_step(self.critic)  # line 7
        self.num_critic_steps += 1
        return CriticRecord._make([*values, gradient_norm(self.critic)])

    def critic_objective(self, real_images: Tensor, class_labels: Tensor | None) -> Generator[Tensor, None, Tensor]:
        """Compute what the critic minimises: lines 4 and 5, and the penalty.

        Yields:
            The loss and, if it is due, the penalty: scalars whose sum is minimised.

        Returns:
            `(4,)`, the first values of a `CriticRecord`.
        """
        labels = () if class_labels is None else (class_labels,)
        with torch.no_grad():
            fake_images = self.generated(unwrapped(self.generator), len(real_images), labels)  # line 4
            real_images, fake_images = self.augmented(real_images), self.augmented(fake_images)
        real_scores, fake_scores = self.execution.scores(
            self.critic, real_images, fake_images, labels, in_one_pass=self.scores_in_one_pass
        )
        real_score, fake_score = mean_score(real_scores), mean_score(fake_scores)
        loss = critic_loss(real_score, fake_score)  # line 5
        yield loss  # which is differentiated before the penalty's pass begins, and leaves its memory to it
        if self.penalty_is_due:
            penalty = self.penalty(real_images, fake_images, labels)
            yield penalty
        else:
            penalty = torch.zeros_like(loss)
        return torch.stack([real_score, fake_score, penalty, loss])

    @property
    def penalty_is_due(self) -> bool:
        """Return whether the next critic step has a penalty."""
        return self.constraint.has_penalty and self.num_critic_steps % self.penalty_interval == 0

    def penalty(self, real_images: Tensor, fake_images: Tensor, labels: tuple[Tensor, ...]) -> Tensor:
        """Compute the constraint's penalty, scaled by `penalty_interval`."""
        score = self.execution.penalty_score(self.critic, labels)
        penalty = self.constraint.penalty(score, real_images, fake_images)
        if not isinstance(penalty, Tensor) or penalty.ndim:
            raise InputError(
                f"{type(self.constraint).__name__}.penalty returns {described(penalty)}: must be a scalar tensor, such "
                "as the mean over the images"
            )
        return penalty if self.penalty_interval == 1 else self.penalty_interval * penalty

    def generator_step(self, batch: list[RealBatch]) -> GeneratorRecord:
        """Update the generator once, the critic frozen: lines 9 to 11. Only size and labels of the batch are used."""
        with frozen(unwrapped(self.critic)):
            (loss,) = self.execution.minimize(
                self.generator_objective, self.generator, self.generator_optimizer, batch
            )  # line 11
        return GeneratorRecord(loss, gradient_norm(self.generator))

    def generator_objective(self, real_images: Tensor, class_labels: Tensor | None) -> Generator[Tensor, None, Tensor]:
        """Yield what the generator minimises, a scalar, and return the same as `(1,)`: lines 9 and 10."""
        ratio = self.generator_batch_ratio
        labels: tuple[Tensor, ...] = ()
        if class_labels is not None:
            labels = (self.execution.ahead(lambda: class_labels.repeat_interleave(ratio)),)
        fake_images = self.augmented(self.generated(self.generator, ratio * len(real_images), labels))  # line 9
        loss = generator_loss(unwrapped(self.critic)(fake_images, *labels))  # line 10
        yield loss
        return loss[None]

    def generated(self, generator: nn.Module, number: int, labels: tuple[Tensor, ...]) -> Tensor:
        """Generate images from fresh latents, ahead of the critic's steps where that is faster."""
        return self.execution.ahead(lambda: generator(self.sample_latents(number), *labels))

    def augmented(self, images: Tensor) -> Tensor:
        """Augment images, and check the result.

        Raises:
            InputError: It is no tensor like the images, or the generator cannot learn through it.
        """
        augmented = self.augment(images)
        function = getattr(self.augment, "func", self.augment)  # `rand` may be bound to it
        name = getattr(function, "__name__", type(function).__name__)
        if not isinstance(augmented, Tensor) or augmented.shape != images.shape or augmented.dtype != images.dtype:
            raise InputError(
                f"augmentation {name} returns {described(augmented)}: must be images like its input, "
                f"{described(images)}"
            )
        if images.requires_grad and not augmented.requires_grad:
            raise InputError(
                f"augmentation {name} returns images without a gradient, by which the generator learns: it must be "
                "made of differentiable operations of PyTorch"
            )
        return augmented


def critic_steps(step: int, n_critic: int, warmup: bool) -> int:
    """Return how many critic steps precede generator step `step`, counted from 0.

    With `warmup`, as in the authors' code, it is 100 for each of the first 25 generator steps and for every 500th: the
    generator follows a critic that is close to its optimum from the beginning.
    """
    return max(n_critic, 100) if warmup and (step < 25 or step % 500 == 0) else n_critic


def total_critic_steps(steps: int, n_critic: int, warmup: bool) -> int:
    """Return how many critic steps the first `steps` generator steps have together: the sum of `critic_steps`."""
    num_long = min(steps, 25) + len(range(500, steps, 500)) if warmup else 0
    return steps * n_critic + num_long * (critic_steps(0, n_critic, warmup) - n_critic)
