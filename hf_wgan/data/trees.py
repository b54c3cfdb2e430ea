"""Where the files of a folder of images lie: on the disk, in a ZIP file, or in a repository of the Hub.

A tree lists every file that is there, or counts it under the reason why it is none, and opens files.
"""

import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol

from huggingface_hub import HfFileSystem

from ..utils.errors import InputError, one_line
from .decode import MAX_FILE_BYTES

REPOSITORY_FILES = (".gitattributes", "README.md")  # which belong to a repository and not to its images


class File(NamedTuple):
    """A file of a folder or of a ZIP file."""

    path: str  # relative, with "/"
    place: str  # what the tree opens it by
    state: str  # changes when the content does


class Files:
    """Files, in any order, as columns of text.

    An object for each of many files would make the garbage collector visit every object of the process, which takes
    longer than listing them.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.places: list[str] = []
        self.states: list[str] = []

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> File:
        return File(self.paths[number], self.places[number], self.states[number])

    def __iter__(self) -> Iterator[File]:
        return map(File, self.paths, self.places, self.states)

    def add(self, path: str, place: str, state: str) -> None:
        self.paths.append(path)
        self.places.append(place)
        self.states.append(state)

    def take(self, numbers: list[int]) -> "Files":
        """Return the files of these numbers, in their order."""
        result = Files()
        result.paths = [self.paths[number] for number in numbers]
        result.places = [self.places[number] for number in numbers]
        result.states = [self.states[number] for number in numbers]
        return result


@dataclass
class Listing:
    """Every file of a tree: regular files, and how many others there are for each reason."""

    files: Files = field(default_factory=Files)
    left_out: Counter[str] = field(default_factory=Counter)


class Tree(Protocol):
    """Where files lie."""

    name: str

    def listing(self) -> Listing: ...

    def open(self, file: File) -> BinaryIO: ...

    def payload(self, file: File) -> Any: ...  # what `decode` takes


class DiskTree:
    """The files below a folder. Links are followed once each, so that a cycle of them ends."""

    def __init__(self, folder: str):
        self.name = folder

    def listing(self) -> Listing:
        root = os.path.realpath(self.name)
        result = Listing()
        walk = _Walk(result, _identity(os.stat(root)), _ancestors(root))
        walk.folder(self.name, "")
        while walk.links:  # after everything that is really there, which therefore keeps its own name
            walk.links.sort(key=lambda link: link[1])
            links, walk.links = walk.links, []
            for place, path in links:
                walk.link(place, path)
        return result

    def open(self, file: File) -> BinaryIO:
        return open(file.place, "rb")

    def payload(self, file: File) -> str:
        return file.place


class _Walk:
    def __init__(self, result: Listing, root: int, ancestors: set[int]):
        self.result = result
        self.folders = {root} | ancestors
        self.files: set[int] = set()
        self.links: list[tuple[str, str]] = []

    def folder(self, place: str, path: str) -> None:
        try:
            with os.scandir(place) as scan:
                # Neighbours in order are then neighbours in memory, which makes every pass over the files faster.
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            self.result.left_out["folders that cannot be read"] += 1
            return
        prefix = f"{path}/" if path else ""
        files = []
        folders: list[tuple[str, str]] = []
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name == "__MACOSX":
                hidden = _num_files(entry.path) if entry.is_dir(follow_symlinks=False) else 1
                self.result.left_out["hidden"] += hidden
            elif entry.is_file(follow_symlinks=False):
                files.append(entry)
            elif entry.is_symlink():
                self.links.append((entry.path, prefix + name))
            elif entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, prefix + name))
            else:
                self.result.left_out["no regular files"] += 1
        for entry in files:
            try:
                status = os.lstat(entry.path)  # `entry.stat()` would be kept until the folder is done
            except OSError:  # it has been removed meanwhile, or the folder may be listed and not entered
                self.result.left_out["cannot be read"] += 1
            else:
                self.result.files.add(prefix + entry.name, entry.path, self.state(status))
        for below, inner in folders:
            try:
                status = os.lstat(below)
            except OSError:
                self.result.left_out["folders that cannot be read"] += 1
            else:
                self.directory(below, inner, status)

    def directory(self, place: str, path: str, status: os.stat_result) -> bool:
        identity = _identity(status)
        if identity in self.folders:
            return False
        self.folders.add(identity)
        self.folder(place, path)
        return True

    def state(self, status: os.stat_result) -> str:
        """Return the state of a file, which is from now on one that is read already."""
        self.files.add(_identity(status))
        return str(state_of(status))

    def link(self, place: str, path: str) -> None:
        try:
            status = os.stat(place)
        except OSError:
            self.result.left_out["broken links"] += 1
            return
        if stat.S_ISDIR(status.st_mode):
            if not self.directory(place, path, status):
                self.result.left_out["links to folders that are read already"] += 1
        elif _identity(status) in self.files:
            self.result.left_out["links to files that are read already"] += 1
        elif not stat.S_ISREG(status.st_mode):
            self.result.left_out["no regular files"] += 1
        else:
            self.result.files.add(path, place, self.state(status))


class ZipTree:
    """The files of a ZIP file, by its path or opened."""

    def __init__(self, path: str, content: BinaryIO | None = None):
        self.name = path
        try:
            self._zip = zipfile.ZipFile(content or path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise InputError(f"train_data_dir={path!r}: cannot be read as a ZIP file ({one_line(error)})") from error

    def __reduce__(self) -> Any:
        return ZipTree, (self.name,)

    def listing(self) -> Listing:
        result = Listing()
        for number, member in enumerate(self._zip.infolist()):
            if member.is_dir():
                continue
            path = str(PurePosixPath("/", member.filename.replace("\\", "/")).relative_to("/"))
            if _is_hidden(path):
                result.left_out["hidden"] += 1
            else:
                result.files.add(path, str(number), str((member.file_size, member.CRC)))
        return result

    def open(self, file: File) -> BinaryIO:
        return io.BytesIO(self.payload(file))

    def payload(self, file: File) -> bytes:
        member = self._zip.infolist()[int(file.place)]
        if member.file_size > MAX_FILE_BYTES:
            raise ValueError(f"it has {member.file_size:,} bytes, over the limit of {MAX_FILE_BYTES:,}")
        return self._zip.read(member)


class RepositoryTree:
    """The files of a dataset repository of the Hub: downloaded, or each read from the Hub when it is needed.

    Args:
        name: The repository.
        commit: Its commit.
        paths: The files of that commit.
        folder: Where they have been downloaded to; None to keep nothing on the disk.
    """

    def __init__(self, name: str, commit: str, paths: list[str], folder: str | None = None):
        self.name, self._commit, self._folder = name, commit, folder
        self._paths = [path for path in paths if path not in REPOSITORY_FILES]

    def listing(self) -> Listing:
        result = Listing()
        for path in sorted(self._paths):
            if _is_hidden(path):
                result.left_out["hidden"] += 1
                continue
            place = os.path.join(self._folder, path) if self._folder else f"datasets/{self.name}@{self._commit}/{path}"
            result.files.add(path, place, str(state_of(os.stat(place)) if self._folder else (self._commit,)))
        return result

    def open(self, file: File) -> BinaryIO:
        return open(file.place, "rb") if self._folder else HfFileSystem().open(file.place, "rb")

    def payload(self, file: File) -> str | bytes:
        if self._folder:
            return file.place
        try:
            with self.open(file) as content:
                data = content.read(MAX_FILE_BYTES + 1)
        except Exception as error:  # of the Hub's client and of the layers beneath it
            raise ConnectionError(f"{file.path}: {type(error).__name__}: {one_line(error)}") from error
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it has over {MAX_FILE_BYTES:,} bytes, the limit")
        return data


class UnzippedTree:
    """A tree whose ZIP files are folders: their files lie beside a ZIP file, or below its name if there are several."""

    def __init__(self, tree: Tree):
        self.name, self._tree = tree.name, tree
        self._zips: dict[str, ZipTree] = {}
        self._members: dict[str, tuple[File, File]] = {}  # the ZIP file and the member, by place

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_zips": {}}  # which every process opens for itself

    def listing(self) -> Listing:
        listing = self._tree.listing()
        result = Listing(left_out=listing.left_out)
        archives: list[File] = []
        for file in listing.files:
            if file.path.lower().endswith(".zip"):
                archives.append(file)
            else:
                result.files.add(*file)
        num_beside = Counter(PurePosixPath(archive.path).parent for archive in archives)
        for archive in archives:
            path = PurePosixPath(archive.path)
            folder = path.with_suffix("") if num_beside[path.parent] > 1 else path.parent
            try:
                inner = self._zip(archive).listing()
            except InputError:
                result.left_out["ZIP files that cannot be read"] += 1
                continue
            result.left_out += inner.left_out
            for member in inner.files:
                place = f"{archive.path}::{member.place}"
                self._members[place] = archive, member
                result.files.add(str(folder / member.path), place, f"{archive.state}, {member.state}")
        return result

    def open(self, file: File) -> BinaryIO:
        archive, member = self._members.get(file.place, (None, file))
        return self._tree.open(member) if archive is None else self._zip(archive).open(member)

    def payload(self, file: File) -> Any:
        archive, member = self._members.get(file.place, (None, file))
        return self._tree.payload(member) if archive is None else self._zip(archive).payload(member)

    def _zip(self, archive: File) -> ZipTree:
        if archive.path not in self._zips:
            self._zips[archive.path] = ZipTree(archive.path, self._tree.open(archive))
        return self._zips[archive.path]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def state_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return what changes when a file's content does: size, time of change, and the time that no program can set."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _num_files(folder: str) -> int:
    return sum(len(files) + sum(os.path.islink(os.path.join(path, inner)) for inner in folders)
               for path, folders, files in os.walk(folder))  # fmt: skip


def _identity(status: os.stat_result) -> int:
    return status.st_dev << 64 | status.st_ino


def _ancestors(root: str) -> set[int]:
    return {_identity(os.stat(parent)) for parent in Path(root).parents if os.access(parent, os.F_OK)}
