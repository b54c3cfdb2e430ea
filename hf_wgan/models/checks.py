"""Checks of arguments and shapes that all networks share, so that their messages are the same."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..utils.errors import InputError

MOST_PARAMETERS = 2**32  # 16 GiB in float32


def check_at_least(name: str, value: Any, smallest: int, largest: int = 2**16) -> None:
    """Check that a value is a whole number in a range. The default maximum refuses nonsense before it takes memory."""
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        raise InputError(f"{name}={value!r}: must be a whole number from {smallest} to {largest}")


def check_num_parameters(network: Any, about: int) -> None:
    """Check the approximate number of parameters, before the network is built."""
    if about > MOST_PARAMETERS:
        raise InputError(
            f"{type(network).__name__} with {about:.1e} parameters: must have at most {MOST_PARAMETERS:.1e}"
        )


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices or type(value) not in map(type, choices):  # 8.0 and True are no sizes
        raise InputError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")


def check_classes(num_classes: Any, class_names: Any = None, class_frequencies: Any = None) -> None:
    """Check the number of classes and, unless they are left out, that there is a name and a frequency for each."""
    if num_classes is not None:
        check_at_least("num_classes", num_classes, 1)
    if class_names is not None:
        if not isinstance(class_names, (list, tuple)) or not all(isinstance(name, str) for name in class_names):
            raise InputError(f"class_names={class_names!r}: must be a list of strings")
        name, count = Counter(class_names).most_common(1)[0] if class_names else ("", 0)
        if count > 1:
            raise InputError(f"class_names: {name!r} names {count} classes; give each a name of its own")
        _check_one_for_each_class("class_names", class_names, num_classes)
    if class_frequencies is not None:
        if not isinstance(class_frequencies, (list, tuple)) or not _are_frequencies(class_frequencies):
            raise InputError(
                f"class_frequencies={class_frequencies!r}: must be a list of numbers of at least 0, not all of them 0"
            )
        _check_one_for_each_class("class_frequencies", class_frequencies, num_classes)


def has_clusters(config: Mapping[str, Any]) -> bool:
    """Return whether the classes in the config of a network are clusters: without names, drawn by their frequencies."""
    return bool(config.get("class_frequencies")) and not config.get("class_names")


def _are_frequencies(values: Sequence[Any]) -> bool:
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return are_numbers and all(0 <= value < math.inf for value in values) and sum(values) > 0


def _check_one_for_each_class(name: str, values: Sequence[Any], num_classes: Any) -> None:
    if len(values) != num_classes:
        raise InputError(f"{len(values)} {name} for num_classes={num_classes}: give one for each class")


def height_and_width(sample_size: Any) -> tuple[int, int]:
    """Return the sides of `sample_size=32` or `sample_size=(32, 64)`, which JSON turns into a list."""
    sides = list(sample_size) if isinstance(sample_size, (list, tuple)) else [sample_size] * 2
    if len(sides) != 2:
        raise InputError(f"sample_size={sample_size!r}: must be a whole number or two of them, (height, width)")
    for side in sides:
        check_at_least("sample_size", side, 1)
    return sides[0], sides[1]


def coarsest_map(sample_size: Any, multiple_of: int, largest: int) -> tuple[int, int, int]:
    """Return how often images are halved, and the height and width that remain: multiples of 4.

    Both sides are halved as often as the smaller power of two in them allows: 32 × 32 three times to 4 × 4, 32 × 64
    three times to 4 × 8, 96 × 96 three times to 12 × 12.
    """
    height, width = height_and_width(sample_size)
    for side in (height, width):
        if side % multiple_of or side > largest:
            raise InputError(
                f"sample_size={sample_size!r}: height and width must be multiples of {multiple_of}, up to {largest}; "
                "choose such a size, or the MLP networks for any other"
            )
    common = math.gcd(height, width)
    halvings = (common & -common).bit_length() - 3  # the power of two in both, without the 4 that is left
    return halvings, height >> halvings, width >> halvings


def check_latents(latents: torch.Tensor, latent_dim: int) -> None:
    if latents.ndim != 2 or latents.shape[1] != latent_dim:
        raise InputError(f"latents of shape {tuple(latents.shape)}: must be (N, {latent_dim})")


def check_images(images: torch.Tensor, channels: int, sample_size: Any) -> None:
    height, width = height_and_width(sample_size)
    if images.shape[1:] != (channels, height, width):
        raise InputError(f"images of shape {tuple(images.shape)}: must be (N, {channels}, {height}, {width})")


def check_labels(
    class_labels: torch.Tensor | None, num_images: int, num_classes: int | None, are_mixed: bool = False
) -> None:
    """Check the shape and dtype of class labels only: checking values would synchronise with the device.

    `num_images` is a size from a shape, because `torch.export` takes the result of `len` for a constant. Where classes
    `are_mixed`, labels can also be their weights, `(N, num_classes)` floating.
    """
    if num_classes is None:
        if class_labels is not None:
            raise InputError(
                "class_labels were given, but the network has no classes (num_classes=None): leave them out"
            )
    elif class_labels is None:
        raise InputError(
            f"class_labels are missing: the network has {num_classes} classes; give one label for each image, (N,)"
        )
    elif not isinstance(class_labels, torch.Tensor):
        raise InputError(f"class_labels of type {type(class_labels).__name__}: must be a tensor ({num_images},), int64")
    elif are_mixed and class_labels.is_floating_point() and class_labels.shape == (num_images, num_classes):
        pass
    elif class_labels.dtype != torch.int64 or class_labels.shape != (num_images,):
        kind = str(class_labels.dtype).removeprefix("torch.")
        raise InputError(f"class_labels of shape {tuple(class_labels.shape)}, {kind}: must be ({num_images},), int64")
