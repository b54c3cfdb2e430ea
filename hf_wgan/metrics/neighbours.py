"""What the nearest neighbours of features tell: whether samples lie among the real images, how much of these they
cover, and whether they are copies of training images."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min, pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from ..utils.errors import InputError

PRECISION_NEIGHBOURS = 3  # as in Kynkäänniemi et al. 2019
DENSITY_NEIGHBOURS = 5  # as in Naeem et al. 2020
COPY_QUANTILE = 0.01


class Coverage(NamedTuple):
    """All depend on how many points there are: compare equal numbers only. Each set's region is the balls around its
    points, each as far as the k-th other point of the set."""

    precision: float  # share of generated points in the region of the real ones
    recall: float  # share of real points in the region of the generated ones; near 0 for a collapsed model
    density: float  # real balls that a generated point lies in, over k: about 1 for equal distributions
    coverage: float  # share of real balls that hold a generated point


def coverage(
    real: np.ndarray,
    generated: np.ndarray,
    precision_neighbours: int = PRECISION_NEIGHBOURS,
    density_neighbours: int = DENSITY_NEIGHBOURS,
) -> Coverage:
    """Precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2), density and coverage (Naeem et
    al. 2020, arXiv 2002.09797, eq. 3 and 4), from one pass over the distances.

    Args:
        real: `(N, D)`.
        generated: `(M, D)`.
        precision_neighbours: k of precision and recall.
        density_neighbours: k of density and coverage.

    Raises:
        InputError: a set has too few points for so many neighbours.
    """
    most = max(precision_neighbours, density_neighbours)
    for name, points in {"real": real, "generated": generated}.items():
        if len(points) <= most:
            raise InputError(f"{name}: {len(points)} images are too few for {most} neighbours; take more images")
    near_real = _distances_to_neighbours(real, most)  # (N, most)
    real_radii, real_density_radii = near_real[:, precision_neighbours - 1], near_real[:, density_neighbours - 1]
    generated_radii = _distances_to_neighbours(generated, precision_neighbours)[:, -1]

    precise, balls = 0, 0
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    start = 0
    for distances in pairwise_distances_chunked(generated, real):  # (some of M, N)
        precise += (distances <= real_radii).any(axis=1).sum()
        within = distances <= real_density_radii
        balls += within.sum()
        covered |= within.any(axis=0)
        radii = generated_radii[start : start + len(distances), None]
        recalled |= (distances <= radii).any(axis=0)
        start += len(distances)
    return Coverage(
        precision=float(precise / len(generated)),
        recall=float(recalled.mean()),
        density=float(balls / (density_neighbours * len(generated))),
        coverage=float(covered.mean()),
    )


def _distances_to_neighbours(points: np.ndarray, count: int) -> np.ndarray:
    distances, _ = NearestNeighbors(n_neighbors=count).fit(points).kneighbors()  # itself not among them
    return distances


class Copies(NamedTuple):
    share: float  # of samples within the threshold
    nearest: np.ndarray  # (M,) of each sample, the number of the nearest training image
    distances: np.ndarray  # (M,) to it


def copy_threshold(training: np.ndarray) -> float:
    """The distance at which a sample counts as a copy: but for 1 %, training images `(N, D)` lie farther from each
    other than that."""
    return float(np.quantile(_distances_to_neighbours(training, 1), COPY_QUANTILE))


def copies(training: np.ndarray, generated: np.ndarray, threshold: float) -> Copies:
    """How many samples are copies of training images, or nearly. About 0.01 for fresh images of the same kind, 1 for a
    model that gives back what it was trained on.

    Args:
        training: `(N, D)`, all training images.
        generated: `(M, D)`.
        threshold: Of the same training images.
    """
    nearest, distances = pairwise_distances_argmin_min(generated, training)
    return Copies(float((distances <= threshold).mean()), nearest, distances)
