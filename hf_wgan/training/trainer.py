"""The loop around Algorithm 1: Accelerate, the reports, the checkpoints, and the folder that a run leaves."""

import json
import math
import os
import platform
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.optim.swa_utils import update_bn

from ..algorithm.augment import Augmentation
from ..algorithm.derivatives import FastDerivatives
from ..algorithm.execution import Execution
from ..algorithm.latents import prior_of, sample_latents, sample_normals
from ..algorithm.lipschitz import build_constraint
from ..algorithm.random import SharedRandom
from ..algorithm.records import StepRecord
from ..algorithm.step import RealBatch, WGANStep, critic_steps
from ..data import DataConfig, ImageSet, ImageStream, RealBatches, StreamedBatches, images_of, load_held_out
from ..hub.card import write_card
from ..hub.publish import BackgroundPushes, problem_with, push_folder
from ..models.factory import shape_of
from ..pipelines import WGANPipeline
from ..utils import files
from ..utils.console import say
from ..utils.errors import DiskError, InputError, NotFiniteError, ProcessLostError, PushError, one_line
from ..utils.memory import kept_memory
from ..utils.signals import Interrupts
from ..version import __version__
from .changes import changes
from .checkpoint import (
    SET_ASIDE,
    CheckpointWriter,
    Progress,
    checkpoints_for,
    find_checkpoint,
    load_checkpoint,
    portable_copy,
    read_record,
    room,
    set_aside_after,
    settings_of,
    take_checkpoint,
)
from .config import TrainingConfig
from .curves import can_plot
from .fast import FastPaths
from .graphs import GraphedStep, check_graphs
from .report import Report
from .trackers import LOGS, Trackers, tracker_names

RUN_FILES = (
    files.INDEX,
    *files.NETWORKS,
    files.CARD,
    files.CONFIG,
    files.METRICS,
    files.EVALUATION,
    files.SAMPLES,
    files.CURVES,
    files.BEST,
    LOGS,
)
BATCH_NORM_BATCHES = 50
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "ncclRemoteError")
"""What the libraries that connect processes say when one has gone."""
MENDS = {
    "real_score": "lower critic_learning_rate, and see that the images are what they should be",
    "fake_score": "lower generator_learning_rate and critic_learning_rate",
    "penalty": "lower critic_learning_rate or gradient_penalty_weight",
    "critic": "lower critic_learning_rate",
    "generator": "lower generator_learning_rate",
}
"""What helps against a quantity that is not finite, by a word in its name."""


