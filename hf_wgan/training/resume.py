"""Save, resume and restore the checkpoints of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..algorithm.records import weight_norm
from ..utils import files
from ..utils.console import say
from ..utils.errors import InputError, NotFiniteError
from .best import set_best_aside_after
from .changes import check_changes
from .checkpoint import CheckpointWriter, find_checkpoint, load_checkpoint, take_checkpoint, weights_fit
from .config import TrainingConfig
from .meter import Meter
from .state import TrainingState


class Checkpoints:
    """Save and load the checkpoints of a run. All processes call the methods together.

    Args:
        config: The options of the run.
        state: What a checkpoint holds.
        meter: The values of the steps since the last report, which it holds too.
        accelerator: Knows the processes.
        describe: Returns the record of the run.
        measurement: Returns by what the batch-norm statistics of the generator are measured now.
    """

    def __init__(
        self,
        config: TrainingConfig,
        state: TrainingState,
        meter: Meter,
        accelerator: Accelerator,
        describe: Callable[[], dict[str, Any]],
        measurement: Callable[[], dict[str, Any]],
    ):
        self.config, self.state, self.meter = config, state, meter
        self.accelerator, self.describe, self.measurement = accelerator, describe, measurement
        self.output_dir = Path(config.output_dir)
        self.writer = CheckpointWriter()
        self.metrics = ""  # the lines of metrics.jsonl up to the checkpoint that was loaded last
        self.is_resumed = False
        """Whether a checkpoint was loaded at the start."""
        self._has_resumed = False

    def save(self) -> Path:
        """Begin to write a checkpoint of the current step, and return its folder. `writer.wait()` waits for it.

        Raises:
            NotFiniteError: A value since the last report, or a weight, is not finite. No checkpoint ever holds one.
            DiskError: The checkpoint before it could not be written.
        """
        folder = self.output_dir / f"checkpoint-{self.state.global_step:06d}"
        records = self.meter.gather()
        for name, network in self.state.networks.items():
            if not weight_norm(network).isfinite():
                raise NotFiniteError(
                    f"a weight of the {name} is not finite at step {self.state.global_step}, though all were after the "
                    "step: a callback has changed it"
                )
        if self.accelerator.is_main_process:
            metrics = (self.output_dir / files.METRICS).read_text()
            class_counts = self.measurement()["class_counts"]
            checkpoint = take_checkpoint(
                self.state, self.meter.seconds, self.describe(), metrics, records, class_counts
            )
            self.writer.write(folder, checkpoint, self.config.checkpoints_total_limit)
        return folder

    def resume(self) -> None:
        """Load the checkpoint that the options name, once, unless steps were taken before.

        `"latest"` in a folder without a checkpoint begins the run, as a job does that is started again by the same
        command.

        Raises:
            InputError: There is none where a path says, or it is of another experiment.
        """
        if self.config.resume_from_checkpoint and not self._has_resumed and self.state.global_step == 0:
            folder = find_checkpoint(self.output_dir, self.config.resume_from_checkpoint, self._say)
            if folder is None:
                self._say(f"There is no checkpoint in {self.output_dir} yet: the run begins at step 0.")
            else:
                fits = weights_fit(folder, self.state.networks)
                for change in check_changes(folder, self.describe(), self.config.allow_config_change, fits):
                    self._say(f"Changed since {folder.name}: {change}.")
                self._load(folder)
                self.is_resumed = True
        self._has_resumed = True

    def restore_after(self, error: NotFiniteError) -> None:
        """Load the newest whole checkpoint and continue with other random numbers, if the options allow it.

        Raises:
            NotFiniteError: They do not, or there is no checkpoint, or too many were loaded before.
        """
        restores = self.state.progress.restores + 1
        self.writer.wait()
        self.accelerator.wait_for_everyone()
        try:
            folder = find_checkpoint(self.output_dir, "latest", self._say)
        except InputError:  # all are damaged
            folder = None
        if folder is None:
            raise NotFiniteError(f"{error}. There is no whole checkpoint in {self.output_dir}")
        if self.config.on_nan == "stop":
            raise NotFiniteError(
                f"{error}. {folder} is whole: resume with --resume_from_checkpoint latest, or let runs restore it by "
                "themselves with --on_nan restore"
            )
        if restores > self.config.max_restores:
            raise NotFiniteError(f"{error}. The run was restored max_restores={restores - 1} times; {folder} is whole")
        self._load(folder)
        self.state.progress.restores = restores
        self.accelerator.wait_for_everyone()
        self.meter.restart()
        self._say(f"{error}. Restored {folder}; training continues with other random numbers (restore {restores}).")
        if self.accelerator.is_main_process:
            files.write_text(self.output_dir / files.METRICS, self.metrics)
            for aside in set_best_aside_after(self.output_dir, self.state.global_step):
                self._say(f"Renamed, as the run returns to an earlier step: {aside}")

    def _load(self, folder: Path) -> None:
        checkpoint = load_checkpoint(folder, self.state)
        steps = torch.tensor([self.state.global_step], device=self.accelerator.device)
        if len(set(self.accelerator.gather(steps).tolist())) > 1:
            raise InputError(f"resume_from_checkpoint: the processes do not all find {folder}; use a shared folder")
        self.meter.load(checkpoint.states["records"])
        self.metrics = checkpoint.metrics

    def _say(self, message: str) -> None:
        if self.accelerator.is_main_process:
            say(message)
