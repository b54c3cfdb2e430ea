"""Memory that a training step frees and asks for again a moment later."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

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
