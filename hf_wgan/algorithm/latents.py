"""The prior of latents: the distribution that a generator's latents come from. No other file decides on it.

Latents are made of standard normal numbers, which the prior maps to its own distribution. So a seed, truncation and
spherical interpolation, all of which act on the normal numbers, mean the same whatever the prior is.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..utils.errors import InputError

Prior = Callable[[Tensor], Tensor]
"""Standard normal numbers `(N, latent_dim)` to latents of the same shape."""


class LatentPrior:
    """The base of all priors. Subclass it for one of your own, beside your generator or in a module that is imported.

    A generator keeps its prior in its config by name: `latent_prior="uniform"` for a name in `PRIORS`,
    `"MyPrior"` for a class in the generator's own module, `"my_module:MyPrior"` for a class in another one. It is built
    without arguments.

    Example:
        >>> class SignPrior(LatentPrior):
        ...     summary = "-1 or 1, with equal probability"
        ...
        ...     def __call__(self, normals):
        ...         return torch.where(normals < 0, -1.0, 1.0)
        >>> SignPrior()(torch.tensor([[0.3, -2.0]]))
        tensor([[ 1., -1.]])
    """

    summary: ClassVar[str] = ""

    def __call__(self, normals: Tensor) -> Tensor:
        """Map standard normal numbers to latents.

        Args:
            normals: `(N, latent_dim)`, independent N(0, 1).

        Returns:
            Latents, `(N, latent_dim)`, of the same type and on the same device; differentiable for
            `WGANPipeline.invert`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no __call__, which maps normal numbers to latents")


class NormalPrior(LatentPrior):
    """The standard normal distribution, N(0, 1): the identity."""

    summary = "N(0, 1)"

    def __call__(self, normals: Tensor) -> Tensor:
        return normals


class UniformPrior(LatentPrior):
    """The uniform distribution on [-1, 1]: `2·Φ(z) − 1`, where Φ is the normal distribution function."""

    summary = "uniform on [-1, 1]"

    def __call__(self, normals: Tensor) -> Tensor:
        # 2·Φ(z) − 1 = erf(z / √2), without the cancellation near 0 that the left side has.
        exact = normals.to(torch.promote_types(normals.dtype, torch.float32))
        return torch.erf(exact * 0.5**0.5).to(normals.dtype)


PRIORS: dict[str, type[LatentPrior]] = {"normal": NormalPrior, "uniform": UniformPrior}


def prior_of(generator: Any) -> Prior:
    """Return the prior that a generator's config names, `NormalPrior` if it names none.

    Args:
        generator: A network, also one wrapped by DistributedDataParallel or `torch.compile`.

    Raises:
        InputError: There is no such prior.
    """
    generator = _unwrapped(generator)
    config: Any = getattr(generator, "config", None)
    name = config.get("latent_prior") if hasattr(config, "get") else getattr(config, "latent_prior", None)
    return built_prior(_prior_class("normal" if name is None else name, type(generator)))


def built_prior(prior_class: type) -> LatentPrior:
    """Return a prior of a class as a generator builds it, without arguments.

    Raises:
        InputError: The class needs some.
    """
    try:
        return prior_class()
    except TypeError as error:
        raise InputError(
            f"latent_prior: {prior_class.__name__} cannot be built without arguments ({error}), as a generator builds "
            "it; give them defaults"
        ) from error


def latents_of(prior: Prior, normals: Tensor) -> Tensor:
    """Map standard normal numbers to latents, and check what comes of it.

    Args:
        prior: The prior.
        normals: `(N, latent_dim)`.

    Raises:
        InputError: The prior returns something else than a tensor of the same shape and type.
    """
    latents = prior(normals)
    if not isinstance(latents, Tensor) or latents.shape != normals.shape or latents.dtype != normals.dtype:
        raise InputError(
            f"{type(prior).__name__} returns {described(latents)}: must be latents like its input, {described(normals)}"
        )
    return latents


