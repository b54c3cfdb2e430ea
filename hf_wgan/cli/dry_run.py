"""`hf-wgan train --dry_run`: what a run would be, and what it would cost, without making it."""

import tempfile
import time
from dataclasses import asdict, replace
from itertools import repeat
from typing import Any

import psutil
import torch
import yaml

from ..algorithm.step import RealBatch, total_critic_steps
from ..hub.publish import what_a_push_would_do
from ..models.factory import shape_of
from ..training.build import build_trainer
from ..training.config import TrainingConfig
from ..training.failures import explained_memory
from ..training.report import images_in_words
from ..training.resolve import FIELDS, RunConfig
from ..training.run_folder import check_output_dir
from ..training.trackers import tracker_names
from ..training.trainer import WGANTrainer
from ..utils.console import duration
from ..utils.memory import free_memory, peak_memory_of

SECONDS = 3.0  # of steps from which the time of the whole run is estimated
SMALL = 16  # a batch by which memory is estimated is smaller by this factor


def dry_run(config: RunConfig, num_processes: int = 1) -> None:
    """Print the settings in force as a YAML file for `--config`; its comments are what the run would cost.

    A few steps are taken to estimate time and memory, smaller ones first: a step for which memory is short would be
    ended by the system without a word. Nothing is written but the cache of decoded images.

    Args:
        config: The settings.
        num_processes: Processes of the run, of which this measures one.

    Raises:
        InputError: The run could not start.
        DeviceMemoryError: A step takes more memory than there is.
    """
    check_output_dir(config.training)
    config.training.check_effects()
    tracker_names(config.training.report_to)
    with tempfile.TemporaryDirectory() as folder:
        # Time is estimated from ordinary steps, not from the first ones with many critic updates.
        elsewhere: dict[str, Any] = {"output_dir": folder, "resume_from_checkpoint": None, "critic_warmup": False}
        quiet: dict[str, Any] = {"push_to_hub": False, "report_to": "none"}
        trainer = build_trainer(replace(config, training=config.training.changed(**elsewhere, **quiet)))
        print(f"# {images_in_words(trainer.dataset)}")
        for network in (trainer.generator, trainer.critic):
            number = sum(parameter.numel() for parameter in network.parameters())
            print(f"# {type(network).__name__}: {number:,} parameters", flush=True)
        with explained_memory(config.training, trainer.accelerator):
            check_memory(trainer)
            seconds, num_critic_steps = _measure(trainer)
    training, device = config.training, trainer.accelerator.device
    print(
        f"# {_length(training, seconds / num_critic_steps)} on {device.type} "
        f"({num_critic_steps * trainer.global_batch_size / seconds:,.0f} images a second), without evaluation, samples "
        "and checkpoints"
    )
    print(f"# Memory: {_memory(device)}")
    if training.push_to_hub:
        print(f"# Hub: {what_a_push_would_do(training.push)}")
    if num_processes > 1:
        print(f"# One process of {num_processes} was measured, without the exchange of gradients between them")
    if config.preset:
        print(f"preset: {config.preset}")
    record = trainer.describe()  # where networks are those of a published model, this has what follows from them
    data, networks = record["dataset"]["config"], record["networks"]
    for name, part in {"data": data, "networks": networks, "training": asdict(config.training)}.items():
        values = {key: value for key, value in part.items() if not FIELDS[key].metadata["secret"]}
        print(yaml.safe_dump({name: values}, sort_keys=False, allow_unicode=True), end="")


def _length(training: TrainingConfig, seconds: float) -> str:
    """Return the steps of a run and their time in words.

    Args:
        training: The settings.
        seconds: Of a critic step, with its share of a generator step.
    """
    if minutes := training.max_train_minutes:
        steps = round(60 * minutes / (seconds * training.n_critic))
        if steps < training.max_train_steps:
            return f"{duration(60 * minutes)}: about {steps:,} steps"
    total = total_critic_steps(training.max_train_steps, training.n_critic, training.critic_warmup)
    return f"{training.max_train_steps:,} steps: about {duration(seconds * total)}"


def check_memory(trainer: WGANTrainer) -> None:
    """Check that a step fits the memory of the host, by the growth from one small batch to another.

    Raises:
        MemoryError: It does not. (An accelerator raises an error by itself.)
    """
    size = trainer.config.train_batch_size
    few = max(2, size // SMALL)
    if trainer.accelerator.device.type != "cpu" or 2 * few >= size:
        return

    def peak(number: int) -> int | None:
        # No real ones: a stream would then begin a second time.
        images = torch.rand(number, *shape_of(trainer.generator), dtype=trainer.generator.dtype)
        labels = torch.zeros(number, dtype=torch.int64) if trainer.config.class_conditional else None
        batch = RealBatch(images, labels)
        trainer.algorithm.num_critic_steps = 0  # where a penalty is due
        return peak_memory_of(lambda: trainer.algorithm(repeat(batch), 1))

    peak(few)  # what the first step makes, such as the state of the optimizers, is in both
    small, large = peak(few), peak(2 * few)
    if small is None or large is None:
        return
    needed = large + (large - small) * (size - 2 * few) / few
    free = free_memory(trainer.accelerator.device) + psutil.Process().memory_info().rss
    if needed > free:
        raise MemoryError(f"about {needed / 1e9:.1f} GB, of which this process can have {free / 1e9:.1f}")


def _measure(trainer: WGANTrainer) -> tuple[float, int]:
    """Return the seconds of some steps after the first, and the number of critic updates in them."""
    device = trainer.accelerator.device
    float(trainer.step().critic_loss)  # reading a value waits for the device
    began, before, seconds = time.perf_counter(), trainer.state.progress.critic_steps, 0.0
    while seconds < SECONDS:
        record = trainer.step()
        if device.type != "cpu":
            float(record.critic_loss)
        seconds = time.perf_counter() - began
    return seconds, trainer.state.progress.critic_steps - before


def _memory(device: torch.device) -> str:
    text = f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"
    if device.type == "cuda":
        text += f", and {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB on the GPU"
    return text
