"""All that training changes: networks, optimizers, schedules, average, loss scale, and how far the run has come.

Latents, the order of the images and every other random number follow from the seed and the step, and need no state.
"""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from torch.optim.lr_scheduler import LambdaLR

from ..utils.console import say_once
from ..utils.errors import InputError


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # generator updates
    critic_steps: int = 0
    images: int = 0  # real images, of all processes together
    seconds: float = 0.0  # of training
    restores: int = 0  # of a checkpoint, after values that were not finite
    expected_steps: int = 0  # that a time limit leaves room for, as of the last report; 0 before it


@runtime_checkable
class Stateful(Protocol):
    """Whatever has a state that a checkpoint keeps: tensors, numbers, strings, and lists and dictionaries of them."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class TrainingState:
    """The state of a run, which a checkpoint takes whole.

    Args:
        generator: The network itself, not what Accelerate wrapped.
        critic: Likewise.
        optimizers: `generator_optimizer` and `critic_optimizer`.
        schedulers: `generator_scheduler` and `critic_scheduler`, of these optimizers in this order.
        position: Where the schedules are at some progress, in steps; by default at its step.
        ema: Average of the generator's weights, if there is one.
        scaler: Loss scaler of float16, if there is one.
        is_world_process_zero: Whether this is the process that writes files.
    """

    def __init__(
        self,
        generator: ModelMixin,
        critic: ModelMixin,
        *,
        optimizers: dict[str, Any],
        schedulers: dict[str, LambdaLR],
        position: Callable[[Progress], float] = lambda progress: progress.step,
        ema: EMAModel | None = None,
        scaler: Any = None,
        is_world_process_zero: bool = True,
    ):
        self.generator, self.critic = generator, critic
        self.optimizers, self.schedulers, self.position = optimizers, schedulers, position
        self.ema, self.scaler = ema, scaler
        self.progress = Progress()
        self.is_world_process_zero = is_world_process_zero
        self.extras: dict[str, Stateful] = {}

    @property
    def global_step(self) -> int:
        """Number of generator updates so far."""
        return self.progress.step

    @property
    def networks(self) -> dict[str, ModelMixin]:
        """Return both networks by name."""
        return {"generator": self.generator, "critic": self.critic}

    def add(self, name: str, value: Any) -> None:
        """Keep something more in checkpoints, such as a callback's or a constraint's state, if it has any.

        Raises:
            InputError: Its state holds something that no checkpoint can keep.
        """
        if isinstance(value, Stateful):
            kept(value.state_dict(), f"{name}: its state_dict()")
            self.extras[name] = value

    def remove(self, value: Any) -> None:
        """Keep something no longer."""
        self.extras = {name: extra for name, extra in self.extras.items() if extra is not value}

    def advance(self, critic_steps: int, images: int) -> None:
        """Count one step and let the schedules and the average follow it.

        Args:
            critic_steps: Critic steps in it.
            images: Real images in it.
        """
        if self.ema:
            self.ema.step(self.generator.parameters())
        self.progress.step += 1
        self.progress.critic_steps += critic_steps
        self.progress.images += images
        self.move_to(self.progress)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state by name. Its tensors are those that training goes on to change.

        Schedules have none: where they are follows from the progress. A callback's state that no checkpoint can keep is
        left out.
        """
        optional = {"scaler": self.scaler, "ema": self.ema}
        parts = {
            **self.networks,
            **self.optimizers,
            **{name: part for name, part in optional.items() if part is not None},
            **self.extras,
        }
        states = {name: part.state_dict() for name, part in parts.items()}
        for name in list(self.extras):
            try:
                states[name] = kept(states[name], f"{name}: its state_dict()")
            except InputError as error:
                say_once(f"{error}. Checkpoints are written without it from here on.")
                del states[name], self.extras[name]
        return states | {"progress": asdict(self.progress)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state in place.

        Hyperparameters (learning rates, betas, decays) stay those of this run: where a resumed run may change them, the
        new values act. What the saved run did not have starts afresh: a loss scale, an average, a callback's state.

        Raises:
            InputError: It is no state of a run.
        """
        if missing := {*self.networks, *self.optimizers, "progress"} - state.keys():
            raise InputError(f"state: lacks {', '.join(sorted(missing))}; it must be what state_dict() returned")
        for name, network in self.networks.items():
            network.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            _load_optimizer(optimizer, state[name], name)
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self._load_ema(self.ema, state.get("ema"))
        for name, extra in self.extras.items():
            if name in state:
                extra.load_state_dict(state[name])
        self.move_to(replace(Progress(), **state["progress"]))

    def move_to(self, progress: Progress) -> None:
        """Set the progress, and the learning rates to where the schedules then are, from this run's own base rates."""
        self.progress, position = progress, self.position(progress)
        for scheduler, optimizer in zip(self.schedulers.values(), self.optimizers.values()):
            factors: Any = scheduler.lr_lambdas  # which take steps between two steps, too
            scheduler.last_epoch = progress.step
            scheduler._last_lr = [base * factor(position) for base, factor in zip(scheduler.base_lrs, factors)]
            for group, rate in zip(optimizer.param_groups, scheduler._last_lr):
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def _load_ema(self, ema: EMAModel, state: dict[str, Any] | None) -> None:
        if state is None:
            weights = [parameter.detach().clone() for parameter in self.generator.parameters()]
            state = {"shadow_params": weights, "optimization_step": 0}
        ema.load_state_dict({name: state[name] for name in ("shadow_params", "optimization_step")})
        ema.to(self.generator.device)  # load_state_dict replaces the tensors by those of the file


def kept(value: Any, name: str) -> Any:
    """Return a state of a user's own as checkpoints keep it, with Python's numbers in place of NumPy's.

    Args:
        value: The state, or a part of it.
        name: What it is called in the error.

    Raises:
        InputError: It holds something that no checkpoint can keep: loading one runs no code.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {kept(key, f"{name}'s key {key!r}"): kept(item, f"{name}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(kept(item, f"{name}[{number}]") for number, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, torch.Tensor):
        return value
    if _is_loaded(value):
        return value
    raise InputError(
        f"{name} is of type {type(value).__name__}: a checkpoint keeps tensors, numbers, strings, and lists and "
        "dictionaries of them"
    )


def _is_loaded(value: Any) -> bool:
    """Return whether PyTorch loads a value without running code: bytes, complex numbers, types of its own."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    except Exception:  # whatever the value's own methods raise
        return False
    return True


def _load_optimizer(optimizer: Any, state: dict[str, Any], name: str) -> None:
    """Load the moments of an optimizer in place, and keep its own hyperparameters."""
    groups = []
    for saved, own in zip(state["param_groups"], optimizer.param_groups):
        if ("betas" in saved) != ("betas" in own):
            raise ValueError(f"the {name} in it is of another kind, with another state")
        groups.append({**own, "params": saved["params"]})
    own_groups = [dict(group) for group in optimizer.param_groups]
    before = {parameter: dict(moments) for parameter, moments in optimizer.state.items()}
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    for group, own in zip(optimizer.param_groups, own_groups):
        group.update(own)
    # Fused kernels read moments and weights in the order of their memory, which may be another than in the file.
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
                laid_out = torch.empty_like(parameter, dtype=moment.dtype, device=moment.device)
                moments[name] = laid_out.copy_(moment)
    # A recorded graph goes on with the tensors that were there before.
    for parameter, moments in before.items():
        loaded = optimizer.state[parameter]
        for name, tensor in moments.items():
            if isinstance(tensor, torch.Tensor):
                loaded[name] = tensor.copy_(loaded[name]) if name in loaded else tensor.zero_()
