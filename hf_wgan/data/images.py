"""A set of decoded training images, in memory or on the disk."""

import copy
import hashlib
import mmap
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from ..utils.errors import InputError
from .cache import Cached, discard
from .config import DataConfig
from .labels import UNLABELLED

TOUCHED_PER_IMAGE = 1 << 17  # bytes that reading one image from a memory map brings in beside its own, about


class ImageSet:
    """Training images, uint8, with their labels.

    Args:
        images: `(N, C, H, W)` uint8.
        name: What to call the dataset in logs and cards.
        labels: `(N,)` whole numbers from 0, or -1 of an image without a label; None without labels.
        label_names: The name of each class, if that is known.
        config: Where they came from, how their values were read (`value_range`), and what batches do with them
            (`random_flip`, `memory_limit_gb`).

    Attributes:
        left_out: How many files or rows of the source are not used, by reason.

    Raises:
        InputError: The images or labels are of another type or shape, there are no images, or labels have no name.
    """

    # Labels and their names before there were clusters, and what tells these in the fingerprint.
    _before_clusters: tuple[np.ndarray | None, list[str] | None, str] | None = None

    def __init__(
        self,
        images: torch.Tensor,
        name: str = "images",
        labels: torch.Tensor | None = None,
        label_names: list[str] | None = None,
        config: DataConfig | None = None,
    ):
        if not isinstance(images, torch.Tensor):
            raise InputError(f"images of type {type(images).__name__}: must be a torch.uint8 tensor (N, C, H, W)")
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
            raise InputError(
                f"images of type {images.dtype} and shape {tuple(images.shape)}: must be torch.uint8, (N, C, H, W), "
                "and at least one"
            )
        self._pixels = images.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()
        self._sizes: np.ndarray | None = None
        self._order = np.arange(len(images))
        self._starts = np.zeros(0, np.int64)  # of each image in the pixels, where sizes differ
        self._labels = None if labels is None else _numbers(labels, len(images), label_names)
        self.name, self.label_names = name, label_names
        self.config = config
        self.left_out: Counter[str] = Counter()
        self._checksums: np.ndarray | None = None
        self._folder: Path | None = None
        self.shape = tuple(images.shape[1:])
        digest = hashlib.sha256(repr(images.shape).encode())
        digest.update(self._pixels.data)
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_cache(cls, cached: Cached, name: str, config: DataConfig) -> "ImageSet":
        """Return the images of a cache, in the order of their content; classes without an image are dropped."""
        height, width = config.sample_size
        images = cls.__new__(cls)
        images._pixels, images._sizes, images._order = cached.pixels, cached.sizes, cached.order
        images._labels, images.label_names = _present_classes(cached.labels, cached.label_names)
        images.left_out = Counter()
        images._checksums, images._folder = cached.checksums, cached.folder
        images.name, images.fingerprint = name, cached.fingerprint
        images.config = config.with_ranges(shown for _, shown, _ in cached.ranges)
        images.shape = (cached.channels, height, width)
        if images._sizes is None and cached.pixels.shape[1:3] != (height, width):
            # All of one size, but another one: crops are taken as from any.
            images._sizes = np.tile(np.array(cached.pixels.shape[1:3], np.int32), (len(cached.pixels), 1))
            images._pixels = cached.pixels.reshape(-1)
        if images._sizes is not None:
            lengths = images._sizes.astype(np.int64).prod(1) * cached.channels
            images._starts = np.concatenate([[0], np.cumsum(lengths)])
        return images

    def __len__(self) -> int:
        return len(self._order)

    @property
    def _num_stored(self) -> int:
        """Return the number of images of the whole set, of which this may be a part."""
        return len(self._pixels) if self._sizes is None else len(self._sizes)

    @property
    def num_bytes(self) -> int:
        return self._pixels.nbytes

    @property
    def is_square(self) -> bool:
        """Return whether every image is what training needs, and none has yet to be cropped at random."""
        return self._sizes is None

    @property
    def label_numbers(self) -> np.ndarray | None:
        """Return the labels, `(N,)` int64, -1 of an image that has none; None if there are none."""
        return None if self._labels is None else self._labels[self._order]

    @property
    def labels(self) -> torch.Tensor | None:
        """Return the labels, `(N,)` int64; None if there are none or an image has none (see `labelled`)."""
        numbers = self.label_numbers
        return None if numbers is None or (numbers == UNLABELLED).any() else torch.from_numpy(numbers)

    @property
    def labels_fingerprint(self) -> str | None:
        """Return a digest of the labels, which `fingerprint` does not depend on; None if there are none."""
        numbers = self.label_numbers
        return None if numbers is None else hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()[:16]

    @property
    def num_classes(self) -> int:
        """Return the number of different labels; 0 if there are none or an image has none."""
        labels = self.labels
        return 0 if labels is None else labels.unique().numel()

    @property
    def has_clusters(self) -> bool:
        """Return whether the labels are clusters, which other images do not have."""
        return self._before_clusters is not None

    @property
    def num_unlabelled(self) -> int:
        """Return the number of images without a label."""
        numbers = self.label_numbers
        return len(self) if numbers is None else int((numbers == UNLABELLED).sum())

    def labelled(self) -> "ImageSet":
        """Return the images that have a label, sharing their pixels with this set; the set itself if all have one.

        Raises:
            InputError: None has.
        """
        numbers = self.label_numbers
        if numbers is None or self.num_unlabelled == len(self):
            raise InputError(f"{self.name} has no labels; set label_column")
        if not self.num_unlabelled:
            return self
        has_label = numbers != UNLABELLED  # which depends on the column of the labels and the classes of a model
        images = self.subset(has_label, f"labelled-{zlib.crc32(has_label.tobytes()):08x}")
        images.left_out = self.left_out + Counter({"without a label": self.num_unlabelled})
        return images

    def subset(self, mask: np.ndarray, name: str) -> "ImageSet":
        """Return the images where a mask `(N,)` is true, sharing their pixels with this set.

        Args:
            mask: `(N,)` bool.
            name: Name of the subset in its fingerprint, different for different masks.
        """
        images = copy.copy(self)
        images._order = self._order[mask]
        images.fingerprint = f"{self.fingerprint}-{name}"
        return images

    def with_clusters(self, numbers: np.ndarray) -> "ImageSet":
        """Return the same images with the numbers of their clusters, `(N,)`, as labels without names."""
        images = copy.copy(self)
        images._labels = np.full(self._num_stored, UNLABELLED, np.int64)
        images._labels[self._order] = numbers
        images.label_names = None
        suffix = f"-clusters-{zlib.crc32(np.asarray(numbers, np.int64).tobytes()):08x}"
        images._before_clusters = self._labels, self.label_names, suffix
        images.fingerprint = self.fingerprint + suffix
        return images

    def without_clusters(self) -> "ImageSet":
        """Return the same images with the labels that they had before; the set itself if it has no clusters."""
        if self._before_clusters is None:
            return self
        images = copy.copy(self)
        images._labels, images.label_names, suffix = self._before_clusters
        images._before_clusters, images.fingerprint = None, self.fingerprint.replace(suffix, "")
        return images

    def relabelled(self, names: list[str]) -> "ImageSet":
        """Return the same images with classes numbered as in another set; images of other classes have no label."""
        if not names or self._labels is None or self.label_names is None or self.label_names == names:
            return self
        numbers = {name: number for number, name in enumerate(names)}
        mapping = np.array([*(numbers.get(name, UNLABELLED) for name in self.label_names), UNLABELLED])
        images = copy.copy(self)
        images._labels, images.label_names = mapping[self._labels], list(names)
        return images

    def of_classes(self, names: list[str]) -> "ImageSet":
        """Return the images of a model's classes, numbered as there; if those have no names, all that have a label.

        Raises:
            InputError: There are none.
        """
        images = self.relabelled(names)
        if images.num_unlabelled == len(images) > self.num_unlabelled:
            ours, theirs = (
                ", ".join([*words[:5], *["…"] * (len(words) > 5)]) for words in (self.label_names or [], names)
            )
            raise InputError(
                f"{self.name}: its classes ({ours}) are none of the model's ({theirs}); name images of those"
            )
        return images.labelled()

    @property
    def images(self) -> torch.Tensor:
        """Return all images at once, `(N, C, H, W)` uint8; those of another size are cropped to the middle."""
        return self.middles(np.arange(len(self)))

    def middles(self, indices: np.ndarray) -> torch.Tensor:
        """Return images by number, `(n, C, H, W)` uint8; those of another size are cropped to the middle."""
        pixels = self.gather(indices, np.full((len(indices), 2), 0.5))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def gather(self, indices: np.ndarray, crops: np.ndarray) -> np.ndarray:
        """Return images by number, cropped to the training size.

        Args:
            indices: `(B,)`.
            crops: `(B, 2)` in [0, 1]: where the square lies between the top and the bottom, and the left and the
                right. Without effect on images of the training size.

        Returns:
            `(B, H, W, C)` uint8.

        Raises:
            InputError: The cache that they are read from is damaged.
        """
        places = self._order[indices]
        if self._checksums is not None:
            self._check(places)
        if self._sizes is None:
            return np.asarray(self._pixels[places])
        channels, height, width = self.shape
        out = np.empty((len(places), height, width, channels), np.uint8)
        tops, lefts = np.rint((self._sizes[places] - (height, width)) * crops).astype(int).T
        for row, (place, top, left) in enumerate(zip(places, tops, lefts)):
            image = self._pixels[self._starts[place] : self._starts[place + 1]]
            image = image.reshape(*self._sizes[place], channels)
            out[row] = image[top : top + height, left : left + width]
        return out

    def _check(self, places: np.ndarray) -> None:
        """Verify the checksum of each image when it is first read."""
        if not hasattr(self, "_checked"):
            self._checked = np.zeros(self._num_stored, bool)
        assert self._checksums is not None
        for place in places[~self._checked[places]]:
            if self._sizes is None:
                pixels = self._pixels[place]
            else:
                pixels = self._pixels[self._starts[place] : self._starts[place + 1]]
            if zlib.crc32(np.ascontiguousarray(pixels).data) != self._checksums[place]:
                if self._folder is not None:
                    discard(self._folder)
                raise InputError(
                    f"{self.name}: the cache of decoded images in {self._folder} is damaged; start again, and the "
                    "images are decoded again"
                )
        self._checked[places] = True

    def release(self) -> None:
        """Drop what reading a memory-mapped cache has left in this process's memory; it stays in the system's."""
        mapping = getattr(self._pixels.base, "_mmap", None) or getattr(self._pixels, "_mmap", None)
        if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            mapping.madvise(mmap.MADV_DONTNEED)


