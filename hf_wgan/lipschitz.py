"""The ways to keep a critic Lipschitz: one small class each, applied to it after each of its optimizer steps."""

from collections.abc import Callable

import torch
from torch import nn

from .errors import InputError

Constraint = Callable[[nn.Module], None]
"""Called with the critic after each critic optimizer step; changes its parameters in place."""


class WeightClipping:
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
    def __call__(self, critic: nn.Module) -> None:
        for parameter in critic.parameters():
            parameter.clamp_(-self.clip_value, self.clip_value)
