"""Training images that come in turn and do not fit the disk: decoded by workers, shuffled in a buffer."""

import atexit
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

from ..utils.errors import InputError
from ..utils.signals import STOPPING
from .batches import Batch, normalised
from .cache import decode_or_error
from .config import DataConfig
from .decode import Preprocessing, bad_image, is_grey, reason, too_many_bad
from .sources import Stream

PICTURES_TO_LOOK_AT = 64  # to tell whether a stream is grey
PICTURES_TO_JUDGE = 50  # before which no share of bad ones stops a run


class ImageStream:
    """A stream of training images. `len()` is not known, and neither is a fingerprint of its content.

    Args:
        stream: The pictures.
        config: What is done to them.

    Raises:
        InputError: not one of the first pictures can be read.
    """

    def __init__(self, stream: Stream, config: DataConfig):
        self.stream, self.config = stream, config
        self.name, self.fingerprint = stream.name, ""
        label = (stream.dataset.features or {}).get(stream.label_column)
        self.label_names: list[str] | None = getattr(label, "names", None)
        how = Preprocessing.of(config)
        if config.channels is None:
            first = itertools.islice(stream.pictures(stream.dataset), PICTURES_TO_LOOK_AT)
            decoded = [decode_or_error(picture, how) for (_, picture), _ in first]
            good = [pixels for pixels in decoded if not isinstance(pixels, Exception)]
            if not good:
                raise InputError(f"{stream.name}: not one of the first {len(decoded)} images can be read")
            how = replace(how, channels=1) if all(map(is_grey, good)) else how
        self.how = how
        self.shape = (how.channels, config.resolution, config.resolution)


class StreamedBatches(Iterator[Batch]):
    """Batches of a stream, shuffled among `shuffle_buffer_size` pictures, without end.

    Each process takes its own part of the stream. A stream cannot be entered in the middle: setting `position` makes
    the next batch come after reading that many again.

    Args:
        images: The stream.
        batch_size: Images a batch, for each process.
        seed: Of the shuffling, crops and flips.
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
        self.seed, self.device, self.process_index = seed, torch.device(device), process_index
        self.random_flip = images.config.random_flip
        self._drawn = 0
        dataset = split_dataset_by_node(images.stream.dataset, rank=process_index, world_size=num_processes)
        loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            _Decoded(images, dataset, seed, process_index),
            batch_size=batch_size,
            num_workers=min(images.config.dataloader_num_workers, dataset.num_shards),
            collate_fn=_collated,
            worker_init_fn=_unsignalled,
            drop_last=True,
            pin_memory=self.device.type == "cuda",
        )
        with _signals_held_back():
            self._batches = iter(loader)
        # Before PyTorch's own and Python's, which send SIGTERM and wait.
        atexit.register(_end_workers, weakref.ref(self._batches))

    def __next__(self) -> Batch:
        while self._drawn <= self.position:
            drawn: Any = next(
                self._batches, InputError("the stream has fewer images than a batch: lower train_batch_size")
            )
            if isinstance(drawn, Exception):
                try:
                    raise drawn
                finally:
                    del drawn  # or its traceback would hold it, and the workers, in a circle
            self._drawn += 1
        pixels, labels = drawn
        flips = None
        if self.random_flip:
            rng = np.random.default_rng([self.seed, self.position, self.process_index])
            flips = rng.random(len(pixels)) < 0.5
        self.position += 1
        pixels = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return Batch(normalised(pixels, flips), None if labels is None else labels.to(self.device))


class _Decoded(torch.utils.data.IterableDataset):
    """Decoded square pictures and their labels, epoch after epoch. An error that ends the run comes as an item: a
    DataLoader would bury its message in a stack."""

    def __init__(self, images: ImageStream, dataset: Any, seed: int, process_index: int):
        self.images, self.dataset, self.seed, self.process_index = images, dataset, seed, process_index

    def __iter__(self) -> Iterator[Any]:
        config, how = self.images.config, self.images.how
        # Every process shuffles alike, and takes its own part of what comes out.
        dataset = self.dataset.shuffle(seed=self.seed, buffer_size=config.shuffle_buffer_size)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, self.process_index, worker.id if worker else 0])
        seen = bad = 0
        for epoch in itertools.count():
            dataset.set_epoch(epoch)
            before = seen - bad
            for (name, picture), label in self.images.stream.pictures(dataset):
                seen += 1
                pixels = decode_or_error(picture, how)
                if not isinstance(pixels, Exception):
                    yield _square(pixels, config.resolution, rng), label
                    continue
                bad += 1
                if config.on_bad_image == "error":
                    yield from _ending(bad_image(name, reason(pixels)))
                if epoch == 0:
                    print(f"Bad image left out: {name}: {reason(pixels)}", file=sys.stderr, flush=True)
                if seen >= PICTURES_TO_JUDGE and bad > config.max_bad_images * seen:
                    yield from _ending(too_many_bad(self.images.name, bad, seen, config))
            if seen - bad == before:
                return  # a worker without a part of the stream, or a stream without a good picture


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Workers started meanwhile get no signal that asks a run to end, until they take it up themselves."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unsignalled(worker: int) -> None:
    """Signals that ask a run to end often reach all of its processes; a worker ends when its own process says so."""
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
    """Tells the workers of a loader that is still there when the process ends."""
    if shut_down := getattr(batches(), "_shutdown_workers", None):  # there are none where num_workers is 0
        shut_down()


def _ending(error: Exception) -> Iterator[Exception]:
    """Items without end, so that the batch with the error in it is a full one and is not dropped."""
    while True:
        yield error


def _square(pixels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    top, left = (rng.integers(size - side + 1) for size in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _collated(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, Exception):
            return item
    pixels, labels = zip(*items)
    return torch.from_numpy(np.stack(pixels)), None if labels[0] is None else torch.tensor(labels)
