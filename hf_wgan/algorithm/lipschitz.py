"""The ways to keep a critic Lipschitz, one small class each: a penalty on its loss, or a change of its weights.

Norms of gradients are Euclidean, over all pixels of an image. Every penalty is computed in float32, or float64 for
float64 images. A new constraint is one class here and one line in `CONSTRAINTS`; options, help and tests follow.
"""

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from ..utils.errors import InputError

Score = Callable[[Tensor], Tensor]
"""Images `(N, C, H, W)` to scores `(N,)`, in float32 and differentiable twice."""
Rand = Callable[..., Tensor]
"""Uniform numbers in [0, 1), called as `torch.rand` is."""


class Constraint:
    """The base of all constraints, and the one that does nothing (`none`), for controls.

    Subclass it for a constraint of your own: override `penalty` or `after_step`, and `check` if some critics do not
    suit it. Hand an instance to `WGANTrainer(..., constraint=...)` or to `WGANStep`.

    Example:
        >>> class SmallScores(Constraint):
        ...     summary = "keep the scores near zero"
        ...
        ...     def __init__(self, weight=1e-3):
        ...         self.weight = weight
        ...
        ...     def penalty(self, score, real_images, fake_images):
        ...         return self.weight * score(real_images).square().mean()
        >>> SmallScores(0.5).penalty(lambda images: images.sum(dim=(1, 2, 3)), torch.ones(4, 1, 2, 2), None)
        tensor(8.)
    """

    summary: ClassVar[str] = "no constraint"
    has_penalty: ClassVar[bool] = False  # set for every subclass that overrides `penalty`

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "penalty" in vars(cls):
            cls.has_penalty = True

    def penalty(self, score: Score, real_images: Tensor, fake_images: Tensor) -> Tensor:
        """Compute what is added to the critic's loss.

        Args:
            score: The critic. `gradients(score, images)` differentiates it.
            real_images: `(N, C, H, W)`.
            fake_images: `(N, C, H, W)`, detached from the generator.

        Returns:
            A scalar, float32, its weight included.
        """
        raise NotImplementedError

    def after_step(self, critic: nn.Module) -> None:
        """Change the critic's parameters in place after each step of its optimizer."""

    def check(self, critic: nn.Module) -> None:
        """Check that theory allows this constraint for such a critic.

        Raises:
            InputError: It does not.
        """
        if self.has_penalty and has_batch_norm(critic):
            raise InputError(
                f"{type(self).__name__} with batch normalisation in the critic: the penalty is on the gradient of each "
                "score by its own image, and batch normalisation makes a score depend on the whole batch; use "
                'critic_norm_type="layer", "instance" or "none"'
            )


class WeightClipping(Constraint):
    """Clamp every parameter of the critic to [-clip_value, clip_value] (Arjovsky et al. 2017, algorithm 1, line 7).

    Weights, biases, and the scales and shifts of normalisation layers are clamped; buffers are left alone.

    Args:
        clip_value: Half the width of the box, positive. The paper uses 0.01.
    """

    summary = "weight clipping"

    def __init__(self, clip_value: float = 0.01):
        check_positive("clip_value", clip_value, "; the paper uses 0.01")
        self.clip_value = clip_value

    @torch.no_grad()
    def after_step(self, critic: nn.Module) -> None:
        parameters: list[Tensor] = list(critic.parameters())  # two launches for all of them
        torch._foreach_clamp_min_(parameters, -self.clip_value)
        torch._foreach_clamp_max_(parameters, self.clip_value)

    def check(self, critic: nn.Module) -> None:
        if is_spectrally_normalised(critic):
            raise InputError(
                "WeightClipping of a critic with spectral normalisation: its scores do not depend on the size of the "
                'weights that would be clipped; use lipschitz="spectral", or spectral_norm=False'
            )
        if is_parametrised(critic):
            raise InputError(
                "WeightClipping of a critic with parametrised weights: what it clips are not the weights; remove the "
                "parametrisation"
            )


