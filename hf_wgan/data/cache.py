"""Every image of a source decoded once, in parallel, into a folder that all processes of a machine share.

    cache_dir/KEY/pixels.bin   uint8, image after image, each (h, w, channels)
                  index.npz    sizes, labels, checksums, and the order of the images by content
                  info.json    what is in there, which images were bad, and checksums of the other files

The key is of the source's fingerprint and the preprocessing, so that a changed dataset or option does not meet a stale
cache. A folder is built under another name, flushed to the disk and renamed: under its own name it is always whole.
Damage is found by checksums: at opening, or for a large set when an image is read for the first time. Images that could
not be read, as opposed to images whose content is damaged, are tried again.
"""

import contextlib
import hashlib
import io
import json
import os
import platform
import shutil
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import psutil
from filelock import FileLock

from ..utils.console import progress_bar, say
from ..utils.errors import InputError
from ..utils.files import flush
from .config import cache_folder
from .decode import (
    COLOUR,
    Preprocessing,
    ValueRange,
    bad_image,
    conventional,
    decode_or_error,
    is_grey,
    may_pass,
    reason,
    union,
)
from .sources import Source

FORMAT = 2  # of the files below; part of the key
PIXELS, INDEX, INFO = "pixels.bin", "index.npz", "info.json"
PICTURES_AT_ONCE = 64
SLOW = 5_000  # images from which decoding shows a progress bar
CHECKED_AT_OPENING = 512 << 20  # bytes; reading more would take noticeably long


@dataclass
class Cached:
    """An open cache."""

    pixels: np.memmap  # (N, H, W, C), or flat where sizes differ
    sizes: np.ndarray | None  # (N, 2) heights and widths, where they differ
    order: np.ndarray  # (N,) the images sorted by content, so that a set is the same wherever it came from
    labels: np.ndarray | None  # (N,), -1 where there is none
    label_names: list[str] | None
    channels: int
    fingerprint: str
    num_pictures: int  # good and bad
    bad: list[tuple[str, str]]  # names and reasons
    # Value ranges by type, unless they were known: of the images, those shown as black and white, of how many images.
    ranges: list[tuple[ValueRange, ValueRange, int]] = field(default_factory=list)
    unread: list[tuple[str, str | None]] = field(default_factory=list)  # bad ones to try again: names, local paths
    builder: tuple[str, int, float] = ("", 0, 0)  # machine, process and time
    used: set[str] | None = None  # options of `WITHOUT_EFFECT` that act on an image; None in an older cache
    folder: Path | None = None
    checksums: np.ndarray | None = None  # (N,) CRC-32 of each image, of a cache that is not checked as a whole


def open_cache(
    source: Source, how: Preprocessing, auto_channels: bool, cache_dir: str | None, stop_at_bad: bool
) -> Cached:
    """Open the cache of a source, building it first if need be. Of several processes one builds, the others wait.

    A complete cache is opened without writing anything, so that it may lie on a read-only disk.

    Args:
        source: The images.
        how: The preprocessing.
        auto_channels: Whether a set without any colour is kept as one channel; `how` then says three.
        cache_dir: Folder of caches; by default `hf_wgan` in the Hugging Face cache.
        stop_at_bad: Raise at the first bad image instead of leaving it out.

    Raises:
        BadImageError: The first bad image, if `stop_at_bad`.
        InputError: The folder cannot be written.
    """
    parent = cache_folder(cache_dir)

    def folder_of(how: Preprocessing, auto_channels: bool) -> Path:
        key = [FORMAT, PIL.__version__, source.fingerprint, asdict(how), auto_channels]
        return parent / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]

    folder = folder_of(how, auto_channels)
    cached = opened(folder)
    if cached is None and not auto_channels:  # the same may be there, with its channels left to the data
        left_to_data = replace(how, channels=COLOUR), True
        same = opened(folder_of(*left_to_data))
        if same is not None and same.channels == how.channels:
            (how, auto_channels), cached = left_to_data, same
            folder = folder_of(how, auto_channels)
    if cached is None and how.ranges:  # or with its ranges left to the data
        for channels, auto in dict.fromkeys([(how.channels, auto_channels), (COLOUR, True)]):
            same = opened(folder_of(replace(how, channels=channels, ranges=()), auto))
            if same is None or same.unread or (stop_at_bad and same.bad):
                continue
            has_channels = auto_channels or same.channels == how.channels
            if has_channels and {shown for _, shown, _ in same.ranges} == set(how.ranges):
                return replace(same, ranges=[])  # they were known
    if cached is None or _is_worth_another_try(cached):
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                cached = opened(folder)  # another process may have built it meanwhile
                if cached is None or _is_worth_another_try(cached):
                    _build(folder, source, how, auto_channels, stop_at_bad)
                    cached = opened(folder)
        except OSError as error:
            if cached is None:
                raise InputError(
                    f"cache_dir={str(parent)!r}: decoded images cannot be kept there ({error}); name another folder"
                ) from error
    assert cached is not None
    if stop_at_bad and cached.bad:
        raise bad_image(*cached.bad[0])
    return cached


