"""The loop around Algorithm 1: Accelerate, the reports, the checkpoints, and the folder that a run leaves."""

import json
import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
from tqdm.auto import tqdm

from .. import files
from ..augment import Augmentation
from ..data import DataConfig, ImageSet, ImageStream, RealBatches, StreamedBatches, images_of
from ..errors import InputError, PushError
from ..hub.card import write_card
from ..hub.publish import BackgroundPushes, problem_with, push_folder
from ..lipschitz import build_constraint
from ..models.factory import shape_of
from ..pipelines import WGANPipeline
from ..version import __version__
from .checkpoint import Progress, find_checkpoint, load_checkpoint, portable_copy, save_checkpoint, settings_of
from .config import TrainingConfig
from .report import Report, can_plot
from .step import RealBatch, StepLosses, WGANStep, critic_steps

RUN_FILES = (
    files.INDEX,
    *files.NETWORKS,
    files.CARD,
    files.CONFIG,
    files.METRICS,
    files.EVALUATION,
    files.SAMPLES,
    files.CURVES,
)
BATCH_NORM_BATCHES = 50


class WGANTrainer:
    """Trains a generator against a critic, and leaves a pipeline.

    Args:
        generator: Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1].
        critic: Images to scores `(N,)`.
        dataset: The training images: what `load_images` returns, a uint8 tensor `(N, C, H, W)`, or a dataset of the
            datasets library (map-style, iterable or a dictionary of splits) with one image column, whose images are
            scaled and cropped to what the generator makes.
        config: Every knob of the run.
        record: What else `training_config.json` and the card shall tell: `"command"`, the command that started the run,
            and `"base_model"`, the model on the Hub that the networks were loaded from.

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
    ):
        self.record = record or {}
        self.config = config = config or TrainingConfig()
        self.output_dir = Path(config.output_dir)
        check_output_dir(config)
        self.dataset = _training_images(dataset, generator)
        if shape_of(generator) != shape_of(critic):
            raise InputError(
                f"the generator makes images of shape {shape_of(generator)}, the critic takes {shape_of(critic)}: "
                "build them for the same images"
            )
        self.accelerator = _accelerator(config)
        self._rng = torch.Generator(self.accelerator.device)
        constraint = build_constraint(config.lipschitz, config.clip_value, config.gradient_penalty_weight, self._rng)
        constraint.check(critic)
        _check_classes(config, self.dataset, generator, critic)
        self.progress = Progress()
        self.interrupted = False
        self._time_is_up = False
        self._reported_at, self._reported_batches = time.monotonic(), 0
        share = (self.accelerator.device, self.accelerator.num_processes, self.accelerator.process_index)
        self.real_batches: RealBatches | StreamedBatches
        if isinstance(self.dataset, ImageStream):
            self.real_batches = StreamedBatches(self.dataset, config.train_batch_size, config.seed, *share)
        else:
            self.real_batches = RealBatches(self.dataset, config.train_batch_size, config.seed, *share)
        # Channels-last weights make a convolution work in the layout that is fastest on CPUs and on tensor cores.
        self.generator = generator.to(memory_format=torch.channels_last).train()
        self.critic = critic.to(memory_format=torch.channels_last).train()
        # From here on the attributes are the networks themselves, and the step holds what Accelerate wrapped.
        with warnings.catch_warnings():
            # PyTorch 2.13 renames broadcast_buffers; Accelerate passes the old name, which means the same here.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            wrapped_generator, wrapped_critic, generator_optimizer, critic_optimizer = self.accelerator.prepare(
                self.generator,
                self.critic,
                _optimizer(self.generator, config.generator_learning_rate, config),
                _optimizer(self.critic, config.critic_learning_rate, config),
            )
        self._optimizers = {"generator_optimizer": generator_optimizer, "critic_optimizer": critic_optimizer}
        self._schedulers = [_scheduler(optimizer.optimizer, config) for optimizer in self._optimizers.values()]
        self.ema = _ema(self.generator, config) if config.use_ema else None
        self.step = WGANStep(
            wrapped_generator,
            wrapped_critic,
            generator_optimizer,
            critic_optimizer,
            constraint,
            self._sample_latents,
            self.accelerator.backward,
            config.penalty_interval,
            Augmentation(config.augmentation, self._rng),
        )

    def train(self) -> WGANPipeline:
        """Runs the remaining steps and writes the files of the run.

        An interrupt (Ctrl-C, SIGTERM) ends the run after the step in hand, with everything written as at its end and
        a checkpoint to go on from; `interrupted` then says so. A second Ctrl-C stops at once.

        Returns:
            The pipeline, as saved in `output_dir`.

        Raises:
            FloatingPointError: a loss is no longer finite. Checkpoints and samples written before stay.
        """
        self.interrupted = False
        report = self._start()
        pushes = BackgroundPushes(self.output_dir, self.config.push) if report and self._pushes_checkpoints() else None
        losses: list[StepLosses] = []
        with _interrupts() as interrupt:
            while not self._ends():
                losses.append(self._one_step())
                if self._reports_now(interrupt.is_set()):
                    self._report(report, losses, interrupt.is_set())
                    losses.clear()
                if report:
                    self._write_at_intervals(report, pushes)
        pipeline = self._pipeline()
        if report:
            self._finish(report, pipeline)
        self.accelerator.wait_for_everyone()  # and not for a push, which may take longer than processes wait
        if report:
            if pushes:
                pushes.finish()
            self._push()
        return pipeline

    def _ends(self) -> bool:
        return self.progress.step >= self.config.max_train_steps or self.interrupted or self._time_is_up

    def _one_step(self) -> StepLosses:
        config, progress = self.config, self.progress
        self._rng.manual_seed(_seed(config.seed, progress.step, self.accelerator.process_index))
        self.step.critic_steps_made = progress.batches
        real_batches = (
            RealBatch(batch.images, batch.labels if config.class_conditional else None) for batch in self.real_batches
        )
        losses = self.step(real_batches, critic_steps(progress.step, config.n_critic, config.critic_warmup))
        for scheduler in self._schedulers:
            scheduler.step()
        if self.ema:
            self.ema.step(self.generator.parameters())
        progress.step += 1
        progress.batches = self.real_batches.position
        return losses

    def _sample_latents(self, num_latents: int) -> torch.Tensor:
        shape = (num_latents, self.generator.config.latent_dim)
        return torch.randn(shape, generator=self._rng, device=self.accelerator.device)

    def _reports_now(self, interrupted: bool) -> bool:
        # Several processes must stop at the same step, so they wait to agree on it until they meet for a report.
        step, alone = self.progress.step, self.accelerator.num_processes == 1
        return step % self.config.logging_steps == 0 or step == self.config.max_train_steps or (alone and interrupted)

    def _report(self, report: Report | None, losses: list[StepLosses], interrupted: bool) -> None:
        """Means over the steps since the last report and over the processes, and whether any was interrupted."""
        now = time.monotonic()
        seconds = self.progress.seconds + now - self._reported_at
        time_is_up = seconds >= 60 * (self.config.max_train_minutes or math.inf)
        flags = torch.tensor([interrupted, time_is_up], dtype=torch.float32, device=self.accelerator.device)
        own = torch.stack([torch.stack(values).mean() for values in zip(*losses)])
        *means, interruptions, ends = self.accelerator.reduce(torch.cat([own, flags]), reduction="mean").tolist()
        self.interrupted, self._time_is_up = interruptions > 0, ends > 0
        row = {"critic_loss": means[0], "generator_loss": means[1], "wasserstein_estimate": -means[0]}
        if self.step.constraint.has_penalty:
            row["gradient_penalty"] = means[2]
        for name, value in row.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at step {self.progress.step}: lower generator_learning_rate and "
                    f"critic_learning_rate; checkpoints written before stay in {self.output_dir}"
                )
        images = (self.progress.batches - self._reported_batches) * self.config.train_batch_size
        row["seconds"] = round(seconds, 3)
        row["images_per_second"] = round(images * self.accelerator.num_processes / (now - self._reported_at), 1)
        self.progress.seconds = row["seconds"]
        self._reported_at, self._reported_batches = now, self.progress.batches
        if report:
            report.metrics(self.progress.step, **row)

    def _start(self) -> Report | None:
        """Makes the folder, or takes up the checkpoint, and returns the main process's report."""
        config = self.config
        self.accelerator.wait_for_everyone()
        if config.resume_from_checkpoint and self.progress.step == 0:
            folder = find_checkpoint(self.output_dir, config.resume_from_checkpoint)
            self.progress = load_checkpoint(folder, self._networks(), self._others())
            self.real_batches.position = self.progress.batches
        self._reported_at, self._reported_batches = time.monotonic(), self.progress.batches
        if not self.accelerator.is_main_process:
            return None
        if config.overwrite_output_dir and not config.resume_from_checkpoint:
            _remove_run(self.output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / files.CONFIG).write_text(json.dumps(self._description(), indent=2) + "\n")
        self._announce()
        if config.push_to_hub and (problem := problem_with(config.push)):
            self._say(f"A push to {config.push.repo_id} would fail now: {problem}. It is tried when there is a model.")
        return Report(self.output_dir, config.max_train_steps, self.progress.step)

    def _announce(self) -> None:
        channels, height, width = shape_of(self.generator)
        device, num_processes = self.accelerator.device.type, self.accelerator.num_processes
        count = "a stream of" if isinstance(self.dataset, ImageStream) else f"{len(self.dataset):,}"
        self._say(
            f"Training {type(self.generator).__name__} and {type(self.critic).__name__} on {count} images of "
            f"{height}×{width}×{channels} ({self.dataset.name}), on {num_processes} × {device}, "
            f"mixed precision: {self.accelerator.mixed_precision}."
        )
        cores = os.cpu_count() or 1
        if (device, num_processes, torch.get_num_threads()) == ("cpu", 1, 1) and cores > 1:
            self._say(
                f"One of {cores} cores is in use: accelerate launch --num_cpu_threads_per_process {cores} is faster."
            )
        if self.progress.step:
            self._say(f"Resumed at step {self.progress.step}.")
        if not can_plot():
            self._say('curves.png will not be drawn: pip install "hf_wgan[train]" brings matplotlib and SciPy.')

    def _write_at_intervals(self, report: Report, pushes: BackgroundPushes | None) -> None:
        config, step = self.config, self.progress.step
        last = self._ends()
        if step % config.validation_steps == 0 or last:
            latents = torch.randn(
                (config.num_validation_images, self.generator.config.latent_dim),
                generator=torch.Generator().manual_seed(config.seed),
            )
            report.samples(step, self._pipeline()(latents=latents).images)
        if step % config.checkpointing_steps == 0 or last:
            save_checkpoint(
                self.output_dir / f"checkpoint-{step:06d}",
                self._networks(),
                self._others(),
                self.progress,
                config.checkpoints_total_limit,
            )
            if pushes and not last:
                report.curves()
                self._save_pipeline(self._pipeline())
                pushes.push_copy(step)

    def _finish(self, report: Report, pipeline: WGANPipeline) -> None:
        report.close()
        report.curves()
        self._save_pipeline(pipeline)
        if self.interrupted:
            self._say(f"Interrupted at step {self.progress.step}; --resume_from_checkpoint latest goes on from there.")
        self._say(f"Saved the pipeline, samples and curves in {self.output_dir}.")

    def _save_pipeline(self, pipeline: WGANPipeline) -> None:
        (self.output_dir / files.EVALUATION).unlink(missing_ok=True)  # it measured other weights
        pipeline.save_pretrained(self.output_dir)
        if self.ema:
            self._measured(portable_copy(self.generator)).save_pretrained(self.output_dir / "generator", variant="raw")
        pipeline.register_to_config(_name_or_path=str(self.output_dir))
        write_card(self.output_dir)

    def _pushes_checkpoints(self) -> bool:
        return self.config.push_to_hub and self.config.hub_strategy == "checkpoint"

    def _push(self) -> None:
        """A push that fails is no failure of the run."""
        if not self.config.push_to_hub or (self.interrupted and not self._pushes_checkpoints()):
            return
        try:
            self._say(f"Pushed to {push_folder(self.output_dir, self.config.push)}.")
        except (InputError, PushError) as error:
            self._say(str(error))

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
        latents = (
            torch.randn((size, generator.config.latent_dim), generator=rng, device=rng.device)
            for _ in range(BATCH_NORM_BATCHES)
        )
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
                "mixed_precision": self.accelerator.mixed_precision,
            },
            "versions": {"hf_wgan": __version__, "python": platform.python_version()}
            | {library: version(library) for library in libraries},
        }

    def _say(self, message: str) -> None:
        tqdm.write(message, file=sys.stderr)


