"""From a cell of a table to an image: bytes, paths, addresses, arrays, or images that are decoded already.

A cell is written by whoever made the dataset. It can name a file of this machine only inside the dataset's own folders.
"""

import os
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.utils.file_utils import xopen
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image

from .decode import MAX_FILE_BYTES, Picture, read_file
from .labels import printable

TIMEOUT_SECONDS = 30
REMOTE = ("http", "https", "hf", "s3", "gs")


@dataclass(frozen=True)
class Reach:
    """The local files that cells of a dataset may name.

    Args:
        folders: Folders of the dataset; files elsewhere are not read. Relative paths start at the first one.
        anywhere: Whether the dataset was put together in this process, by someone who may read any file.
    """

    folders: tuple[str, ...] = ()
    anywhere: bool = False

    def local(self, path: str) -> str:
        """Return the path of a local file.

        Raises:
            ValueError: It lies outside the dataset.
        """
        path = os.path.join(self.folders[0], path) if self.folders else path
        real = os.path.realpath(path)
        if not self.anywhere and not any(_is_within(real, folder) for folder in self.folders):
            raise ValueError("it names a file outside the dataset's own folder, which is not read")
        return path


@dataclass(frozen=True)
class Cells:
    """Reads the cells of an image column.

    Args:
        reach: The local files that they may name.
        dtype: The type of the numbers, for a column of arrays.
    """

    reach: Reach
    dtype: str | None = None

    def picture(self, cell: Any, place: str) -> Picture:
        """Return the name of an image and what `decode` takes, or the error of reading it."""
        try:
            if isinstance(cell, dict) and "path" in cell and cell["path"] is not None:
                place = f"{place} ({printable(str(cell['path']))})" if cell.get("bytes") else printable(cell["path"])
            elif isinstance(cell, str):
                place = printable(cell)[:200]
            return place, self._payload(cell)
        except Exception as error:  # of file systems, and of whatever reads an address
            return place, error

    def _payload(self, cell: Any) -> Any:
        if isinstance(cell, dict):
            content, path = cell.get("bytes"), cell.get("path")
            if content is not None:
                return bytes(content)
            return None if path is None else self._read(path)
        if cell is None or isinstance(cell, (bytes, Image.Image)):
            return cell
        if isinstance(cell, (bytearray, memoryview)):
            return bytes(cell)
        if isinstance(cell, str):
            return self._read(cell)
        if isinstance(cell, Sequence) and any(not isinstance(value, (int, float, Sequence)) for value in cell[:1]):
            raise ValueError("it is a list of images; a cell must hold one image")
        if hasattr(cell, "detach"):
            cell = cell.detach().cpu()
        return np.asarray(cell, dtype=self.dtype)

    def _read(self, path: str) -> Any:
        inner, _, outer = path.rpartition("::")
        protocol, separator, rest = outer.partition("://")
        if separator and protocol == "file":
            protocol, separator, outer = "", "", rest
        if separator:
            if protocol not in REMOTE:
                raise ValueError(f"an address of {protocol!r} is not read, only of {', '.join(REMOTE)}")
            if protocol in ("http", "https") and not inner:
                return _download(path)
            with xopen(path, "rb", download_config=datasets.DownloadConfig()) as file:
                return _limited(file.read(MAX_FILE_BYTES + 1))
        outer = self.reach.local(outer)
        if not inner:
            return outer if os.path.exists(outer) else read_file(outer)
        if not inner.startswith("zip://") or "::" in inner:
            raise ValueError("of archives only ZIP files are read")
        with zipfile.ZipFile(outer) as archive:
            member = archive.getinfo(inner.removeprefix("zip://"))
            if member.file_size > MAX_FILE_BYTES:
                raise ValueError(f"it has {member.file_size:,} bytes, over the limit of {MAX_FILE_BYTES:,}")
            return archive.read(member)


def image_columns(features: datasets.Features) -> list[str]:
    """Return the columns that can only hold images, the surest kind alone: images, then encoded files, then arrays."""
    for is_kind in (_is_image, _is_encoded, _is_array):
        if columns := [name for name, feature in features.items() if is_kind(feature)]:
            return columns
    return []


def can_hold_images(feature: Any) -> bool:
    """Return whether a column that is named as the image column can be one."""
    return is_text(feature) or any(is_kind(feature) for is_kind in (_is_image, _is_encoded, _is_array))


def is_text(feature: Any) -> bool:
    """Return whether a column holds text; the datasets library reads that of CSV files as large strings."""
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def is_numeric(feature: Any) -> bool:
    """Return whether a column holds numbers or booleans."""
    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint", "float", "bool"))


def dtype_of(feature: Any) -> str | None:
    """Return the type of the numbers of a column of arrays."""
    while (inner := getattr(feature, "feature", None)) is not None:
        feature = inner
    return feature.dtype if is_numeric(feature) or isinstance(feature, _ARRAYS) else None


def columns_like_images(row: dict[str, Any]) -> list[str]:
    """Return the columns of a row without declared types that hold an image, the surest kind alone."""
    for is_kind in (_looks_like_image, _looks_encoded, _looks_like_array):
        if columns := [name for name, value in row.items() if is_kind(value)]:
            return columns
    return []


_ARRAYS = (datasets.Array2D, datasets.Array3D)


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image)


def _is_encoded(feature: Any) -> bool:
    if isinstance(feature, dict):
        content = feature.get("bytes")
        return content is not None and _is_encoded(content)
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _is_array(feature: Any) -> bool:
    if isinstance(feature, _ARRAYS):
        return True
    depth = 0
    while isinstance(feature, (datasets.List, datasets.LargeList)):
        feature, depth = feature.feature, depth + 1
    return depth in (2, 3) and is_numeric(feature)


def _looks_like_image(value: Any) -> bool:
    return isinstance(value, Image.Image)


def _looks_encoded(value: Any) -> bool:
    return isinstance(value.get("bytes") if isinstance(value, dict) else value, (bytes, bytearray))


def _looks_like_array(value: Any) -> bool:
    """Return whether a value is an array, a tensor or nested lists of numbers, of two or three dimensions."""
    if not isinstance(value, list):
        return getattr(value, "ndim", 0) in (2, 3)
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth in (2, 3) and isinstance(value, (int, float))


def _is_within(path: str, folder: str) -> bool:
    folder = os.path.realpath(folder)
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _download(address: str) -> bytes:
    """Return the content of an address of the web; fsspec would need another package for it."""
    if datasets.config.HF_HUB_OFFLINE:
        raise ConnectionError("addresses are not read while HF_HUB_OFFLINE is set")
    request = urllib.request.Request(address, headers={"User-Agent": "hf_wgan"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as file:
        return _limited(file.read(MAX_FILE_BYTES + 1))


def _limited(content: bytes) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it has over {MAX_FILE_BYTES:,} bytes")
    return content


def reach_of(dataset: Any) -> Reach:
    """Return what a dataset that was passed from Python may read: any file, unless it was made by a repository."""
    for file in getattr(dataset, "cache_files", None) or []:
        path = Path(file["filename"])
        for parent in path.parents:
            if "___" in parent.name and path.is_relative_to(datasets.config.HF_DATASETS_CACHE):
                return hub_reach(parent.name.replace("___", "/"))
    return Reach(anywhere=True)


def hub_reach(name: str) -> Reach:
    """Return what a dataset of the Hub may read: its own files in the caches of the Hugging Face libraries."""
    folder = Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
    return Reach((str(folder), str(datasets.config.DOWNLOADED_DATASETS_PATH)))
