"""The average of the generator's weights, which is saved with `use_ema`."""

from collections.abc import Iterable

from diffusers.training_utils import EMAModel
from torch import nn


class AveragedWeights(EMAModel):
    """Diffusers' exponential moving average, with a half-life that grows with the run.

    At each step the half-life is at most a share of the steps so far, as in Karras et al. 2020 (arXiv 2006.06676, whose
    code calls it `ema_rampup`). An average over a fixed number of steps would for long be of weights that were worse.

    Args:
        parameters: The weights to average.
        max_decay: Largest decay per step.
        rampup_ratio: Longest half-life, as a share of the steps so far.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], max_decay: float, rampup_ratio: float):
        super().__init__(parameters, decay=max_decay, foreach=True)  # two kernels for all weights
        self.rampup_ratio = rampup_ratio

    def get_decay(self, optimization_step: int) -> float:
        """Return the decay of a step, counted from 1."""
        return min(self.decay, 0.5 ** (1 / (self.rampup_ratio * optimization_step)))
