"""Where images come from: the Hub, local datasets and folders, IDX files, Python, or scikit-learn's digits.

Nothing is decoded here. A source hands out encoded images by number, and a stream in turn.
"""

import functools
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np

from ..utils.console import say_once
from ..utils.errors import InputError, check_is_name, one_line
from . import idx
from .cells import (
    Cells,
    Reach,
    can_hold_images,
    columns_like_images,
    dtype_of,
    hub_reach,
    image_columns,
    is_numeric,
    is_text,
    reach_of,
)
from .config import DIGITS, DataConfig
from .decode import Picture
from .folders import FolderSource, holds_images_only, open_folder, paths_in
from .labels import ClassMapping, class_mapping, labels_of
from .repositories import open_repository
from .splits import parse_split
from .trees import state_of

DIGITS_MARGIN = 1  # pixels of background around the 8×8 digits, which otherwise touch the frame
BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
SAVED_SHARDS = 64  # of a saved dataset that is streamed, which workers share
LABELS_TO_LOOK_AT = 100_000  # of a stream, to learn its classes
COLUMNS_TO_NAME = 20
LABEL = "label"  # a column of this name holds the labels, whatever its type


class Source(Protocol):
    """Images by number."""

    name: str
    fingerprint: str  # changes whenever an image may have changed
    left_out: Counter[str]  # files that are not used, by reason

    @property
    def labels(self) -> np.ndarray | None: ...  # (N,) int64, -1 where there is none

    @property
    def label_names(self) -> list[str] | None: ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> list[Picture]: ...


class Rows(Protocol):
    """Reads the rows of a stream."""

    def picture(self, row: dict[str, Any], place: str) -> Picture: ...

    def label(self, row: dict[str, Any]) -> Any: ...


@dataclass
class Stream:
    """Images in turn, with the values of their labels, from a dataset that does not fit a disk."""

    name: str
    dataset: datasets.IterableDataset
    rows: Rows
    has_labels: bool
    mapping: ClassMapping | None = None  # from label values to class numbers, if it is known before reading
    column: str = LABEL
    fingerprint: str = ""  # of the files that it reads, where they are known

    def pictures(self, dataset: datasets.IterableDataset) -> Iterator[tuple[Picture, Any]]:
        """Yield the images of the stream, or of a shuffled or sharded version of it, and the values of their labels."""
        for number, row in enumerate(dataset):
            yield self.rows.picture(row, f"row {number}"), self.rows.label(row)

    def learn_classes(self) -> ClassMapping:
        """Return the classes of the stream; if it does not declare them, its first labels are read for it."""
        if self.mapping is None:
            dataset = self.dataset
            if isinstance(self.rows, TableRows) and self.rows.label_column and dataset.features is not None:
                dataset = dataset.select_columns([self.rows.label_column])
            first = itertools.islice(dataset, LABELS_TO_LOOK_AT)
            self.mapping = class_mapping([self.rows.label(row) for row in first], self.column)
        return self.mapping


@dataclass(frozen=True)
class TableRows:
    """Rows with a column of images, and perhaps one of labels."""

    cells: Cells
    image_column: str
    label_column: str | None

    def picture(self, row: dict[str, Any], place: str) -> Picture:
        return self.cells.picture(row.get(self.image_column), place)

    def label(self, row: dict[str, Any]) -> Any:
        return None if self.label_column is None else row.get(self.label_column)


@dataclass(frozen=True)
class FolderRows:
    """Rows that are numbers of the files of a folder."""

    source: FolderSource

    def picture(self, row: dict[str, Any], place: str) -> Picture:
        return self.source.picture(row["number"])

    def label(self, row: dict[str, Any]) -> Any:
        labels = self.source.labels
        return None if labels is None else int(labels[row["number"]])


class ArraySource:
    """Images that are in memory already, as `(N, H, W)` or `(N, H, W, C)` uint8 pixels."""

    def __init__(self, name: str, pixels: np.ndarray, labels: np.ndarray | None):
        self.name, self.pixels, self.labels = name, pixels, labels
        self.label_names: list[str] | None = None
        self.left_out: Counter[str] = Counter()
        digest = hashlib.sha256(repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        if labels is not None:
            digest.update(np.ascontiguousarray(labels).data)
            known = labels_of(labels, LABEL)
            self.labels, self.label_names = (known.numbers, known.names) if known else (None, None)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, start: int, stop: int) -> list[Picture]:
        return [(f"image {number}", self.pixels[number]) for number in range(start, stop)]