class SpectralNormalization(Constraint):
    """Check that the critic's layers divide their weights by their largest singular value (`spectral_norm=True`).

    The layers keep the constraint themselves (Miyato et al. 2018, arXiv 1802.05957); nothing is left to do here.
    """

    summary = "spectral normalisation"

    def check(self, critic: nn.Module) -> None:
        if not is_spectrally_normalised(critic):
            raise InputError("SpectralNormalization of a critic without such layers: build it with spectral_norm=True")
        if has_batch_norm(critic):
            raise InputError(
                "SpectralNormalization with batch normalisation in the critic: that divides by the spread of a batch, "
                'which may be anything, and undoes the bound; use critic_norm_type="none"'
            )


class GradientPenalty(Constraint):
    """Penalise gradients whose norm is not 1, at random points x̂ between real and generated images.

    `weight · E[(‖∇D(x̂)‖ − 1)²]` (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3).

    Args:
        weight: λ; 10 in the paper.
        rand: Source of the random points, called as `torch.rand` is.
    """

    summary = "gradient penalty of WGAN-GP"

    def __init__(self, weight: float = 10.0, rand: Rand = torch.rand):
        check_positive("gradient_penalty_weight", weight)
        self.weight, self.rand = weight, rand

    def penalty(self, score: Score, real_images: Tensor, fake_images: Tensor) -> Tensor:
        norms = gradients(score, self.points(real_images, fake_images)).norm(dim=1)  # (N,)
        return self.weight * F.mse_loss(norms, self.target(norms.detach()))

    def points(self, real_images: Tensor, fake_images: Tensor) -> Tensor:
        """Return where the gradient is taken, `(N, C, H, W)`: uniformly on a straight line between two images."""
        shape = (len(real_images), *[1] * (real_images.ndim - 1))
        share = self.rand(shape, device=real_images.device)
        real_images, fake_images = _at_least_float32(real_images), _at_least_float32(fake_images)
        return torch.lerp(fake_images, real_images, share.to(real_images.dtype))

    def target(self, norms: Tensor) -> Tensor:
        """Return the nearest allowed value of each norm, `(N,)`."""
        return torch.ones_like(norms)


class LipschitzPenalty(GradientPenalty):
    """Penalise gradients whose norm is above 1: a smaller one is no violation.

    `weight · E[max(0, ‖∇D(x̂)‖ − 1)²]` (Petzka et al. 2018, arXiv 1709.08894, eq. 8).
    """

    summary = "one-sided gradient penalty"

    def target(self, norms: Tensor) -> Tensor:
        return norms.clamp(max=1)


class DRAGAN(GradientPenalty):
    """Penalise gradients whose norm is not 1, around real images only.

    `weight · E[(‖∇D(x + δ)‖ − 1)²]` (Kodali et al. 2017, arXiv 1705.07215). As in the authors' code, δ is
    `α · ½ · std · u`: std is the standard deviation of the batch, α uniform in [0, 1) for each image, u for each pixel.
    """

    summary = "gradient penalty around the data"

    def points(self, real_images: Tensor, fake_images: Tensor) -> Tensor:
        real_images = _at_least_float32(real_images)
        noise = self.rand(tuple(real_images.shape), device=real_images.device)
        share = self.rand((len(real_images), *[1] * (real_images.ndim - 1)), device=real_images.device)
        return real_images + share * 0.5 * real_images.std(correction=0) * noise


class R1(GradientPenalty):
    """Penalise every gradient at real images.

    `weight / 2 · E‖∇D(x)‖²` (Mescheder et al. 2018, arXiv 1801.04406, eq. 9); the weight is their γ, 10 in the paper.
    """

    summary = "zero-centred gradient penalty at real images"

    def penalty(self, score: Score, real_images: Tensor, fake_images: Tensor) -> Tensor:
        return self.weight / 2 * gradients(score, real_images).square().sum(dim=1).mean()


