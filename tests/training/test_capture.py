"""Captures as CUDA graphs, on a stand-in for the memory pools that PyTorch keeps for them."""

import gc
from collections import Counter
from contextlib import contextmanager, nullcontext, suppress
from weakref import WeakSet

import pytest
import torch

from hf_wgan.training.graphs import DeviceCapture


class Pools:
    """Stands for `torch.cuda` as far as captures go, with what PyTorch's allocators demand of a pool."""

    def __init__(self):
        self.uses, self.tensors = Counter(), Counter()  # of each pool that exists
        self.recording, self.recording_pinned = [], []
        self.num_handles, self.current, self.is_valid = 0, None, True

    def graph_pool_handle(self):
        self.num_handles += 1
        return self.num_handles

    @contextmanager
    def graph(self, graph, pool, capture_error_mode):
        for old in [name for name, uses in self.uses.items() if not uses and not self.tensors[name]]:
            del self.uses[old]  # as the cache is emptied
        if self.uses.get(pool) == 0:
            raise RuntimeError("INTERNAL ASSERT FAILED: use_count > 0")
        self.uses[pool] += 1
        for recording in (self.recording, self.recording_pinned):
            if pool in recording:
                raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
            recording.append(pool)
        self.current, self.is_valid = pool, True
        try:
            yield
        finally:
            if not self.is_valid:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.end(0, pool)
            self.recording_pinned.remove(pool)
            graph.pool = pool

    def end(self, device, pool):
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    def release(self, device, pool):
        assert self.uses[pool] > 0
        self.uses[pool] -= 1


class Rng:
    """A source of random numbers that takes itself for captured after a capture that failed."""

    is_captured = True

    def clone_state(self):
        return "a state"

    def graphsafe_set_state(self, state):
        self.is_captured = False


@pytest.fixture
def pools(monkeypatch):
    pools = Pools()

    class Graph:
        pool = None

        def replay(self):
            pass

        def reset(self):
            if self.pool:
                pools.release(0, self.pool)
            self.pool = None

        __del__ = reset

    for name in ("graph_pool_handle", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(pools, name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", [Rng()], raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", pools.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", pools.release, raising=False)
    return pools


def iteration(pools):
    pools.tensors[pools.current] += 1  # gradients, which outlive the graph
    return pools.current


def failing(pools):
    iteration(pools)
    pools.is_valid = False
    raise RuntimeError("the host waits")


def test_graphs_share_their_memory(pools):
    capture = DeviceCapture(Rng())
    graphs = [capture(lambda: iteration(pools)) for _ in range(3)]
    assert len({pool for _, pool in graphs}) == 1 and pools.uses[graphs[0][1]] == 3


def test_an_iteration_is_captured_anew_while_gradients_of_the_last_graph_live(pools):
    capture = DeviceCapture(Rng())
    for _ in range(3):
        replay, pool = capture(lambda: iteration(pools))
        assert pools.uses[pool] == 1
        del replay
        gc.collect()
    assert not any(pools.uses.values())


@pytest.mark.parametrize("num_graphs", [0, 2])
def test_a_capture_that_fails_says_why_and_leaves_nothing_behind(pools, num_graphs):
    rng = Rng()
    capture = DeviceCapture(rng)
    graphs = [capture(lambda: iteration(pools)) for _ in range(num_graphs)]
    with pytest.raises(RuntimeError, match="the host waits"):
        capture(lambda: failing(pools))
    assert not pools.recording and sum(pools.uses.values()) == num_graphs
    assert not rng.is_captured and not torch.cuda.default_generators[0].is_captured
    graphs.append(capture(lambda: iteration(pools)))
    assert sum(pools.uses.values()) == num_graphs + 1


def test_the_memory_of_a_capture_that_fails_is_freed_with_its_error(pools):
    class Image:
        pass

    images = WeakSet()

    def function():
        image = Image()
        images.add(image)
        failing(pools)

    gc.disable()
    try:
        with suppress(RuntimeError):
            DeviceCapture(Rng())(function)
        assert not images
    finally:
        gc.enable()


def test_an_interrupted_capture_is_no_failure_of_it(pools):
    def interrupted():
        pools.is_valid = False
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DeviceCapture(Rng())(interrupted)
    assert not pools.recording


def test_memory_that_is_used_up_by_the_graph_itself_is_given_back(pools, monkeypatch):
    """The capture has ended by then."""
    capture = DeviceCapture(Rng())
    complete = pools.graph

    @contextmanager
    def too_large(graph, pool, capture_error_mode):
        with complete(graph, pool, capture_error_mode):
            yield
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch.cuda, "graph", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        capture(lambda: iteration(pools))
    assert not any(pools.uses.values()) and not pools.recording
