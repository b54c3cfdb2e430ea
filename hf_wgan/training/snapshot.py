"""What a run would ship now: copies of its networks, the average of the generator, and their batch-norm statistics."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from torch.optim.swa_utils import update_bn

from ..algorithm.latents import sample_latents
from ..data import RealBatches, StreamedBatches
from ..pipelines import WGANPipeline
from ..utils.errors import InputError
from .config import TrainingConfig
from .state import TrainingState

BATCH_NORM_BATCHES = 50
CONDITIONAL_BATCH_SIZE = 64  # at least; the images of one batch stand for all classes
IMAGES_PER_CLASS = 8


def settings_of(network: ModelMixin) -> dict[str, Any]:
    """Return the arguments that the network was built with."""
    return {name: value for name, value in network.config.items() if not name.startswith("_")}


def portable_copy(network: ModelMixin) -> ModelMixin:
    """Return the network alone, as it is saved.

    The copy has parameters of its own in the ordinary memory layout, has none of the wrappers of a mixed-precision
    runtime, and is in eval mode.
    """
    settings = settings_of(network)
    known = inspect.signature(type(network).__init__).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    arguments = {name: value for name, value in settings.items() if takes_all or name in known}
    with torch.device("meta"):  # not from_config, which ignores arguments that were given by position
        copy = type(network)(**arguments)
    copy.register_to_config(**settings)  # what was registered later too, such as a prior of latents
    state = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def build_pipeline(
    generator: ModelMixin,
    critic: ModelMixin,
    ema: EMAModel | None,
    batch_size: int,
    seed: int,
    class_counts: torch.Tensor | None = None,
    num_batches: int | None = None,
) -> WGANPipeline:
    """Build the pipeline of copies of the networks; the generator has its averaged weights if there are any.

    The further arguments are those of `measured`.
    """
    generator = portable_copy(generator)
    if ema:
        ema.copy_to(generator.parameters())
    pipeline = WGANPipeline(measured(generator, batch_size, seed, class_counts, num_batches), portable_copy(critic))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measurement(
    config: TrainingConfig, state: TrainingState, real_batches: RealBatches | StreamedBatches
) -> dict[str, Any]:
    """Return the arguments of `measured` for the generator of a run as it is now."""
    real_batches.go_to(state.progress.images)  # a stream is read up to there, also where a resumed run took no step
    labels = real_batches.class_labels if config.class_conditional else None
    class_counts = None if labels is None else labels.bincount()
    return {"batch_size": config.train_batch_size, "seed": config.seed, "class_counts": class_counts}


def measured(
    generator: ModelMixin,
    batch_size: int,
    seed: int,
    class_counts: torch.Tensor | None = None,
    num_batches: int | None = None,
) -> ModelMixin:
    """Measure the batch-norm statistics of a generator again and return it in eval mode.

    In training a batch is normalised by its own statistics. The running ones, which a single sample has to rely on,
    belong to a mixture of past weights; with the weights fixed they are averaged over many batches. The classes of a
    conditional generator are as frequent in them as in the training images.

    Args:
        generator: The generator.
        batch_size: Images of a batch, at least. A batch of a conditional generator holds 64 or more: the average over
            batches leaves out by how much classes differ from batch to batch.
        seed: Seed of latents and of the order of classes.
        class_counts: How many training images each class has, `(num_classes,)`; None if that is not known, as before a
            stream is read: classes are then as frequent as the generator's config says, or else equally frequent.
        num_batches: Batches to measure; by default at least 50, and enough for eight images of each class.

    Raises:
        InputError: `num_batches` is no whole number, or below 1.
    """
    if num_batches is not None and (not isinstance(num_batches, int) or num_batches < 1):
        raise InputError(f"num_batches={num_batches!r}: must be a whole number at least 1")
    rng = torch.Generator(generator.device).manual_seed(seed)
    num_classes = generator.config.get("num_classes") or 0
    batch_size = max(batch_size, CONDITIONAL_BATCH_SIZE) if num_classes else batch_size
    num_batches = num_batches or max(BATCH_NORM_BATCHES, math.ceil(IMAGES_PER_CLASS * num_classes / batch_size))
    labels = None
    if num_classes:
        if class_counts is None:
            class_counts = torch.tensor(generator.config.get("class_frequencies") or [1] * num_classes)
        labels = iter(_proportional(class_counts, num_batches * batch_size, rng).split(batch_size))
    batches = (sample_latents(generator, batch_size, rng) for _ in range(num_batches))
    update_bn((batch.to(generator.dtype) for batch in batches), _WithLabels(generator.train(), labels))
    return generator.eval()


def _proportional(counts: torch.Tensor, number: int, rng: torch.Generator) -> torch.Tensor:
    """Return `(number,)` classes in random order, each as frequent as in `(num_classes,)` counts, up to one image."""
    cumulative = counts.cpu().double().cumsum(0)  # not every device has float64
    quantiles = (2 * torch.arange(number).double() + 1) * cumulative[-1] / (2 * number)
    classes = torch.searchsorted(cumulative, quantiles, right=True).clamp(max=len(counts) - 1)
    return classes.to(rng.device)[torch.randperm(number, generator=rng, device=rng.device)]


class _WithLabels(torch.nn.Module):
    """A generator as a function of its latents alone; each call takes the next batch of labels."""

    def __init__(self, generator: ModelMixin, labels: Iterator[torch.Tensor] | None):
        super().__init__()
        self.generator, self.labels = generator, labels

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.generator(latents) if self.labels is None else self.generator(latents, next(self.labels))