def discard(folder: Path) -> None:
    """Make a damaged cache be built again at the next start."""
    with contextlib.suppress(OSError):  # the disk may be read-only
        (folder / INFO).unlink(missing_ok=True)


def _is_worth_another_try(cached: Cached) -> bool:
    """Return whether images that could not be read may be readable now.

    Processes of one run start together and must see the same set: what another process has built since this one started
    is taken as it is.
    """
    if not cached.unread:
        return False
    machine, process, finished = cached.builder
    if (machine, process) != (platform.node(), os.getpid()) and finished > psutil.Process().create_time():
        return False
    return any(path is None or os.access(path, os.R_OK) for _, path in cached.unread)


def opened(folder: Path) -> Cached | None:
    """Return what `_build` left; None if it is not there, or not whole."""
    try:
        text = (folder / INFO).read_text()
    except (OSError, ValueError):
        return None
    try:
        info = json.loads(text)
        if info.pop("checksum") != _digest(json.dumps(info).encode()):
            raise ValueError("info")
        index = (folder / INDEX).read_bytes()
        if _digest(index) != info["index_checksum"]:
            raise ValueError("index")
        with np.load(io.BytesIO(index)) as file:
            arrays = dict(file)
        num_bytes = info["num_bytes"]
        if (folder / PIXELS).stat().st_size != num_bytes:
            raise ValueError("size")
        shape = tuple(info["shape"]) if info["shape"] else (num_bytes,)
        # Copy-on-write, so that torch takes it for writable memory; nothing writes to it.
        pixels: Any = np.memmap(folder / PIXELS, np.uint8, "c", shape=shape) if num_bytes else np.empty(shape, np.uint8)
        is_small = num_bytes <= CHECKED_AT_OPENING
        if is_small and zlib.crc32(pixels.reshape(-1).data) != info["pixels_checksum"]:
            raise ValueError("pixels")
        return Cached(
            pixels=pixels,
            sizes=arrays.get("sizes"),
            order=arrays["order"],
            labels=arrays.get("labels"),
            label_names=info["label_names"],
            channels=info["channels"],
            fingerprint=info["fingerprint"],
            num_pictures=info["num_pictures"],
            bad=[(name, why) for name, why in info["bad"]],
            ranges=[(ValueRange(*own), ValueRange(*shown), count) for own, shown, count in info["ranges"]],
            unread=[(name, path) for name, path in info["unread"]],
            builder=tuple(info["builder"]),
            used=set(info["used"]) if "used" in info else None,
            folder=folder,
            checksums=None if is_small else arrays["checksums"],
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError):
        say(f"The cache of decoded images in {folder} is damaged: the images are decoded again.")
        return None