class WGANTrainer:
    """Trains a generator against a critic, and leaves a pipeline.

    Args:
        generator: Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1].
        critic: Images to scores `(N,)`.
        dataset: The training images: what `load_images` returns, a uint8 tensor `(N, C, H, W)`, or a dataset of the
            datasets library (map-style, iterable or a dictionary of splits) with one image column, whose images are
            scaled and cropped to what the generator makes.
        config: Every option of the run.
        record: What else `training_config.json` and the card shall tell: `"command"`, the command that started the run,
            and `"base_model"`, the model on the Hub that the networks were loaded from.
        held_out: Images that are not trained on, for `evaluation_steps` to compare samples with.

    Raises:
        InputError: the arguments do not fit each other or the machine; nothing has been written by then.

    Example:

    ```py
    >>> from datasets import load_dataset
    >>> from hf_wgan import DCGANCritic, DCGANGenerator, TrainingConfig, WGANTrainer

    >>> generator, critic = DCGANGenerator(sample_size=32), DCGANCritic(sample_size=32)
    >>> photos = load_dataset("imagefolder", data_dir="photos", split="train")
    >>> pipeline = WGANTrainer(generator, critic, photos, TrainingConfig(output_dir="wgan-photos")).train()
    ```
    """

    def __init__(
        self,
        generator: ModelMixin,
        critic: ModelMixin,
        dataset: Any,
        config: TrainingConfig | None = None,
        record: dict[str, str] | None = None,
        held_out: ImageSet | None = None,
    ):
        self.record, self.held_out = record or {}, held_out
        self.config = config = config or TrainingConfig()
        self.output_dir = Path(config.output_dir)
        check_output_dir(config)
        self.dataset = _training_images(dataset, generator)
        if config.evaluation_steps and held_out is None and self.dataset.config:
            self.held_out = load_held_out(replace(self.dataset.config, channels=self.dataset.shape[0]))
        if shape_of(generator) != shape_of(critic):
            raise InputError(
                f"the generator makes images of shape {shape_of(generator)}, the critic takes {shape_of(critic)}: "
                "build them for the same images"
            )
        self.accelerator = _accelerator(config)
        if config.cuda_graphs:
            check_graphs(config, self.accelerator)
        torch.backends.cudnn.allow_tf32 = config.allow_tf32
        torch.set_float32_matmul_precision("high" if config.allow_tf32 else "highest")
        share = (self.accelerator.device, self.accelerator.num_processes, self.accelerator.process_index)
        self._num_parts = self.accelerator.gradient_accumulation_steps
        self._draws = SharedRandom(*share, self._num_parts)
        constraint = build_constraint(
            config.lipschitz, config.clip_value, config.gradient_penalty_weight, self._draws.rand
        )
        constraint.check(critic)
        _check_classes(config, self.dataset, generator, critic)
        self.progress = Progress()
        self.interrupted = 0
        self._time_is_up = False
        self._dtype = generator.dtype
        self._records: list[torch.Tensor] = []  # of the steps since the last report, each a StepRecord in one tensor
        self._reported_at, self._reported_images = time.monotonic(), 0
        self._writer = CheckpointWriter()
        self._evaluations: Any = None  # made when training starts
        self._agreement = _agreement_group(self.accelerator)
        self.real_batches: RealBatches | StreamedBatches
        if isinstance(self.dataset, ImageStream):
            self.real_batches = StreamedBatches(self.dataset, config.train_batch_size, config.seed, *share)
        else:
            self.real_batches = RealBatches(self.dataset, config.train_batch_size, config.seed, *share)
        generator, critic = (_synchronised(network, self.accelerator) for network in (generator, critic))
        self._fast = fast = FastPaths.of(config, self.accelerator)
        # The layout of the weights is the one that a convolution works in.
        layout = torch.channels_last if fast.channels_last else torch.contiguous_format
        self.generator = generator.to(memory_format=layout).train()
        self.critic = critic.to(memory_format=layout).train()
        if config.compile:
            self.generator.compile()
            self.critic.compile()
        # From here on the attributes are the networks themselves, and the step holds what Accelerate wrapped.
        with warnings.catch_warnings():
            # PyTorch 2.13 renames broadcast_buffers; Accelerate passes the old name, which means the same here.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            wrapped_generator, wrapped_critic, generator_optimizer, critic_optimizer = self.accelerator.prepare(
                self.generator,
                self.critic,
                _optimizer(self.generator, config.generator_learning_rate, config, fast),
                _optimizer(self.critic, config.critic_learning_rate, config, fast),
            )
        self._optimizers = {"generator_optimizer": generator_optimizer, "critic_optimizer": critic_optimizer}
        self._schedulers = [_scheduler(optimizer.optimizer, config) for optimizer in self._optimizers.values()]
        self.ema = _ema(self.generator, config) if config.use_ema else None
        self.step = WGANStep(
            wrapped_generator,
            wrapped_critic,
            generator_optimizer=generator_optimizer,
            critic_optimizer=critic_optimizer,
            constraint=constraint,
            sample_latents=self._sample_latents,
            augment=Augmentation(config.augmentation, self._draws.rand),
            penalty_interval=config.penalty_interval,
            execution=Execution(
                backward=self.accelerator.backward,
                num_parts=self._num_parts,
                begin_part=self._draws.begin,
                no_sync=self.accelerator.no_sync,
                penalty_dtype=_penalty_dtype(config, self.accelerator),
                fast_paths=config.fast_paths,
            ),
        )
        self._take_step: WGANStep | GraphedStep = self.step
        if config.cuda_graphs:
            self._take_step = GraphedStep(self.step, config.n_critic, self._draws.rng)

    def train(self) -> WGANPipeline:
        """Runs the remaining steps and writes the files of the run.

        SIGINT (Ctrl-C), SIGTERM and SIGUSR1 end the run after the step in hand, with a checkpoint to go on from and the
        pipeline as it is; `interrupted` is then the signal's number. A second SIGINT stops at once.

        A script in several processes calls `trainer.accelerator.end_training()` last.

        Returns:
            The pipeline, as saved in `output_dir`.

        Raises:
            NotFiniteError: a score, loss, gradient or weight is no longer a number. Checkpoints and samples written
                before stay.
            DiskError: the folder cannot be written to. Checkpoints written before stay.
            InputError: the checkpoint to go on from is one of another experiment.
        """
        self.interrupted = 0
        report = self._start()
        pushes = BackgroundPushes(self.output_dir, self.config.push) if report and self._pushes_checkpoints() else None
        with (
            closing(report) if report else nullcontext(),
            Interrupts() as interrupts,
            self._telling_errors(),
            kept_memory() if self._fast.kept_memory else nullcontext(),
        ):
            while not self._ends():
                try:
                    self._go_on(report, interrupts, pushes)
                except NotFiniteError as error:
                    self._restore_after(error, report)
            pipeline = self._pipeline()
            if report:
                self._finish(report, pipeline)
        self.accelerator.wait_for_everyone()  # and not for a push, which may take longer than processes wait
        if report:
            if pushes:
                pushes.finish()
            self._push()
        return pipeline

    def _go_on(self, report: Report | None, interrupts: Interrupts, pushes: BackgroundPushes | None = None) -> None:
        """One step, and what is due after it."""
        self._records.append(torch.stack(self._one_step()))
        self.interrupted = self._agreed(interrupts.number)
        figures = {}
        if self._is_due(self.config.evaluation_steps):
            figures = self._evaluations.measure(self._pipeline(), self.progress.step)
        if self._is_due(self.config.logging_steps):
            self._report(report, figures)
        self._write_at_intervals(report, pushes)

    def _ends(self) -> bool:
        return self.progress.step >= self.config.max_train_steps or self.interrupted > 0 or self._time_is_up

    def _agreed(self, number: int) -> int:
        """The largest of what the processes say, so that they all end after the same step."""
        if self._agreement is None:
            return number
        numbers = torch.tensor([number])
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX, group=self._agreement)
        return int(numbers)

    def _one_step(self) -> StepRecord:
        config, progress = self.config, self.progress
        key = (config.seed, progress.step, progress.restores)
        self._draws.seed(_seed(*key))
        torch.manual_seed(_seed(*key, 1 + self.accelerator.process_index))  # for networks that draw, as dropout does
        self.step.num_critic_steps = progress.critic_steps
        real_batches = (
            RealBatch(batch.images.to(self._dtype), batch.labels if config.class_conditional else None)
            for batch in self.real_batches
        )
        with FastDerivatives() if self._fast.bf16_derivatives else nullcontext():
            record = self._take_step(real_batches, critic_steps(progress.step, config.n_critic, config.critic_warmup))
        for scheduler in self._schedulers:
            scheduler.step()
        if self.ema:
            self.ema.step(self.generator.parameters())
        progress.step += 1
        progress.images += (self.step.num_critic_steps - progress.critic_steps) * self.global_batch_size
        progress.critic_steps = self.step.num_critic_steps
        return record

    @property
    def global_batch_size(self) -> int:
        """Images of one update: of all processes and all accumulation steps."""
        return self.config.train_batch_size * self.accelerator.num_processes * self._num_parts

    def _sample_latents(self, num_latents: int) -> torch.Tensor:
        shape = (num_latents, self.generator.config.latent_dim)
        normals = self._draws.randn(shape, device=self.accelerator.device, dtype=self._dtype)
        return prior_of(self.generator)(normals)

    def _is_due(self, steps: int | None) -> bool:
        if steps is None:
            return False
        return self.progress.step % steps == 0 or self.progress.step == self.config.max_train_steps

    def _gathered_records(self) -> torch.Tensor:
        """`(num_processes, steps, 9)` float64: of the steps since the last report.

        Raises:
            NotFiniteError: a value is not finite.
        """
        records = self.accelerator.gather(torch.stack(self._records)[None]).cpu().double()
        if not records.isfinite().all():
            steps = range(self.progress.step - records.shape[1] + 1, self.progress.step + 1)
            raise NotFiniteError(_not_finite(records, steps))
        return records

    def _report(self, report: Report | None, figures: dict[str, float]) -> None:
        """Means over the steps since the last report and over the processes, and the figures of an evaluation."""
        config, now = self.config, time.monotonic()
        records = self._gathered_records()
        seconds = self.progress.seconds + now - self._reported_at
        self._time_is_up = self._agreed(seconds >= 60 * (config.max_train_minutes or math.inf)) > 0
        means = dict(zip(StepRecord._fields, records.mean(dim=(0, 1)).tolist()))
        images = self.progress.images - self._reported_images
        speed = images / (now - self._reported_at - figures.get("evaluation_seconds", 0))
        self.progress.seconds = round(seconds, 3)
        self._reported_at, self._reported_images = now, self.progress.images
        self._records.clear()
        if report:
            penalty = {"gradient_penalty": means["gradient_penalty"]} if self.step.constraint.has_penalty else {}
            report.metrics(
                self.progress.step,
                critic_loss=means["critic_loss"],
                generator_loss=means["generator_loss"],
                wasserstein_estimate=-means["critic_loss"],
                **penalty,
                real_score=means["real_score"],
                fake_score=means["fake_score"],
                critic_gradient_norm=means["critic_gradient_norm"],
                generator_gradient_norm=means["generator_gradient_norm"],
                seconds=self.progress.seconds,
                images_per_second=round(speed, 1),
                **figures,
            )

    def _start(self) -> Report | None:
        """Makes the folder, or takes up the checkpoint, and returns the main process's report."""
        config = self.config
        self.accelerator.wait_for_everyone()
        if config.evaluation_steps:
            self._evaluations = self._evaluations or _evaluations(
                config, self.dataset, self.held_out, self.accelerator.device
            )
        written = self.output_dir / files.METRICS
        lines = written.read_text() if self.progress.step and written.is_file() else ""  # where train() is called again
        if config.resume_from_checkpoint and self.progress.step == 0:
            folder = find_checkpoint(self.output_dir, config.resume_from_checkpoint, self._say_once)
            self._check_changes(folder)
            lines = self._take_up(folder)
        self._reported_at, self._reported_images = time.monotonic(), self.progress.images
        if not self.accelerator.is_main_process:
            return None
        if config.overwrite_output_dir and not config.resume_from_checkpoint:
            _remove_run(self.output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for aside in set_aside_after(self.output_dir, self.progress.step):
            say(f"Set aside, as the run goes on from an earlier step: {aside}")
        files.write_text(self.output_dir / files.CONFIG, json.dumps(self._description(), indent=2) + "\n")
        self._announce()
        if config.push_to_hub and (problem := problem_with(config.push)):
            say(f"A push to {config.push.repo_id} would fail now: {problem}. It is tried when there is a model.")
        return Report(self.output_dir, config.max_train_steps, self.progress.step, lines, self._trackers())

    def _trackers(self) -> Trackers | None:
        if not self.accelerator.log_with:
            return None
        options = {field.name: getattr(self.config, field.name) for field in fields(self.config) if field.repr}
        networks = {
            f"{name}.{setting}": value
            for name, network in self._networks().items()
            for setting, value in {"class": type(network).__name__, **settings_of(network)}.items()
        }
        return Trackers(self.accelerator, self.output_dir.name, {**options, **networks, "dataset": self.dataset.name})

    def _take_up(self, folder: Path) -> str:
        """Goes on from a checkpoint, and returns its metrics."""
        checkpoint = load_checkpoint(folder, self._networks(), self._others())
        self.progress = checkpoint.progress
        steps = torch.tensor([self.progress.step], device=self.accelerator.device)
        if len(set(self.accelerator.gather(steps).tolist())) > 1:
            raise InputError(f"resume_from_checkpoint: the processes do not all find {folder}; use a shared folder")
        # A whole number of batches: after a change of their size the first images may be seen once more.
        self.real_batches.position = self.progress.images // (self.global_batch_size // self._num_parts)
        pending = checkpoint.states["records"].float().to(self.accelerator.device)  # (num_processes, steps, 9)
        if len(pending) == self.accelerator.num_processes:
            self._records = list(pending[self.accelerator.process_index])
        else:
            self._records = list(pending.mean(dim=0))
        return checkpoint.metrics

    def _check_changes(self, folder: Path) -> None:
        """Says what differs from the run that left a checkpoint.

        Raises:
            InputError: it would be another experiment, and `allow_config_change` is off.
        """
        try:
            before = read_record(folder)
        except OSError as error:
            raise InputError(
                f"resume_from_checkpoint: {folder} has no record of its run ({one_line(error)})"
            ) from error
        found = changes(before, self._description())
        grave = [str(change) for change in found if not change.harmless]
        if grave and not self.config.allow_config_change:
            raise InputError(
                f"resume_from_checkpoint: {folder} is of another experiment: {'; '.join(grave)}. Give the options of "
                "that run, or --allow_config_change to go on with these"
            )
        for change in found:
            self._say_once(f"Changed since {folder.name}: {change}.")

    def _restore_after(self, error: NotFiniteError, report: Report | None) -> None:
        """Goes back to the newest whole checkpoint with other random numbers, if the run is to.

        Raises:
            NotFiniteError: it is not, or there is none, or it went back often enough.
        """
        restores = self.progress.restores + 1
        self._writer.wait()
        self.accelerator.wait_for_everyone()
        try:
            folder = find_checkpoint(self.output_dir, "latest", self._say_once)
        except InputError as nothing:
            raise NotFiniteError(f"{error}. There is no whole checkpoint in {self.output_dir}") from nothing
        if self.config.on_nan == "stop":
            raise NotFiniteError(
                f"{error}. {folder} is whole: go on from it with --resume_from_checkpoint latest, or let the run do so "
                "by itself with --on_nan restore"
            )
        if restores > self.config.max_restores:
            raise NotFiniteError(f"{error}. The run has gone back max_restores={restores - 1} times; {folder} is whole")
        metrics = self._take_up(folder)
        self.progress.restores = restores
        self.accelerator.wait_for_everyone()
        self._reported_at, self._reported_images = time.monotonic(), self.progress.images
        self._say_once(f"{error}. Gone back to {folder}, with other random numbers ({restores} times now).")
        if report:
            report.cut_back(self.progress.step, metrics)

    def _announce(self) -> None:
        channels, height, width = shape_of(self.generator)
        device, num_processes = self.accelerator.device.type, self.accelerator.num_processes
        count = "a stream of" if isinstance(self.dataset, ImageStream) else f"{len(self.dataset):,}"
        say(
            f"Training {type(self.generator).__name__} and {type(self.critic).__name__} on {count} images of "
            f"{height}×{width}×{channels} ({self.dataset.name}), on {num_processes} × {device}, "
            f"mixed precision: {self.accelerator.mixed_precision}."
        )
        ways = self._fast.ways(self.step)
        say(f"Fast: {'; '.join(ways)} (--no-fast_paths leaves them out)." if ways else "Fast paths are off.")
        cores = os.cpu_count() or 1
        if (device, num_processes, torch.get_num_threads()) == ("cpu", 1, 1) and cores > 1:
            say(f"One of {cores} cores is in use: accelerate launch --num_cpu_threads_per_process {cores} is faster.")
        if device == "cpu" and num_processes > 1 and any(map(_has_batch_norm, self._networks().values())):
            say("Batch normalisation: each process by its own images, as PyTorch cannot synchronise it on CPUs.")
        if self.progress.step:
            say(f"Resumed at step {self.progress.step}.")
        if not can_plot():
            say('curves.png will not be drawn: pip install "hf_wgan[train]" brings matplotlib and SciPy.')

    def _write_at_intervals(self, report: Report | None, pushes: BackgroundPushes | None) -> None:
        config, step = self.config, self.progress.step
        last = self._ends()
        checkpoint_is_due = step % config.checkpointing_steps == 0 or last
        if checkpoint_is_due:
            # Also where nothing is reported: no checkpoint has a number in it that is not finite.
            records = self._gathered_records() if self._records else torch.empty(1, 0, len(StepRecord._fields))
        if not report:
            return
        self._writer.check()
        if step % config.validation_steps == 0 or (last and not self.interrupted):
            rng = torch.Generator().manual_seed(config.seed)
            latents = sample_normals(config.num_validation_images, self.generator.config.latent_dim, rng)
            report.samples(step, self._pipeline()(latents=latents).images)
        if checkpoint_is_due:
            seconds = self.progress.seconds + time.monotonic() - self._reported_at
            progress = replace(self.progress, seconds=seconds)
            checkpoint = take_checkpoint(
                self._networks(), self._others(), progress, self._description(), report.lines(), records=records
            )
            self._writer.write(self.output_dir / f"checkpoint-{step:06d}", checkpoint, config.checkpoints_total_limit)
            if pushes and not last:
                self._writer.wait()
                report.curves()
                self._save_pipeline(self._pipeline())
                pushes.push_copy(step)

    def _finish(self, report: Report, pipeline: WGANPipeline) -> None:
        self._writer.wait()
        report.close()
        report.curves()
        self._save_pipeline(pipeline)
        if self.interrupted:
            say(f"Interrupted at step {self.progress.step}. To go on from there: {self._command_to_resume()}")
        if self._evaluations:
            say(self._evaluations.summary())
        say(f"Saved the pipeline, samples and curves in {self.output_dir}.")

    def _command_to_resume(self) -> str:
        if "command" not in self.record:
            return 'the same, with resume_from_checkpoint="latest"'
        words = self.record["command"].split(" --")
        words = [word for word in words if word.split()[0] not in ("overwrite_output_dir", "resume_from_checkpoint")]
        return " --".join([*words, "resume_from_checkpoint latest"])

    def _save_pipeline(self, pipeline: WGANPipeline) -> None:
        (self.output_dir / files.EVALUATION).unlink(missing_ok=True)  # it measured other weights
        pipeline.save_pretrained(self.output_dir)
        if self.ema:
            self._measured(portable_copy(self.generator)).save_pretrained(self.output_dir / "generator", variant="raw")
        pipeline.register_to_config(_name_or_path=str(self.output_dir))
        write_card(self.output_dir)
        if self._evaluations:
            self._evaluations.record(self.progress.step)

    def _pushes_checkpoints(self) -> bool:
        return self.config.push_to_hub and self.config.hub_strategy == "checkpoint"

    def _push(self) -> None:
        """A push that fails is no failure of the run."""
        if not self.config.push_to_hub or (self.interrupted and not self._pushes_checkpoints()):
            return
        try:
            say(f"Pushed to {push_folder(self.output_dir, self.config.push)}.")
        except (InputError, PushError) as error:
            say(str(error))

    def _pipeline(self) -> WGANPipeline:
        """What is shipped: copies of the networks, the generator with its averaged weights if there are any."""
        generator = portable_copy(self.generator)
        if self.ema:
            self.ema.copy_to(generator.parameters())
        pipeline = WGANPipeline(self._measured(generator), portable_copy(self.critic))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _measured(self, generator: ModelMixin) -> ModelMixin:
        """The generator with its batch norm statistics measured anew, in evaluation mode.

        In training a batch is normalised by its own statistics. The running ones, which a single sample has to rely
        on, belong to a mixture of past weights; with the weights fixed they are averaged over many batches.
        """
        rng = torch.Generator(self.accelerator.device).manual_seed(self.config.seed)
        size = self.config.train_batch_size
        labels = {}
        if num_classes := generator.config.get("num_classes"):
            labels["class_labels"] = torch.arange(size, device=rng.device) % num_classes
        latents = (sample_latents(generator, size, rng) for _ in range(BATCH_NORM_BATCHES))
        update_bn(latents, _WithLabels(generator.train(), labels))
        return generator.eval()

    def _networks(self) -> dict[str, ModelMixin]:
        return {"generator": self.generator, "critic": self.critic}

    def _others(self) -> dict[str, Any]:
        schedulers = dict(zip(("generator_scheduler", "critic_scheduler"), self._schedulers))
        optional = {"scaler": self.accelerator.scaler, "ema": self.ema}
        return self._optimizers | schedulers | {name: part for name, part in optional.items() if part is not None}

    def _description(self) -> dict[str, Any]:
        """The content of `training_config.json`."""
        libraries = ("torch", "accelerate", "diffusers", "datasets", "huggingface_hub", "safetensors")
        networks = {
            name: {"class": type(network).__name__} | settings_of(network) for name, network in self._networks().items()
        }
        training = asdict(self.config)
        del training["hub_token"]
        return {
            **self.record,
            "training": training,
            **networks,
            "dataset": {
                "name": self.dataset.name,
                "hub_id": self.dataset.config.hub_id if self.dataset.config else None,
                "num_images": None if isinstance(self.dataset, ImageStream) else len(self.dataset),
                "fingerprint": self.dataset.fingerprint,
                "config": asdict(self.dataset.config) if self.dataset.config else None,
            },
            "machine": {
                "device": self.accelerator.device.type,
                "num_processes": self.accelerator.num_processes,
                "global_batch_size": self.global_batch_size,
                "mixed_precision": self.accelerator.mixed_precision,
            },
            "versions": {"hf_wgan": __version__, "python": platform.python_version()}
            | {library: version(library) for library in libraries},
        }

    def _say_once(self, message: str) -> None:
        if self.accelerator.is_main_process:
            say(message)

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        """What goes wrong on the disk names the folder, and what goes wrong in one process alone is told by it."""
        try:
            yield
        except Exception as error:
            self._writer.settle()  # the checkpoint in hand is one more to go on from
            told = self._told(error)
            if isinstance(told, (DiskError, InputError)) and not self.accelerator.is_main_process:
                say(f"process {self.accelerator.process_index}: {told}")
            if told is error:
                raise
            try:
                raise told from error
            finally:
                del told  # or its traceback would hold it, and the run, in a circle

    def _told(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and not isinstance(error, DiskError):
            return DiskError(f"{self.output_dir}: {one_line(error)}; {room(self.output_dir)}")
        lost = isinstance(error, RuntimeError) and any(words in str(error) for words in LOST)
        if lost and self.accelerator.num_processes > 1:
            return ProcessLostError(
                f"process {self.accelerator.process_index} ends because another one has ended, which may have said "
                f"why; {room(self.output_dir)}"
            )
        return error


def check_output_dir(config: TrainingConfig) -> None:
    """Whether a run may write to its folder, before anything is made.

    Raises:
        InputError: it holds something else, or nothing to resume.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir={config.output_dir!r}: is a file; name a folder")
    there = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"output_dir={config.output_dir!r}: {there} cannot be written to; name another folder")
    if config.resume_from_checkpoint:
        checkpoints_for(folder, config.resume_from_checkpoint)
    elif folder.exists() and any(folder.iterdir()) and not config.overwrite_output_dir:
        raise InputError(
            f"output_dir={config.output_dir!r}: is not empty; name another folder, go on with the run in it by "
            "--resume_from_checkpoint latest, or replace that run by --overwrite_output_dir"
        )


def _penalty_dtype(config: TrainingConfig, accelerator: Accelerator) -> torch.dtype:
    # float16 has not the range for a gradient's gradient.
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" and not config.penalty_in_float32 else torch.float32


def _accelerator(config: TrainingConfig) -> Accelerator:
    # Buffers are not broadcast: two passes of a wrapped critic before one backward then fail on CUDA
    # (pytorch/pytorch#175024), and the shipped statistics are measured anew in any case.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    trackers = tracker_names(config.report_to)
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            kwargs_handlers=handlers,
            log_with=trackers or None,
            project_dir=Path(config.output_dir, LOGS),
        )
    except ValueError as error:
        raise InputError(f"mixed_precision={config.mixed_precision!r}: {error}") from error
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        # Accelerate would train in float32 and call it float16.
        raise InputError(
            f"mixed_precision={accelerator.mixed_precision!r}: not to be had on {accelerator.device.type}; "
            "use bf16 or no there"
        )
    return accelerator


def _evaluations(config: TrainingConfig, dataset: Any, held_out: ImageSet | None, device: torch.device) -> Any:
    if isinstance(dataset, ImageStream):
        raise InputError("evaluation_steps: figures are of the whole set, and this is a stream; leave streaming out")
    from .evaluation import Evaluations  # which needs what [train] installs

    return Evaluations(config, dataset, held_out, device, dataset.config.cache_dir if dataset.config else None)


def _agreement_group(accelerator: Accelerator) -> Any:
    """Over which processes agree without waiting for their devices; None for one process."""
    if accelerator.num_processes == 1:
        return None
    return torch.distributed.new_group(backend="gloo")


def _synchronised(network: ModelMixin, accelerator: Accelerator) -> ModelMixin:
    """With batch statistics of all processes together, where PyTorch can."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network


def _has_batch_norm(network: ModelMixin) -> bool:
    return any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())


def _not_finite(records: torch.Tensor, steps: range) -> str:
    """What of `(num_processes, steps, 9)` was first not finite, when, and what may help."""
    wrong = ~records.isfinite()
    row = int(wrong.any(dim=(0, 2)).int().argmax())
    column = int(wrong[:, row].any(dim=0).int().argmax())
    process = int(wrong[:, row, column].int().argmax())
    name = StepRecord._fields[column]
    mend = next(mend for word, mend in MENDS.items() if word in name)
    where = f" in process {process}" if len(records) > 1 else ""
    return f"{name} is {records[process, row, column].item()} at step {steps[row]}{where}: {mend}"


def _optimizer(
    network: ModelMixin, learning_rate: float, config: TrainingConfig, fast: FastPaths
) -> torch.optim.Optimizer:
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            network.parameters(), learning_rate, eps=config.adam_epsilon, capturable=config.cuda_graphs
        )
    options: dict[str, Any] = {
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "fused": fast.fused_optimizers or None,
        "capturable": config.cuda_graphs,
    }
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), learning_rate, **options)
    return torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=config.adam_weight_decay, **options)


