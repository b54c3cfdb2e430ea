"""Distances between two sets of features `(N, D)` and `(M, D)`; zero for equal distributions, up to sampling error.

Every one raises an `InputError` for features of another shape, too few of them, or such that are not finite.
"""

from typing import Any

import numpy as np
import ot
from sklearn.metrics.pairwise import polynomial_kernel

from ..utils.errors import InputError

NUM_SUBSETS, SUBSET_SIZE = 100, 1000  # as in Bińkowski et al. 2018
NUM_PROJECTIONS = 500


def checked_features(least: int = 1, **sets: Any) -> list[np.ndarray]:
    """Return sets of features as arrays.

    Args:
        least: The least number of points in a set.
        sets: Each set by its name, `(N, D)`.

    Raises:
        InputError: A set has another shape, too few points, or values that are not finite.
    """
    arrays = {name: np.asarray(points) for name, points in sets.items()}
    for name, points in arrays.items():
        if points.ndim != 2 or len(points) < least:
            raise InputError(f"{name}: features of shape {points.shape}: must be (N, D), with N at least {least}")
        if not np.isfinite(points).all():
            raise InputError(f"{name}: the features hold NaN or infinity: must be finite")
    if len({points.shape[1] for points in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {points.shape}" for name, points in arrays.items())
        raise InputError(f"features of different lengths, {shapes}: must be (N, D) and (M, D)")
    return list(arrays.values())


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Compute the Fréchet distance of Gaussians with the means and covariances of the features.

    This is `‖µa − µb‖² + tr(Σa + Σb − 2 (Σa Σb)^½)` (Heusel et al. 2017, arXiv 1706.08500, eq. 6). The estimate is
    biased upwards for small sets, so compare only values from sets of the same size.

    Args:
        real: `(N, D)`, N at least 2.
        generated: `(M, D)`, M at least 2.
    """
    a, b = _in_float64(2, real=real, generated=generated)
    between_means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    # Scale such that the covariances are a.T @ a and b.T @ b.
    a, b = ((features - features.mean(0)) / np.sqrt(len(features) - 1) for features in (a, b))
    if a.shape[1] > max(len(a), len(b)):  # fewer images than features, as with pixels
        # Σa Σb has the eigenvalues of (a bᵀ)(a bᵀ)ᵀ.
        trace_of_root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    else:
        # Σa Σb also has the eigenvalues of Σa^½ Σb Σa^½, which is symmetric: no complex roots if it is singular.
        values, vectors = np.linalg.eigh(a.T @ a)
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        trace_of_root = np.sqrt(np.linalg.eigvalsh(root @ (b.T @ b) @ root).clip(min=0)).sum()
    return float(between_means + max((a**2).sum() + (b**2).sum() - 2 * trace_of_root, 0))


def kernel_distance(
    real: np.ndarray,
    generated: np.ndarray,
    seed: int = 0,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> tuple[float, float]:
    """Compute the kernel distance (KID; Bińkowski et al. 2018, arXiv 1801.01401, section 4).

    This is the mean over random subsets of `squared_mmd`.

    Args:
        real: `(N, D)`, N at least 2.
        generated: `(M, D)`, M at least 2.
        seed: Seed of the random subsets.
        num_subsets: Number of subsets.
        subset_size: Points per set in a subset, at most half of the smaller set, as larger subsets share most of it.

    Returns:
        The mean and the standard deviation over the subsets.
    """
    rng = np.random.default_rng(seed)
    a, b = _in_float64(2, real=real, generated=generated)
    size = min(subset_size, max(2, min(len(a), len(b)) // 2))
    estimates = [
        squared_mmd(*(features[rng.choice(len(features), size, replace=False)] for features in (a, b)))
        for _ in range(num_subsets)
    ]
    return float(np.mean(estimates)), float(np.std(estimates))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the unbiased estimate of the squared maximum mean discrepancy under the kernel `(x·y / D + 1)³`.

    It may be negative.

    Args:
        x: `(N, D)`, N at least 2.
        y: `(M, D)`, M at least 2.
    """
    x, y = _in_float64(2, x=x, y=y)
    within = sum(_mean_off_diagonal(polynomial_kernel(points, coef0=1)) for points in (x, y))
    return float(within - 2 * polynomial_kernel(x, y, coef0=1).mean())


def _mean_off_diagonal(kernel: np.ndarray) -> float:
    size = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (size * (size - 1)))


def sliced_wasserstein_distance(
    real: np.ndarray, generated: np.ndarray, seed: int = 0, num_projections: int = NUM_PROJECTIONS
) -> float:
    """Compute the root mean square of Wasserstein-2 distances between random projections (Bonneel et al. 2015).

    Args:
        real: `(N, D)`.
        generated: `(M, D)`.
        seed: Seed of the projections.
        num_projections: Number of projections.
    """
    a, b = _in_float64(1, real=real, generated=generated)
    return float(ot.sliced_wasserstein_distance(a, b, n_projections=num_projections, seed=seed))


def wasserstein_1(real: np.ndarray, generated: np.ndarray) -> float:
    """Compute the exact Wasserstein-1 distance between two samples: the mean Euclidean distance of the best matching.

    In many dimensions it is well above the distance of the distributions, and decreases slowly with the sample size.

    Args:
        real: `(N, D)`.
        generated: `(M, D)`.
    """
    costs = ot.dist(*_in_float64(1, real=real, generated=generated), metric="euclidean")
    return float(ot.emd2([], [], costs, numItermax=10_000_000))


def _in_float64(least: int, **sets: Any) -> list[np.ndarray]:
    return [points.astype(np.float64) for points in checked_features(least, **sets)]
