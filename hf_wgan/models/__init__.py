"""The networks: one file for each architecture, with its generator and its critic side by side."""

from .dcgan import DCGANCritic, DCGANGenerator
from .mlp import MLPCritic, MLPGenerator
from .r3gan import R3GANCritic, R3GANGenerator
from .resnet import ResNetCritic, ResNetGenerator

__all__ = [
    "DCGANCritic",
    "DCGANGenerator",
    "MLPCritic",
    "MLPGenerator",
    "R3GANCritic",
    "R3GANGenerator",
    "ResNetCritic",
    "ResNetGenerator",
]
