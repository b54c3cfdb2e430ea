"""The loop around Algorithm 1, the settings of a run, and what a run leaves behind."""

from .build import build_trainer
from .config import TrainingConfig
from .resolve import RunConfig
from .trainer import WGANTrainer

__all__ = ["RunConfig", "TrainingConfig", "WGANTrainer", "build_trainer"]
