"""The ways to keep a critic Lipschitz, one small class each: as a penalty on its loss, or on its weights after a step.

Norms of gradients are Euclidean, over all pixels of an image. Every penalty is computed in float32, or
float64 for float64 images.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import InputError

Score = Callable[[Tensor], Tensor]
"""Images `(N, C, H, W)` to scores `(N,)`, in float32 and differentiable twice."""
Rand = Callable[..., Tensor]
"""Uniform numbers in [0, 1), called as `torch.rand` is."""


class Constraint:
    """No constraint (`none`): for controls. The base of all others."""

    has_penalty = False

    def penalty(self, score: Score, real_images: Tensor, fake_images: Tensor) -> Tensor:
        """What is added to the critic's loss.

        Args:
            score: The critic.
            real_images: `(N, C, H, W)`.
            fake_images: `(N, C, H, W)`, detached from the generator.

        Returns:
            A scalar, float32, its weight included.
        """
        raise NotImplementedError

    def after_step(self, critic: nn.Module) -> None:
        """Called after each critic optimizer step; may change the parameters in place."""

    def check(self, critic: nn.Module) -> None:
        """Whether theory allows this constraint for such a critic.

        Raises:
            InputError: it does not.
        """
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in critic.modules()) and self.has_penalty:
            raise InputError(
                f"{type(self).__name__} with batch normalisation in the critic: the penalty is on the gradient of each "
                "score by its own image, and batch normalisation makes a score depend on the whole batch; use "
                'critic_norm_type="layer", "instance" or "none"'
            )


class WeightClipping(Constraint):
    """Clamps every parameter of the critic to [-clip_value, clip_value] (Arjovsky et al. 2017, algorithm 1, line 7).

    Every parameter: weights, biases, and the scales and shifts of normalisation layers. Buffers are left alone.

    Args:
        clip_value: Half the width of the box, positive. The paper uses 0.01.
    """

    def __init__(self, clip_value: float = 0.01):
        if not clip_value > 0:
            raise InputError(f"clip_value={clip_value!r}: must be positive; the paper uses 0.01")
        self.clip_value = clip_value

    @torch.no_grad()
    def after_step(self, critic: nn.Module) -> None:
        parameters: list[Tensor] = list(critic.parameters())
        if parameters[0].device.type == "cpu":
            for parameter in parameters:
                parameter.clamp_(-self.clip_value, self.clip_value)
        else:  # two launches for all of them
            torch._foreach_clamp_min_(parameters, -self.clip_value)
            torch._foreach_clamp_max_(parameters, self.clip_value)

    def check(self, critic: nn.Module) -> None:
        if is_spectrally_normalised(critic):
            raise InputError(
                "WeightClipping of a critic with spectral normalisation: its scores do not depend on the size of the "
                'weights that would be clipped; use lipschitz="spectral", or spectral_norm=False'
            )


class SpectralNormalization(Constraint):
    """The critic's own layers do it: each divides its weight by its largest singular value (Miyato et al. 2018, arXiv
    1802.05957). Nothing is left to do here but to see that it has such layers (`spectral_norm=True`)."""

    def check(self, critic: nn.Module) -> None:
        if not is_spectrally_normalised(critic):
            raise InputError("SpectralNormalization of a critic without such layers: build it with spectral_norm=True")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in critic.modules()):
            raise InputError(
                "SpectralNormalization with batch normalisation in the critic: that divides by the spread of a batch, "
                'which may be anything, and undoes the bound; use critic_norm_type="none"'
            )


class GradientPenalty(Constraint):
    """`weight · E[(‖∇D(x̂)‖ − 1)²]` at random points x̂ between real and generated images (Gulrajani et al. 2017, arXiv
    1704.00028, eq. 3).

    Args:
        weight: λ; 10 in the paper.
        rand: Source of the random points, called as `torch.rand` is.
    """

    has_penalty = True

    def __init__(self, weight: float = 10.0, rand: Rand = torch.rand):
        if not weight > 0:
            raise InputError(f"gradient_penalty_weight={weight!r}: must be positive")
        self.weight, self.rand = weight, rand

    def penalty(self, score: Score, real_images: Tensor, fake_images: Tensor) -> Tensor:
        norms = gradients(score, self.points(real_images, fake_images)).norm(dim=1)
        return self.weight * self.excess(norms).square().mean()

    def points(self, real_images: Tensor, fake_images: Tensor) -> Tensor:
        """Where the gradient is taken, `(N, C, H, W)`: on a straight line, at a place uniform in [0, 1] on it."""
        shape = (len(real_images), *[1] * (real_images.ndim - 1))
        share = self.rand(shape, device=real_images.device)
        return share * _wide(real_images) + (1 - share) * _wide(fake_images)

    def excess(self, norms: Tensor) -> Tensor:
        return norms - 1


class LipschitzPenalty(GradientPenalty):
    """`weight · E[max(0, ‖∇D(x̂)‖ − 1)²]`, one-sided: a gradient below 1 is no violation (Petzka et al. 2018, arXiv
    1709.08894, eq. 8)."""

    def excess(self, norms: Tensor) -> Tensor:
        return (norms - 1).clamp(min=0)


class DRAGAN(GradientPenalty):
    """`weight · E[(‖∇D(x + δ)‖ − 1)²]` around real images only (Kodali et al. 2017, arXiv 1705.07215); δ is noise,
    uniform between 0 and half the standard deviation of the batch."""

    def points(self, real_images: Tensor, fake_images: Tensor) -> Tensor:
        real_images = _wide(real_images)
        noise = self.rand(tuple(real_images.shape), device=real_images.device)
        return real_images + 0.5 * real_images.std() * noise


class R1(GradientPenalty):
    """`weight / 2 · E‖∇D(x)‖²` at real images: zero-centred (Mescheder et al. 2018, arXiv 1801.04406, eq. 9), with
    their γ, 10 in the paper, for the weight."""

    def penalty(self, score: Score, real_images: Tensor, fake_images: Tensor) -> Tensor:
        return self.weight / 2 * gradients(score, real_images).square().sum(dim=1).mean()


class R1R2(R1):
    """`weight / 2 · (E‖∇D(x)‖² + E‖∇D(G(z))‖²)`: zero-centred at real and at generated images (Huang et al. 2024, arXiv
    2501.05441, section 2)."""

    def penalty(self, score: Score, real_images: Tensor, fake_images: Tensor) -> Tensor:
        real, fake = (super(R1R2, self).penalty(score, images, images) for images in (real_images, fake_images))
        return real + fake


CONSTRAINTS: dict[str, Any] = {
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
    """A constraint by its name in `CONSTRAINTS`."""
    kind = CONSTRAINTS[name]
    if kind is WeightClipping:
        return WeightClipping(clip_value)
    return kind(weight, rand) if kind.has_penalty else kind()


def gradients(score: Score, images: Tensor) -> Tensor:
    """The gradient of each score by its own image, flattened: `(N, C·H·W)`, to be differentiated further.

    An image's score must depend on that image alone.
    """
    points = _wide(images.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(score(points).sum(), points, create_graph=True)
    points.requires_grad_(False)  # nothing needs the penalty's gradient by the points: that work is left out
    return gradient.flatten(start_dim=1)


def _wide(images: Tensor) -> Tensor:
    """In float32, or float64 if they are."""
    return images.to(torch.promote_types(images.dtype, torch.float32))


def is_spectrally_normalised(critic: nn.Module) -> bool:
    return any(".parametrizations." in f".{name}" for name, _ in critic.named_parameters())
