import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from hf_wgan.memory import kept_memory


def page_faults(number):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(number):
        torch.empty(20_000_000).fill_(1)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_used_again():
    with kept_memory() as kept:
        if not kept:
            pytest.skip("not glibc")
        page_faults(5)
        inside = page_faults(5)
    assert inside < 100 < page_faults(5) / 5


def test_afterwards_blocks_of_middling_size_are_still_used_again():
    """In a process of its own, whose thresholds nothing else has changed."""
    code = """
import numpy as np
from hf_wgan.memory import kept_memory
import resource
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.full(1_000_000, 1.0)  # 8 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
with kept_memory():
    pass
faults()
assert faults() < 100, faults()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_c_library_is_left_alone(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with kept_memory() as kept:
        assert not kept
