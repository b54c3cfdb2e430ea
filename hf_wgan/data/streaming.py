"""Training images that come in turn and do not fit the disk: decoded by workers, shuffled in a buffer."""

import atexit
import copy
import gc
import hashlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from ..utils.console import say_once
from ..utils.errors import InputError, one_line
from ..utils.signals import STOPPING
from .batches import Batch, mirrored, normalised
from .config import DataConfig
from .decode import (
    Preprocessing,
    ValueRange,
    bad_image,
    conventional,
    decode_or_error,
    is_grey,
    range_sentence,
    reason,
    too_many_bad,
    union,
)
from .labels import UNLABELLED, ClassMapping
from .sources import LABELS_TO_LOOK_AT, Stream

PICTURES_TO_LOOK_AT = 64  # to tell whether a stream is grey, which values it has, and whether it has changed
PICTURES_TO_JUDGE = 50  # before which no share of bad ones stops a run


class ImageStream:
    """A stream of training images, whose length is not known.

    Args:
        stream: The images.
        config: What is done to them.

    Attributes:
        config: The same, with the range of values beyond 8 bits that the first images have.
        fingerprint: Digest of the first images and of the files of the stream, as far as they can be known.

    Raises:
        InputError: Not one of the first images can be read.
    """

    def __init__(self, stream: Stream, config: DataConfig):
        self.stream, self.name = stream, stream.name
        self.only_labelled = False
        how = Preprocessing.of(config)
        first = list(itertools.islice(_read(stream, stream.dataset), PICTURES_TO_LOOK_AT))
        decoded = [decode_or_error(picture, how) for (_, picture), _ in first]
        deep = [values for values in decoded if isinstance(values, ValueRange)]
        for own in union(deep):
            how = replace(how, ranges=(*how.ranges, conventional(own)))
            sentence = range_sentence(own, how.ranges[-1], sum(values.kind == own.kind for values in deep))
            if sentence:
                say_once(f"Of the first {len(first)}, {sentence}")
        if deep:
            decoded = [decode_or_error(picture, how) for (_, picture), _ in first]
            config = config.with_ranges(map(conventional, union(deep)))
        self.config = config
        good = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
        if config.channels is None:
            if not good:
                raise InputError(f"{stream.name}: not one of the first {len(decoded)} images can be read")
            how = replace(how, channels=1) if all(map(is_grey, good)) else how
        if config.label_column is not None:
            stream.learn_classes()
        self.how = how
        self.shape = (how.channels, config.resolution, config.width or config.resolution)
        chosen = (config.dataset_split, config.max_train_samples, config.dataset_revision, config.label_column)
        digest = hashlib.sha256(repr((stream.fingerprint, chosen)).encode())
        for (_, picture), label in first:
            digest.update(_content(picture))
            digest.update(repr(label).encode())
        self.fingerprint = digest.hexdigest()[:16]

    @property
    def label_names(self) -> list[str] | None:
        """Return the names of the classes; None if there are none. They may have to be read from the stream first."""
        return (self.stream.learn_classes().names or None) if self.stream.has_labels else None

    def labelled(self) -> "ImageStream":
        """Return the stream without the images that have no label.

        Raises:
            InputError: It has no labels at all.
        """
        if not self.label_names:
            raise InputError(f"{self.name} has no labels; set label_column")
        images = copy.copy(self)
        images.only_labelled = True
        return images


