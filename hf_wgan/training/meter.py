"""The values of the steps since the last report: their means over steps and processes, and the speed."""

import time

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..algorithm.records import StepRecord
from ..utils.errors import NotFiniteError
from .failures import first_not_finite
from .state import TrainingState


class Meter:
    """Collects step records without waiting for the device, until a report reads them.

    Args:
        accelerator: Gathers the records of all processes.
        state: The state of the run, whose clock this keeps.
    """

    def __init__(self, accelerator: Accelerator, state: TrainingState):
        self.accelerator, self.state = accelerator, state
        self._records: list[torch.Tensor] = []  # each a StepRecord in one tensor
        self.restart()

    def restart(self) -> None:
        """Start the clock of the next report now."""
        self._reported_at, self._reported_images = time.monotonic(), self.state.progress.images

    @property
    def seconds(self) -> float:
        """Return the seconds of training up to now."""
        return self.state.progress.seconds + time.monotonic() - self._reported_at

    def add(self, record: StepRecord) -> None:
        """Add the record of one step."""
        self._records.append(torch.stack(record))

    def gather(self) -> torch.Tensor:
        """Return the records since the last report, `(num_processes, steps, 9)` float64 on the CPU.

        Raises:
            NotFiniteError: A value is not finite.
        """
        if not self._records:
            return torch.empty(1, 0, len(StepRecord._fields), dtype=torch.float64)
        records = self.accelerator.gather(torch.stack(self._records)[None]).cpu().double()
        if not records.isfinite().all():
            step = self.state.global_step
            raise NotFiniteError(first_not_finite(records, range(step - records.shape[1] + 1, step + 1)))
        return records

    def load(self, records: torch.Tensor) -> None:
        """Take up the records that a checkpoint kept, `(num_processes, steps, 9)`."""
        dtype = torch.promote_types(self.state.generator.dtype, torch.float32)
        records = records.to(dtype).to(self.accelerator.device)
        same = len(records) == self.accelerator.num_processes
        self._records = list(records[self.accelerator.process_index] if same else records.mean(dim=0))

    def read(self, with_penalty: bool, evaluation_seconds: float = 0.0) -> dict[str, float]:
        """Return the values of a report and begin the next one.

        Args:
            with_penalty: Whether there is a gradient penalty to report.
            evaluation_seconds: Seconds since the last report that were not training.

        Raises:
            NotFiniteError: A value is not finite.
        """
        records, now, progress = self.gather(), time.monotonic(), self.state.progress
        means = dict(zip(StepRecord._fields, records.mean(dim=(0, 1)).tolist()))
        images, seconds = progress.images - self._reported_images, now - self._reported_at
        # The schedules of a run with a time limit follow from it, in all processes alike.
        (progress.seconds,) = broadcast_object_list([round(progress.seconds + seconds, 3)])
        self._reported_at, self._reported_images = now, progress.images
        self._records.clear()
        penalty = {"gradient_penalty": means["gradient_penalty"]} if with_penalty else {}
        return {
            "critic_loss": means["critic_loss"],
            "generator_loss": means["generator_loss"],
            "wasserstein_estimate": -means["critic_loss"],
            **penalty,
            "real_score": means["real_score"],
            "fake_score": means["fake_score"],
            "critic_gradient_norm": means["critic_gradient_norm"],
            "generator_gradient_norm": means["generator_gradient_norm"],
            "seconds": progress.seconds,
            "images_per_second": round(images / (seconds - evaluation_seconds), 1),
        }
