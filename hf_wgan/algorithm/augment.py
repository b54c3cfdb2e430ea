"""Differentiable augmentation of real and generated images alike (Zhao et al. 2020, arXiv 2006.10738).

It keeps the critic from memorising a small dataset. The generator's gradient passes through it, so the generator does
not learn to make augmented images. A new operation is one function here and one entry in `OPERATIONS`.

How often images are augmented can follow from how far the critic memorises (Karras et al. 2020, arXiv 2006.06676).
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..utils.errors import InputError

Rand = Callable[..., Tensor]
Operation = Callable[..., Tensor]
"""Function or module of images `(N, C, H, W)`, or of images and `rand`, an argument by that name, that returns as many.
"""


def color(images: Tensor, rand: Rand) -> Tensor:
    """Change brightness by up to ±0.5, saturation by a factor of 0 to 2, contrast by a factor of 0.5 to 1.5."""
    images = images + _uniform(images, rand) - 0.5
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2 * _uniform(images, rand)) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (0.5 + _uniform(images, rand)) + mean


def translation(images: Tensor, rand: Rand) -> Tensor:
    """Shift by up to an eighth of each side, with the image mirrored beyond its border as in Karras et al. 2020."""
    number, _, height, width = images.shape
    rows, columns = (_shifted(side, number, images, rand) for side in (height, width))
    index = torch.arange(number, device=images.device)[:, None, None]
    # (N, H, W, C) to (N, C, H, W)
    return images[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


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
        probability: Share of the images to which an operation is applied, drawn for each operation and image.

    Raises:
        InputError: There is no such operation, or the probability is none.
    """

    def __init__(self, policy: str, rand: Rand = torch.rand, probability: float | Tensor = 1.0):
        if not isinstance(policy, str):
            raise InputError(
                f"augmentation={policy!r}: must be names, separated by commas; a function of your own is "
                "handed to the trainer"
            )
        if isinstance(probability, float) and not 0 <= probability <= 1:
            raise InputError(f"augmentation_probability={probability!r}: must be between 0 and 1")
        names = [name.strip() for name in policy.split(",") if name.strip()]
        for name in names:
            if name not in OPERATIONS:
                raise InputError(f"augmentation={policy!r}: {name!r} is none of {', '.join(OPERATIONS)}")
        self.operations = [OPERATIONS[name] for name in names]
        self._bound = [with_rand(operation, self._numbers) for operation in self.operations]
        self.rand, self.probability = rand, probability

    def __call__(self, images: Tensor) -> Tensor:
        """Augment images `(N, C, H, W)` in [-1, 1]; the result has the same shape and may leave that range."""
        for operation in self._bound:
            augmented = operation(images)
            if isinstance(self.probability, float) and self.probability == 1:
                images = augmented
            else:
                images = torch.where(_uniform(images, self.rand) < self.probability, augmented, images)
        return images

    def _numbers(self, *size: Any, **options: Any) -> Tensor:
        return self.rand(*size, **options)  # which may be replaced later


class AdaptiveAugmentation(Augmentation):
    """Augment the more images, the more the critic memorises the training images (Karras et al. 2020).

    The critic's advantage A over images is the mean of their scores less that of samples of the same classes.
    `r_v = 1 - A(held out) / A(train)` is 0 if the critic knows no single image, and 1 if it takes all images that are
    not trained on for generated ones. Unlike the authors' r_t it needs no sigmoid, and the scores may have any scale
    and offset, also one for each class. The probability rises while r_v is above its target, and falls while it is
    below.

    Args:
        policy: As for `Augmentation`.
        rand: Likewise.
        target: The value of r_v to keep.
        num_images: Real images, as the critic sees them, over which the probability can change by 1.
        limit: The highest probability. From about 0.8 on the generator learns to make augmented images (section 2.2 of
            the paper).
        device: Where the images are.
    """

    probability: Tensor  # changed in place, as a recorded graph needs
    AVERAGED_SHARE = 1 / 8
    """Share of `num_images` over which the advantages are averaged, as those of single batches vary more than r_v."""

    def __init__(
        self,
        policy: str,
        rand: Rand = torch.rand,
        *,
        target: float = 0.5,
        num_images: int = 20_000,
        limit: float = 0.3,
        device: torch.device | str = "cpu",
    ):
        super().__init__(policy, rand, torch.zeros((), device=device))
        self.target, self.num_images, self.limit = target, num_images, limit
        self._means = torch.zeros(2, device=device)  # of the advantages, over the last images
        self._sums = torch.zeros(2, device=device)  # of the advantages, since `read`

    @torch.no_grad()
    def adjust(self, advantages: Tensor, num_images: int) -> None:
        """Change the probability by one step, without waiting for the device.

        Args:
            advantages: `(2,)`, the critic's advantage over training images and over held-out images, all augmented as
                in training.
            num_images: Real images that the critic has seen since the last call.
        """
        share = num_images / self.num_images
        self._means.lerp_(advantages.to(self._means.dtype), min(1.0, share / self.AVERAGED_SHARE))
        self._sums += advantages
        train, held_out = self._means
        # Not the quotient: the critic's advantage may be about 0, or negative.
        self.probability += torch.sign((train - held_out) - self.target * train) * share
        self.probability.clamp_(0, self.limit)

    @property
    def at_limit(self) -> bool:
        """Return whether the probability is as high as it can be."""
        return bool(self.probability >= self.probability.new_tensor(self.limit))  # as it is rounded

    def read(self) -> dict[str, float]:
        """Return the probability, and r_v over the calls of `adjust` since the last `read`, if there were any."""
        train, held_out = self._sums.tolist()
        self._sums.zero_()
        ratio = {"r_v": 1 - held_out / train} if train > 0 else {}
        return {"augmentation_probability": float(self.probability), **ratio}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"probability": self.probability, "means": self._means, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load it in place. What an earlier version did not keep starts afresh."""
        self.probability.copy_(state["probability"])
        for name, values in {"means": self._means, "sums": self._sums}.items():
            values.copy_(state[name] if "means" in state else torch.zeros(2))


def with_rand(operation: Operation, rand: Rand) -> Callable[[Tensor], Tensor]:
    """Return an operation as a function of images alone, which passes `rand` on if the operation takes it."""
    called = operation.forward if isinstance(operation, torch.nn.Module) else operation
    try:
        takes_rand = "rand" in inspect.signature(called).parameters
    except ValueError:  # a builtin such as torch.sin has no signature
        takes_rand = False
    return partial(operation, rand=rand) if takes_rand else operation


def _shifted(side: int, number: int, images: Tensor, rand: Rand) -> Tensor:
    """Return which places along a side, `(N, side)` int64, are at 0, 1, 2, … after a random shift of each image."""
    limit = max(1, round(side / 8))
    shifts = _integers(2 * limit + 1, number, images, rand) - limit
    places = (shifts[:, None] + torch.arange(side, device=images.device)).abs()
    return torch.minimum(places, 2 * (side - 1) - places)


def _uniform(images: Tensor, rand: Rand) -> Tensor:
    """Draw a number in [0, 1) for each image, `(N, 1, 1, 1)`."""
    return rand((len(images), 1, 1, 1), device=images.device, dtype=images.dtype)


def _integers(limit: int, number: int, images: Tensor, rand: Rand) -> Tensor:
    # float32, as not every device has float64; a product of numbers below 1 never rounds up to the limit
    return (limit * rand((number,), device=images.device, dtype=torch.float32)).long()
