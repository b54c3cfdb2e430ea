"""Each distance against another implementation of it, on the same features."""

from functools import partial

import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch

from hf_wgan import InputError
from hf_wgan.metrics import distances
from hf_wgan.metrics.distances import (
    frechet_distance,
    kernel_distance,
    sliced_wasserstein_distance,
    squared_mmd,
    wasserstein_1,
)
from hf_wgan.metrics.neighbours import copies, coverage


def on_gaussians(mean, deviations, seed, num=20_000):
    return np.random.default_rng(seed).normal(mean, deviations, (num, len(deviations)))


def test_the_frechet_distance_is_that_of_gaussians():
    # With diagonal covariances: |mean|² + Σ (σa − σb)².
    one, other = on_gaussians([0, 0, 0], [1, 2, 0.5], seed=0), on_gaussians([1, 0, -2], [3, 1, 0.5], seed=1)
    assert frechet_distance(one, other) == pytest.approx(5 + (2**2 + 1**2), rel=0.03)
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    assert frechet_distance(one @ rotation, other @ rotation) == pytest.approx(frechet_distance(one, other))


def test_the_frechet_distance_of_a_set_to_itself_is_0_and_singular_covariances_do_no_harm():
    points = on_gaussians([0, 5], [1, 2], seed=0, num=100)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    flat = np.concatenate([points, np.zeros((100, 60)), points], axis=1).astype(np.float32)  # rank 2 of 64
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(flat, flat + 1) == pytest.approx(64, rel=1e-3)
    assert frechet_distance(points[:, :1], points[:, :1] + 2) == pytest.approx(4)


def two_sets(num=400, dimensions=12, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dimensions, dimensions)) / 3
    return rng.normal(size=(num, dimensions)) @ mix, (rng.normal(size=(num, dimensions)) + 0.3) @ mix.T


def test_the_frechet_distance_is_that_of_the_matrix_square_root():
    a, b = two_sets()
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(expected, rel=1e-4)
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(1000, 12)))
    assert frechet_distance(a @ rotation.T, b @ rotation.T) == pytest.approx(expected, rel=1e-8), "of 1,000 features"


def test_the_squared_discrepancy_is_the_double_sum():
    a, b = two_sets(num=40, dimensions=5)

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y)) / 5 + 1) ** 3

    def mean(pairs):
        return np.mean([kernel(x, y) for x, y in pairs])

    within = [mean([(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    expected = sum(within) - 2 * mean([(x, y) for x in a for y in b])
    assert squared_mmd(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("num", [4, 100, 1000, 1500])
def test_the_subsets_of_a_small_set_differ(num, monkeypatch):
    a, b = two_sets(num=num)
    subsets = []
    monkeypatch.setattr(distances, "squared_mmd", lambda x, y: subsets.append((x, y)) or len(subsets))
    kernel_distance(a, b[: num // 2])
    assert {len(points) for subset in subsets for points in subset} == {max(2, num // 4)}
    assert len({x.tobytes() for x, _ in subsets}) > 1


def test_the_kernel_distance_of_subsets_is_around_that_of_all_points_and_unbiased():
    a, b = two_sets(num=600)
    whole = squared_mmd(a, b)
    found, deviation = kernel_distance(a, b, subset_size=100)
    assert abs(found - whole) < deviation / 2
    assert deviation > 0
    same, other = two_sets(num=2000)[0].reshape(2, 1000, 12)
    found, deviation = kernel_distance(same, other, subset_size=100)
    assert abs(found) < deviation / 2
    assert kernel_distance(a, b, seed=1) == kernel_distance(a, b, seed=1) != kernel_distance(a, b, seed=2)


def test_the_sliced_distance_is_the_root_of_the_mean_over_lines():
    a, b = two_sets(num=300, dimensions=4)
    lines = ot.sliced.get_random_projections(4, 500, seed=0)
    squares = [((np.sort(a @ line) - np.sort(b @ line)) ** 2).mean() for line in lines.T]
    assert sliced_wasserstein_distance(a, b, seed=0) == pytest.approx(np.mean(squares) ** 0.5, rel=1e-4)


def test_the_exact_distance_is_that_of_the_best_assignment():
    a, b = two_sets(num=200)
    costs = np.linalg.norm(a[:, None] - b[None], axis=2)
    rows, columns = scipy.optimize.linear_sum_assignment(costs)
    assert wasserstein_1(a, b) == pytest.approx(costs[rows, columns].mean(), rel=1e-4)
    line, other = a[:, :1], b[:120, :1]
    expected = scipy.stats.wasserstein_distance(line[:, 0], other[:, 0])
    assert wasserstein_1(line, other) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("distance", [frechet_distance, sliced_wasserstein_distance, wasserstein_1])
def test_a_set_is_at_no_distance_from_itself_and_a_shift_is_its_length(distance):
    a, _ = two_sets()
    assert distance(a, a) == pytest.approx(0, abs=1e-5)
    shift = np.zeros(12)
    shift[0] = 3
    expected = {frechet_distance: 9, wasserstein_1: 3}.get(distance)
    if expected:
        assert distance(a, a + shift) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", [frechet_distance, squared_mmd, sliced_wasserstein_distance, wasserstein_1])
def test_features_in_float32_are_compared_in_float64(distance):
    sets = [100 + points.astype(np.float32) for points in two_sets(num=100)]
    assert distance(*sets) == distance(*(points.astype(np.float64) for points in sets)) > 0


COMPARISONS = [frechet_distance, kernel_distance, sliced_wasserstein_distance, squared_mmd, wasserstein_1, coverage]
COMPARISONS.append(partial(copies, threshold=1.0))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("compare", COMPARISONS)
def test_features_that_cannot_be_compared_are_named(compare):
    points = on_gaussians([0, 1], [1, 1], seed=0, num=20)
    with pytest.raises(InputError, match=r"features of different lengths, .* \(20, 2\), .* \(20, 1\)"):
        compare(points, points[:, :1])
    for others in (points[:, 0], points[:0]):
        with pytest.raises(InputError, match=r"features of shape .*: must be \(N, D\), with N at least"):
            compare(points, others)
    for value in (np.nan, np.inf):
        broken = points.copy()
        broken[3, 1] = value
        with pytest.raises(InputError, match="the features hold NaN or infinity"):
            compare(broken, points)


@pytest.mark.parametrize("compare", [frechet_distance, kernel_distance, squared_mmd])
def test_one_point_has_no_variance(compare):
    points = on_gaussians([0, 1], [1, 1], seed=0, num=20)
    with pytest.raises(InputError, match="with N at least 2"):
        compare(points[:1], points)


def test_features_in_tensors_are_compared_as_in_arrays():
    points, others = (on_gaussians([0, 1], [1, 1], seed, num=20) for seed in (0, 1))
    for compare in COMPARISONS:
        assert str(compare(torch.from_numpy(points), torch.from_numpy(others))) == str(compare(points, others))