class StreamedBatches(Iterator[Batch]):
    """Batches of a stream, shuffled among `shuffle_buffer_size` images, without end.

    Each process takes its own part of the stream. A stream cannot be entered in the middle: a `position` ahead makes
    the next batch come after reading up to it, and one behind after reading the stream anew.

    Args:
        images: The stream.
        batch_size: Batch size per process.
        seed: Seed of the shuffling, crops and flips.
        device: Where batches are made.
        num_processes: How many processes share the stream.
        process_index: Which of them this is, from 0.
    """

    def __init__(
        self,
        images: ImageStream,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        num_processes: int = 1,
        process_index: int = 0,
    ):
        self.position = 0
        self._images_of_batch = batch_size * num_processes
        self.name = images.name
        self.seed, self.device, self.process_index = seed, torch.device(device), process_index
        self.random_flip = images.config.random_flip
        self.newest: torch.Tensor | None = None
        """Images of the newest batch, as the networks see them."""
        dataset = split_dataset_by_node(images.stream.dataset, rank=process_index, world_size=num_processes)
        self._loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            _Decoded(images, dataset, seed, process_index),
            batch_size=batch_size,
            num_workers=min(images.config.dataloader_num_workers, dataset.num_shards),
            collate_fn=_collated,
            worker_init_fn=_unsignalled,
            drop_last=True,
            generator=torch.Generator(),  # or beginning anew would take a number of the step's own
        )
        self._begin()

    def _begin(self) -> None:
        """Read the stream from its beginning."""
        self._drawn = 0
        self._labels: list[np.ndarray] = []
        gc.collect()  # or workers would inherit loaders that nobody holds, and PyTorch's end of those fails in them
        try:
            with _signals_held_back(), _deaths_not_raised():
                self._batches = iter(self._loader)
        except OSError as error:
            raise InputError(
                f"dataloader_num_workers={self._loader.num_workers}: workers cannot be started "
                f"({one_line(error)}); 0 decodes without them"
            ) from error
        # Before PyTorch's own and Python's, which send SIGTERM and wait.
        atexit.register(_end_workers, weakref.ref(self._batches))

    def go_to(self, num_images: int) -> None:
        """Continue after a number of images of all processes; after a change of the batch size, some come once more."""
        self.position = num_images // self._images_of_batch

    def __next__(self) -> Batch:
        self._read_up_to(self.position)
        # Workers send arrays, through pipes: tensors would go through /dev/shm, which is small in containers.
        images, labels = self._draw()
        if self.random_flip:
            rng = np.random.default_rng([self.seed, self.position, self.process_index])
            images = mirrored(images, rng.random(len(images)) < 0.5)
        self.position += 1
        pixels = self._on_device(images).permute(0, 3, 1, 2)
        self.newest = normalised(pixels)
        return Batch(self.newest, None if labels is None else self._on_device(labels))

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        tensor = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return tensor.to(self.device, non_blocking=True)

    @property
    def class_labels(self) -> torch.Tensor | None:
        """Return the labels of the images drawn so far, of the first 100,000 at most; None before there are any."""
        self._read_up_to(self.position)
        return torch.from_numpy(np.concatenate(self._labels)) if self._labels else None

    def _read_up_to(self, position: int) -> None:
        """Read on until `position` batches are drawn, from the beginning if more are."""
        if position < self._drawn:
            _end_workers(weakref.ref(self._batches))
            self._begin()
        while self._drawn < position:
            self._draw()

    def _draw(self) -> Any:
        """Read the next batch, arrays of images and of labels or None."""
        drawn = self._next_item()
        if isinstance(drawn, Exception):
            try:
                raise drawn
            finally:
                del drawn  # or its traceback would hold it, and the workers, in a circle
        self._drawn += 1
        _, labels = drawn
        if labels is not None and len(self._labels) * len(labels) < LABELS_TO_LOOK_AT:
            self._labels.append(labels)
        return drawn

    def _next_item(self) -> Any:
        why = "it has fewer images than a batch: lower train_batch_size"
        if self._drawn:
            why = f"it has ended after {self._drawn} batches: its data has been removed or changed"
        try:
            return next(self._batches, InputError(f"{self.name}: {why}"))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            return InputError(
                f"{self.name}: a process that decodes the stream has ended unexpectedly, perhaps for lack of memory; "
                "lower dataloader_num_workers or shuffle_buffer_size, and resume from the last checkpoint"
            )


