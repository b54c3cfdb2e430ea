"""Independent passes of an iteration beside each other, as branches of a CUDA graph.

A kernel of a small network keeps a part of a GPU busy. The generator's weights rest until the last step of an
iteration, so its images for every step can be made at once, while the critic is trained; and the critic's passes over
real and generated images need nothing of each other. Kernels that are sent one by one gain nothing: sending takes as
long as they do.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, cuda, nn

Pass = Callable[[], Tensor]


@functools.cache
def streams_of(device: int) -> tuple[Any, Any]:
    """Return the streams of all branches on a device.

    Memory that one capture has freed serves the next one on the same stream only, and products of matrices keep memory
    for every stream that they ever ran on.
    """
    return cuda.Stream(device), cuda.Stream(device)


class Branches:
    """The branches of an iteration that is being captured.

    A branch begins when everything that it reads has been written, and what it returns is waited for. Python runs the
    functions in the order of a plain iteration, so they draw the same random numbers.
    """

    def __init__(self) -> None:
        self._ahead, self._beside = streams_of(cuda.current_device())
        for stream in (self._ahead, self._beside):  # by which both belong to the capture
            stream.wait_stream(cuda.current_stream())

    def ahead(self, function: Pass) -> Tensor:
        """Run a function that needs nothing since the iteration began but what ran ahead before it."""
        with cuda.stream(self._ahead):
            result = function()
        return _joined(result, self._ahead)

    def beside(self, network: nn.Module, first: Pass, second: Pass) -> tuple[Tensor, Tensor]:
        """Run two passes of a network beside each other.

        Each layer with buffers (batch statistics, the vectors of spectral normalisation) takes the first pass before
        the second, as passes one after the other would.
        """
        layers = [module for module in network.modules() if next(module.buffers(recurse=False), None) is not None]
        passed: dict[nn.Module, Any] = {}

        def leave(layer: nn.Module, *_: Any) -> None:
            passed[layer] = cuda.current_stream().record_event()

        def enter(layer: nn.Module, *_: Any) -> None:
            cuda.current_stream().wait_event(passed[layer])

        self._beside.wait_stream(cuda.current_stream())
        with cuda.stream(self._beside), ExitStack() as hooks:
            for layer in layers:
                hooks.enter_context(layer.register_forward_hook(leave))
            result = first()
        if len(passed) < len(layers):  # which are not called, or compiled: their order cannot be seen
            return _joined(result, self._beside), second()
        with ExitStack() as hooks:
            for layer in layers:
                hooks.enter_context(layer.register_forward_pre_hook(enter))
            other = second()
        return _joined(result, self._beside), other

    def join(self) -> None:
        """Wait for all branches."""
        for stream in (self._ahead, self._beside):
            cuda.current_stream().wait_stream(stream)


def _joined(result: Tensor, stream: Any) -> Tensor:
    """Wait for a branch, and keep the memory of its result from it as long as the current stream may read it."""
    current = cuda.current_stream()
    current.wait_stream(stream)
    result.record_stream(current)
    return result


@contextmanager
def branches_of_capture() -> Iterator[Branches | None]:
    """Give the branches of the graph that is being captured, and wait for them at the end; None without a capture."""
    if not (cuda.is_available() and cuda.is_current_stream_capturing()):
        yield None
        return
    branches = Branches()
    with warnings.catch_warnings():
        # Gradients of one weight come from two streams, between which autograd waits: this is meant.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
        yield branches
    branches.join()