def _build(folder: Path, source: Source, how: Preprocessing, auto_channels: bool, stop_at_bad: bool) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    for leftover in (temporary, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _fill(temporary, source, how, auto_channels, stop_at_bad)
        for path in (*temporary.iterdir(), temporary):
            flush(path)
        temporary.rename(folder)
        flush(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill(folder: Path, source: Source, how: Preprocessing, auto_channels: bool, stop_at_bad: bool) -> None:
    contents = _Contents(folder, grey=auto_channels)
    bad: list[tuple[int, str, str]] = []
    unread: list[tuple[str, str | None]] = []
    deep: dict[int, ValueRange] = {}
    used: set[str] = set()

    def add(numbers: Sequence[int], how: Preprocessing) -> None:
        for number, (name, picture, pixels) in zip(numbers, _decoded(source, how, numbers, used)):
            if isinstance(pixels, ValueRange):
                deep[number] = pixels
            elif isinstance(pixels, Exception):
                if stop_at_bad:
                    raise bad_image(name, reason(pixels))
                bad.append((number, name, reason(pixels)))
                if may_pass(pixels):
                    is_unreadable = isinstance(picture, str) and not os.access(picture, os.R_OK)
                    unread.append((name, picture if is_unreadable else None))
            else:
                contents.add(number, pixels)

    with contents:
        add(range(len(source)), how)
        ranges = union(deep.values())
        shown = tuple(map(conventional, ranges))
        if deep:  # a second time, now that the values of the whole set are known
            add(sorted(deep), replace(how, ranges=how.ranges + shown))
    counts = [sum(other.kind == values.kind for other in deep.values()) for values in ranges]
    channels = contents.finish(how.channels)
    kept, sizes, digests = contents.kept, contents.sizes, contents.digests
    order = np.argsort(np.frombuffer(b"".join(digests), ">u8"), kind="stable")
    arrays: dict[str, Any] = {"order": order, "checksums": np.array(contents.checksums, np.uint32)}
    uniform = len(set(sizes)) <= 1
    if not uniform:
        arrays["sizes"] = np.array(sizes, np.int32)
    if source.labels is not None:
        arrays["labels"] = source.labels[kept]
    index = io.BytesIO()
    np.savez(index, **arrays)
    (folder / INDEX).write_bytes(index.getvalue())
    # A grey set is the same, in the same order, whether its one channel was asked for or left to the data.
    in_colour = replace(how, channels=COLOUR) if channels == 1 else how
    content = hashlib.sha256(repr((channels, in_colour)).encode() + b"".join(sorted(digests)))
    info = {
        "shape": [len(kept), *(sizes[0] if sizes else how.size[::-1]), channels] if uniform else None,
        "num_bytes": (folder / PIXELS).stat().st_size,
        "channels": channels,
        "fingerprint": content.hexdigest()[:16],
        "num_pictures": len(source),
        "label_names": source.label_names,
        "bad": [(name, why) for _, name, why in sorted(bad)],
        "unread": unread,
        "ranges": list(zip(ranges, shown, counts)),
        "builder": (platform.node(), os.getpid(), time.time()),
        "used": sorted(used),
        "index_checksum": _digest(index.getvalue()),
        "pixels_checksum": contents.checksum,
    }
    info = json.loads(json.dumps(info))
    (folder / INFO).write_text(json.dumps({**info, "checksum": _digest(json.dumps(info).encode())}))


class _Contents:
    """Writes the pixels of a cache one image after the other, as one channel if none has any colour."""

    def __init__(self, folder: Path, grey: bool):
        self._path, self._grey = folder / PIXELS, grey
        self._file = open(self._path, "wb")  # noqa: SIM115 (closed by __exit__)
        self.kept: list[int] = []
        self.sizes: list[tuple[int, ...]] = []
        self.digests: list[bytes] = []
        self.checksums: list[int] = []
        self._grey_checksums: list[int] = []
        self.checksum = 0

    def __enter__(self) -> "_Contents":
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def add(self, number: int, pixels: np.ndarray) -> None:
        self._grey = self._grey and is_grey(pixels)
        self._file.write(pixels.data)
        self.kept.append(number)
        self.sizes.append(pixels.shape[:2])
        in_colour = pixels.repeat(COLOUR, axis=2) if pixels.shape[2] == 1 else pixels
        self.digests.append(hashlib.blake2b(in_colour.data, digest_size=8).digest())
        self.checksums.append(zlib.crc32(pixels.data))
        self.checksum = zlib.crc32(pixels.data, self.checksum)
        if self._grey:
            self._grey_checksums.append(zlib.crc32(np.ascontiguousarray(pixels[..., 0]).data))

    def finish(self, channels: int) -> int:
        """Return the number of channels of the file, of which `channels` have been written."""
        if not self._grey or not self.kept:
            return channels
        self.checksum = _keep_first_channel(self._path, channels)
        self.checksums = self._grey_checksums
        return 1


def _decoded(
    source: Source, how: Preprocessing, numbers: Sequence[int], used: set[str]
) -> Iterator[tuple[str, Any, np.ndarray | ValueRange | Exception]]:
    """Yield the name of each image, what was decoded, and its pixels or what was wrong with it.

    Threads decode, and run a little ahead. `used` gets the names of options that act on an image.
    """

    def work(start: int) -> list[tuple[str, Any, np.ndarray | ValueRange | Exception]]:
        chosen = numbers[start : start + PICTURES_AT_ONCE]
        if isinstance(numbers, range):
            pictures = source.read(chosen[0], chosen[-1] + 1)
        else:
            pictures = [source.read(number, number + 1)[0] for number in chosen]
        return [
            (name, picture if isinstance(picture, str) else None, decode_or_error(picture, how, used))
            for name, picture in pictures
        ]

    num_threads = os.cpu_count() or 1
    waiting: deque[Future] = deque()
    starts = iter(range(0, len(numbers), PICTURES_AT_ONCE))
    with (
        ThreadPoolExecutor(num_threads) as pool,
        progress_bar(len(numbers), " images", desc=f"Decoding {source.name}", disable=len(numbers) < SLOW) as progress,
    ):
        for start in starts:
            waiting.append(pool.submit(work, start))
            if len(waiting) > 4 * num_threads:
                break
        while waiting:
            results = waiting.popleft().result()
            for start in starts:
                waiting.append(pool.submit(work, start))
                break
            yield from results
            progress.update(len(results))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _keep_first_channel(path: Path, channels: int) -> int:
    """Rewrite pixels that are the same in every channel, in pieces; return the checksum of the new file."""
    smaller, checksum = path.with_suffix(".grey"), 0
    with open(path, "rb") as source, open(smaller, "wb") as target:
        while piece := source.read(channels << 20):
            piece = piece[::channels]
            checksum = zlib.crc32(piece, checksum)
            target.write(piece)
    smaller.replace(path)
    return checksum
