"""Every picture of a source decoded once, in parallel, into a folder that all processes of a machine share.

    cache_dir/KEY/pixels.bin   uint8, image after image, each (h, w, channels)
                  index.npz    sizes, labels, and the order of the images by content
                  info.json    what is in there, and which pictures were bad

The key is of the source's fingerprint and the preprocessing, so that a changed dataset or option never meets a stale
cache. A folder is built under another name, flushed to the disk and renamed: under its own name it is always whole.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock
from huggingface_hub.constants import HF_HOME

from ..utils.console import progress_bar
from ..utils.errors import InputError
from ..utils.files import flush
from .decode import Preprocessing, bad_image, decode, is_grey, reason
from .sources import Source

FORMAT = 1  # of the files below; part of the key
PIXELS, INDEX, INFO = "pixels.bin", "index.npz", "info.json"
PICTURES_AT_ONCE = 64
SLOW = 5_000  # pictures from which decoding shows a progress bar


@dataclass
class Cached:
    """An open cache."""

    pixels: np.memmap  # (N, H, W, C), or flat where sizes differ
    sizes: np.ndarray | None  # (N, 2) heights and widths, where they differ
    order: np.ndarray  # (N,) the images sorted by content, so that a set is the same wherever it came from
    labels: np.ndarray | None  # (N,)
    label_names: list[str] | None
    channels: int
    fingerprint: str
    num_pictures: int  # good and bad
    bad: list[tuple[str, str]]  # names and reasons


def cache_folder(cache_dir: str | Path | None) -> Path:
    """Where everything is kept that is computed of images once: by default in the Hugging Face cache."""
    return Path(cache_dir) if cache_dir else Path(HF_HOME) / "hf_wgan"


def open_cache(
    source: Source, how: Preprocessing, auto_channels: bool, cache_dir: str | None, stop_at_bad: bool
) -> Cached:
    """Opens the cache of a source, building it first if need be. Of several processes one builds, the others wait.

    Args:
        source: The pictures.
        how: The preprocessing.
        auto_channels: Whether a set without any colour is kept as one channel; `how` then says three.
        cache_dir: Folder of caches; by default `hf_wgan` in the Hugging Face cache.
        stop_at_bad: Raise at the first bad picture instead of leaving it out.

    Raises:
        BadImageError: the first bad picture, if `stop_at_bad`.
        InputError: the folder cannot be written.
    """
    parent = cache_folder(cache_dir)
    key = [FORMAT, PIL.__version__, source.fingerprint, asdict(how), auto_channels]
    folder = parent / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            cached = _opened(folder)
            if cached is None:
                _build(folder, source, how, auto_channels, stop_at_bad)
                cached = _opened(folder)
    except OSError as error:
        raise InputError(f"cache_dir={str(parent)!r}: decoded images cannot be kept there ({error})") from error
    assert cached is not None
    if stop_at_bad and cached.bad:
        raise bad_image(*cached.bad[0])
    return cached


def _opened(folder: Path) -> Cached | None:
    """What `_build` left; None if it is not there, or not whole."""
    try:
        info = json.loads((folder / INFO).read_text())
        if (folder / PIXELS).stat().st_size != info["num_bytes"]:
            return None
        with np.load(folder / INDEX) as index:
            arrays = dict(index)
    except (OSError, ValueError, KeyError, EOFError):
        return None
    shape = tuple(info["shape"]) if info["shape"] else (info["num_bytes"],)
    # Copy-on-write, so that torch takes it for writable memory; nothing writes to it.
    pixels: Any = (
        np.memmap(folder / PIXELS, np.uint8, "c", shape=shape) if info["num_bytes"] else np.empty(shape, np.uint8)
    )
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
    )


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
    kept, sizes, digests, bad = [], [], [], []
    grey = auto_channels
    with open(folder / PIXELS, "wb") as file:
        for number, (name, pixels) in enumerate(_decoded(source, how)):
            if isinstance(pixels, Exception):
                if stop_at_bad:
                    raise bad_image(name, reason(pixels))
                bad.append((name, reason(pixels)))
                continue
            grey = grey and is_grey(pixels)
            file.write(pixels.data)
            kept.append(number)
            sizes.append(pixels.shape[:2])
            digests.append(hashlib.blake2b(pixels.data, digest_size=8).digest())
    channels = how.channels
    if grey and kept:
        _keep_first_channel(folder / PIXELS, channels)
        channels = 1
    order = np.argsort(np.frombuffer(b"".join(digests), ">u8"), kind="stable")
    arrays: dict[str, Any] = {"order": order}
    uniform = len(set(sizes)) <= 1
    if not uniform:
        arrays["sizes"] = np.array(sizes, np.int32)
    if source.labels is not None:
        arrays["labels"] = source.labels[kept]
    np.savez(folder / INDEX, **arrays)
    content = hashlib.sha256(repr((channels, how)).encode() + b"".join(sorted(digests)))
    info = {
        "shape": [len(kept), *(sizes[0] if sizes else (how.resolution,) * 2), channels] if uniform else None,
        "num_bytes": (folder / PIXELS).stat().st_size,
        "channels": channels,
        "fingerprint": content.hexdigest()[:16],
        "num_pictures": len(source),
        "label_names": source.label_names,
        "bad": bad,
    }
    (folder / INFO).write_text(json.dumps(info))


def _decoded(source: Source, how: Preprocessing) -> Iterator[tuple[str, np.ndarray | Exception]]:
    """Every picture in turn, its pixels or what was wrong with it, decoded by threads that run a little ahead."""

    def work(start: int) -> list[tuple[str, np.ndarray | Exception]]:
        pictures = source.read(start, min(start + PICTURES_AT_ONCE, len(source)))
        return [(name, decode_or_error(picture, how)) for name, picture in pictures]

    num_threads = os.cpu_count() or 1
    waiting: deque[Future] = deque()
    starts = iter(range(0, len(source), PICTURES_AT_ONCE))
    with (
        ThreadPoolExecutor(num_threads) as pool,
        progress_bar(len(source), " images", desc=f"Decoding {source.name}", disable=len(source) < SLOW) as progress,
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


def decode_or_error(picture: Any, how: Preprocessing) -> np.ndarray | Exception:
    try:
        if picture is None:
            raise ValueError("it is missing")
        return np.ascontiguousarray(decode(picture, how))
    except Exception as error:  # PIL raises anything from OSError to struct.error on a damaged file
        return error


def _keep_first_channel(path: Path, channels: int) -> None:
    """Rewrites pixels that are the same in every channel, in pieces."""
    smaller = path.with_suffix(".grey")
    with open(path, "rb") as source, open(smaller, "wb") as target:
        while piece := source.read(channels << 20):
            target.write(piece[::channels])
    smaller.replace(path)
