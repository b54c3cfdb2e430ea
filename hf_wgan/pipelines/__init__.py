"""A trained generator, and the critic beside it, as a diffusers pipeline.

`pipeline_wgan.py` generates and travels with every model; `published.py` adds what needs this package.
"""

from .published import WGANPipeline

__all__ = ["WGANPipeline"]
