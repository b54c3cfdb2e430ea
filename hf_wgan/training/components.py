"""The constraint, the augmentation and the prior of a run: by name from the options, or objects of one's own."""

import hashlib
import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from torch import Tensor

from ..algorithm.augment import AdaptiveAugmentation, Augmentation
from ..algorithm.latents import LatentPrior, built_prior, prior_name
from ..algorithm.lipschitz import Constraint, Rand, build_constraint
from ..utils.console import say_once
from ..utils.errors import InputError
from .config import TrainingConfig

INSTEAD_OF = {
    "constraint": ("lipschitz", "clip_value", "gradient_penalty_weight", "gradient_penalty_weight_end"),
    "augmentation": ("augmentation", "augmentation_probability"),
    "held_out": (),
}
"""The options that do not act where an object was given instead."""


def choose_constraint(config: TrainingConfig, constraint: Constraint | None, rand: Rand) -> Constraint:
    """Return the constraint of a run.

    Args:
        config: The options, which name one.
        constraint: The object to use instead. If its `rand` is `torch.rand`, the run's own numbers replace it, so that
            resuming and several processes are exact.
        rand: The run's uniform random numbers.

    Raises:
        InputError: The object is no constraint, or an option has no effect with the named one.
    """
    if constraint is None:
        config.check_effects()
        return build_constraint(config.lipschitz, config.clip_value, config.gradient_penalty_weight, rand)
    if not isinstance(constraint, Constraint):
        raise InputError(
            f"constraint={constraint!r}: must be an instance of a subclass of hf_wgan.algorithm.lipschitz.Constraint"
        )
    _say_what_is_replaced(config, "constraint")
    _share_random_numbers(constraint, rand)
    return constraint


def choose_augmentation(
    config: TrainingConfig, augmentation: Callable[..., Tensor] | None, rand: Rand, device: torch.device
) -> Callable[..., Tensor]:
    """Return the augmentation of a run, of images or of images and `rand`.

    Args:
        config: The options, which name one.
        augmentation: The function to use instead: of images, or of images and `rand`.
        rand: The run's uniform random numbers.
        device: Where the images are.

    Raises:
        InputError: It is no function, or is to be adapted.
    """
    if augmentation is None and config.adaptive_augmentation:
        return AdaptiveAugmentation(
            config.augmentation,
            rand,
            target=config.adaptive_augmentation_target,
            num_images=config.adaptive_augmentation_images,
            limit=config.adaptive_augmentation_limit,
            device=device,
        )
    if augmentation is None:
        return Augmentation(config.augmentation, rand, config.augmentation_probability)
    if config.adaptive_augmentation:
        raise InputError("adaptive_augmentation: adapts the operations that are named; leave out augmentation, or it")
    if not callable(augmentation) or isinstance(augmentation, type):
        raise InputError(
            f"augmentation={augmentation!r}: must be a function of images (N, C, H, W); the built-in ones are named by "
            "TrainingConfig(augmentation=...)"
        )
    _say_what_is_replaced(config, "augmentation")
    if isinstance(augmentation, torch.nn.Module):
        augmentation.to(device)
    _share_random_numbers(augmentation, rand)
    return augmentation


def set_prior(
    generator: ModelMixin, prior: LatentPrior | type[LatentPrior] | str, record: dict[str, Any]
) -> dict[str, Any]:
    """Keep a prior of latents in the generator's config, by name.

    Args:
        generator: The network.
        prior: The prior.
        record: Further entries of a run's record.

    Returns:
        The entries, in which the options that repeat the run name the prior.

    Raises:
        InputError: It is no prior, cannot be found by a name, or cannot be built without arguments.
    """
    name = prior_name(prior, type(generator))
    if isinstance(prior, LatentPrior) and parameters_of(prior) != parameters_of(built_prior(type(prior))):
        raise InputError(
            f"latent_prior={prior!r} has {parameters_of(prior)}: a generator keeps its prior by name alone, and builds "
            "it without arguments; make a subclass with these values"
        )
    generator.register_to_config(latent_prior=name)
    if "networks" not in record:
        return record
    return {**record, "networks": {**record["networks"], "latent_prior": name}}


def description_of(component: Any) -> dict[str, Any]:
    """Return what the record of a run says of an object: its class or function, and its parameters.

    Lambdas and what is defined in a function share their names with others: a digest of the code tells them apart.
    """
    return _description(component, ())


def _description(component: Any, enclosing: tuple[Any, ...]) -> dict[str, Any]:
    """Describe an object, or a value that others use; `enclosing` are those others, which may use each other."""
    if inspect.ismodule(component):
        return {"class": f"builtins:module {component.__name__}"}
    inside = (*enclosing, component)
    if isinstance(component, partial):
        arguments = dict(enumerate(component.args)) | component.keywords
        values = {str(name): _value(value, inside) for name, value in arguments.items()}
        return {**_description(component.func, inside), "arguments": values}
    owner = _description(component.__self__, inside) if inspect.ismethod(component) else {}
    named = component if inspect.isroutine(component) else type(component)
    module = getattr(named, "__module__", None) or "builtins"
    code = {}
    if "<" in named.__qualname__ and not _is_among(component, enclosing):
        functions = vars(named).values() if isinstance(named, type) else [named]
        content = [_code_of(function, inside) for function in functions if inspect.isfunction(function)]
        code = {"code": _digest(json.dumps(content).encode())}
    return {**owner, "class": f"{module}:{named.__qualname__}", **code, **parameters_of(component)}


def _value(value: Any, enclosing: tuple[Any, ...]) -> Any:
    """Return a value for the record: itself, or a description of what JSON cannot hold."""
    if isinstance(value, np.ndarray):
        return _digest(f"{value.dtype} {value.shape} ".encode() + value.tobytes())
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return _value(numbers.numpy(), enclosing) + f" {value.dtype} {[*value.shape]}"
    if isinstance(value, (list, tuple, dict)) and not _is_among(value, enclosing):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        values = {str(name): _value(item, (*enclosing, value)) for name, item in items}
        return values if isinstance(value, dict) else [*values.values()]
    return value if _is_plain(value) else _description(value, enclosing)


def _is_among(value: Any, others: tuple[Any, ...]) -> bool:
    return any(value is other for other in others)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _code_of(function: FunctionType, enclosing: tuple[Any, ...]) -> list[Any]:
    """Return what a function does, wherever its lines stand, and the values that it has from where it was defined."""
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # it is empty: the variable has no value
            values.append(cell.cell_contents)
    return [_instructions(function.__code__), [_value(value, (*enclosing, function)) for value in values]]


def _instructions(code: CodeType) -> list[Any]:
    constants = [
        _instructions(value)
        if isinstance(value, CodeType)
        else repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)  # whose order changes
        for value in code.co_consts
    ]
    return [code.co_code.hex(), code.co_names, constants]


def parameters_of(component: Any) -> dict[str, Any]:
    """Return the public attributes of an object that are numbers, strings, or lists of them."""
    attributes = getattr(component, "__dict__", {})
    return {name: value for name, value in attributes.items() if not name.startswith("_") and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _say_what_is_replaced(config: TrainingConfig, component: str) -> None:
    """Print the options that do not act because an object was passed instead."""
    values = {name: getattr(config, name) for name in INSTEAD_OF[component]}
    replaced = [f"{name}={value!r}" for name, value in values.items() if value != getattr(TrainingConfig, name)]
    if replaced:
        say_once(f"The {component} that was passed takes the place of {', '.join(replaced)}.")


def _share_random_numbers(component: Any, rand: Rand) -> None:
    if getattr(component, "rand", None) is torch.rand:
        component.rand = rand
