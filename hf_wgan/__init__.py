"""Wasserstein GANs for the Hugging Face ecosystem: train with Accelerate, sample with a diffusers pipeline.

Importing this registers the networks with diffusers, which saves and loads components only of libraries it knows.
Training and data are imported on first use: sampling needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# isort: off
from .utils import program  # noqa: F401  # first, for Ctrl-C while the others are imported
from .utils import launcher  # noqa: F401  # then, as it looks at the process that started this one
# isort: on

from diffusers.pipelines import pipeline_loading_utils

from .models import (
    DCGANCritic,
    DCGANGenerator,
    MLPCritic,
    MLPGenerator,
    R3GANCritic,
    R3GANGenerator,
    ResNetCritic,
    ResNetGenerator,
)
from .models.factory import ARCHITECTURES
from .pipelines import WGANPipeline
from .utils.errors import InputError
from .version import __version__

if TYPE_CHECKING:
    from .data import ImageSet, load_images
    from .training import RunConfig, TrainerCallback, TrainerControl, TrainingConfig, WGANTrainer, build_trainer

__all__ = [
    "DCGANCritic",
    "DCGANGenerator",
    "ImageSet",
    "InputError",
    "MLPCritic",
    "MLPGenerator",
    "R3GANCritic",
    "R3GANGenerator",
    "ResNetCritic",
    "ResNetGenerator",
    "RunConfig",
    "TrainerCallback",
    "TrainerControl",
    "TrainingConfig",
    "WGANPipeline",
    "WGANTrainer",
    "__version__",
    "build_trainer",
    "load_images",
]

_ON_FIRST_USE = {
    "ImageSet": ".data",
    "load_images": ".data",
    "RunConfig": ".training",
    "TrainerCallback": ".training",
    "TrainerControl": ".training",
    "TrainingConfig": ".training",
    "WGANTrainer": ".training",
    "build_trainer": ".training",
}

# diffusers loads components only from the libraries in this table (huggingface/diffusers#6563). Without this a
# component would be recorded under its module path, which loads from a folder but not from the Hub.
_NETWORKS = {network.__name__: network for pair in ARCHITECTURES.values() for network in pair}
_LOADABLE = {name: ["save_pretrained", "from_pretrained"] for name in _NETWORKS}
pipeline_loading_utils.LOADABLE_CLASSES["hf_wgan"] = _LOADABLE
pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(_LOADABLE)


def __getattr__(name: str) -> Any:
    if name in _NETWORKS:  # of an architecture whose classes have no line above
        return _NETWORKS[name]
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_FIRST_USE[name], __name__), name)
