"""Differentiable augmentation of real and generated images alike (Zhao et al. 2020, arXiv 2006.10738).

It keeps the critic from memorising a small dataset. The generator's gradient passes through it, so the generator does
not learn to make augmented images. A new operation is one function here and one entry in `OPERATIONS`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InputError

Rand = Callable[..., Tensor]
Operation = Callable[[Tensor, Rand], Tensor]


def color(images: Tensor, rand: Rand) -> Tensor:
    """Change brightness by up to ±0.5, saturation by a factor of 0 to 2, contrast by a factor of 0.5 to 1.5."""
    images = images + _uniform(images, rand) - 0.5
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2 * _uniform(images, rand)) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (0.5 + _uniform(images, rand)) + mean


def translation(images: Tensor, rand: Rand) -> Tensor:
    """Shift by up to an eighth of each side, with zeros (grey) at the border."""
    number, _, height, width = images.shape
    down, right = max(1, round(height / 8)), max(1, round(width / 8))
    padded = F.pad(images, (right, right, down, down))
    top, left = (_integers(2 * limit + 1, number, images, rand) for limit in (down, right))
    rows = top[:, None] + torch.arange(height, device=images.device)  # (N, H)
    columns = left[:, None] + torch.arange(width, device=images.device)  # (N, W)
    index = torch.arange(number, device=images.device)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (N, H, W, C) to (N, C, H, W)


def cutout(images: Tensor, rand: Rand) -> Tensor:
    """Set a rectangle of half of each side to 0 (grey), centred anywhere in the image."""
    number, _, height, width = images.shape
    inside = []
    for size in (height, width):
        middle = _integers(size, number, images, rand)[:, None]
        distance = torch.arange(size, device=images.device) - middle
        inside.append((distance >= -(size // 4)) & (distance < size // 2 - size // 4))  # (N, size)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(hole, 0.0)


OPERATIONS: dict[str, Operation] = {"color": color, "translation": translation, "cutout": cutout}


class Augmentation:
    """Apply operations in turn, to each image with random numbers of its own.

    Args:
        policy: Names in `OPERATIONS`, separated by commas, such as `"color,translation,cutout"`; empty for none.
        rand: Source of uniform random numbers, called as `torch.rand` is.

    Raises:
        InputError: there is no such operation.
    """

    def __init__(self, policy: str, rand: Rand = torch.rand):
        names = [name.strip() for name in policy.split(",") if name.strip()]
        for name in names:
            if name not in OPERATIONS:
                raise InputError(f"augmentation={policy!r}: {name!r} is none of {', '.join(OPERATIONS)}")
        self.operations = [OPERATIONS[name] for name in names]
        self.rand = rand

    def __call__(self, images: Tensor) -> Tensor:
        """Augment images `(N, C, H, W)` in [-1, 1]; the result has the same shape and may leave that range."""
        for operation in self.operations:
            images = operation(images, self.rand)
        return images


def _uniform(images: Tensor, rand: Rand) -> Tensor:
    """Draw a number in [0, 1) for each image, `(N, 1, 1, 1)`."""
    return rand((len(images), 1, 1, 1), device=images.device, dtype=images.dtype)


def _integers(limit: int, number: int, images: Tensor, rand: Rand) -> Tensor:
    # float32, as not every device has float64; a product of numbers below 1 never rounds up to the limit
    return (limit * rand((number,), device=images.device, dtype=torch.float32)).long()
