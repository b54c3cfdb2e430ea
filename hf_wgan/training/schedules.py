"""What changes along a run besides the learning rates: the weight of the penalty and Adam's second decay rate.

Every value follows from the number of the step alone, so that checkpoints need none of them.
"""

import math

from ..algorithm.lipschitz import CONSTRAINTS, R1, GradientPenalty
from ..algorithm.step import WGANStep
from .config import TrainingConfig


def apply_schedules(step: int, config: TrainingConfig, algorithm: WGANStep) -> None:
    """Set what is scheduled to its value at a step, counted from 0."""
    weight, beta2 = config.gradient_penalty_weight_end, config.adam_beta2_end
    constraint, named = algorithm.constraint, CONSTRAINTS.get(config.lipschitz)  # not an object of one's own
    if weight is not None and isinstance(constraint, (GradientPenalty, R1)) and type(constraint) is named:
        constraint.weight = half_cosine(config.gradient_penalty_weight, weight, step, config.max_train_steps)
    if beta2 is not None and config.optimizer != "rmsprop":
        beta2 = half_cosine(config.adam_beta2, beta2, step, config.max_train_steps)
        for optimizer in (algorithm.generator_optimizer, algorithm.critic_optimizer):
            for group in optimizer.param_groups:
                group["betas"] = (config.adam_beta1, beta2)


def half_cosine(start: float, end: float, step: int, num_steps: int) -> float:
    """Return the value at a step of the way from start to end along half a cosine, as R3GAN's schedules take it."""
    return end + (start - end) * (1 + math.cos(math.pi * min(step / num_steps, 1))) / 2
