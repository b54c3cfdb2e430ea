"""Random numbers that depend on the seed alone, not on how a batch is divided or on the other images in it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class SharedRandom:
    """Draw the random numbers of a whole batch and keep this process's share of them.

    A batch is drawn whole, in `num_parts · num_processes` shares, of which share
    `part · num_processes + process_index` is kept, as `RealBatches` divides the images. N processes with batch size B
    therefore see the same numbers as one process with batch size N·B.

    Args:
        device: Where the numbers are drawn.
        num_processes: Number of processes that share a batch.
        process_index: Index of this process, from 0.
        num_parts: Number of parts that each process takes in turn (gradient accumulation).
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        num_processes: int = 1,
        process_index: int = 0,
        num_parts: int = 1,
    ):
        self.rng = torch.Generator(device)
        self._num_shares, self._share = num_processes * num_parts, process_index
        self._num_processes, self._process_index, self._num_parts = num_processes, process_index, num_parts
        self._at_first_part = self.rng.get_state()

    def seed(self, seed: int) -> None:
        """Set the seed of everything that is drawn from here on."""
        self.rng.manual_seed(seed)

    def begin(self, part: int) -> None:
        """Start a part of an update. Every part draws the same numbers and keeps other ones."""
        if self._num_parts > 1:
            if part == 0:
                self._at_first_part = self.rng.get_state()
            else:
                self.rng.set_state(self._at_first_part)
        self._share = part * self._num_processes + self._process_index

    def rand(self, shape: tuple[int, ...], **options: Any) -> Tensor:
        """Draw uniform numbers in [0, 1) of this part's shape, with the options of `torch.rand`."""
        return self._share_of(torch.rand(self._whole(shape), generator=self.rng, **options), shape)

    def randn(self, shape: tuple[int, ...], **options: Any) -> Tensor:
        """Draw standard normal numbers of this part's shape, with the options of `torch.randn`."""
        return self._share_of(torch.randn(self._whole(shape), generator=self.rng, **options), shape)

    def _whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self._num_shares * shape[0], *shape[1:])

    def _share_of(self, whole: Tensor, shape: tuple[int, ...]) -> Tensor:
        return whole[self._share * shape[0] :][: shape[0]]


def seeded(first: int, number: int) -> list[torch.Generator]:
    """Return one source of random numbers for each image: image k of a seed is made from the seed plus k."""
    return [torch.Generator().manual_seed(first + index) for index in range(number)]


def seed_default(device: torch.device, seed: int) -> None:
    """Set the seed of PyTorch's own random numbers on the CPU and a device, for networks with dropout.

    `torch.manual_seed` does the same for every kind of device there is, and takes 80 times as long.
    """
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def mixed_seed(*entropy: int) -> int:
    """Return one well-mixed seed of several numbers."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
