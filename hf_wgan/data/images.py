"""A set of decoded training images, wherever its pixels lie."""

import hashlib
import mmap

import numpy as np
import torch

from ..utils.errors import InputError
from .cache import Cached
from .config import DataConfig

TOUCHED_PER_IMAGE = 1 << 17  # bytes that reading one image from a memory map brings in beside its own, about


class ImageSet:
    """Training images, uint8, with their labels.

    Args:
        images: `(N, C, H, W)` uint8.
        name: What to call the dataset in logs and cards.
        labels: `(N,)` whole numbers, if there are any.
        label_names: What each label means, if that is known.
        config: Where they came from and what batches do with them (`random_flip`, `memory_limit_gb`).

    Raises:
        InputError: the images are of another type or shape, or there are none.
    """

    def __init__(
        self,
        images: torch.Tensor,
        name: str = "images",
        labels: torch.Tensor | None = None,
        label_names: list[str] | None = None,
        config: DataConfig | None = None,
    ):
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
            raise InputError(
                f"images of type {images.dtype} and shape {tuple(images.shape)}: must be torch.uint8, (N, C, H, W), "
                "and at least one"
            )
        if labels is not None and labels.shape != (len(images),):
            raise InputError(f"labels of shape {tuple(labels.shape)} for {len(images)} images: must be one an image")
        self._pixels = images.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()
        self._sizes: np.ndarray | None = None
        self._order = np.arange(len(images))
        self._starts = np.zeros(0, np.int64)  # of each image in the pixels, where sizes differ
        self._labels = None if labels is None else labels.cpu().numpy().astype(np.int64)
        self.name, self.label_names = name, label_names
        self.config = config
        self.shape = tuple(images.shape[1:])
        digest = hashlib.sha256(repr(images.shape).encode())
        digest.update(self._pixels.data)
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_cache(cls, cached: Cached, name: str, config: DataConfig) -> "ImageSet":
        """The images of a cache, in the order of their content."""
        resolution = config.resolution
        images = cls.__new__(cls)
        images._pixels, images._sizes, images._order = cached.pixels, cached.sizes, cached.order
        images._labels, images.label_names = cached.labels, cached.label_names
        images.name, images.fingerprint = name, cached.fingerprint
        images.config = config
        images.shape = (cached.channels, resolution, resolution)
        if images._sizes is None and cached.pixels.shape[1:3] != (resolution, resolution):
            # All of one size, but not square: crops are taken as from any.
            images._sizes = np.tile(np.array(cached.pixels.shape[1:3], np.int32), (len(cached.pixels), 1))
            images._pixels = cached.pixels.reshape(-1)
        if images._sizes is not None:
            lengths = images._sizes.astype(np.int64).prod(1) * cached.channels
            images._starts = np.concatenate([[0], np.cumsum(lengths)])
        return images

    def __len__(self) -> int:
        return len(self._order)

    @property
    def num_bytes(self) -> int:
        return self._pixels.nbytes

    @property
    def is_square(self) -> bool:
        """Whether every image is what training needs, and none has yet to be cropped at random."""
        return self._sizes is None

    @property
    def labels(self) -> torch.Tensor | None:
        """`(N,)` int64, or None."""
        return None if self._labels is None else torch.from_numpy(self._labels[self._order])

    @property
    def images(self) -> torch.Tensor:
        """All of them at once, `(N, C, H, W)` uint8; those not square are cropped to the middle."""
        middles = np.full((len(self), 2), 0.5)
        return torch.from_numpy(self.gather(np.arange(len(self)), middles)).permute(0, 3, 1, 2)

    def gather(self, indices: np.ndarray, crops: np.ndarray) -> np.ndarray:
        """Some of the images, cropped to squares.

        Args:
            indices: `(B,)`.
            crops: `(B, 2)` in [0, 1]: where the square lies between the top and the bottom, and the left and the
                right. Without effect on square images.

        Returns:
            `(B, H, W, C)` uint8.
        """
        places = self._order[indices]
        if self._sizes is None:
            return np.asarray(self._pixels[places])
        channels, side, _ = self.shape
        out = np.empty((len(places), side, side, channels), np.uint8)
        tops, lefts = np.rint((self._sizes[places] - side) * crops).astype(int).T
        for row, (place, top, left) in enumerate(zip(places, tops, lefts)):
            image = self._pixels[self._starts[place] : self._starts[place + 1]]
            image = image.reshape(*self._sizes[place], channels)
            out[row] = image[top : top + side, left : left + side]
        return out

    def release(self) -> None:
        """Drops what reading a memory-mapped cache has left in this process's memory; it stays in the system's."""
        mapping = getattr(self._pixels.base, "_mmap", None) or getattr(self._pixels, "_mmap", None)
        if isinstance(mapping, mmap.mmap):
            mapping.madvise(mmap.MADV_DONTNEED)
