"""Where pictures come from: the Hub, local datasets and folders, IDX files, Python, or scikit-learn's digits.

Nothing is decoded here. A source hands out encoded pictures by number, and a stream in turn.
"""

import gzip
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
from PIL import Image

from ..utils.errors import InputError, one_line
from .config import DataConfig
from .decode import Picture

DIGITS_MARGIN = 1  # pixels of background around the 8×8 digits, which otherwise touch the frame
BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
SAVED_SHARDS = 64  # into which a saved dataset is split for streaming, so that workers can share it
SPLIT_WORDS = ("train", "test", "eval", "dev", "val")  # that name a split where they stand in a path
IDX_PREFIXES = {"train": "train", "test": "t10k"}


class Source(Protocol):
    """Pictures by number."""

    name: str
    fingerprint: str  # changes whenever a picture may have changed

    @property
    def labels(self) -> np.ndarray | None: ...  # (N,) int64

    @property
    def label_names(self) -> list[str] | None: ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> list[Picture]: ...


@dataclass
class Stream:
    """Pictures in turn, with their labels (None where there are none), from a dataset that does not fit a disk."""

    name: str
    dataset: datasets.IterableDataset
    image_column: str
    label_column: str | None

    def pictures(self, dataset: datasets.IterableDataset) -> Iterator[tuple[Picture, int | None]]:
        """Those of the stream, or of a shuffled or sharded version of it."""
        for number, row in enumerate(dataset):
            label = None if self.label_column is None else row[self.label_column]
            yield _picture(row[self.image_column], f"row {number}"), label


class ArraySource:
    """Pictures that are in memory already, as `(N, H, W)` or `(N, H, W, C)` uint8 pixels."""

    def __init__(self, name: str, pixels: np.ndarray, labels: np.ndarray | None):
        self.name, self.pixels, self.labels = name, pixels, labels
        self.label_names: list[str] | None = None
        digest = hashlib.sha256(repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        if labels is not None:
            digest.update(np.ascontiguousarray(labels).data)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, start: int, stop: int) -> list[Picture]:
        return [(f"image {number}", self.pixels[number]) for number in range(start, stop)]


class DatasetSource:
    """The images of a `datasets.Dataset`."""

    def __init__(self, name: str, dataset: datasets.Dataset, image_column: str, label_column: str | None):
        self.name = name
        self.labels: np.ndarray | None = None
        self.label_names: list[str] | None = None
        if label_column is not None:
            self.labels = _labels(dataset, label_column)
            self.label_names = getattr(dataset.features[label_column], "names", None)
        self._encoded = dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
        self._column = image_column
        known = (dataset._fingerprint, image_column, label_column, _states_of_files(self._encoded, image_column))
        self.fingerprint = hashlib.sha256(repr(known).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._encoded)

    def read(self, start: int, stop: int) -> list[Picture]:
        cells = self._encoded[start:stop][self._column]
        return [_picture(cell, f"row {number}") for number, cell in zip(range(start, stop), cells)]


class FolderSource:
    """A folder of image files, at any depth, as the datasets library reads it.

    The library takes long to look through a large folder, so that is put off until a picture is asked for: where all
    are in the cache already, a look at the names, sizes and times of the files is enough.
    """

    def __init__(self, folder: str, config: DataConfig):
        if not Path(folder).is_dir():
            raise InputError(f"train_data_dir={folder!r}: there is no such folder")
        self.name = folder
        self._config = config
        digest = hashlib.sha256(
            repr((config.dataset_split, config.image_column, config.label_column, config.max_train_samples)).encode()
        )
        Image.init()
        has_pictures = has_splits = False
        for path, _, files in sorted(os.walk(folder, followlinks=True)):
            names = "\n".join([os.path.relpath(path, folder), *files]).lower()
            has_splits = has_splits or any(word in names for word in SPLIT_WORDS)
            for file in sorted(files):
                digest.update(repr((path, file, *_state(os.path.join(path, file)))).encode())
                has_pictures = has_pictures or os.path.splitext(file)[1].lower() in Image.EXTENSION
        if not has_pictures:
            raise InputError(f"train_data_dir={folder!r}: there are no image files in it")
        self.fingerprint = digest.hexdigest()
        # The library tries sixty patterns for names of splits, each on all files; one is enough where there are none.
        self._data_files = {"train": "**"} if config.dataset_split == "train" and not has_splits else None

    def load(self) -> Any:
        """What the datasets library makes of the folder."""
        arguments = {"data_dir": self.name, "data_files": self._data_files, "split": self._config.dataset_split}
        load = lambda: datasets.load_dataset("imagefolder", **arguments, streaming=self._config.streaming)  # noqa: E731
        return _loaded("train_data_dir", self.name, load)

    @cached_property
    def _source(self) -> Source:
        source = source_of(self.load(), self._config, self.name)
        assert not isinstance(source, Stream)
        return source

    @property
    def labels(self) -> np.ndarray | None:
        return self._source.labels

    @property
    def label_names(self) -> list[str] | None:
        return self._source.label_names

    def __len__(self) -> int:
        return len(self._source)

    def read(self, start: int, stop: int) -> list[Picture]:
        return self._source.read(start, stop)