def _numbers(labels: torch.Tensor, num_images: int, names: list[str] | None) -> np.ndarray:
    if not isinstance(labels, torch.Tensor):
        raise InputError(f"labels of type {type(labels).__name__}: must be a tensor ({num_images},) of whole numbers")
    if labels.shape != (num_images,):
        raise InputError(f"labels of shape {tuple(labels.shape)} for {num_images} images: must be one an image")
    values = labels.detach().cpu().numpy()
    with np.errstate(invalid="ignore"):  # NaN, which is refused below
        numbers = values.astype(np.int64)
    lowest, highest = UNLABELLED, len(names) - 1 if names else np.iinfo(np.int64).max
    if len(wrong := values[(numbers != values) | (numbers < lowest) | (numbers > highest)]):
        upper = f" to {highest}, the last of label_names" if names else ""
        raise InputError(f"labels with {wrong[0]}: must be whole numbers from 0{upper}, or -1 for no label")
    return numbers


def _present_classes(labels: np.ndarray | None, names: list[str] | None) -> tuple[np.ndarray | None, list[str] | None]:
    """Return labels and names without the classes that have no image."""
    if labels is None or names is None:
        return labels, names
    present = np.unique(labels[labels >= 0])
    if len(present) == 0:
        return None, None
    if len(present) == len(names):
        return labels, names
    numbers = np.full(len(names) + 1, UNLABELLED, np.int64)
    numbers[present] = np.arange(len(present))
    return numbers[labels], [names[number] for number in present]
