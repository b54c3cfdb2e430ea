"""What changes along a run: the learning rates, the weight of the penalty and Adam's second decay rate.

Every value follows from how far the run has come, so that checkpoints need none of them.
"""

import math
from dataclasses import replace
from typing import Any

import torch

from ..algorithm.step import WGANStep
from .config import TrainingConfig
from .state import Progress


def expected(progress: Progress, config: TrainingConfig) -> Progress:
    """Return the progress with the number of steps that the time limit leaves room for, at the speed so far."""
    if config.max_train_minutes is None or not progress.seconds:
        return progress
    return replace(progress, expected_steps=round(progress.step * 60 * config.max_train_minutes / progress.seconds))


def position(progress: Progress, config: TrainingConfig) -> float:
    """Return the step at which the schedules of a run are: that of a run of `max_train_steps`.

    Where a time limit ends the run earlier, they reach their end with it. The warm-up stays as long as it is.
    """
    step, last, warmup = progress.step, config.max_train_steps, config.lr_warmup_steps
    end = min(progress.expected_steps or last, last)
    if end == last or step <= warmup:
        return step
    return min(warmup + (step - warmup) * (last - warmup) / max(end - warmup, 1), last)


def apply_schedules(progress: Progress, config: TrainingConfig, algorithm: WGANStep, has_own_constraint: bool) -> None:
    """Set what is scheduled, but for the learning rates, to its value at the next step.

    Args:
        progress: How far the run has come.
        config: The options.
        algorithm: What has the values.
        has_own_constraint: Whether the constraint is an object that was passed in, which keeps its weight.
    """
    step = position(progress, config)
    weight, beta2 = config.gradient_penalty_weight_end, config.adam_beta2_end
    if weight is not None and not has_own_constraint:
        constraint: Any = algorithm.constraint  # one that takes a weight, or the option would have no effect
        weight = half_cosine(config.gradient_penalty_weight, weight, step, config.max_train_steps)
        if isinstance(constraint.weight, torch.Tensor):
            constraint.weight.fill_(weight)
        else:
            constraint.weight = weight
    if beta2 is not None:  # of an optimizer that takes it, or the option would have no effect
        beta2 = half_cosine(config.adam_beta2, beta2, step, config.max_train_steps)
        for group in _groups(algorithm):
            if isinstance(group["betas"][1], torch.Tensor):
                group["betas"][1].fill_(beta2)
            else:
                group["betas"] = (config.adam_beta1, beta2)


def keep_on_device(config: TrainingConfig, algorithm: WGANStep, has_own_constraint: bool) -> None:
    """Make what is scheduled tensors, which are changed in place between the steps, as a CUDA graph needs."""
    groups = _groups(algorithm)
    device = groups[0]["params"][0].device
    for group in groups:
        if config.lr_scheduler != "constant":
            group["lr"] = torch.tensor(group["lr"], device=device)
        if config.adam_beta2_end is not None:
            group["betas"] = (config.adam_beta1, torch.tensor(config.adam_beta2, dtype=torch.float64, device=device))
    if config.gradient_penalty_weight_end is not None and not has_own_constraint:
        constraint: Any = algorithm.constraint
        constraint.weight = torch.tensor(config.gradient_penalty_weight, device=device)


def _groups(algorithm: WGANStep) -> list[dict[str, Any]]:
    return algorithm.generator_optimizer.param_groups + algorithm.critic_optimizer.param_groups


def half_cosine(start: float, end: float, step: float, num_steps: int) -> float:
    """Interpolate from start to end with half a cosine, as R3GAN's schedules do."""
    return end + (start - end) * (1 + math.cos(math.pi * min(step / num_steps, 1))) / 2
