"""The loop around Algorithm 1: `WGANTrainer`. `setup.py` builds its parts; `state.py` holds what training changes."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from diffusers import ModelMixin

from ..algorithm.augment import with_rand
from ..algorithm.derivatives import FastDerivatives
from ..algorithm.latents import LatentPrior, latent_sampler, prior_of
from ..algorithm.lipschitz import Constraint
from ..algorithm.random import SharedRandom, mixed_seed, seed_default
from ..algorithm.records import StepRecord
from ..algorithm.step import RealBatch, WGANStep, critic_steps
from ..data import ImageSet
from ..pipelines import WGANPipeline
from ..utils.console import say
from ..utils.errors import NotFiniteError
from ..utils.memory import kept_memory
from ..utils.signals import Interrupts
from .adaptive import set_aside
from .agreement import Agreement
from .callbacks import CallbackHandler, TrainerCallback, TrainerControl
from .checks import check_arguments, check_classes
from .components import choose_augmentation, choose_constraint, description_of, set_prior
from .config import TrainingConfig
from .failures import explained_errors, explained_memory
from .fast import FastPaths
from .graphs import GraphedStep
from .meter import Meter
from .report import built_in_callbacks, opening_lines
from .resume import Checkpoints
from .run_folder import RunFolder, check_output_dir, describe_run, write_pipeline
from .samples import sample_images
from .schedules import apply_schedules, expected, keep_on_device
from .setup import (
    build_accelerator,
    build_batches,
    build_evaluations,
    build_execution,
    build_state,
    held_out_images,
    training_images,
)
from .snapshot import build_pipeline, measured, measurement, portable_copy


class WGANTrainer:
    """Train a generator against a critic and save the pipeline.

    Args:
        generator: Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1].
        critic: Images to scores `(N,)`.
        dataset: The training images: what `load_images` returns, a uint8 tensor `(N, C, H, W)`, or a dataset of the
            datasets library (map-style, iterable or a dictionary of splits) with one image column, whose images are
            scaled and cropped to what the generator makes.
        config: The options of the run.
        callbacks: Instances or subclasses of `TrainerCallback`.
        constraint: A constraint of your own, instead of the one that `lipschitz` names.
        augmentation: A differentiable function of your own of images `(N, C, H, W)`, or of images and `rand`, instead
            of the operations that `augmentation` names.
        latent_prior: The prior of latents, by name or as a `LatentPrior`. The generator's config keeps its name.
        record: Further entries for `training_config.json` and the card, such as `"command"`, the command that started
            the run, and `"base_model"`, the model on the Hub that the networks were loaded from.
        held_out: Images that are not trained on, for `evaluation_steps` to compare samples with.

    Raises:
        InputError: The arguments do not fit each other or the machine. Nothing has been written by then.

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
        *,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        constraint: Constraint | None = None,
        augmentation: Callable[..., torch.Tensor] | None = None,
        latent_prior: LatentPrior | type[LatentPrior] | str | None = None,
        record: dict[str, Any] | None = None,
        held_out: ImageSet | None = None,
    ):
        self.config = config = config or TrainingConfig()
        check_arguments(config, callbacks, record, generator, critic)
        self.record, self.output_dir = record or {}, Path(config.output_dir)
        check_output_dir(config)
        self.dataset = training_images(config, dataset, generator)
        self.held_out = held_out_images(config, self.dataset, held_out)
        self.set_aside, self.trained_on = set_aside(config, self.dataset, self.held_out)
        self.accelerator = accelerator = build_accelerator(config)
        num_parts = accelerator.gradient_accumulation_steps
        self.global_batch_size = config.train_batch_size * accelerator.num_processes * num_parts
        """Images of one update, over all processes and all accumulation steps."""
        self.random = SharedRandom(accelerator.device, accelerator.num_processes, accelerator.process_index, num_parts)
        objects = {"constraint": constraint, "augmentation": augmentation, "held_out": held_out}
        self._components = {name: description_of(value) for name, value in objects.items() if value is not None}
        constraint = choose_constraint(config, constraint, self.random.rand)
        augmentation = choose_augmentation(config, augmentation, self.random.rand, accelerator.device)
        constraint.check(critic)
        check_classes(config, self.dataset, generator, critic)
        if latent_prior is not None:
            self.record = set_prior(generator, latent_prior, self.record)
        parts = generator, critic, constraint, augmentation, prior_of(generator)
        self.fast_paths = fast = FastPaths.of(config, accelerator, parts)
        with explained_memory(config, accelerator):
            self.real_batches = build_batches(self.dataset, config, accelerator)
            self.state, wrapped_generator, wrapped_critic = build_state(generator, critic, config, accelerator, fast)
        self.generator, self.critic = self.state.generator, self.state.critic  # the algorithm holds the wrapped ones
        self.algorithm = WGANStep(
            wrapped_generator,
            wrapped_critic,
            **self.state.optimizers,
            constraint=constraint,
            sample_latents=latent_sampler(self.generator, self.random.randn, accelerator.device),
            augment=with_rand(augmentation, self.random.rand),
            penalty_interval=config.penalty_interval,
            generator_batch_ratio=config.generator_batch_ratio,
            execution=build_execution(config, accelerator, self.random.begin),
        )
        self.iteration: Callable[[Iterator[RealBatch], int], StepRecord] = self.algorithm
        if self.fast_paths.cuda_graphs:
            keep_on_device(config, self.algorithm, "constraint" in self._components)
            self.iteration = GraphedStep(self.algorithm, config.n_critic, self.random.rng)
        self.state.add("constraint", constraint)
        self.state.add("augmentation", augmentation)
        self.control = TrainerControl()
        self.interrupted = 0
        """Number of the signal that ended the run, or 0."""
        self.push_failed = False
        """Whether the push at the end failed. The folder is complete."""
        self.callbacks = CallbackHandler(config, self.state, self.control)
        self.callbacks.set_built_in(*built_in_callbacks(self))
        for callback in callbacks or ():
            self.add_callback(callback)
        self._agreement, self.meter = Agreement(accelerator), Meter(accelerator, self.state)
        self._measurement = partial(measurement, config, self.state, self.real_batches)
        self.checkpoints = Checkpoints(config, self.state, self.meter, accelerator, self.describe, self._measurement)
        self.evaluations: Any = None
        self._interrupts, self._has_begun = Interrupts(), False
        self.folder = RunFolder(config, accelerator)

    def train(self) -> WGANPipeline:
        """Take the remaining steps and write the files of the run.

        SIGINT (Ctrl-C), SIGTERM and SIGUSR1 end the run after the current step, with a checkpoint to resume from and
        the pipeline as it is; `interrupted` is then the signal's number. A second SIGINT stops at once.

        A script in several processes calls `trainer.accelerator.end_training()` last.

        Returns:
            The pipeline, as saved in `output_dir`.

        Raises:
            NotFiniteError: A score, loss, gradient or weight is no longer finite. Checkpoints and samples stay.
            DiskError: The folder cannot be written to. Checkpoints written before stay.
            DeviceMemoryError: Memory is used up. Checkpoints written before stay.
            InputError: The checkpoint to resume from is one of another experiment.
            CallbackError: A callback raised an error. The run was saved.
        """
        with self._agreement.lagging():
            for _ in self.iterate():
                pass
        return self._saved_pipeline

    def iterate(self) -> Iterator[StepRecord]:
        """Train as `train` does, and yield after each step.

        What is due after the step (evaluation, report, sample grid, checkpoint) is done by then; what is set in
        `trainer.control` meanwhile, after the next. A run that ends writes its files, an iterator dropped earlier none.

        Example:
        ```py
        >>> for record in trainer.iterate():
        ...     print(trainer.state.global_step, float(record.critic_loss))
        ```
        """
        self.control.reset()
        self._begin()
        self.callbacks.begin()
        with (
            closing(self.folder),
            explained_errors(self.config, self.accelerator, self.checkpoints.writer),
            closing(self.callbacks),
        ):
            with Interrupts() as self._interrupts, kept_memory() if self.fast_paths.kept_memory else nullcontext():
                self.callbacks.call("on_train_begin")
                self.folder.begin(self.state, self.describe, self.checkpoints.metrics)
                self._agree()
                if self.state.global_step == 0:
                    self._sample()
                over = self.ends
                while not over:
                    try:
                        record = self.step()
                        over = self._after_step(record)
                    except NotFiniteError as error:
                        self.checkpoints.restore_after(error)
                        self.control.reset()
                        continue
                    yield record
                self.checkpoints.writer.wait()
                self._saved_pipeline = self.pipeline()
                self.save_pipeline(self._saved_pipeline)
            self.accelerator.wait_for_everyone()  # but not for a push, which may take longer than processes wait
            interrupted = self.interrupted > 0 or self.callbacks.failure is not None
            self.callbacks.call("on_train_end", pipeline=self._saved_pipeline, interrupted=interrupted)
        if self.callbacks.failure:
            raise self.callbacks.failure

    def step(self) -> StepRecord:
        """Take one training step, the critic's updates and one update of the generator, and nothing else.

        Returns:
            Losses, scores and norms, scalars on the device. Reading one waits for the device.
        """
        self.checkpoints.resume()
        config, progress = self.config, self.state.progress
        key = (config.seed, progress.step, progress.restores)
        self.random.seed(mixed_seed(*key))
        seed_default(self.accelerator.device, mixed_seed(*key, 1 + self.accelerator.process_index))
        self.algorithm.num_critic_steps = progress.critic_steps
        apply_schedules(progress, config, self.algorithm, "constraint" in self._components)
        with FastDerivatives() if self.fast_paths.bf16_derivatives else nullcontext():
            record = self.iteration(
                self._training_batches(), critic_steps(progress.step, config.n_critic, config.critic_warmup)
            )
        num_critic_steps = self.algorithm.num_critic_steps - progress.critic_steps
        self.state.advance(num_critic_steps, num_critic_steps * self.global_batch_size)
        return record

    def pipeline(self, num_batches: int | None = None) -> WGANPipeline:
        """Return what would be saved now: copies of the networks, the generator with its averaged weights if any.

        Args:
            num_batches: Batches by which batch-norm statistics are measured; fewer than the default are faster.
        """
        networks = self.generator, self.critic, self.state.ema
        return build_pipeline(*networks, **self._measurement(), num_batches=num_batches)

    def save_pipeline(self, pipeline: WGANPipeline | None = None) -> None:
        """Save a pipeline, by default the current one, and its card in the run's folder."""
        self._begin_writing()
        if not self.accelerator.is_main_process:
            return
        raw = measured(portable_copy(self.generator), **self._measurement()) if self.state.ema else None
        write_pipeline(self.output_dir, pipeline or self.pipeline(), raw)
        if self.evaluations:
            self.evaluations.record(self.state.global_step)

    def evaluate(self) -> dict[str, float]:
        """Measure the pipeline as it is now, with the options of `evaluation_...`, and keep it if it is the best.

        All processes must call it.

        Returns:
            The metrics by name, in every process.
        """
        self._begin_writing()
        self.evaluations = self.evaluations or self._build_evaluations()
        pipeline = self.pipeline()
        metrics = self.evaluations.measure(pipeline, self.state.global_step)
        if self.accelerator.num_processes > 1:
            (metrics,) = broadcast_object_list([metrics])
        self.callbacks.call("on_evaluate", metrics=metrics, pipeline=pipeline)
        return metrics

    def save_checkpoint(self) -> Path:
        """Write a checkpoint of the current step, to resume from. All processes must call it.

        Returns:
            Its folder.

        Raises:
            NotFiniteError: A value since the last report, or a weight, is not finite. No checkpoint ever holds one.
            DiskError: The checkpoint cannot be written. Earlier ones stay.
            CallbackError: A callback raised an error. The checkpoint is written.
        """
        self._begin_writing()
        folder = self._save()
        self.checkpoints.writer.wait()
        return folder

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback, an instance or a class that is built without arguments.

        Raises:
            InputError: It is no `TrainerCallback`.
        """
        self.callbacks.add(callback)

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Remove a callback, or all of a class, built-in ones such as `ProgressCallback` included."""
        self.callbacks.remove(callback)

    def describe(self) -> dict[str, Any]:
        """Return the record of the run, the content of `training_config.json`."""
        of_trainer = self.dataset, self.accelerator, self.global_batch_size, self._components
        return self.record | self.callbacks.record | describe_run(self.config, self.state, *of_trainer)

    def _training_batches(self) -> Iterator[RealBatch]:
        self.real_batches.go_to(self.state.progress.images)
        dtype, with_labels = next(self.generator.parameters()).dtype, self.config.class_conditional
        return (RealBatch(images.to(dtype), labels if with_labels else None) for images, labels in self.real_batches)

    @property
    def ends(self) -> bool:
        """Return whether the run ends after the current step."""
        stopped = self.interrupted > 0 or self.control.should_training_stop
        return stopped or self.state.global_step >= self.config.max_train_steps

    def _after_step(self, record: StepRecord) -> bool:
        """Evaluate, report, sample and save as is due, each at most once, and return whether the run ends here."""
        self.checkpoints.writer.check()
        self.meter.add(record)
        self.callbacks.call("on_step_end", record=record)
        if self.control.should_log and self.meter.seconds >= 60 * (self.config.max_train_minutes or math.inf):
            self.control.should_training_stop = True
        actions = {"should_log": self._log, "should_sample": self._sample, "should_save": self._save}
        self._agree(may_lag=True)
        while due := [name for name in actions if getattr(self.control, name)]:
            for name in due:
                setattr(self.control, name, False)
                actions.pop(name)()
            self._agree()  # again, as callbacks may have asked for more
        return self.ends

    def _agree(self, may_lag: bool = False) -> None:
        """Let all processes have the same signal and the same control, and complete the control."""
        control, lags = self.control, may_lag and not self.callbacks.has_own
        self.interrupted = self._agreement.settle(control, self._interrupts.number, lags)
        control.should_log |= control.should_evaluate  # the metrics go into the report
        control.should_save |= self.ends
        control.should_sample |= self.ends

    def _log(self) -> None:
        is_evaluated, self.control.should_evaluate = self.control.should_evaluate, False
        if is_evaluated:
            self.meter.gather()  # names a value that is no number, which samples would only show
        metrics = self.evaluate() if is_evaluated else {}
        logs = self.meter.read(self.algorithm.constraint.has_penalty, metrics.get("evaluation_seconds", 0.0)) | metrics
        self.state.move_to(expected(self.state.progress, self.config))
        self.callbacks.call("on_log", logs=logs)

    def _sample(self) -> None:
        self.meter.gather()  # likewise
        if self.accelerator.is_main_process:
            self.callbacks.call("on_sample", images=sample_images(self))

    def _save(self) -> Path:
        """Begin to write a checkpoint. It is waited for only if a callback handles it."""
        folder = self.checkpoints.save()
        if self.callbacks.listens("on_save"):
            self.checkpoints.writer.wait()
        self.callbacks.call("on_save", checkpoint=folder)
        return folder

    def _begin_writing(self) -> None:
        self._begin()
        self.folder.begin(self.state, self.describe, self.checkpoints.metrics)

    def _begin(self) -> None:
        """Lock the folder unless this run has it, and load the checkpoint to resume from once."""
        self.folder.lock(is_begun=self._has_begun)
        if self._has_begun:
            return
        try:
            if self.config.evaluation_steps:
                self.evaluations = self._build_evaluations()
            with explained_memory(self.config, self.accelerator):
                self.checkpoints.resume()
        except BaseException:
            self.folder.close()
            raise
        self.meter.restart()
        self._has_begun = True
        if self.accelerator.is_main_process:
            self.folder.note_replaced_files()  # before trackers write theirs
            for line in opening_lines(self):
                say(line)

    def _build_evaluations(self) -> Any:
        return build_evaluations(self.config, self.dataset, self.held_out, self.accelerator.device)
