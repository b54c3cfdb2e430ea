import ctypes
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from hf_wgan.utils.errors import DeviceMemoryError
from hf_wgan.utils.memory import free_memory, kept_memory, passed, peak_memory_of

FAULTS = """
import numpy as np
import resource
from hf_wgan.utils.memory import kept_memory
def faults(million, times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.full(million * 1_000_000, 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""


def in_a_process_of_its_own(code):
    """Where nothing else has changed the thresholds, or takes memory meanwhile."""
    return subprocess.run([sys.executable, "-c", FAULTS + code], check=True, capture_output=True, text=True).stdout


def test_freed_memory_is_used_again():
    code = """
with kept_memory() as kept:
    faults(10, 5)  # of 80 MB each
    inside = faults(10, 5)
print(kept, inside, faults(10, 5))
"""
    kept, inside, afterwards = in_a_process_of_its_own(code).split()
    if kept == "False":
        pytest.skip("not glibc")
    assert int(inside) < 100 < int(afterwards) / 5


def test_afterwards_blocks_of_middling_size_are_still_used_again():
    code = """
with kept_memory():
    pass
faults(1, 10)  # of 8 MB each
print(faults(1, 10))
"""
    assert int(in_a_process_of_its_own(code)) < 100


def test_another_c_library_is_left_alone(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with kept_memory() as kept:
        assert not kept


class Limited:
    """A network for which memory is used up by more than some images."""

    def __init__(self, most):
        self.most, self.sizes = most, []

    def __call__(self, images, labels):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
            )
        return images.flatten(1).sum(1) + labels


def test_images_pass_in_halves_where_memory_is_used_up_for_all_at_once():
    images, labels, network = torch.rand(7, 3, 4, 4), torch.arange(7), Limited(2)
    assert torch.equal(passed("a network", network, images, labels), images.flatten(1).sum(1) + labels)
    assert network.sizes == [7, 4, 2, 2, 3, 2, 1]


def test_memory_that_is_used_up_by_one_image_is_named():
    with pytest.raises(DeviceMemoryError, match=r"^a network, for even one image of 3×4×4, takes more memory .*: use"):
        passed("a network", Limited(0), torch.rand(2, 3, 4, 4), torch.arange(2))


def test_other_errors_are_not_tried_again():
    with pytest.raises(RuntimeError, match="must match"):
        passed("a network", Limited(9), torch.rand(2, 3, 4, 4), torch.arange(3))


GROUPS = {
    "no limit": ("0::/\n", {"memory.max": "max\n", "memory.current": "500\n", "memory.stat": ""}, None),
    "Docker's --memory": (
        "0::/\n",
        {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 600\ninactive_file 50\n"},
        350,
    ),
    "below a limit": (
        "0::/pods/one\n",
        {"pods/memory.max": "1000", "pods/memory.current": "900", "pods/memory.stat": "", "pods/one/memory.max": "max"},
        100,
    ),
    "more is cached than is granted": ("0::/\n", {"memory.max": "10", "memory.current": "20", "memory.stat": ""}, 0),
    "version 1": (
        "3:memory:/x\n4:cpu,cpuacct:/x\n",
        {
            "memory/x/memory.limit_in_bytes": "1000\n",
            "memory/x/memory.usage_in_bytes": "800\n",
            "memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
        },
        400,
    ),
    "no groups": (None, {}, None),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_the_free_memory_of_a_container_is_what_it_is_granted(kind, control_groups, monkeypatch):
    own, files, expected = GROUPS[kind]
    control_groups(own, files)
    machine = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    assert free_memory(torch.device("cpu")) == (machine.available if expected is None else expected)


def test_the_peak_of_memory_is_that_of_the_work_alone():
    if peak_memory_of(lambda: None) is None:
        pytest.skip("no Linux")
    code = """
from hf_wgan.utils.memory import peak_memory_of
peaks = [peak_memory_of(work) for work in (lambda: None, lambda: np.ones(25_000_000), lambda: None)]
print(*peaks)
"""
    before, during, afterwards = map(int, in_a_process_of_its_own(code).split())
    assert during > before + 150e6 and afterwards < before + 50e6


def test_an_error_of_the_work_whose_memory_is_measured_is_raised():
    if peak_memory_of(lambda: None) is None:
        pytest.skip("no Linux")
    with pytest.raises(FileNotFoundError):
        peak_memory_of(Path("/missing/file").read_text)