class IdxSource:
    """The images of IDX files, one file of images per part of a split; unpacked only when an image is asked for.

    Raises:
        InputError: They are to be streamed.
    """

    def __init__(self, paths: list[Path], config: DataConfig):
        if config.streaming:
            raise InputError("streaming: IDX files are read whole; leave it out")
        self.name = config.dataset_name or str(paths[0])
        self.left_out: Counter[str] = Counter()
        self._config = config
        self._parts = parse_split(config.dataset_split)
        self._paths = paths * len(self._parts) if len(paths) == 1 else paths  # one file by its name holds every part
        digest = hashlib.sha256(repr((self._parts, config.max_train_samples)).encode())
        for path in self._paths:
            for file in filter(None, (path, idx.find_labels(path))):
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        self.fingerprint = digest.hexdigest()

    @functools.cached_property
    def _arrays(self) -> ArraySource:
        images, labels = [], []
        for part, path in zip(self._parts, self._paths):
            all_images, all_labels = idx.read_images(path)
            rows = slice(*part.bounds(len(all_images)))
            images.append(all_images[rows])
            if all_labels is not None:
                labels.append(all_labels[rows])
        if len({batch.shape[1:] for batch in images}) > 1:
            raise InputError(f"dataset_split={self._config.dataset_split!r}: the images of these splits differ in size")
        all_have_labels = len(labels) == len(images)
        return _arrays(
            self.name, np.concatenate(images), np.concatenate(labels) if all_have_labels else None, self._config
        )

    @property
    def labels(self) -> np.ndarray | None:
        return self._arrays.labels

    @property
    def label_names(self) -> list[str] | None:
        return self._arrays.label_names

    def __len__(self) -> int:
        return len(self._arrays)

    def read(self, start: int, stop: int) -> list[Picture]:
        return self._arrays.read(start, stop)


class DatasetSource:
    """The images of a `datasets.Dataset`."""

    def __init__(self, name: str, dataset: datasets.Dataset, image_column: str, label_column: str | None, reach: Reach):
        self.name = name
        self.labels: np.ndarray | None = None
        self.label_names: list[str] | None = None
        self.left_out: Counter[str] = Counter()
        if label_column is not None:
            values = dataset.select_columns([label_column]).with_format("arrow")[:][label_column].to_pylist()
            known = labels_of(values, label_column, getattr(dataset.features[label_column], "names", None))
            if known is not None:
                self.labels, self.label_names = known.numbers, known.names
        self._encoded = _undecoded(dataset.select_columns([image_column]), image_column)
        self._column = image_column
        self._cells = Cells(reach, dtype_of(dataset.features[image_column]))
        states = _states_of_files(self._encoded, image_column, reach)
        digest = hashlib.sha256(repr((dataset._fingerprint, image_column, label_column, states)).encode())
        if label_column is not None and self.labels is not None:
            digest.update(self.labels.data)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._encoded)

    def read(self, start: int, stop: int) -> list[Picture]:
        cells = self._encoded[start:stop][self._column]
        return [self._cells.picture(cell, f"row {number}") for number, cell in zip(range(start, stop), cells)]


def open_source(config: DataConfig) -> Source | Stream:
    """Open the images that the options name.

    Raises:
        InputError: There is no such dataset, it leaves open which column holds what, or an option has no effect on it.
    """
    for option in ("dataset_name", "train_data_dir"):
        check_is_name(option, getattr(config, option) or "")
    source = _opened(config)
    is_table = isinstance(source.rows if isinstance(source, Stream) else source, (TableRows, DatasetSource))
    if not is_table:
        _check_unset(config, "image_column", source.name, "which has no columns")
        _check_unset(config, "dataset_config_name", source.name, "which has no configurations")
    if isinstance(source, IdxSource):
        _check_unset(config, "label_column", source.name, "whose labels are in a file beside it")
    return source


