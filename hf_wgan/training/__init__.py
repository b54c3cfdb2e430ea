"""Algorithm 1, the loop around it, and what a run leaves behind."""

from .config import TrainingConfig
from .trainer import WGANTrainer

__all__ = ["TrainingConfig", "WGANTrainer"]
