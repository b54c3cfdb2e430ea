"""The choice of fast paths: faster ways to compute the same numbers."""

import os
import time
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from ..algorithm.execution import is_of_this_package
from ..algorithm.step import WGANStep
from .config import TrainingConfig
from .graphs import obstacle_to_graphs
from .optimizers import can_be_fused


def has_bf16_arithmetic(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 rather than converting every number."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        is_supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return bool(is_supported) and bf16_slowdown() < 1  # supported is also AVX-512 that converts every number
    return True


@cache
def bf16_slowdown(size: int = 256) -> float:
    """Measure how many times as long a product of bfloat16 matrices takes as one of float32."""
    return _seconds(torch.bfloat16, size) / _seconds(torch.float32, size)


def _seconds(dtype: torch.dtype, size: int) -> float:
    matrix = torch.ones(size, size, dtype=dtype)
    times: list[float] = []
    while len(times) < 20:
        begin = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - begin)
    return min(times)


class FastPaths(NamedTuple):
    """The fast paths of a run. All are off with `--no-fast_paths`."""

    channels_last: bool = False  # the layout in which convolutions are fastest
    fused_optimizers: bool = False  # one kernel updates all weights
    bf16_derivatives: bool = False  # gradients of bfloat16 weights by matrix products
    kept_memory: bool = False  # freed memory stays with the process
    cudnn_benchmark: bool = False  # cuDNN tries its convolutions and takes the fastest
    cuda_graphs: bool = False  # an iteration is launched as a whole

    @classmethod
    def of(cls, config: TrainingConfig, accelerator: Accelerator, parts: Iterable[Any] = ()) -> "FastPaths":
        """Choose the fast paths for a configuration and a machine.

        Args:
            config: The configuration.
            accelerator: Knows the machine.
            parts: Networks and functions that run in an iteration.
        """
        fast, on_cpu = config.fast_paths, accelerator.device.type == "cpu"
        # A fused optimizer hides from Accelerate that a float16 loss scaler skipped its step.
        fused = can_be_fused(config.optimizer, accelerator.device) and accelerator.mixed_precision != "fp16"
        bf16_derivatives = on_cpu and accelerator.mixed_precision == "bf16" and not config.compile
        channels_last = on_cpu or _uses_tensor_cores(config, accelerator)
        benchmark = accelerator.device.type == "cuda" and not torch.backends.cudnn.deterministic
        chosen = cls(*(fast and path for path in (channels_last, fused, bf16_derivatives, on_cpu, benchmark)))
        graphs = config.cuda_graphs
        if graphs is None:  # what is not of this package may decide in Python, which a graph does not run
            is_compiled = config.compile or os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"
            unseen = is_compiled or torch.version.hip is not None
            can_be = not (unseen or obstacle_to_graphs(config, accelerator))
            graphs = fast and can_be and all(map(is_of_this_package, parts))
        # The fused kernel of a graph would keep to one β2.
        fused = chosen.fused_optimizers and not (graphs and config.adam_beta2_end is not None)
        return chosen._replace(cuda_graphs=graphs, fused_optimizers=fused)

    def names(self, step: WGANStep) -> list[str]:
        """Return the names of the fast paths in use, those of the step included."""
        in_use = {
            "channels-last memory": self.channels_last,
            "fused optimizers": self.fused_optimizers,
            "gradients of bfloat16 weights by matrix products": self.bf16_derivatives,
            "freed memory is kept": self.kept_memory,
            "cuDNN's fastest convolutions": self.cudnn_benchmark,
            "iterations as CUDA graphs": self.cuda_graphs,
            "independent passes beside each other": self.cuda_graphs and step.execution.fast_paths,
            "own derivatives of the penalty": step.execution.fast_paths and step.constraint.has_penalty,
            "one pass over real and generated images": step.scores_in_one_pass,
        }
        return [name for name, used in in_use.items() if used]


def _uses_tensor_cores(config: TrainingConfig, accelerator: Accelerator) -> bool:
    """Return whether convolutions run on tensor cores of an NVIDIA GPU, which read the channels-last layout.

    Its other cores are faster in the default layout; on MPS batch norm computes wrong gradients in channels-last
    (pytorch/pytorch#175189), and nothing is known of other devices.
    """
    if accelerator.device.type != "cuda" or torch.version.hip is not None:
        return False
    major, _ = torch.cuda.get_device_capability(accelerator.device)  # 7: Volta, Turing; 8: Ampere
    if accelerator.mixed_precision == "fp16":
        return major >= 7
    return major >= 8 and (accelerator.mixed_precision == "bf16" or config.allow_tf32)