def _opened(config: DataConfig) -> Source | Stream:
    if config.train_data_dir:
        return _folder(config.train_data_dir, config)
    if config.dataset_name is None:
        return _arrays(DIGITS, *_digits(), config)
    path = Path(config.dataset_name)
    if path.exists():
        _check_unset(config, "dataset_revision", config.dataset_name, "which is here and not on the Hub")
    if path.is_file() and idx.num_dimensions(path) is not None:
        return IdxSource([path], config)
    if path.is_dir():
        parts = parse_split(config.dataset_split)
        files = [idx.find_images(path, part.name) for part in parts]
        if files and all(files):
            return IdxSource([file for file in files if file], config)
        if holds_images_only(paths_in(path)):
            return _folder(config.dataset_name, config)
    elif path.suffix.lower() == ".zip" and path.is_file():
        return _folder(config.dataset_name, config)
    elif not path.exists() and (source := open_repository(config.dataset_name, config)):
        return _folder_of(source, config, num_shards=min(SAVED_SHARDS, len(source)))
    dataset, reach = _load_dataset(config)
    return source_of(dataset, config, config.dataset_name, reach)


def _check_unset(config: DataConfig, option: str, name: str, reason: str) -> None:
    """Check that an option is left out where it has no effect.

    Raises:
        InputError: It is not.
    """
    if (value := getattr(config, option)) is not None:
        raise InputError(f"{option}={value!r}: has no effect with {name!r}, {reason}; leave it out")


def source_of(dataset: Any, config: DataConfig, name: str, reach: Reach | None = None) -> Source | Stream:
    """Return the images of a dataset of the datasets library: map-style, iterable, or a dictionary of splits.

    Args:
        dataset: The dataset.
        config: The options.
        name: What to call it.
        reach: The local files that its cells may name; by default what `reach_of` says.

    Raises:
        InputError: It is none of these, or it leaves open which column holds what.
    """
    dataset = _split_of(dataset, config, name)
    if isinstance(dataset, datasets.IterableDataset):
        return _stream_of(dataset, config, name, reach or Reach(anywhere=True))
    if dataset.format["type"] == "custom":
        say_once(
            f"{name}: its transform (set_transform, with_transform) is not applied; the options say how images are "
            "prepared."
        )
    reach = reach or reach_of(dataset)
    dataset = dataset.with_format(None)
    image_column = _image_column(dataset.features, config, name, lambda column: dataset[:8][column])
    label_column = _label_column(dataset.features, config, name, image_column)
    if config.max_train_samples is not None:
        dataset = dataset.select(range(min(config.max_train_samples, len(dataset))))
    return DatasetSource(name, dataset, image_column, label_column, reach)


def _stream_of(dataset: datasets.IterableDataset, config: DataConfig, name: str, reach: Reach) -> Stream:
    dataset = dataset.with_format(None)
    if config.max_train_samples is not None:
        dataset = dataset.take(config.max_train_samples)
    if dataset.features is None:
        return _untyped_stream(dataset, config, name, reach)
    features = dataset.features
    image_column = _image_column(features, config, name, lambda column: [row[column] for row in dataset.take(8)])
    label_column = _label_column(features, config, name, image_column)
    kept = dataset.select_columns([column for column in (image_column, label_column) if column is not None])
    rows = TableRows(Cells(reach, dtype_of(features[image_column])), image_column, label_column)
    names = getattr(features[label_column], "names", None) if label_column else None
    stream = _undecoded(kept, image_column)
    return Stream(name, stream, rows, label_column is not None, _mapping_of(names), label_column or LABEL)


def _untyped_stream(dataset: datasets.IterableDataset, config: DataConfig, name: str, reach: Reach) -> Stream:
    """Open a stream that declares no types, such as one after `map` or of a generator, by its first row.

    Its rows are taken as they come. A cast would have the library encode again what the stream has decoded.
    """
    row = next(iter(dataset), None)
    if row is None:
        raise InputError(f"{name}: there are no images in it")
    columns = _listed({column: type(value).__name__ for column, value in row.items()})
    image_column = config.image_column
    if image_column is None:
        texts = {column: value for column, value in row.items() if isinstance(value, str)}
        candidates = columns_like_images(row) or [column for column, text in texts.items() if _are_paths([text])]
        if len(candidates) != 1:
            several = "several columns that could be the image_column: set it"
            how_many = several if candidates else "no image column: set image_column"
            raise InputError(f"{name} has {how_many}; {columns}")
        (image_column,) = candidates
    label_column = config.label_column or (LABEL if LABEL in row else None)
    for argument, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and column not in row:
            raise InputError(f"{argument}={column!r}: {name} has no such {argument.replace('_', ' ')}; {columns}")
    rows = TableRows(Cells(reach), image_column, label_column)
    return Stream(name, dataset, rows, label_column is not None, None, label_column or LABEL)


def _folder(path: str, config: DataConfig) -> Source | Stream:
    return _folder_of(open_folder(path, config), config)


