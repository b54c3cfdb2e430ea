"""The optimizers of both networks and the schedules of their learning rates, each list once.

Options, help and tests follow: a new optimizer or schedule is one line here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.optimization import get_scheduler
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.lr_scheduler import LambdaLR

from ..utils.errors import InputError, one_line

if TYPE_CHECKING:
    from .config import TrainingConfig

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
WITH_WEIGHT_DECAY = ["adamw"]
"""Optimizers that shrink the weights beside their gradients. Adam's own decay would go through its moments."""


class Schedule(NamedTuple):
    """A schedule of the learning rates, one of diffusers' unless it has a factor of its own."""

    has_warmup: bool = True
    decays: bool = True  # towards the end of the run
    has_cycles: bool = False
    has_power: bool = False
    factor: Callable[[float], float] | None = None
    """The share of the initial rate, by the share of the steps after the warm-up, from 0 to 1."""


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(has_warmup=False, decays=False),
    "constant_with_warmup": Schedule(decays=False),
    "linear": Schedule(),
    "cosine": Schedule(),
    "cosine_with_restarts": Schedule(has_cycles=True),
    "polynomial": Schedule(has_power=True),
}


def optimizers_taking(argument: str) -> list[str]:
    """Return the names of the optimizers whose classes take an argument."""
    return [name for name, known in OPTIMIZERS.items() if argument in inspect.signature(known).parameters]


def schedules_with(trait: str) -> list[str]:
    """Return the names of the schedules that have a trait: `has_warmup`, `decays`, `has_cycles` or `has_power`."""
    return [name for name, known in SCHEDULES.items() if getattr(known, trait)]


class FusedRMSprop(torch.optim.RMSprop):
    """RMSProp by one kernel for all weights, where PyTorch's own takes five for each or reads their memory five times.

    It is Adam without a first moment, after infinitely many steps, when nothing is left to correct. State and numbers
    are those of PyTorch's, up to rounding.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights: list[torch.Tensor] = []
            gradients: list[torch.Tensor] = []
            squares: list[torch.Tensor] = []
            counts: list[torch.Tensor] = []
            self._init_group(group, weights, gradients, squares, [], [], counts)
            if not weights:
                continue
            torch._foreach_add_(counts, 1)
            endless = torch.full((), math.inf, dtype=torch.float32, device=weights[0].device)
            adam(
                weights,
                gradients,
                gradients,  # are their own first moment: the kernel overwrites them with themselves
                squares,
                [],
                [endless] * len(weights),
                fused=True,
                amsgrad=False,
                beta1=0.0,
                beta2=group["alpha"],
                lr=group["lr"],
                weight_decay=0.0,
                eps=group["eps"],
                maximize=False,
            )


class DeviceAdamW(torch.optim.AdamW):
    """AdamW that reads β2, a float64 tensor, on the device, where a CUDA graph finds it changed.

    PyTorch's own needs β2 on the host, except where each weight has kernels of its own. State and numbers are those of
    PyTorch's, up to rounding, for weights that have taken equally many steps.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight].update(
                        step=torch.zeros((), device=weight.device),
                        exp_avg=torch.zeros_like(weight),
                        exp_avg_sq=torch.zeros_like(weight),
                    )
            gradients = [weight.grad for weight in weights]
            counts, means, squares = (
                [self.state[weight][name] for weight in weights] for name in ("step", "exp_avg", "exp_avg_sq")
            )
            rate, (beta1, beta2) = group["lr"], group["betas"]
            torch._foreach_add_(counts, 1)
            values = beta2, 1 - beta2, 1 - beta2 ** counts[0]
            kept, added, correction = (value.to(weights[0].dtype) for value in values)
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
            torch._foreach_lerp_(means, gradients, 1 - beta1)
            torch._foreach_mul_(squares, kept)
            torch._foreach_addcmul_(squares, torch._foreach_mul(gradients, added), gradients)
            divisors = torch._foreach_sqrt(squares)
            torch._foreach_div_(divisors, correction.sqrt())
            torch._foreach_add_(divisors, group["eps"])
            torch._foreach_mul_(divisors, (1 - beta1 ** counts[0]) / -rate)
            torch._foreach_addcdiv_(weights, means, divisors)


FUSED: dict[str, type[Optimizer]] = {"rmsprop": FusedRMSprop}
"""Classes of ours where PyTorch's own has no kernel for all weights."""
DEVICES_OF_FUSED = ("cpu", "cuda")
"""Where their kernels are known to read each number before they write it."""


def can_be_fused(name: str, device: torch.device) -> bool:
    """Return whether one kernel can update all weights."""
    return device.type in DEVICES_OF_FUSED if name in FUSED else name in optimizers_taking("fused")


def build_optimizer(
    network: torch.nn.Module,
    learning_rate: float,
    config: TrainingConfig,
    *,
    fused: bool = False,
    capturable: bool = False,
) -> Optimizer:
    """Build the optimizer of one network.

    Args:
        network: The network.
        learning_rate: Its initial learning rate.
        config: The options.
        fused: Whether one kernel updates all weights, where the optimizer can.
        capturable: Whether a CUDA graph can record its steps.
    """
    options: dict[str, Any] = {
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "fused": fused or None,
        "capturable": capturable,
    }
    if config.optimizer in WITH_WEIGHT_DECAY:
        options["weight_decay"] = config.adam_weight_decay
    build: Callable[..., Optimizer] = (FUSED if fused and config.optimizer in FUSED else OPTIMIZERS)[config.optimizer]
    if capturable and config.adam_beta2_end is not None:
        build, options = DeviceAdamW, {"weight_decay": 0.0, **options}
    known = inspect.signature(build).parameters
    taken = {name: value for name, value in options.items() if name in known}
    return build(network.parameters(), lr=learning_rate, **taken)


def build_scheduler(optimizer: Optimizer, config: TrainingConfig) -> LambdaLR:
    """Build the schedule of one optimizer's learning rate.

    Raises:
        InputError: The schedule is not defined for this learning rate.
    """
    own, ratio, warmup = SCHEDULES[config.lr_scheduler].factor, config.lr_end_ratio, config.lr_warmup_steps
    if own is not None:
        rest = max(config.max_train_steps - warmup, 1)
        schedule = LambdaLR(optimizer, lambda step: step / warmup if step < warmup else own((step - warmup) / rest))
    else:
        try:
            schedule = get_scheduler(
                config.lr_scheduler,
                optimizer,
                num_warmup_steps=warmup,
                num_training_steps=config.max_train_steps,
                num_cycles=config.lr_num_cycles,
                power=config.lr_power,
            )
        except ValueError as error:
            raise InputError(f"lr_scheduler={config.lr_scheduler!r}: {one_line(error)}") from error
    if not ratio:
        return schedule
    (factor,) = schedule.lr_lambdas
    return LambdaLR(optimizer, lambda step: factor(step) if step < warmup else ratio + (1 - ratio) * factor(step))
