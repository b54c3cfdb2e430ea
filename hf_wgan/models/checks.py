"""Argument and shape checks that every network shares, so that each says the same thing in the same words."""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import InputError


def check_at_least(name: str, value: Any, smallest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
        raise InputError(f"{name}={value!r}: must be a whole number of at least {smallest}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")


def check_latents(latents: torch.Tensor, latent_dim: int) -> None:
    if latents.ndim != 2 or latents.shape[1] != latent_dim:
        raise InputError(f"latents of shape {tuple(latents.shape)}: must be (N, {latent_dim})")


def check_images(images: torch.Tensor, channels: int, size: int) -> None:
    if images.shape[1:] != (channels, size, size):
        raise InputError(f"images of shape {tuple(images.shape)}: must be (N, {channels}, {size}, {size})")