def _folder_of(source: FolderSource, config: DataConfig, num_shards: int = 1) -> Source | Stream:
    if not config.streaming:
        return source
    numbers = datasets.Dataset.from_dict({"number": range(len(source))}).to_iterable_dataset(num_shards=num_shards)
    names = source.label_names
    return Stream(
        source.name, numbers, FolderRows(source), names is not None, _mapping_of(names), fingerprint=source.fingerprint
    )


def _mapping_of(names: Sequence[str] | None) -> ClassMapping | None:
    """Return the mapping of labels that number these names already."""
    return class_mapping(range(len(names)), LABEL, names) if names else None


def _undecoded(dataset: Any, column: str) -> Any:
    if isinstance(dataset.features[column], datasets.Image):
        return dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def _states_of_files(dataset: datasets.Dataset, column: str, reach: Reach) -> list[tuple[int, ...]]:
    """Return the states of the local files that a dataset of undecoded images only points to.

    Its own fingerprint knows just their names.
    """
    states: list[tuple[int, ...]] = []
    feature = dataset.features[column]
    if not (isinstance(feature, (datasets.Image, dict)) or is_text(feature)):
        return states
    for chunk in dataset.data.column(column).chunks:
        paths = chunk
        if hasattr(chunk, "field"):
            content, paths = chunk.field("bytes"), chunk.field("path")
            if not content.null_count:
                continue
            paths = paths.filter(content.is_null())
        for path in paths.to_pylist():
            try:
                states.append(state_of(os.stat(reach.local(path.rpartition("::")[2]))))
            except (AttributeError, OSError, ValueError):
                states.append(())
    return states


def _split_of(dataset: Any, config: DataConfig, name: str) -> Any:
    """Return the split that is asked for, or the part of it, or several one after the other."""
    parts = parse_split(config.dataset_split)
    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        if not dataset:
            raise InputError(f"{name}: there are no splits in it, and so no images")
        for part in parts:
            if part.name not in dataset:
                raise InputError(f"dataset_split={part.name!r}: {name} has only {', '.join(map(repr, dataset))}")
        pieces = [dataset[part.name] for part in parts]
    else:
        pieces = [dataset] * len(parts)
    for piece in pieces:
        if not isinstance(piece, (datasets.Dataset, datasets.IterableDataset)):
            raise InputError(
                f"dataset of type {type(piece).__name__}: must be what load_images returns, a uint8 tensor "
                "(N, C, H, W), or a dataset of the datasets library"
            )
    cut = [piece if part.is_whole else _sliced(piece, part, config) for piece, part in zip(pieces, parts)]
    return cut[0] if len(cut) == 1 else datasets.concatenate_datasets(cut)


def _sliced(dataset: Any, part: Any, config: DataConfig) -> Any:
    if isinstance(dataset, datasets.Dataset):
        return dataset.select(range(*part.bounds(len(dataset))))
    if any(edge is not None and (edge.endswith("%") or edge.startswith("-")) for edge in (part.start, part.stop)):
        raise InputError(
            f"dataset_split={config.dataset_split!r}: the length of a stream is not known; count rows from its start"
        )
    start = int(part.start or 0)
    dataset = dataset.skip(start)
    return dataset if part.stop is None else dataset.take(max(0, int(part.stop) - start))