def open_source(config: DataConfig) -> Source | Stream:
    """The pictures that the options name.

    Raises:
        InputError: there is no such dataset, or it leaves open which column holds what.
    """
    if config.train_data_dir:
        folder = FolderSource(config.train_data_dir, config)
        return source_of(folder.load(), config, folder.name) if config.streaming else folder
    if config.dataset_name is None:
        return _arrays("scikit-learn digits", *_digits(), config)
    path = Path(config.dataset_name)
    if path.is_file() and _idx_kind(path) is not None:
        return _idx_source(path, config)
    images = path / f"{IDX_PREFIXES.get(config.dataset_split, config.dataset_split)}-images-idx3-ubyte"
    for candidate in (images, images.with_name(images.name + ".gz")):
        if candidate.is_file():
            return _idx_source(candidate, config)
    return source_of(_load_dataset(config), config, config.dataset_name)


def source_of(dataset: Any, config: DataConfig, name: str) -> Source | Stream:
    """The pictures of a dataset of the datasets library: map-style, iterable, or a dictionary of splits.

    Raises:
        InputError: it is none of these, or it leaves open which column holds what.
    """
    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        if config.dataset_split not in dataset:
            raise InputError(f"dataset_split={config.dataset_split!r}: {name} has only {', '.join(map(repr, dataset))}")
        dataset = dataset[config.dataset_split]
    if not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        raise InputError(f"dataset of type {type(dataset).__name__}: must be a dataset of the datasets library")
    if dataset.features is None:
        dataset = dataset._resolve_features()  # a stream whose source declares none: its first rows tell
    features = dataset.features
    image_column = _column(features, "image_column", config.image_column, datasets.Image, name)
    if image_column is None:
        raise InputError(f"{name} has no image column: set image_column; {_columns(features)}")
    label_column = _column(features, "label_column", config.label_column, datasets.ClassLabel, name)
    if isinstance(dataset, datasets.IterableDataset):
        if config.max_train_samples is not None:
            dataset = dataset.take(config.max_train_samples)
        kept = dataset.select_columns([column for column in (image_column, label_column) if column is not None])
        return Stream(name, kept.cast_column(image_column, datasets.Image(decode=False)), image_column, label_column)
    if config.max_train_samples is not None:
        dataset = dataset.select(range(min(config.max_train_samples, len(dataset))))
    return DatasetSource(name, dataset, image_column, label_column)


def _labels(dataset: datasets.Dataset, column: str) -> np.ndarray | None:
    """The labels; None if all are missing, as the library leaves them for a split of a single class."""
    if dataset.data.column(column).null_count == dataset.data.num_rows:
        return None
    labels = np.asarray(dataset.with_format("numpy")[column][:])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        kind = type(dataset.features[column]).__name__
        raise InputError(f"label_column={column!r}: holds {kind}, not whole numbers, or not everywhere")
    return labels.astype(np.int64)


def _picture(cell: Any, place: str) -> Picture:
    """Its name, and its bytes or path, of a cell of an undecoded image column."""
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        return place, None
    if cell["bytes"] is None:
        return cell["path"], cell["path"]
    return f"{place} ({cell['path']})" if cell["path"] else place, cell["bytes"]


