"""Which of the faster ways to the same numbers a run takes."""

from typing import NamedTuple

from accelerate import Accelerator

from ..algorithm.step import WGANStep
from .config import TrainingConfig


class FastPaths(NamedTuple):
    """Each is off with `--no-fast_paths`."""

    channels_last: bool  # on all devices: the layout that convolutions are fastest in
    fused_optimizers: bool  # Adam and AdamW
    bf16_derivatives: bool  # gradients of bfloat16 weights by a matrix product
    kept_memory: bool

    @classmethod
    def of(cls, config: TrainingConfig, accelerator: Accelerator) -> "FastPaths":
        fast, on_cpu = config.fast_paths, accelerator.device.type == "cpu"
        # A fused optimizer hides from Accelerate that a float16 loss scaler skipped its step.
        fused = config.optimizer != "rmsprop" and accelerator.mixed_precision != "fp16"
        bf16_derivatives = on_cpu and accelerator.mixed_precision == "bf16" and not config.compile
        return cls(fast, fast and fused, fast and bf16_derivatives, fast and on_cpu)

    def ways(self, step: WGANStep) -> list[str]:
        """In words."""
        words = {
            "channels-last memory": self.channels_last,
            "fused optimizers": self.fused_optimizers,
            "gradients of bfloat16 weights by matrix products": self.bf16_derivatives,
            "freed memory is kept": self.kept_memory,
            "own derivatives of the penalty": step.execution.fast_paths and step.constraint.has_penalty,
            "one pass over real and generated images": step.scores_in_one_pass,
        }
        return [way for way, taken in words.items() if taken]