class R1R2(R1):
    """Penalise every gradient at real and at generated images.

    `weight / 2 · (E‖∇D(x)‖² + E‖∇D(G(z))‖²)` (Huang et al. 2024, arXiv 2501.05441, section 2).
    """

    summary = "the same at real and at generated images"

    def penalty(self, score: Score, real_images: Tensor, fake_images: Tensor) -> Tensor:
        real, fake = (super(R1R2, self).penalty(score, images, images) for images in (real_images, fake_images))
        return real + fake


CONSTRAINTS: dict[str, type[Constraint]] = {
    "clip": WeightClipping,
    "gp": GradientPenalty,
    "lp": LipschitzPenalty,
    "dragan": DRAGAN,
    "r1": R1,
    "r1r2": R1R2,
    "spectral": SpectralNormalization,
    "none": Constraint,
}


def build_constraint(name: str, clip_value: float = 0.01, weight: float = 10.0, rand: Rand = torch.rand) -> Constraint:
    """Build a constraint by its name in `CONSTRAINTS`, with those of the arguments that its class takes.

    Raises:
        InputError: There is no such constraint, or an argument is out of its range.
    """
    if name not in CONSTRAINTS:
        raise InputError(f"lipschitz={name!r}: must be one of {', '.join(CONSTRAINTS)}")
    constraint_class = CONSTRAINTS[name]
    options = {"clip_value": clip_value, "weight": weight, "rand": rand}
    if not (isinstance(constraint_class, type) and issubclass(constraint_class, Constraint)):
        raise InputError(f"lipschitz={name!r}: CONSTRAINTS has {constraint_class!r} there, no subclass of Constraint")
    known = inspect.signature(constraint_class).parameters
    try:
        return constraint_class(**{option: value for option, value in options.items() if option in known})
    except TypeError as error:
        raise InputError(
            f"lipschitz={name!r}: cannot be built from {', '.join(options)} alone ({error}); give its other arguments "
            "defaults, or hand an instance to the trainer as constraint"
        ) from error


def check_positive(name: str, value: Any, hint: str = "") -> None:
    """Check a number that a constraint is built with.

    Raises:
        InputError: It is no positive finite number.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 < value < math.inf):
        raise InputError(f"{name}={value!r}: must be a positive number{hint}")


def constraints_taking(argument: str) -> list[str]:
    """Return the names of the constraints whose classes take an argument."""
    return [name for name, known in CONSTRAINTS.items() if argument in inspect.signature(known).parameters]


def constraints_with_penalty() -> list[str]:
    """Return the names of the constraints that add a penalty to the critic's loss."""
    return [name for name, known in CONSTRAINTS.items() if known.has_penalty]


def gradients(score: Score, images: Tensor) -> Tensor:
    """Compute the gradient of each score by its own image, to be differentiated further.

    Args:
        score: Scores of images, of which each depends on its own image alone.
        images: `(N, C, H, W)`.

    Returns:
        `(N, C·H·W)`, float32 or wider.
    """
    points = _at_least_float32(images.detach()).requires_grad_()
    scores = score(points)
    (gradient,) = torch.autograd.grad(scores, points, torch.ones_like(scores), create_graph=True)
    points.requires_grad_(False)  # nothing needs the penalty's gradient by the points: that work is left out
    return gradient.flatten(start_dim=1)


def is_spectrally_normalised(critic: nn.Module) -> bool:
    """Return whether any weight of the critic is divided by its largest singular value."""
    return any(isinstance(module, _SpectralNorm) for module in critic.modules())


def is_parametrised(critic: nn.Module) -> bool:
    """Return whether any weight of the critic is computed from others, as by spectral normalisation."""
    return any(".parametrizations." in f".{name}" for name, _ in critic.named_parameters())


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether a network has batch normalisation."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def _at_least_float32(images: Tensor) -> Tensor:
    return images.to(torch.promote_types(images.dtype, torch.float32))
