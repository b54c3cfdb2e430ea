"""The paper: Algorithm 1, its losses and constraints, and the prior of latents. This package knows nothing of runs."""

from .augment import OPERATIONS, Augmentation
from .derivatives import FastDerivatives
from .latents import PRIORS, LatentPrior, NormalPrior, UniformPrior, prior_of, sample_latents, sample_normals
from .lipschitz import (
    CONSTRAINTS,
    DRAGAN,
    R1,
    R1R2,
    Constraint,
    GradientPenalty,
    LipschitzPenalty,
    SpectralNormalization,
    WeightClipping,
    build_constraint,
    gradients,
)
from .losses import critic_loss, generator_loss, wasserstein_estimate, wasserstein_loss
from .random import SharedRandom

__all__ = [
    "CONSTRAINTS",
    "DRAGAN",
    "OPERATIONS",
    "PRIORS",
    "R1",
    "R1R2",
    "Augmentation",
    "Constraint",
    "FastDerivatives",
    "GradientPenalty",
    "LatentPrior",
    "LipschitzPenalty",
    "NormalPrior",
    "SharedRandom",
    "SpectralNormalization",
    "UniformPrior",
    "WeightClipping",
    "build_constraint",
    "critic_loss",
    "generator_loss",
    "gradients",
    "prior_of",
    "sample_latents",
    "sample_normals",
    "wasserstein_estimate",
    "wasserstein_loss",
]
