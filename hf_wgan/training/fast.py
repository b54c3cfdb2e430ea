"""The choice of fast paths: faster ways to compute the same numbers."""

from typing import NamedTuple

from accelerate import Accelerator

from ..algorithm.step import WGANStep
from .config import TrainingConfig


class FastPaths(NamedTuple):
    """The fast paths of a run. All are off with `--no-fast_paths`."""

    channels_last: bool  # the layout in which convolutions are fastest, on all devices
    fused_optimizers: bool  # of Adam and AdamW
    bf16_derivatives: bool  # gradients of bfloat16 weights by matrix products
    kept_memory: bool  # freed memory stays with the process

    @classmethod
    def of(cls, config: TrainingConfig, accelerator: Accelerator) -> "FastPaths":
        """Choose the fast paths for a configuration and a machine."""
        fast, on_cpu = config.fast_paths, accelerator.device.type == "cpu"
        # A fused optimizer hides from Accelerate that a float16 loss scaler skipped its step.
        fused = config.optimizer != "rmsprop" and accelerator.mixed_precision != "fp16"
        bf16_derivatives = on_cpu and accelerator.mixed_precision == "bf16" and not config.compile
        return cls(fast, fast and fused, fast and bf16_derivatives, fast and on_cpu)

    def names(self, step: WGANStep) -> list[str]:
        """Return the names of the fast paths in use, those of the step included."""
        in_use = {
            "channels-last memory": self.channels_last,
            "fused optimizers": self.fused_optimizers,
            "gradients of bfloat16 weights by matrix products": self.bf16_derivatives,
            "freed memory is kept": self.kept_memory,
            "own derivatives of the penalty": step.execution.fast_paths and step.constraint.has_penalty,
            "one pass over real and generated images": step.scores_in_one_pass,
        }
        return [name for name, used in in_use.items() if used]
