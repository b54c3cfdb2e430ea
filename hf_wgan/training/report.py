"""The built-in callbacks: progress bar, `metrics.jsonl`, `curves.png`, trackers and pushes; pictures: `samples.py`."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..algorithm.lipschitz import has_batch_norm
from ..data import ImageSet, ImageStream
from ..hub.card import write_card
from ..hub.publish import BackgroundPushes, problem_with, push_folder
from ..utils import files
from ..utils.console import duration, progress_bar, say
from ..utils.cores import num_cores
from ..utils.errors import InputError, PushError, one_line
from .adaptive import AdaptiveAugmentationCallback
from .advice import AdviceCallback, advice_at_the_start
from .callbacks import IntervalCallback, TrainerCallback, TrainerControl
from .config import NO_LIMIT, TrainingConfig
from .curves import ALWAYS_PLOTTED, EVALUATION_SETTINGS, PLOTTED_IF_REPORTED, can_plot, plot_runs, read_metrics
from .run_folder import command_to_resume
from .samples import SamplesCallback, first_real_images
from .snapshot import settings_of
from .state import TrainingState
from .trackers import Trackers

SECONDS_TO_ESTIMATE = 5.0  # of steps from which the time of the run is estimated

if TYPE_CHECKING:
    from .trainer import WGANTrainer


class ProgressCallback(TrainerCallback):
    """Shows a progress bar; in a log, a line after each tenth of the run. Says early on how long the run will take."""

    def __init__(self) -> None:
        self.bar: Any = None
        self._estimate_anew()

    def _estimate_anew(self) -> None:
        self._begun: float | None = None  # when the step began; of the first, which takes longer than others, unknown
        self._steps, self._seconds = 0, 0.0  # from which the time is estimated

    def on_train_begin(
        self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any
    ) -> None:
        total = args.max_train_steps if args.max_train_steps < NO_LIMIT else None  # the first report estimates it
        self.bar = progress_bar(total, " steps", state.global_step)
        self._estimate_anew()

    def on_step_end(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        if self._seconds >= SECONDS_TO_ESTIMATE:  # it has been said
            return
        now = time.monotonic()
        if self._begun is not None:
            self._steps += 1
            self._seconds += now - self._begun
        self._begun = now
        if self._seconds >= SECONDS_TO_ESTIMATE:
            seconds = self._seconds / self._steps * (args.max_train_steps - state.global_step)
            if args.max_train_minutes is not None:
                seconds = min(seconds, 60 * args.max_train_minutes - state.progress.seconds)
            if seconds >= SECONDS_TO_ESTIMATE:  # else the end comes as soon as the line
                say(f"About {duration(seconds)} to go.")

    def on_sample(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step:  # samples are frequent while the time is estimated, and seldom after it
            self._begun = time.monotonic()

    def on_log(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        # What matters most comes first: a narrow terminal cuts the end off.
        values = [
            f"Wasserstein {logs['wasserstein_estimate']:.4f}",
            f"generator {logs['generator_loss']:.4f}",
            f"{logs['images_per_second']:.0f} images/s",
        ]
        if "augmentation_probability" in logs:
            values.append(f"augmented {logs['augmentation_probability']:.0%}")
        if args.max_train_minutes is not None and state.progress.expected_steps:
            self.bar.total = min(args.max_train_steps, max(state.progress.expected_steps, state.global_step))
        self.bar.set_postfix_str(", ".join(values), refresh=False)
        self.bar.update(state.global_step - self.bar.n)  # negative after a restore

    def on_train_end(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class MetricsCallback(TrainerCallback):
    """Appends a line to `metrics.jsonl` for each report. It is kept there and not in memory, as a run may be long.

    Args:
        evaluation_settings: Returns what the metrics of an evaluation depend on, for the lines that have some.
    """

    def __init__(self, evaluation_settings: Callable[[], str]):
        self.evaluation_settings = evaluation_settings

    def on_log(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        row: dict[str, Any] = {"step": state.global_step, **logs}
        if "evaluation_seconds" in logs:
            row[EVALUATION_SETTINGS] = self.evaluation_settings()
        with open(Path(args.output_dir, files.METRICS), "a") as file:
            file.write(json.dumps(row) + "\n")


class TrackersCallback(TrainerCallback):
    """Reports to experiment trackers.

    Args:
        trainer: Knows the accelerator and the settings of the run.
    """

    def __init__(self, trainer: "WGANTrainer"):
        self.trainer = trainer
        self._trackers: Trackers | None = None

    def on_train_begin(
        self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trackers = Trackers(self.trainer.accelerator, Path(args.output_dir).name, hyperparameters(self.trainer))

    def on_log(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if self._trackers:
            self._trackers.scalars(state.global_step, logs)

    def on_sample(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        if self._trackers:
            self._trackers.samples(state.global_step, files.sample_grid(Path(args.output_dir), state.global_step))

    def close(self) -> None:
        if self._trackers:
            self._trackers.close()
            self._trackers = None


class CurvesCallback(TrainerCallback):
    """Draws `curves.png` at the end, and adds it to the card."""

    def on_train_end(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        if draw_curves(Path(args.output_dir)):
            write_card(Path(args.output_dir))


def draw_curves(output_dir: Path) -> bool:
    """Draw `curves.png`, and return whether that was possible. A broken plotting library costs only the picture."""
    rows = read_metrics(output_dir)
    if not rows or not can_plot():
        return False
    try:
        reported = [name for name in PLOTTED_IF_REPORTED if any(name in row for row in rows)]
        plot_runs({"": rows}, output_dir / files.CURVES, [*ALWAYS_PLOTTED, *reported])
    except Exception as error:
        say(f"{files.CURVES} was not drawn ({type(error).__name__}: {one_line(error)}).")
        return False
    return True


class SummaryCallback(TrainerCallback):
    """Says what a run has left.

    Args:
        lines: Returns the lines.
    """

    def __init__(self, lines: Callable[[], list[str]]):
        self.lines = lines

    def on_train_end(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        for line in self.lines():
            say(line)


class PushCallback(TrainerCallback):
    """Pushes the run's folder to the Hub at the end, and with `hub_strategy="checkpoint"` at every checkpoint.

    A failed push is no failure of the run.

    Args:
        trainer: Saves the pipeline and knows whether the run ends after the current step.
    """

    def __init__(self, trainer: "WGANTrainer"):
        self.trainer = trainer
        self._background: BackgroundPushes | None = None

    def on_train_begin(
        self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.hub_strategy == "checkpoint":
            self._background = BackgroundPushes(Path(args.output_dir), args.push)

    def on_save(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        if self._background and not self.trainer.ends:
            draw_curves(Path(args.output_dir))
            self.trainer.save_pipeline()
            self._background.push_copy(state.global_step)

    def on_train_end(
        self, args: TrainingConfig, state: TrainingState, control: TrainerControl, *, interrupted: bool, **kwargs: Any
    ) -> None:
        if self._background:
            self._background.finish()
        if interrupted and args.hub_strategy != "checkpoint":
            return
        try:
            say(f"Pushed to {push_folder(Path(args.output_dir), args.push)}.")
        except (InputError, PushError) as error:
            say(str(error))
            self.trainer.push_failed = True


def built_in_callbacks(trainer: "WGANTrainer") -> tuple[list[TrainerCallback], list[TrainerCallback]]:
    """Return the callbacks that a trainer calls before the user's, and those that it calls after them.

    Only the main process reports. A push comes last, so that it takes along what the user's callbacks wrote.
    """
    config, accelerator = trainer.config, trainer.accelerator
    before: list[TrainerCallback] = [IntervalCallback()]
    if trainer.set_aside is not None:
        before.append(AdaptiveAugmentationCallback(trainer, trainer.set_aside, trainer.trained_on))
    if not accelerator.is_main_process:
        return before, []
    before += [ProgressCallback(), MetricsCallback(lambda: trainer.evaluations.settings)]
    real_images = partial(first_real_images, trainer.real_batches, config.num_validation_images)
    before += [SamplesCallback(real_images), AdviceCallback(trainer)]
    if accelerator.log_with:
        before.append(TrackersCallback(trainer))
    before += [CurvesCallback(), SummaryCallback(lambda: closing_lines(trainer))]
    after: list[TrainerCallback] = [PushCallback(trainer)] if config.push_to_hub else []
    return before, after


def images_in_words(dataset: ImageSet | ImageStream) -> str:
    """Return the number, the size and the name of training images."""
    count = "a stream of" if isinstance(dataset, ImageStream) else f"{len(dataset):,}"
    channels, height, width = dataset.shape
    return f"{count} images of {height}×{width}×{channels} ({dataset.name})"


def opening_lines(trainer: "WGANTrainer") -> list[str]:
    """Return what a log says before the first step."""
    config, state, dataset, accelerator = trainer.config, trainer.state, trainer.dataset, trainer.accelerator
    fast_paths = trainer.fast_paths.names(trainer.algorithm)
    device, num_processes = accelerator.device.type, accelerator.num_processes
    lines = [
        f"Training {type(state.generator).__name__} and {type(state.critic).__name__} on "
        f"{images_in_words(dataset)}, on {num_processes} × {device}, "
        f"mixed precision: {accelerator.mixed_precision}.",
        f"Fast: {'; '.join(fast_paths)} (--no-fast_paths leaves them out)." if fast_paths else "Fast paths are off.",
    ]
    cores = num_cores()
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ  # whose default is one thread
    if (device, num_processes, torch.get_num_threads()) == ("cpu", 1, 1) and cores > 1 and by_accelerate:
        lines.append(f"One of {cores} cores is in use: --num_cpu_threads_per_process {cores} is faster.")
    is_synchronised = device != "cpu" and config.sync_batch_norm
    if num_processes > 1 and not is_synchronised and any(map(has_batch_norm, state.networks.values())):
        why = ": PyTorch cannot synchronise it on CPUs" if device == "cpu" else ""
        lines.append(f"Batch normalisation uses the images of each process alone{why}.")
    if trainer.trained_on is not None:
        number = (~trainer.trained_on).sum()
        lines.append(f"{number:,} of them are set aside, for their scores steer the augmentation.")
    lines += advice_at_the_start(trainer)
    if trainer.checkpoints.is_resumed:
        lines.append(f"Resumed at step {state.global_step}.")
    if not can_plot():
        lines.append('curves.png will not be drawn: pip install "hf_wgan[train]" brings matplotlib and SciPy.')
    if config.push_to_hub and (problem := problem_with(config.push)):
        lines.append(
            f"A push to {config.push.repo_id} would fail now: {problem}. It will be tried again when there is a model."
        )
    return lines


def closing_lines(trainer: "WGANTrainer") -> list[str]:
    """Return what a log says after the last step."""
    lines = []
    if trainer.interrupted:
        resume = command_to_resume(trainer.record)
        lines.append(f"Interrupted at step {trainer.state.global_step}. To resume: {resume}")
    if trainer.evaluations:
        lines.append(trainer.evaluations.summary())
    has_curves = (trainer.output_dir / files.CURVES).is_file()  # not before the first report, or without matplotlib
    parts = "the pipeline, samples and curves" if has_curves else "the pipeline and samples"
    return [*lines, f"Saved {parts} in {trainer.output_dir}."]


def hyperparameters(trainer: "WGANTrainer") -> dict[str, Any]:
    """Return what trackers record of a run's settings."""
    options = {field.name: getattr(trainer.config, field.name) for field in fields(trainer.config) if field.repr}
    networks = {
        f"{name}.{setting}": value
        for name, network in trainer.state.networks.items()
        for setting, value in {"class": type(network).__name__, **settings_of(network)}.items()
    }
    return {**options, **networks, "dataset": trainer.dataset.name}
