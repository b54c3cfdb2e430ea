import numpy as np
import pytest

from hf_wgan import InputError
from hf_wgan.metrics.neighbours import copies, copy_threshold, coverage


def precision_and_recall(real, generated, k=3):
    return coverage(real, generated, precision_neighbours=k, density_neighbours=1)[:2]


def on_gaussians(mean, deviations, seed, num=300):
    return np.random.default_rng(seed).normal(mean, deviations, (num, len(deviations)))


def test_equal_sets_lie_within_each_other_and_distant_ones_do_not():
    real, generated = (on_gaussians([0, 0], [1, 1], seed, num=300) for seed in (0, 1))
    assert precision_and_recall(real, real) == (1, 1)
    assert min(precision_and_recall(real, generated)) > 0.8
    assert precision_and_recall(real, generated + 100) == (0, 0)


def test_a_collapsed_set_is_precise_and_recalls_nearly_nothing():
    real, generated = (on_gaussians([0, 0], [1, 1], seed, num=300) for seed in (0, 1))
    collapsed = generated[:3].repeat(100, axis=0) + 1e-3 * on_gaussians([0, 0], [1, 1], 2, num=300)
    precision, recall = precision_and_recall(real, collapsed)
    assert precision > 0.6
    assert recall < 0.05


def test_a_point_lies_in_any_ball_and_not_only_in_that_of_the_nearest_point():
    generated = np.array([[0.0], [0.1], [0.2], [2.0], [5.0]])  # radii with k = 2: 0.2, 0.1, 0.2, 1.9, 4.8
    real = np.array([[0.5], [9.0], [9.9]])  # 0.5 is nearest to 0.2, but within 1.9 of 2.0
    _, recall = precision_and_recall(real, generated, k=2)
    assert recall == pytest.approx(2 / 3)


def by_brute_force(real, generated, k, k_density):
    """Every figure by its formula, one pair at a time."""

    def radius(points, index, count):
        others = [np.linalg.norm(points[index] - other) for j, other in enumerate(points) if j != index]
        return sorted(others)[count - 1]

    def distance(x, y):
        return np.linalg.norm(x - y)

    precise = [any(distance(x, r) <= radius(real, i, k) for i, r in enumerate(real)) for x in generated]
    recalled = [any(distance(r, x) <= radius(generated, i, k) for i, x in enumerate(generated)) for r in real]
    radii = [radius(real, i, k_density) for i in range(len(real))]
    balls = sum(distance(x, r) <= radii[i] for x in generated for i, r in enumerate(real))
    covered = [any(distance(x, r) <= radii[i] for x in generated) for i, r in enumerate(real)]
    return np.mean(precise), np.mean(recalled), balls / (k_density * len(generated)), np.mean(covered)


def test_every_share_is_that_of_its_formula():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(40, 3)), 1.4 * rng.normal(size=(30, 3)) + 0.5
    assert tuple(coverage(real, generated)) == pytest.approx(by_brute_force(real, generated, 3, 5))
    assert tuple(coverage(real, generated, 2, 4)) == pytest.approx(by_brute_force(real, generated, 2, 4))


def test_density_and_coverage_of_equal_and_of_distant_sets():
    real, generated = (on_gaussians([0, 0], [1, 1], seed, num=1000) for seed in (0, 1))
    same = coverage(real, generated)
    assert same.density == pytest.approx(1, abs=0.1)
    assert same.coverage > 0.9
    assert coverage(real, generated + 100)[2:] == (0, 0)
    collapsed = coverage(real, generated[:3].repeat(334, axis=0)[:1000])
    assert collapsed.coverage < 0.05


def test_too_few_points_are_named():
    with pytest.raises(InputError, match="generated: 5 images are too few for 5 neighbours"):
        coverage(np.zeros((9, 2)), np.zeros((5, 2)))


def test_copies_are_told_from_fresh_points():
    rng = np.random.default_rng(0)
    training, fresh = rng.normal(size=(2000, 6)), rng.normal(size=(500, 6))
    threshold = copy_threshold(training)
    assert copies(training, fresh, threshold).share == pytest.approx(0.01, abs=0.01)
    found = copies(training, training[100:200], threshold)
    assert found.share == 1
    assert found.nearest.tolist() == list(range(100, 200))
    half = np.concatenate([training[:50] + 1e-6, fresh[:50]])
    assert copies(training, half, threshold).share == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("offset", [0, 100, 1000])
@pytest.mark.parametrize("duplicates", [10, 20, 250])
def test_a_model_that_copies_is_told_also_where_images_come_twice(offset, duplicates):
    rng = np.random.default_rng(0)
    training = (rng.normal(size=(500, 64)) + offset).astype(np.float32)
    training[-duplicates:] = training[:duplicates]
    fresh = (rng.normal(size=(500, 64)) + offset).astype(np.float32)
    threshold = copy_threshold(training)
    rounded = training + np.float32(1e-6) * (1 + offset) * rng.normal(size=training.shape).astype(np.float32)
    assert copies(training, training, threshold).share == 1
    assert copies(training, rounded, threshold).share == 1
    assert copies(training, fresh, threshold).share <= 0.03


def test_of_the_same_image_again_and_again_only_that_image_is_a_copy():
    training = np.repeat(np.ones((1, 4), np.float32), 20, axis=0)
    threshold = copy_threshold(training)
    assert copies(training, training, threshold).share == 1 and copies(training, training + 1, threshold).share == 0
