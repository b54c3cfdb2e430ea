"""Inference: a trained generator, and the critic beside it, as a diffusers pipeline."""

from .pipeline_wgan import WGANPipeline

__all__ = ["WGANPipeline"]
