"""The loop around Algorithm 1: Accelerate, the reports, the checkpoints, and the folder that a run leaves."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import ModelMixin

from ..algorithm.augment import Augmentation
from ..algorithm.derivatives import FastDerivatives
from ..algorithm.execution import Execution
from ..algorithm.latents import prior_of, sample_normals
from ..algorithm.lipschitz import build_constraint
from ..algorithm.random import SharedRandom
from ..algorithm.records import StepRecord
from ..algorithm.step import RealBatch, WGANStep, critic_steps
from ..data import ImageSet, ImageStream, load_held_out
from ..hub.publish import BackgroundPushes, problem_with, push_folder
from ..models.factory import shape_of
from ..pipelines import WGANPipeline
from ..utils import files
from ..utils.console import say
from ..utils.errors import DiskError, InputError, NotFiniteError, PushError, one_line
from ..utils.memory import kept_memory
from ..utils.signals import Interrupts
from .changes import changes
from .checkpoint import (
    CheckpointWriter,
    Progress,
    find_checkpoint,
    load_checkpoint,
    read_record,
    set_aside_after,
    take_checkpoint,
)
from .config import TrainingConfig
from .curves import can_plot
from .failures import explained, first_not_finite
from .fast import FastPaths
from .graphs import GraphedStep
from .report import Report
from .run_folder import (
    check_output_dir,
    command_to_resume,
    describe_run,
    remove_run,
    save_pipeline,
    write_record,
)
from .setup import (
    build_accelerator,
    build_batches,
    build_ema,
    build_optimizer,
    build_scheduler,
    check_classes,
    check_shapes,
    has_batch_norm,
    penalty_dtype,
    place,
    prepare,
    training_images,
)
from .snapshot import build_pipeline, measured, portable_copy, settings_of
from .trackers import Trackers


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
        self.dataset = training_images(dataset, generator)
        if config.class_conditional and getattr(self.dataset, "label_names", None):
            self.dataset = self.dataset.labelled()
        if config.evaluation_steps and held_out is None and self.dataset.config:
            data_config = replace(self.dataset.config, channels=self.dataset.shape[0])
            names = None if isinstance(self.dataset, ImageStream) else self.dataset.label_names
            self.held_out = load_held_out(data_config, names)
        check_shapes(generator, critic)
        self.accelerator = build_accelerator(config)
        share = (self.accelerator.device, self.accelerator.num_processes, self.accelerator.process_index)
        self._num_parts = self.accelerator.gradient_accumulation_steps
        self._draws = SharedRandom(*share, self._num_parts)
        constraint = build_constraint(
            config.lipschitz, config.clip_value, config.gradient_penalty_weight, self._draws.rand
        )
        constraint.check(critic)
        check_classes(config, self.dataset, generator, critic)
        self.progress = Progress()
        self.interrupted = 0
        self._time_is_up = False
        self._dtype = generator.dtype
        self._records: list[torch.Tensor] = []  # of the steps since the last report, each a StepRecord in one tensor
        self._reported_at, self._reported_images = time.monotonic(), 0
        self._writer = CheckpointWriter()
        self._evaluations: Any = None  # made when training starts
        self._agreement = _agreement_group(self.accelerator)
        self.real_batches = build_batches(self.dataset, config, self.accelerator)
        self._fast = fast = FastPaths.of(config, self.accelerator)
        # The attributes are the networks themselves; the step holds what Accelerate wrapped.
        self.generator = place(generator, config, self.accelerator, fast)
        self.critic = place(critic, config, self.accelerator, fast)
        wrapped_generator, wrapped_critic, generator_optimizer, critic_optimizer = prepare(
            self.accelerator,
            self.generator,
            self.critic,
            build_optimizer(self.generator, config.generator_learning_rate, config, fast),
            build_optimizer(self.critic, config.critic_learning_rate, config, fast),
        )
        self._optimizers = {"generator_optimizer": generator_optimizer, "critic_optimizer": critic_optimizer}
        self._schedulers = [build_scheduler(optimizer.optimizer, config) for optimizer in self._optimizers.values()]
        self.ema = build_ema(self.generator, config) if config.use_ema else None
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
                penalty_dtype=penalty_dtype(config, self.accelerator),
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
            self._errors_explained(),
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
            raise NotFiniteError(first_not_finite(records, steps))
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
            remove_run(self.output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for aside in set_aside_after(self.output_dir, self.progress.step):
            say(f"Set aside, as the run goes on from an earlier step: {aside}")
        write_record(self.output_dir, self._description())
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
        if device == "cpu" and num_processes > 1 and any(map(has_batch_norm, self._networks().values())):
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
            say(f"Interrupted at step {self.progress.step}. To go on from there: {command_to_resume(self.record)}")
        if self._evaluations:
            say(self._evaluations.summary())
        say(f"Saved the pipeline, samples and curves in {self.output_dir}.")

    def _save_pipeline(self, pipeline: WGANPipeline) -> None:
        config, raw = self.config, None
        if self.ema:
            raw = measured(portable_copy(self.generator), config.train_batch_size, config.seed)
        save_pipeline(self.output_dir, pipeline, raw)
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
        return build_pipeline(self.generator, self.critic, self.ema, self.config.train_batch_size, self.config.seed)

    def _networks(self) -> dict[str, ModelMixin]:
        return {"generator": self.generator, "critic": self.critic}

    def _others(self) -> dict[str, Any]:
        schedulers = dict(zip(("generator_scheduler", "critic_scheduler"), self._schedulers))
        optional = {"scaler": self.accelerator.scaler, "ema": self.ema}
        return self._optimizers | schedulers | {name: part for name, part in optional.items() if part is not None}

    def _description(self) -> dict[str, Any]:
        run = describe_run(self.config, self._networks(), self.dataset, self.accelerator, self.global_batch_size)
        return {**self.record, **run}

    def _say_once(self, message: str) -> None:
        if self.accelerator.is_main_process:
            say(message)

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Name the folder in errors of the disk, and let every process report its own error."""
        try:
            yield
        except Exception as error:
            self._writer.settle()  # the checkpoint in hand is one more to go on from
            explanation = explained(error, self.output_dir, self.accelerator)
            if isinstance(explanation, (DiskError, InputError)) and not self.accelerator.is_main_process:
                say(f"process {self.accelerator.process_index}: {explanation}")
            if explanation is error:
                raise
            try:
                raise explanation from error
            finally:
                del explanation  # or its traceback would hold it, and the run, in a circle


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


def _seed(*entropy: int) -> int:
    """One well-mixed seed of several numbers."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
