"""Memory that a training step frees and asks for again a moment later."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's malloc.h
NEVER, DEFAULT_MMAP_MAX = 2**31 - 1, 65536
DEFAULT_TRIM_THRESHOLD = 64 * 2**20  # the largest that glibc itself would come to


@contextmanager
def kept_memory() -> Iterator[bool]:
    """A context in which freed memory stays with the process; yields whether it does.

    glibc gives large blocks back to the system when they are freed, and the system fills them with zeros, page by page,
    when they are asked for again: a tenth of a training step on a CPU. Elsewhere than on glibc nothing is changed.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = bool(libc.mallopt(MMAP_MAX, 0) and libc.mallopt(TRIM_THRESHOLD, NEVER))
    except (OSError, AttributeError):  # another system, another C library
        kept = False
    try:
        yield kept
    finally:
        if kept:
            libc.mallopt(MMAP_MAX, DEFAULT_MMAP_MAX)
            libc.mallopt(TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD)
            libc.malloc_trim(0)
