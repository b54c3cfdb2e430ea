"""The networks, one file an architecture, its generator and its critic side by side."""

from .dcgan import DCGANCritic, DCGANGenerator
from .mlp import MLPCritic, MLPGenerator

__all__ = ["DCGANCritic", "DCGANGenerator", "MLPCritic", "MLPGenerator"]
