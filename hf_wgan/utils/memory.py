"""Memory: how much is free, what a training step frees and asks for again, and passes through networks that fit."""

import ctypes
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from .errors import is_out_of_memory, memory_error
from .linux import groups_of, status

MEMORY_OF_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")  # of control groups
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # glibc's malloc.h
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
# Once a threshold is set, glibc no longer adapts any: afterwards they are the largest that it would reach by itself.
AFTERWARDS = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}

CLEAR_REFS = Path("/proc/self/clear_refs")


def free_memory(device: torch.device) -> float:
    """Return how many bytes of memory this process can still take: a GPU's, or the machine's and its container's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *map(_left_in_group, groups_of("memory"))])


def _left_in_group(group: Path) -> float:
    """Return how many bytes a control group leaves; cached files that nobody has used lately count as free."""
    names = ("memory.max", "memory.current") if (group / "memory.max").is_file() else MEMORY_OF_VERSION_1
    try:
        limit, used = (int((group / name).read_text()) for name in names)
        statistics = (group / "memory.stat").read_text()
    except (OSError, ValueError):  # there is no such file, or it says `max`
        return math.inf
    cached: dict[str, str] = dict(re.findall(r"^(\w+) (\d+)$", statistics, re.MULTILINE))
    # In version 1 what groups below have is counted in the total alone, and in the usage too.
    return max(limit - used + int(cached.get("total_inactive_file") or cached.get("inactive_file", "0")), 0)


def peak_memory_of(work: Callable[[], object]) -> int | None:
    """Do some work and return the most bytes that this process has held meanwhile; None where that is not known."""
    try:
        CLEAR_REFS.write_text("5")  # begin to look for the peak anew
    except OSError:  # no Linux
        return None
    work()
    peak = status("VmHWM")  # in kB
    return 1024 * int(peak.split()[0]) if peak else None


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