def described(value: Any) -> str:
    """Return what a value is, in words."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"


def check_latent_prior(name: Any, generator_class: type) -> None:
    """Check a name before it goes into a generator's config. `"module:Class"` is looked up only when it is used.

    Raises:
        InputError: There is no such prior.
    """
    if not (isinstance(name, str) and ":" in name):
        _prior_class(name, generator_class)


def prior_name(prior: Any, generator_class: type) -> str:
    """Return the name under which a generator's config keeps a prior.

    Args:
        prior: A name, a subclass of `LatentPrior` or an instance of one.
        generator_class: The generator's class.

    Raises:
        InputError: `prior` is none of these, or its class cannot be found by a name or built without arguments.
    """
    if isinstance(prior, str):
        _prior_class(prior, generator_class)
        return prior
    prior_class = prior if isinstance(prior, type) else type(prior)
    if not _is_prior_class(prior_class):
        raise InputError(f"latent_prior={prior!r}: must be one of {', '.join(PRIORS)}, or a subclass of LatentPrior")
    for name, known in PRIORS.items():
        if prior_class is known:
            return name
    is_beside = prior_class.__module__ == generator_class.__module__
    name = prior_class.__name__ if is_beside else f"{prior_class.__module__}:{prior_class.__name__}"
    if _prior_class(name, generator_class) is not prior_class:
        raise InputError(f"latent_prior={prior!r}: must be a class at the top level of its module")
    return name


def sample_normals(
    number: int,
    latent_dim: int,
    rng: torch.Generator | Sequence[torch.Generator] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw what a prior maps to latents: standard normal numbers, in float32 whatever a network's precision.

    Args:
        number: N.
        latent_dim: Length of a latent vector.
        rng: Source of random numbers; or several, one for each vector. PyTorch's global one by default.
        device: Where the numbers go. They are drawn where the source of random numbers is.

    Returns:
        `(N, latent_dim)`, float32.
    """
    if isinstance(rng, Sequence) and len(rng) == 1:
        rng = rng[0]  # as diffusers' pipelines take a list of one
    if isinstance(rng, Sequence):
        if len(rng) != number:
            raise InputError(f"{len(rng)} sources of random numbers for {number} latents: must be one for each")
        return torch.cat([sample_normals(1, latent_dim, one, device) for one in rng])
    source = device if rng is None else rng.device
    return torch.randn((number, latent_dim), generator=rng, device=source, dtype=torch.float32).to(device or source)


def sample_latents(
    generator: Any,
    number: int,
    rng: torch.Generator | Sequence[torch.Generator] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw latents for a generator from its prior.

    Args:
        generator: The network, whose config has `latent_dim` and may have `latent_prior`.
        number: N.
        rng: Source of random numbers; or several, one for each vector. PyTorch's global one by default.
        device: Where the latents go, by default where they are drawn.

    Returns:
        `(N, latent_dim)`, float32.

    Raises:
        InputError: The config has no `latent_dim`, or the prior returns something else than latents.
    """
    latent_dim = getattr(getattr(_unwrapped(generator), "config", None), "latent_dim", None)
    if latent_dim is None:
        raise InputError(f"{type(generator).__name__} has no config.latent_dim: must be the length of its latents")
    normals = sample_normals(number, latent_dim, rng, device)
    return latents_of(prior_of(generator), normals)


def latent_sampler(generator: Any, randn: Callable[..., Tensor], device: torch.device) -> Callable[[int], Tensor]:
    """Return a function that draws a number n of latents `(n, latent_dim)` in a generator's precision.

    Args:
        generator: The network.
        randn: Source of normal numbers, called as `torch.randn` is.
        device: Where they are drawn.
    """

    def sample(number: int) -> Tensor:
        normals = randn((number, generator.config.latent_dim), device=device, dtype=generator.dtype)
        return latents_of(prior_of(generator), normals)

    return sample


def _prior_class(name: Any, generator_class: type) -> type:
    """Find a prior by its name. Nothing is imported: a name may come from a stranger's config."""
    if isinstance(name, str) and name in PRIORS:
        return PRIORS[name]
    known = f"one of {', '.join(PRIORS)}, the name of a LatentPrior in the generator's module, or module:Class"
    if not isinstance(name, str):
        raise InputError(f"latent_prior={name!r}: must be {known}")
    module_name, _, class_name = name.rpartition(":")
    module = sys.modules.get(module_name or generator_class.__module__)
    if module is None:
        raise InputError(f"latent_prior={name!r}: the module {module_name} is not imported; import it first")
    prior_class: Any = vars(module).get(class_name)
    if not _is_prior_class(prior_class) or prior_class.__module__ != module.__name__:
        raise InputError(f"latent_prior={name!r}: must be {known}")
    return prior_class


def _is_prior_class(value: Any) -> bool:
    """Return whether this is a subclass of `LatentPrior`, that of a carried copy of this file included."""
    return isinstance(value, type) and any(base.__name__ == LatentPrior.__name__ for base in value.__mro__[1:])


def _unwrapped(generator: Any) -> Any:
    if isinstance(generator, torch.nn.parallel.DistributedDataParallel):
        generator = generator.module
    return getattr(generator, "_orig_mod", generator)  # of torch.compile