def _scheduler(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> torch.optim.lr_scheduler.LRScheduler:
    return get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )


def _ema(generator: ModelMixin, config: TrainingConfig) -> EMAModel:
    return EMAModel(
        generator.parameters(),
        decay=config.ema_max_decay,
        use_ema_warmup=True,
        inv_gamma=config.ema_inv_gamma,
        power=config.ema_power,
    )


class _WithLabels(torch.nn.Module):
    """A generator as a function of its latents alone."""

    def __init__(self, generator: ModelMixin, labels: dict[str, torch.Tensor]):
        super().__init__()
        self.generator, self.labels = generator, labels

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.generator(latents, **self.labels)


def _check_classes(config: TrainingConfig, dataset: Any, generator: ModelMixin, critic: ModelMixin) -> None:
    for name, network in {"generator": generator, "critic": critic}.items():
        num_classes = network.config.get("num_classes")
        if bool(num_classes) != config.class_conditional:
            raise InputError(
                f"class_conditional={config.class_conditional} with a {name} of num_classes={num_classes}: build both "
                "networks with num_classes, or neither, and set class_conditional likewise"
            )
        if config.class_conditional and isinstance(dataset, ImageSet):
            if dataset.labels is None:
                raise InputError(f"class_conditional: {dataset.name} has no labels; set label_column")
            if not 0 <= int(dataset.labels.min()) <= int(dataset.labels.max()) < num_classes:
                raise InputError(
                    f"class_conditional: {dataset.name} has labels from {int(dataset.labels.min())} to "
                    f"{int(dataset.labels.max())}, the {name} has {num_classes} classes"
                )


def _training_images(dataset: Any, generator: ModelMixin) -> ImageSet | ImageStream:
    shape = channels, height, _ = shape_of(generator)
    if isinstance(dataset, torch.Tensor):
        dataset = ImageSet(dataset)
    elif not isinstance(dataset, (ImageSet, ImageStream)):
        dataset = images_of(dataset, DataConfig(resolution=height, channels=channels))
    if dataset.shape != shape:
        raise InputError(f"dataset with images of shape {dataset.shape}: the generator makes {shape}")
    return dataset


def _seed(*entropy: int) -> int:
    """One well-mixed seed of several numbers."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def _remove_run(folder: Path) -> None:
    """Removes the files of a run, and nothing else that may lie beside them."""
    patterns = (*RUN_FILES, files.CHECKPOINTS, SET_ASIDE + files.CHECKPOINTS, files.CARRIED_CODE)
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
