"""Memory that a training step frees and asks for again a moment later, and passes through networks that it ends."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from .errors import is_out_of_memory, memory_error

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # glibc's malloc.h
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
# Once a threshold is set, glibc no longer adapts any: afterwards they are the largest that it would reach by itself.
AFTERWARDS = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}


@contextmanager
def kept_memory() -> Iterator[bool]:
    """Keep freed memory with the process inside this context; yield whether that is possible.

    glibc gives large blocks back to the system when they are freed, and the system fills them with zeros, page by page,
    when they are asked for again: a tenth of a training step on a CPU. Elsewhere than on glibc nothing is changed.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = all(libc.mallopt(what, value) for what, value in KEPT.items())
    except (OSError, AttributeError):  # another system, another C library
        kept = False
    try:
        yield kept
    finally:
        if kept:
            for what, value in AFTERWARDS.items():
                libc.mallopt(what, value)
            libc.malloc_trim(0)


def passed(what: str, network: Callable[..., Tensor], images: Tensor, *others: Tensor) -> Tensor:
    """Pass images through a network, in halves wherever memory is used up for all of them at once.

    Args:
        what: What the network is, for the message.
        network: Returns a tensor with one entry for each image.
        images: `(N, C, H, W)`.
        others: Its other inputs, each with one entry for each image.

    Raises:
        DeviceMemoryError: Memory is used up for a single image.
    """
    try:
        return network(images, *others)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(images) == 1:
            image = "×".join(map(str, images.shape[1:]))
            raise memory_error(
                f"{what}, for even one image of {image},", error, "use a device with more memory"
            ) from error
    clear_device_cache()  # no garbage collection, which takes half a second: what the pass held is freed by now
    halves = zip(*(inputs.chunk(2) for inputs in (images, *others)))
    return torch.cat([passed(what, network, *half) for half in halves])
