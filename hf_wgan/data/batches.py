"""The order of the training images, and normalised batches of them on the device."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from ..utils.errors import InputError
from ..utils.memory import free_memory
from .config import DataConfig
from .images import TOUCHED_PER_IMAGE, ImageSet

BATCHES_AHEAD = 3
BLOCK_BYTES = 1 << 26  # copied to the device at once


class Batch(NamedTuple):
    """On the device."""

    images: torch.Tensor  # (batch_size, C, H, W) float32 in [-1, 1]
    labels: torch.Tensor | None  # (batch_size,) int64


class RealBatches(Iterator[Batch]):
    """An endless stream of batches.

    The images are visited in one random permutation an epoch, each the outcome of the seed and the epoch's number
    alone, laid end to end: no image is left out of an epoch, and every batch is full. Batch k takes the same images
    however many processes share it, each its own part, so the stream can be taken up at any `position`.

    A set that fits goes to an accelerator whole, with the order of an epoch, and is indexed there: no batch waits for
    the device. On a CPU it is indexed where the system has mapped it, once for all processes. Of a larger set the next
    batches are read ahead while the networks work.

    Args:
        dataset: The images.
        batch_size: Images a batch, for each process.
        seed: Of the permutations, crops and flips.
        device: Where batches are made.
        num_processes: How many processes share a batch.
        process_index: Which of them this is, from 0.
        resident: Whether the device holds the whole set; by default if it fits there, and the device is no CPU.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        num_processes: int = 1,
        process_index: int = 0,
        resident: bool | None = None,
    ):
        self.position = 0  # batches drawn so far
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.device = torch.device(device)
        self.num_processes, self.process_index = num_processes, process_index
        self.draw_from(None)
        config = dataset.config or DataConfig()
        self.random_flip = config.random_flip
        limit = config.memory_limit_gb
        self.memory_limit = free_memory(self.device) / 2 if limit is None else limit * 1e9
        self._labels = None if dataset.labels is None else dataset.labels.to(self.device)
        self._touched = 0
        fits = dataset.num_bytes <= self.memory_limit
        if resident is None:
            resident = fits and dataset.is_square and self.device.type != "cpu"
        self._resident = copied(dataset, self.device) if resident else None
        self._reader = (
            None if self._resident is not None or (fits and self.device.type == "cpu") else ThreadPoolExecutor(1)
        )

    def draw_from(self, mask: np.ndarray | None) -> None:
        """Draw some of the images alone from now on.

        Args:
            mask: `(N,)` bool; None stands for all images.

        Raises:
            InputError: A batch has more images.
        """
        self._drawn = np.arange(len(self.dataset)) if mask is None else np.flatnonzero(mask)
        if not 1 <= self.batch_size * self.num_processes <= len(self._drawn):
            shared = f" in each of {self.num_processes} processes" if self.num_processes > 1 else ""
            number = f"the number of images, {len(self._drawn)}"
            raise InputError(f"train_batch_size={self.batch_size}{shared}: must be between 1 and {number}")
        self._permutations: dict[int, np.ndarray] = {}
        self._orders: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # of epochs, on the device
        self._ahead: dict[int, Future] = {}

    @property
    def class_labels(self) -> torch.Tensor | None:
        """Return the labels of all images, `(N,)` int64; None if there are none."""
        return self.dataset.labels

    def indices(self, position: int) -> np.ndarray:
        """Return the numbers of the images that this process takes in batch `position`, `(batch_size,)` int64."""
        start = self._start(position)
        epochs, offsets = np.divmod(np.arange(start, start + self.batch_size), len(self._drawn))
        return np.concatenate(
            [self._permutation(int(epoch))[offsets[epochs == epoch]] for epoch in range(epochs[0], epochs[-1] + 1)]
        )

    def batch(self, position: int) -> Batch:
        """Return a batch by its number from 0; epoch e of N images begins in batch `e * N // (num_processes * B)`."""
        pixels = self._pixels(position)
        labels = None if self._labels is None else self._labels[self._places(position)[0]]
        return Batch(normalised(pixels), labels)

    def go_to(self, num_images: int) -> None:
        """Continue after a number of images of all processes; after a change of the batch size, some come once more."""
        self.position = num_images // (self.batch_size * self.num_processes)

    def __next__(self) -> Batch:
        batch = self.batch(self.position)
        self.position += 1
        return batch

    def _pixels(self, position: int) -> torch.Tensor:
        """Return the images of a batch, `(batch_size, C, H, W)` uint8 on the device."""
        if self._resident is not None:
            places, are_mirrored = self._places(position)
            pixels = self._resident[places]
            if self.random_flip:
                pixels = torch.where(are_mirrored[:, None, None, None], pixels.flip(3), pixels)
            return pixels
        if self._reader is None:
            return self._read(position, self.indices(position))
        self._ahead = {at: read for at, read in self._ahead.items() if at >= position}
        for at in range(position, position + BATCHES_AHEAD):
            if at not in self._ahead:
                self._ahead[at] = self._reader.submit(self._read, at, self.indices(at))
        return self._ahead.pop(position).result().to(self.device, non_blocking=True)

    def _read(self, position: int, indices: np.ndarray) -> torch.Tensor:
        uniform = self._uniform(self._start(position), self.batch_size)
        images = self.dataset.gather(indices, uniform[:, :2])
        pixels = torch.from_numpy(mirrored(images, uniform[:, 2] < 0.5) if self.random_flip else images)
        pixels = pixels.permute(0, 3, 1, 2)
        if self._reader is not None:
            self._touched += self.batch_size * TOUCHED_PER_IMAGE + pixels.numel()
            if self._touched > self.memory_limit / 2:
                self.dataset.release()
                self._touched = 0
        return self._pinned(pixels)

    def _places(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the numbers of the images of a batch, `(batch_size,)`, and whether each is mirrored, on the device."""
        start, size = self._start(position), len(self._drawn)
        parts = []
        for epoch in range(start // size, (start + self.batch_size - 1) // size + 1):
            begin, end = (max(start + offset - epoch * size, 0) for offset in (0, self.batch_size))
            parts.append([values[begin:end] for values in self._order(epoch)])
        numbers, are_mirrored = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts))
        return numbers, are_mirrored

    def _order(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the order of an epoch to the device, once."""
        if epoch not in self._orders:
            size = len(self._drawn)
            are_mirrored = self._uniform(epoch * size, size)[:, 2] < 0.5
            numbers = self._to_device(torch.from_numpy(self._permutation(epoch)))
            self._orders = {at: order for at, order in self._orders.items() if abs(at - epoch) <= 1}
            self._orders[epoch] = numbers, self._to_device(torch.from_numpy(are_mirrored))
        return self._orders[epoch]

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor to the device while the device works on."""
        return self._pinned(tensor).to(self.device, non_blocking=True)

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor from where a GPU copies it by itself."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _uniform(self, start: int, count: int) -> np.ndarray:
        """Return `(count, 4)` random numbers in [0, 1) for the images from a place on in the order of all images.

        They do not depend on an image's process: the generator counts, four numbers per count, and can begin at any.
        """
        bits = np.random.Philox(np.random.SeedSequence(self.seed)).advance(start)
        return np.random.Generator(bits).random((count, 4))

    def _start(self, position: int) -> int:
        return (position * self.num_processes + self.process_index) * self.batch_size

    def _permutation(self, epoch: int) -> np.ndarray:
        permutation = self._permutations.get(epoch)
        if permutation is None:
            permutation = self._drawn[np.random.default_rng([self.seed, epoch]).permutation(len(self._drawn))]
            self._permutations = {at: kept for at, kept in self._permutations.items() if abs(at - epoch) <= 1}
            self._permutations[epoch] = permutation
        return permutation


def copied(dataset: ImageSet, device: torch.device) -> torch.Tensor:
    """Copy all images to a device, `(N, C, H, W)` uint8, a block at a time: the host never holds a second copy."""
    channels, height, width = dataset.shape
    pixels = torch.empty(len(dataset), height, width, channels, dtype=torch.uint8, device=device)
    for numbers in np.array_split(np.arange(len(dataset)), -(-pixels.nbytes // BLOCK_BYTES)):
        block = dataset.gather(numbers, np.zeros((len(numbers), 2)))
        pixels[int(numbers[0]) : int(numbers[-1]) + 1] = torch.from_numpy(block)
    dataset.release()
    return pixels.permute(0, 3, 1, 2)


def mirrored(images: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Mirror some of the images `(N, H, W, C)` from left to right."""
    return np.where(which[:, None, None, None], images[:, :, ::-1], images)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Convert images `(N, C, H, W)` from uint8 to float32 in [-1, 1] on their device."""
    return pixels.float().div_(127.5).sub_(1)
