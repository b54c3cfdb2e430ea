"""The IDX files of the MNIST family (LeCun et al. 1998), gzipped or not, under all the names they have."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from ..utils.errors import InputError, one_line

PREFIXES = {"train": "train", "test": "t10k"}
# The original names, those that a download or Kaggle leaves, and those of sets with a prefix of their own (EMNIST).
PATTERNS = ("{}-images-idx3-ubyte", "{}-images.idx3-ubyte", "*{}-images-idx3-ubyte", "*{}-images.idx3-ubyte")


def find_images(folder: Path, split: str) -> Path | None:
    """Return the file with the images of a split, if a folder holds one."""
    for prefix in dict.fromkeys((PREFIXES.get(split, split), split)):
        for pattern in PATTERNS:
            for ending in ("", ".gz"):
                for path in sorted(folder.glob(pattern.format(_escaped(prefix)) + ending)):
                    if path.is_file():
                        return path
    return None


def num_dimensions(path: Path) -> int | None:
    """Return the number of dimensions of an IDX file of bytes, or None if it is no such file."""
    with open(path, "rb") as file:
        magic = file.read(2)
    try:
        with gzip.open(path) if magic == b"\x1f\x8b" else open(path, "rb") as file:
            head = file.read(4)
    except (OSError, EOFError, zlib.error):
        return None
    return head[3] if len(head) == 4 and head[:3] == b"\x00\x00\x08" else None


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read images `(N, H, W)` or `(N, H, W, C)` uint8, and the labels `(N,)` that lie beside them under their name.

    Raises:
        InputError: A file is damaged or no such file, or they do not belong together.
    """
    images = _read(path)
    if images.ndim not in (3, 4):
        raise InputError(
            f"dataset_name={str(path)!r}: holds {images.ndim} dimensions, not (N, H, W); are these labels?"
        )
    labels_path = find_labels(path)
    if labels_path is None:
        return images, None
    labels = _read(labels_path)
    if labels.shape != (len(images),):
        raise InputError(f"{labels_path} has {labels.size} labels for {len(images)} images")
    return images, labels.astype(np.int64)


def find_labels(path: Path) -> Path | None:
    """Return the file with the labels of a file of images, if one lies beside it."""
    for other in ("labels-idx1", "labels.idx1"):
        name = path.name.replace("images-idx3", other).replace("images.idx3", other)
        for candidate in (name, name.removesuffix(".gz"), f"{name}.gz"):
            labels_path = path.with_name(candidate)
            if labels_path != path and labels_path.is_file():
                return labels_path
    return None


def _read(path: Path) -> np.ndarray:
    dimensions = num_dimensions(path)
    if dimensions is None:
        raise InputError(f"{path} is no IDX file of bytes")
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path} is damaged ({one_line(error)})") from error
    start = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:start], dtype=">u4").astype(np.int64)
    if len(shape) != dimensions or len(data) - start != shape.prod():
        raise InputError(f"{path} is damaged: {len(data) - start:,} bytes for images of shape {tuple(shape.tolist())}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _escaped(prefix: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in prefix)
