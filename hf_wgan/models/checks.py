"""Argument and shape checks that every network shares, so that each says the same thing in the same words."""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import InputError

MOST_PARAMETERS = 2**32  # 16 GiB in float32


def check_at_least(name: str, value: Any, smallest: int, largest: int = 2**16) -> None:
    """The largest is generous: it refuses nonsense before that takes memory or time."""
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        raise InputError(f"{name}={value!r}: must be a whole number from {smallest} to {largest}")


def check_num_parameters(network: Any, about: int) -> None:
    """Before the network is built."""
    if about > MOST_PARAMETERS:
        raise InputError(
            f"{type(network).__name__} with {about:.1e} parameters: must have at most {MOST_PARAMETERS:.1e}"
        )


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")


def check_latents(latents: torch.Tensor, latent_dim: int) -> None:
    if latents.ndim != 2 or latents.shape[1] != latent_dim:
        raise InputError(f"latents of shape {tuple(latents.shape)}: must be (N, {latent_dim})")


def check_images(images: torch.Tensor, channels: int, size: int) -> None:
    if images.shape[1:] != (channels, size, size):
        raise InputError(f"images of shape {tuple(images.shape)}: must be (N, {channels}, {size}, {size})")
