"""The order of the training images, and batches of them on the device."""

from collections.abc import Iterator

import numpy as np
import torch

from ..errors import InputError
from .images import ImageSet


class RealBatches(Iterator[torch.Tensor]):
    """An endless stream of batches `(batch_size, C, H, W)` in [-1, 1], float32, on the device.

    The images are visited in one random permutation an epoch, each the outcome of the seed and the epoch's number
    alone, laid end to end: no image is left out of an epoch, and every batch is full. Batch k takes the same images
    however many processes share it, each its own part, so the stream can be taken up at any `position`.

    Args:
        dataset: The images; the uint8 pixels are moved to the device whole, once.
        batch_size: Images a batch, for each process.
        seed: Of the permutations.
        device: Where batches are made.
        num_processes: How many processes share a batch.
        process_index: Which of them this is, from 0.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        num_processes: int = 1,
        process_index: int = 0,
    ):
        if not 1 <= batch_size * num_processes <= len(dataset):
            shared = f" in each of {num_processes} processes" if num_processes > 1 else ""
            raise InputError(
                f"train_batch_size={batch_size}{shared}: must be between 1 and the number of images, {len(dataset)}"
            )
        self.position = 0  # batches drawn so far
        self.batch_size = batch_size
        self.num_images = len(dataset)
        self.seed = seed
        self.num_processes, self.process_index = num_processes, process_index
        self.pixels = dataset.images.to(device)
        self._permutations: dict[int, np.ndarray] = {}

    def indices(self, position: int) -> torch.Tensor:
        """Which images this process takes in batch `position`: `(batch_size,)` int64."""
        start = (position * self.num_processes + self.process_index) * self.batch_size
        epochs, offsets = np.divmod(np.arange(start, start + self.batch_size), self.num_images)
        chosen = [self._permutation(int(epoch))[offset] for epoch, offset in zip(epochs, offsets)]
        return torch.tensor(np.array(chosen))

    def __next__(self) -> torch.Tensor:
        indices = self.indices(self.position).to(self.pixels.device)
        self.position += 1
        return self.pixels[indices].float() / 127.5 - 1

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            self._permutations = {k: v for k, v in self._permutations.items() if k >= epoch - 1}
            self._permutations[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
        return self._permutations[epoch]