class _Decoded(torch.utils.data.IterableDataset):
    """Decoded images and their labels, epoch after epoch.

    An error that ends the run comes as an item: a DataLoader would bury its message in a stack.
    """

    def __init__(self, images: ImageStream, dataset: Any, seed: int, process_index: int):
        self.images, self.dataset, self.seed, self.process_index = images, dataset, seed, process_index
        self.mapping: ClassMapping | None = images.stream.mapping if images.stream.has_labels else None

    def __iter__(self) -> Iterator[Any]:
        config, how = self.images.config, self.images.how
        # Every process shuffles alike, and takes its own part of what comes out.
        dataset = self.dataset.shuffle(seed=self.seed, buffer_size=config.shuffle_buffer_size)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, self.process_index, worker.id if worker else 0])
        for epoch in itertools.count():
            dataset.set_epoch(epoch)
            seen = bad = unlabelled = 0
            try:
                for (name, picture), value in _read(self.images.stream, dataset):
                    seen += 1
                    label = None if self.mapping is None else self.mapping(value)
                    if self.images.only_labelled and label in (None, UNLABELLED):
                        unlabelled += 1
                        continue
                    pixels = decode_or_error(picture, how)
                    if isinstance(pixels, ValueRange):
                        pixels = ValueError(f"it holds {pixels.kind} values, unlike the first images; set value_range")
                    if not isinstance(pixels, Exception):
                        yield _cropped(pixels, how.size, rng), label
                        continue
                    bad += 1
                    if config.on_bad_image == "error":
                        yield from _ending(bad_image(name, reason(pixels)))
                    if epoch == 0:
                        print(f"Bad image left out: {name}: {reason(pixels)}", file=sys.stderr, flush=True)
                    if seen >= PICTURES_TO_JUDGE and bad > config.max_bad_images * seen:
                        yield from _ending(too_many_bad(self.images.name, bad, seen, config))
            except InputError as error:
                yield from _ending(error)
            if epoch == 0 and unlabelled:
                print(f"{unlabelled} of {seen} images of the stream have no label.", file=sys.stderr, flush=True)
            if epoch and (not seen or bad > config.max_bad_images * seen):
                lost = f"{bad} of {seen} images cannot be read any more" if seen else "it has no images any more"
                yield from _ending(InputError(f"{self.images.name}: {lost}: its data has been removed or changed"))
            if seen - bad - unlabelled == 0:
                return  # a worker without a part of the stream, or a stream without a good image


def _read(stream: Stream, dataset: Any) -> Iterator[Any]:
    """Yield the images of a stream; whatever the libraries beneath it raise becomes one line."""
    images = stream.pictures(dataset)
    while True:
        try:
            item = next(images, None)
        except InputError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"{stream.name}: the stream cannot be read ({why})") from error
        if item is None:
            return
        yield item


def _content(picture: Any) -> bytes:
    """Return bytes that change when an image does."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, (Image.Image, np.ndarray)):
        return np.ascontiguousarray(picture).tobytes()
    return b""  # a path, whose file the fingerprint of the stream stands for


@contextmanager
def _deaths_not_raised() -> Iterator[None]:
    """Keep PyTorch from raising an exception wherever the program is when a worker dies; drawing a batch notices."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block signals that ask a run to end for workers that start meanwhile, until they handle these themselves."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unsignalled(worker: int) -> None:
    """Make a worker end only when its own process says so: signals often reach all processes of a run."""
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which tells who sent a signal; macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        own_process: Any = multiprocessing.parent_process()  # not os.getppid(), which may be multiprocessing's server
        threading.Thread(target=_obey, args=(own_process.pid,), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _obey(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def _end_workers(batches: weakref.ref) -> None:
    """End the workers of a loader that is still there when the process ends."""
    if shut_down := getattr(batches(), "_shutdown_workers", None):  # there are none where num_workers is 0
        shut_down()


def _ending(error: Exception) -> Iterator[Exception]:
    """Yield an error without end, so that the batch with it is a full one and is not dropped."""
    while True:
        yield error


def _cropped(pixels: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    width, height = size
    top, left = (rng.integers(own - side + 1) for own, side in zip(pixels.shape[:2], (height, width)))
    return pixels[top : top + height, left : left + width]


def _collated(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, Exception):
            return item
    pixels, labels = zip(*items)
    return np.stack(pixels), None if labels[0] is None else np.array(labels, np.int64)
