"""A folder or a ZIP file of images: every file in it is an image that is used, or is counted under a reason.

Names mean nothing here but the class: the datasets library's `imagefolder` would take a picture called `train.png` for
a split, and leave out whatever it has no extension for.
"""

import csv
import hashlib
import io
import json
import os
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.console import say_once
from ..utils.errors import InputError, one_line
from .config import DataConfig
from .decode import MAX_FILE_BYTES, Picture, image_extensions, is_image
from .labels import labels_of, printable
from .splits import Part, concatenated, parse_split
from .trees import DiskTree, File, Files, Tree, ZipTree

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
STYLEGAN_LABELS = "dataset.json"
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
TABLES = {".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".tar", ".lance"}
CAMERA_RAW = {
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".kdc", ".mrw", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw",
}  # fmt: skip
HEIF = {".heic", ".heif", ".hif"}
# Opening every caption beside an image to see that it is no image would take longer than listing the folder.
NEVER_IMAGES = ARCHIVES | {
    ".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html", ".htm", ".py", ".ipynb", ".log",
    ".ini", ".cfg", ".toml", ".db", ".npy", ".npz", ".pt", ".pth", ".pkl", ".mat", ".h5", ".safetensors", ".parquet",
    ".arrow", ".pdf", ".doc", ".docx", ".svg", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav", ".exe", ".aae",
}  # fmt: skip


class FolderSource:
    """The images of a folder or a ZIP file, at any depth.

    The class of an image is the label that a `metadata.jsonl`, `metadata.csv`, `metadata.parquet` or StyleGAN's
    `dataset.json` gives it, or the folder it lies in: the first one on its path in which the images differ.

    Args:
        name: What to call the images in messages and cards.
        tree: Where the files lie.
        config: `dataset_split`, `held_out_split`, `label_column`, `max_train_samples`.

    Raises:
        InputError: There is no such split or label column, or there are no images.
    """

    def __init__(self, name: str, tree: Tree, config: DataConfig):
        self.name, self._tree = name, tree
        listing = tree.listing()
        self.left_out = listing.left_out
        images, metadata = self._sorted_out(listing.files)
        images = self._of_split(images, listing.files.paths, config)
        if not images:
            reasons = ", ".join(f"{count} {why}" for why, count in self.left_out.most_common())
            others = f"; left out: {reasons}" if reasons else ""
            has_tables = isinstance(tree, DiskTree) and any(map(_is_table, listing.files.paths))
            remedy = "; it holds tables or archives that dataset_name reads: name it there" if has_tables else ""
            raise InputError(f"train_data_dir={name!r}: there are no image files in it{others}{remedy}")
        if config.max_train_samples is not None and len(images) > config.max_train_samples:
            self.left_out["beyond max_train_samples"] += len(images) - config.max_train_samples
            images = images[: config.max_train_samples]
        self.files = listing.files.take(images)
        values, column = self._labels(metadata, config.label_column)
        known = labels_of(values, column)
        self.labels: np.ndarray | None = known.numbers if known else None
        self.label_names: list[str] | None = known.names if known else None
        columns = zip(self.files.paths, self.files.states, values)
        lines = [f"({path!r}, {state}, {value!r})" for path, state, value in columns]
        self.fingerprint = hashlib.sha256("".join(lines).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int, stop: int) -> list[Picture]:
        return [self.picture(number) for number in range(start, stop)]

    def picture(self, number: int) -> Picture:
        """Return the name of an image and what `decode` takes, or the error of reading it."""
        file = self.files[number]
        try:
            return printable(file.path), self._tree.payload(file)
        except ConnectionError:  # says nothing of the image
            raise
        except Exception as error:  # of zipfile, and of zlib beneath it
            return printable(file.path), error

    def _sorted_out(self, files: Files) -> tuple[list[int], list[File]]:
        """Return the numbers of the images in the order of their paths, and the metadata files; count the others."""
        known = image_extensions()
        images, metadata = [], []
        for number, path in enumerate(files.paths):
            if path[path.rfind(".") :].lower() in known:
                images.append(number)
                continue
            file = files[number]
            name = path.rpartition("/")[2]
            extension = os.path.splitext(name)[1].lower()
            if name in METADATA or path == STYLEGAN_LABELS:
                metadata.append(file)
                self.left_out["metadata"] += 1
            elif self._is_image(file, extension):
                images.append(number)
            elif extension in HEIF:
                self.left_out["HEIC, which needs pip install pillow-heif"] += 1
            elif extension in CAMERA_RAW:
                self.left_out["camera raw"] += 1
            elif extension in ARCHIVES:
                self.left_out["archives (unpack them, or give a ZIP file as train_data_dir)"] += 1
            else:
                self.left_out["no images"] += 1
        return sorted(images, key=files.paths.__getitem__), sorted(metadata)

    def _is_image(self, file: File, extension: str) -> bool:
        """Return whether a file whose name does not tell is an image by its content."""
        if extension in NEVER_IMAGES or extension in CAMERA_RAW or extension in HEIF:
            return False
        try:
            with self._tree.open(file) as content:
                return is_image(content)
        except PermissionError:
            return True  # to be named as unreadable, rather than left out as no image
        except Exception:
            return False

    def _of_split(self, images: list[int], paths: list[str], config: DataConfig) -> list[int]:
        """Return the images of the split, and count the others."""
        prefix, folders = _top_folders([paths[number] for number in images])
        tops = set(folders)
        splits = {name: folder for name in SPLIT_FOLDERS if (folder := _split_folder(name, tops))}
        are_splits = len(tops) > 1 and "train" in splits and len(splits) == len(tops)
        held_out = {
            _split_folder(part.name, tops)
            for part in parse_split(config.held_out_split or "")
            if part.name not in ("train", "all")
        }
        used: list[tuple[Part, list[int]]] = []
        for part in parse_split(config.dataset_split):
            folder = _split_folder(part.name, tops)
            if part.name == "train" and not are_splits:
                used.append((part, [number for number, top in zip(images, folders) if top not in held_out]))
            elif part.name == "all" or _split_folder(part.name, prefix.split("/")):
                used.append((part, images))
            elif folder:
                used.append((part, [number for number, top in zip(images, folders) if top == folder]))
            else:
                there = ", ".join(repr(printable(top)) for top in sorted(tops) if top) or "none"
                raise InputError(
                    f"dataset_split={config.dataset_split!r}: {self.name} has no folder {part.name!r}; it has {there}"
                )
        result = concatenated(used)
        if rest := len(images) - len(set(result)):
            self.left_out["in other splits"] += rest
        if are_splits and config.dataset_split == "train":
            others = " and ".join(repr(printable(top)) for top in sorted(tops) if top != splits["train"])
            say_once(
                f"{printable(self.name)}: {splits['train']!r} is the training split; {others} not used "
                "(--dataset_split all uses every image)."
            )
        return result

    def _labels(self, metadata: list[File], column: str | None) -> tuple[list[Any], str]:
        """Return one label value per image, and the name of the column they come from."""
        tables = _Tables(self._tree, metadata, self.name, column, self.files.paths)
        if tables.has(column or "label"):
            return tables.values(column or "label"), column or "label"
        if column not in (None, "label"):
            columns = ", ".join(sorted(tables.columns)) or "none"
            raise InputError(
                f"label_column={column!r}: {self.name} has no such label column; its metadata files have {columns}"
            )
        names = [top or None for top in _top_folders(self.files.paths)[1]]
        # Where all images with a folder are in the same one, the folder tells nothing about them.
        return (names if len(set(names) - {None}) > 1 else [None] * len(names)), "folder"


class _Tables:
    """The metadata files of a tree: for each image the row of the nearest one that has a row for it."""

    def __init__(self, tree: Tree, files: list[File], name: str, column: str | None, images: list[str]):
        self.rows: dict[str, dict[str, Any]] = {}
        self.columns: set[str] = set()
        self._images = images
        known = {_normal(path): path for path in images} if files else {}
        without_image = 0
        for file in sorted(files, key=lambda file: file.path.count("/")):
            folder = file.path.rpartition("/")[0]
            try:
                with tree.open(file) as content:
                    rows = list(_rows(file.path, content.read(MAX_FILE_BYTES)))
            except Exception as error:
                why = f"{printable(file.path)} cannot be read ({one_line(error) or type(error).__name__})"
                if column is not None:
                    raise InputError(f"label_column={column!r}: {name}: {why}") from error
                say_once(f"{printable(name)}: {why}; it is left out.")
                continue
            for file_name, row in rows:
                path = known.get(_normal(f"{folder}/{file_name}" if folder else file_name))
                if path is None:
                    without_image += 1
                    continue
                self.columns |= row.keys()
                self.rows[path] = row
        if without_image:
            say_once(f"{printable(name)}: {without_image} rows of its metadata files name no image that is used.")

    def has(self, column: str) -> bool:
        return column in self.columns

    def values(self, column: str) -> list[Any]:
        return [self.rows.get(path, {}).get(column) for path in self._images]


def open_folder(path: str, config: DataConfig, name: str | None = None) -> FolderSource:
    """Open a folder of images, or a ZIP file of them.

    Raises:
        InputError: It is neither, or holds no images.
    """
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        return FolderSource(name or path, ZipTree(path), config)
    if os.path.isfile(path):
        raise InputError(f"train_data_dir={path!r}: must be a folder or a ZIP file; unpack other archives first")
    if not os.path.isdir(path):
        raise InputError(f"train_data_dir={path!r}: there is no such folder")
    return FolderSource(name or path, DiskTree(path), config)


def holds_images_only(paths: Iterable[str]) -> bool:
    """Return whether files are images, with their metadata, rather than what the datasets library has a reader for."""
    known, has_images = image_extensions(), False
    for path in paths:
        if _is_table(path):
            return False
        has_images = has_images or os.path.splitext(path)[1].lower() in known
    return has_images


def _is_table(path: str) -> bool:
    """Return whether the datasets library has a reader for a file, which is no metadata of images."""
    return path.rpartition("/")[2] not in METADATA and os.path.splitext(path)[1].lower() in TABLES


def paths_in(folder: Path) -> Iterator[str]:
    """Yield the files of a folder, relative to it, with "/"."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        yield from ((below / name).as_posix() for name in names)


def _rows(path: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the file name and the other values of each row of a metadata file."""
    if path == STYLEGAN_LABELS:
        for file_name, label in json.loads(content.decode("utf-8-sig"))["labels"] or []:
            yield file_name, {"label": label}
        return
    rows: Iterable[dict[str, Any]]
    if path.endswith(".parquet"):
        import pyarrow.parquet  # type: ignore[import-untyped]

        rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    elif path.endswith(".csv"):
        text = content.decode("utf-8-sig")
        header = text.partition("\n")[0]
        delimiter = max(",;\t", key=header.count)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    else:
        rows = (json.loads(line) for line in content.decode("utf-8-sig").splitlines() if line.strip())
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise ValueError("a row has no file_name")
        yield row["file_name"], {str(name): value for name, value in row.items() if name != "file_name"}


def _normal(path: str) -> str:
    """Return a path as names are compared: systems differ in separators and in how they write accents."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts))


def _top_folders(paths: list[str]) -> tuple[str, list[str]]:
    """Return the folder that all files are in, with a slash at its end, and for each the first folder below that.

    Either is an empty text where there is none.
    """
    ends = [min(paths), max(paths)] if paths else []
    prefix = os.path.commonprefix(ends)  # noqa: RUF071 (cut at a slash)
    start = prefix.rfind("/") + 1
    return prefix[:start], [path[start : max(start, path.find("/", start))] for path in paths]


def _split_folder(name: str, tops: Iterable[str]) -> str | None:
    """Return the top folder that holds a split."""
    synonyms = next((names for names in SPLIT_FOLDERS.values() if name in names), (name,))
    candidates = [top for word in (name, *synonyms) for top in tops if top and top.lower() == word.lower()]
    return candidates[0] if candidates else None