def _state(path: str) -> tuple[int, int]:
    """Size and time of a file, which tell whether it has changed; zeros if it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _states_of_files(dataset: datasets.Dataset, column: str) -> list[tuple[int, int]]:
    """Of the files that a dataset of undecoded images only points to: its own fingerprint knows just their names."""
    states = []
    for chunk in dataset.data.column(column).chunks:
        content, paths = chunk.field("bytes"), chunk.field("path")
        if content.null_count:
            states += [_state(path) for path in paths.filter(content.is_null()).to_pylist() if path is not None]
    return states


def _load_dataset(config: DataConfig) -> Any:
    name = config.dataset_name
    assert name is not None
    path = Path(name)
    if any((path / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
        saved = _loaded("dataset_name", name, lambda: datasets.load_from_disk(name))
        if isinstance(saved, datasets.DatasetDict) and config.dataset_split in saved:
            saved = saved[config.dataset_split]
        if config.streaming and isinstance(saved, datasets.Dataset):
            return saved.to_iterable_dataset(num_shards=min(SAVED_SHARDS, max(1, len(saved))))
        return saved
    if path.is_file():
        if path.suffix not in BUILDERS:
            raise InputError(f"dataset_name={name!r}: is no IDX, {', '.join(BUILDERS)} file")
        arguments: dict[str, Any] = {"path": BUILDERS[path.suffix], "data_files": {config.dataset_split: name}}
    else:
        arguments = {"path": name, "name": config.dataset_config_name, "revision": config.dataset_revision}
    load = lambda: datasets.load_dataset(  # noqa: E731
        **arguments, split=config.dataset_split, streaming=config.streaming
    )
    return _loaded("dataset_name", name, load)


def _loaded(argument: str, value: str, load: Callable[[], Any]) -> Any:
    """The datasets library raises whatever the layer beneath it raised; a person needs one line of it."""
    try:
        return load()
    except Exception as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{argument}={value!r}: cannot be loaded ({why})") from error


def _column(features: datasets.Features, argument: str, wanted: str | None, kind: type, name: str) -> str | None:
    """The column that is named, or the only one of its type; None if there is none of the type."""
    if wanted is not None:
        if wanted not in features or (kind is datasets.Image and not isinstance(features[wanted], kind)):
            what = argument.replace("_", " ")
            raise InputError(f"{argument}={wanted!r}: {name} has no such {what}; {_columns(features)}")
        return wanted
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if len(found) > 1:
        raise InputError(f"{name} has several columns that could be the {argument}: set it; {_columns(features)}")
    return found[0] if found else None


def _columns(features: datasets.Features) -> str:
    return "its columns are " + ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())


def _idx_source(path: Path, config: DataConfig) -> ArraySource:
    """Images, and the labels that lie beside them under the family's own name."""
    if config.streaming:
        raise InputError("streaming: IDX files are read whole; leave it out")
    images = _read_idx(path)
    if images.ndim not in (3, 4):
        raise InputError(
            f"dataset_name={str(path)!r}: holds {images.ndim} dimensions, not (N, H, W); are these labels?"
        )
    labels_path = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    labels = _read_idx(labels_path).astype(np.int64) if labels_path != path and labels_path.is_file() else None
    if labels is not None and len(labels) != len(images):
        raise InputError(f"{labels_path} has {len(labels)} labels for {len(images)} images")
    return _arrays(config.dataset_name or str(path), images, labels, config)


def _arrays(name: str, images: np.ndarray, labels: np.ndarray | None, config: DataConfig) -> ArraySource:
    count = config.max_train_samples
    return ArraySource(name, images[:count], None if labels is None else labels[:count])


def _idx_kind(path: Path) -> int | None:
    """The number of dimensions of an IDX file of bytes, or None if it is no such file."""
    with open(path, "rb") as file:
        magic = file.read(2)
    try:
        with gzip.open(path) if magic == b"\x1f\x8b" else open(path, "rb") as file:
            head = file.read(4)
    except OSError:
        return None
    return head[3] if len(head) == 4 and head[:3] == b"\x00\x00\x08" else None


def _read_idx(path: Path) -> np.ndarray:
    """The IDX format of the MNIST family (LeCun et al. 1998), of unsigned bytes, gzipped or not."""
    dimensions = _idx_kind(path)
    if dimensions is None:
        raise InputError(f"{path} is no IDX file of bytes")
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError) as error:
            raise InputError(f"{path} is damaged ({error})") from error
    start = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:start], dtype=">u4").astype(np.int64)
    if len(shape) != dimensions or len(data) - start != shape.prod():
        raise InputError(f"{path} is damaged: {len(data) - start:,} bytes for images of shape {tuple(shape.tolist())}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits of scikit-learn (Alpaydin & Kaynak 1998), 8×8 with 17 grey levels, white on black, in a margin."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            'the default data is in scikit-learn, which is not installed: pip install "hf_wgan[train]", '
            "or name other data with dataset_name or train_data_dir"
        ) from error
    digits = load_digits()
    pixels = np.pad(digits.images, ((0, 0), (DIGITS_MARGIN,) * 2, (DIGITS_MARGIN,) * 2))
    return (pixels * (255 / 16)).round().astype(np.uint8), digits.target.astype(np.int64)