def check_output_dir(config: TrainingConfig) -> None:
    """Whether a run may write to its folder, before anything is made.

    Raises:
        InputError: it holds something else, or nothing to resume.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir={config.output_dir!r}: is a file; name a folder")
    if config.resume_from_checkpoint:
        find_checkpoint(folder, config.resume_from_checkpoint)
    elif folder.exists() and any(folder.iterdir()) and not config.overwrite_output_dir:
        raise InputError(
            f"output_dir={config.output_dir!r}: is not empty; name another folder, go on with the run in it by "
            "--resume_from_checkpoint latest, or replace that run by --overwrite_output_dir"
        )


def _accelerator(config: TrainingConfig) -> Accelerator:
    # Buffers are not broadcast: two passes of a wrapped critic before one backward then fail on CUDA
    # (pytorch/pytorch#175024), and the shipped statistics are measured anew in any case.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    try:
        accelerator = Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=handlers)
    except ValueError as error:
        raise InputError(f"mixed_precision={config.mixed_precision!r}: {error}") from error
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        # Accelerate would train in float32 and call it float16.
        raise InputError(
            f"mixed_precision={accelerator.mixed_precision!r}: not to be had on {accelerator.device.type}; "
            "use bf16 or no there"
        )
    return accelerator


def _optimizer(network: ModelMixin, learning_rate: float, config: TrainingConfig) -> torch.optim.Optimizer:
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), learning_rate, betas=betas)
    if config.optimizer == "adamw":
        decay = config.adam_weight_decay
        return torch.optim.AdamW(network.parameters(), learning_rate, betas=betas, weight_decay=decay)
    return torch.optim.RMSprop(network.parameters(), learning_rate)


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
    patterns = (*RUN_FILES, files.CHECKPOINTS, files.CARRIED_CODE)
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. After the first SIGINT the ordinary handler is back."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, handle)
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
