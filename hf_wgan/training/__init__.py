"""The training loop, its settings, checkpoints and reports."""

from .build import build_trainer
from .callbacks import TrainerCallback, TrainerControl
from .config import TrainingConfig
from .resolve import RunConfig
from .trainer import WGANTrainer

__all__ = ["RunConfig", "TrainerCallback", "TrainerControl", "TrainingConfig", "WGANTrainer", "build_trainer"]
