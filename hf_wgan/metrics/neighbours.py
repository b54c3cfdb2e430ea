"""Metrics from nearest neighbours of features: precision, recall, density, coverage, and copied training images."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import pairwise_distances_argmin, pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from ..utils.errors import InputError
from .distances import checked_features

PRECISION_NEIGHBOURS = 3  # as in Kynkäänniemi et al. 2019
DENSITY_NEIGHBOURS = 5  # as in Naeem et al. 2020
COPY_QUANTILE = 0.01
ROUNDING = 1e-4  # of the features' standard deviation: what the size of a batch changes, and no two images


class Coverage(NamedTuple):
    """Precision, recall, density and coverage.

    The region of a set is the union of balls around its points, each with the distance to the k-th nearest other point
    as its radius. All four depend on the number of points, so compare only values from sets of the same size.
    """

    precision: float  # share of generated points in the region of the real ones
    recall: float  # share of real points in the region of the generated ones; near 0 for a collapsed model
    density: float  # mean number of real balls that contain a generated point, over k; about 1 for equal distributions
    coverage: float  # share of real balls that contain a generated point


def coverage(
    real: np.ndarray,
    generated: np.ndarray,
    precision_neighbours: int = PRECISION_NEIGHBOURS,
    density_neighbours: int = DENSITY_NEIGHBOURS,
) -> Coverage:
    """Compute precision, recall, density and coverage in one pass over the distances.

    Precision and recall follow Kynkäänniemi et al. 2019 (arXiv 1904.06991, eq. 1 and 2), density and coverage Naeem et
    al. 2020 (arXiv 2002.09797, eq. 3 and 4).

    Args:
        real: `(N, D)`.
        generated: `(M, D)`.
        precision_neighbours: k of precision and recall.
        density_neighbours: k of density and coverage.

    Raises:
        InputError: A set has too few points for this number of neighbours, another shape, or values that are not
            finite.
    """
    real, generated = checked_features(real=real, generated=generated)
    max_neighbours = max(precision_neighbours, density_neighbours)
    for name, points in {"real": real, "generated": generated}.items():
        if len(points) <= max_neighbours:
            raise InputError(
                f"{name}: {len(points)} images are too few for {max_neighbours} neighbours; use more images"
            )
    distances_real = _distances_to_neighbours(real, max_neighbours)  # (N, max_neighbours)
    real_radii = distances_real[:, precision_neighbours - 1]
    real_density_radii = distances_real[:, density_neighbours - 1]
    generated_radii = _distances_to_neighbours(generated, precision_neighbours)[:, -1]

    num_precise, num_balls = 0, 0
    is_recalled, is_covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    start = 0
    for distances in pairwise_distances_chunked(generated, real):  # (chunk of M, N)
        num_precise += (distances <= real_radii).any(axis=1).sum()
        within = distances <= real_density_radii
        num_balls += within.sum()
        is_covered |= within.any(axis=0)
        radii = generated_radii[start : start + len(distances), None]
        is_recalled |= (distances <= radii).any(axis=0)
        start += len(distances)
    return Coverage(
        precision=float(num_precise / len(generated)),
        recall=float(is_recalled.mean()),
        density=float(num_balls / (density_neighbours * len(generated))),
        coverage=float(is_covered.mean()),
    )


def _distances_to_neighbours(points: np.ndarray, count: int) -> np.ndarray:
    distances, _ = NearestNeighbors(n_neighbors=count).fit(points).kneighbors()  # excludes the point itself
    return distances


class Copies(NamedTuple):
    """Which samples are copies of training images, or nearly."""

    share: float  # of samples within the threshold
    nearest: np.ndarray  # (M,) index of the training image nearest to each sample
    distances: np.ndarray  # (M,) distance to it


def copy_threshold(training: np.ndarray) -> float:
    """Return the distance below which a sample counts as a copy.

    This is the 1 % quantile of the distances from training images `(N, D)` to their nearest neighbours, those that are
    the same image twice left out. Features of one image may differ by rounding, which counts as a copy too.

    Raises:
        InputError: The features have another shape, or values that are not finite.
    """
    (training,) = checked_features(training=training)
    rounding = ROUNDING * float(np.linalg.norm(training.std(axis=0)))
    points = np.unique(training - training.mean(axis=0), axis=0)
    if len(points) == 1:
        return rounding
    _, indices = NearestNeighbors(n_neighbors=1).fit(points).kneighbors()  # excludes the point itself
    distances = np.linalg.norm(points - points[indices[:, 0]], axis=1)
    different = distances[distances > rounding]
    return max(rounding, float(np.quantile(different, COPY_QUANTILE)) if len(different) else 0.0)


def copies(training: np.ndarray, generated: np.ndarray, threshold: float) -> Copies:
    """Find samples that are copies of training images, or nearly.

    The share is about 0.01 for new images from the same distribution, and 1 for a model that reproduces its training
    images.

    Args:
        training: `(N, D)`, all training images.
        generated: `(M, D)`.
        threshold: The `copy_threshold` of the same training images.

    Raises:
        InputError: A set has another shape, no point, or values that are not finite.
    """
    training, generated = checked_features(training=training, generated=generated)
    mean = training.mean(axis=0)  # without which scikit-learn's distances would be rounded more
    nearest = pairwise_distances_argmin(generated - mean, training - mean)
    distances = np.linalg.norm(generated - training[nearest], axis=1)
    return Copies(float((distances <= threshold).mean()), nearest, distances)
