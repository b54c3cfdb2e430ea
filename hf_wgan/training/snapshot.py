"""What a run would ship now: copies of its networks, the average of the generator, and their batch-norm statistics."""

import inspect
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from torch.optim.swa_utils import update_bn

from ..algorithm.latents import sample_latents
from ..pipelines import WGANPipeline

BATCH_NORM_BATCHES = 50


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
    generator: ModelMixin, critic: ModelMixin, ema: EMAModel | None, batch_size: int, seed: int
) -> WGANPipeline:
    """Build the pipeline of copies of the networks; the generator has its averaged weights if there are any."""
    generator = portable_copy(generator)
    if ema:
        ema.copy_to(generator.parameters())
    pipeline = WGANPipeline(measured(generator, batch_size, seed), portable_copy(critic))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measured(generator: ModelMixin, batch_size: int, seed: int) -> ModelMixin:
    """Measure the batch-norm statistics of a generator anew and return it in eval mode.

    In training a batch is normalised by its own statistics. The running ones, which a single sample has to rely on,
    belong to a mixture of past weights; with the weights fixed they are averaged over many batches.
    """
    rng = torch.Generator(generator.device).manual_seed(seed)
    labels = {}
    if num_classes := generator.config.get("num_classes"):
        labels["class_labels"] = torch.arange(batch_size, device=rng.device) % num_classes
    batches = (sample_latents(generator, batch_size, rng) for _ in range(BATCH_NORM_BATCHES))
    latents = (batch.to(generator.dtype) for batch in batches)
    update_bn(latents, _WithLabels(generator.train(), labels))
    return generator.eval()


class _WithLabels(torch.nn.Module):
    """A generator as a function of its latents alone."""

    def __init__(self, generator: ModelMixin, labels: dict[str, torch.Tensor]):
        super().__init__()
        self.generator, self.labels = generator, labels

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.generator(latents, **self.labels)
