"""Random numbers of a global batch, the same however processes and accumulation steps divide it; and of an image, the
same whatever is made with it."""

from typing import Any

import torch
from torch import Tensor


class Draws:
    """What `torch.rand` and `torch.randn` would draw for the whole batch, and of it this process's part.

    A batch of `num_parts · num_processes` shares is drawn whole, and one share of it kept: share
    `part · num_processes + process_index`, as `RealBatches` divides the images.

    Args:
        device: Where the numbers are drawn.
        num_processes: How many processes share a batch.
        process_index: Which of them this is, from 0.
        num_parts: How many parts each process takes one after the other (gradient accumulation).
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
        """Everything drawn from here on follows from this number."""
        self.rng.manual_seed(seed)

    def begin(self, part: int) -> None:
        """To be called before each part of an update. All parts draw the same numbers, and keep others of them."""
        if self._num_parts > 1:
            if part == 0:
                self._at_first_part = self.rng.get_state()
            else:
                self.rng.set_state(self._at_first_part)
        self._share = part * self._num_processes + self._process_index

    def rand(self, shape: tuple[int, ...], **options: Any) -> Tensor:
        """Uniform in [0, 1); `shape` is this part's, and `options` are those of `torch.rand`."""
        return self._own(torch.rand(self._whole(shape), generator=self.rng, **options), shape)

    def randn(self, shape: tuple[int, ...], **options: Any) -> Tensor:
        """Standard normal; `shape` is this part's, and `options` are those of `torch.randn`."""
        return self._own(torch.randn(self._whole(shape), generator=self.rng, **options), shape)

    def _whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self._num_shares * shape[0], *shape[1:])

    def _own(self, whole: Tensor, shape: tuple[int, ...]) -> Tensor:
        return whole[self._share * shape[0] :][: shape[0]]


def seeded(first: int, number: int) -> list[torch.Generator]:
    """One for each image: image k of a seed is made from the seed plus k."""
    return [torch.Generator().manual_seed(first + index) for index in range(number)]
