import ctypes
import subprocess
import sys

import pytest

from hf_wgan.utils.memory import kept_memory

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