def _load_dataset(config: DataConfig) -> tuple[Any, Reach]:
    """Return what the datasets library loads, without slices of splits, and which local files it may read."""
    name = config.dataset_name
    assert name is not None
    path = Path(name)
    names = list(dict.fromkeys(part.name for part in parse_split(config.dataset_split)))
    is_saved = any((path / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    if is_saved or path.is_file():
        _check_unset(config, "dataset_config_name", name, "which has no configurations")
    if is_saved:
        saved = _loaded("dataset_name", name, lambda: datasets.load_from_disk(name))
        if config.streaming:
            splits = saved if isinstance(saved, datasets.DatasetDict) else {"": saved}
            streams = {
                split: rows.to_iterable_dataset(num_shards=min(SAVED_SHARDS, max(1, len(rows))))
                for split, rows in splits.items()
            }
            saved = streams[""] if "" in streams else datasets.IterableDatasetDict(streams)
        return saved, Reach((str(path),))
    if path.is_file():
        builder = BUILDERS.get(path.suffix.lower())
        if builder is None:
            raise InputError(f"dataset_name={name!r}: is no IDX, {', '.join(BUILDERS)} file")
        data_files = {names[0]: str(path)}
        dataset = _loaded(
            "dataset_name",
            name,
            lambda: datasets.load_dataset(builder, data_files=data_files, split=names[0], streaming=config.streaming),
        )
        return dataset, Reach((str(path.parent),))
    reach = Reach((str(path),)) if path.is_dir() else hub_reach(name)
    options = {"name": config.dataset_config_name, "revision": config.dataset_revision, "streaming": config.streaming}
    splits = {
        split: _loaded("dataset_name", name, lambda: datasets.load_dataset(name, split=split, **options))  # noqa: B023
        for split in names
    }
    if len(splits) == 1:
        return splits[names[0]], reach
    kind = datasets.IterableDatasetDict if config.streaming else datasets.DatasetDict
    return kind(splits), reach


def _loaded(argument: str, value: str, load: Callable[[], Any]) -> Any:
    """Call a loader of the datasets library; whatever the layers beneath it raise becomes one line."""
    try:
        return load()
    except Exception as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{argument}={value!r}: cannot be loaded ({why})") from error


def _image_column(
    features: datasets.Features, config: DataConfig, name: str, first: Callable[[str], Sequence[Any]]
) -> str:
    """Return the column that is named, or the only one that can hold images."""
    if not features:
        raise InputError(f"{name}: there are no images in it, nor any column")
    column = config.image_column
    if column is not None:
        if column not in features or not can_hold_images(features[column]):
            raise InputError(
                f"image_column={column!r}: {name} has no such image column; {_columns(features)}{_hint(features)}"
            )
        return column
    candidates = image_columns(features)
    if not candidates:
        texts = [column for column, feature in features.items() if is_text(feature)]
        candidates = [column for column in texts if _are_paths(first(column))]
    if len(candidates) > 1:
        raise InputError(f"{name} has several columns that could be the image_column: set it; {_columns(features)}")
    if not candidates:
        raise InputError(f"{name} has no image column: set image_column; {_columns(features)}{_hint(features)}")
    return candidates[0]


def _label_column(features: datasets.Features, config: DataConfig, name: str, image_column: str) -> str | None:
    """Return the column that is named, the only one of type ClassLabel, or the one called "label"."""
    column = config.label_column
    if column is not None:
        if column not in features:
            raise InputError(f"label_column={column!r}: {name} has no such label column; {_columns(features)}")
        return column
    candidates = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(candidates) > 1:
        raise InputError(f"{name} has several columns that could be the label_column: set it; {_columns(features)}")
    if not candidates and isinstance(features.get(LABEL), datasets.Value) and image_column != LABEL:
        return LABEL
    return candidates[0] if candidates else None


def _are_paths(values: Sequence[Any]) -> bool:
    """Return whether texts are names or addresses of image files."""
    from .decode import image_extensions

    known = image_extensions()
    endings = [os.path.splitext(str(value).partition("?")[0])[1].lower() for value in values if value]
    return bool(endings) and all(ending in known for ending in endings)


def _hint(features: datasets.Features) -> str:
    """Return what to do about a column that holds several images in each row, or pixels in one row."""
    inner = {column: getattr(feature, "feature", None) for column, feature in features.items()}
    images = [column for column, feature in inner.items() if isinstance(feature, datasets.Image)]
    if images:
        return f"; {', '.join(images)} holds lists: make it one image per row"
    flat = [column for column, feature in inner.items() if feature is not None and is_numeric(feature)]
    return f"; if {', '.join(flat)} holds pixels, make it lists or arrays (H, W) or (H, W, C)" if flat else ""


def _columns(features: datasets.Features) -> str:
    kinds = {}
    for column, feature in features.items():
        kinds[column] = feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__
    return _listed(kinds)


def _listed(kinds: dict[str, str]) -> str:
    """Return the names of columns and what they hold; a table of pixels has hundreds."""
    named = [f"{column} ({kind})" for column, kind in itertools.islice(kinds.items(), COLUMNS_TO_NAME)]
    more = [f"and {len(kinds) - COLUMNS_TO_NAME:,} more"] if len(kinds) > COLUMNS_TO_NAME else []
    return f"its columns are {', '.join(named + more) or 'none'}"


def _arrays(name: str, images: np.ndarray, labels: np.ndarray | None, config: DataConfig) -> ArraySource:
    count = config.max_train_samples
    return ArraySource(name, images[:count], None if labels is None else labels[:count])


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits (Alpaydin & Kaynak 1998), 8×8 with 17 grey levels, white on black, in a margin."""
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
