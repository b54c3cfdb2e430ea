import numpy as np
import pytest
import torch

from hf_wgan import ImageSet, InputError
from hf_wgan.metrics import features
from hf_wgan.metrics.features import (
    FeatureNetwork,
    class_entropy,
    class_shares,
    compare,
    extract,
    frechet_distance,
    load_or_train_classifier,
    precision_and_recall,
    train_classifier,
)


def squares(num_images, seed, labelled=True):
    """Noise with a bright square in one of three corners, which is the label."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (num_images, 1, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(num_images) % 3
    for image, (row, column) in zip(images, [((0, 0), (0, 20), (20, 0))[label] for label in labels]):
        image[0, row : row + 12, column : column + 12] += 150
    return ImageSet(images, labels=labels if labelled else None)


@pytest.fixture(scope="module")
def trained():
    return train_classifier(squares(120, seed=0), squares(60, seed=1), num_epochs=4)


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
    _, recall = precision_and_recall(real, generated, num_neighbours=2)
    assert recall == pytest.approx(2 / 3)


def test_the_entropy_of_classes_is_1_where_they_are_as_common_and_0_where_there_is_one():
    assert class_shares(np.array([0, 0, 2, 0]), 4).tolist() == [0.75, 0, 0.25, 0]
    assert class_entropy(np.full(10, 0.1)) == pytest.approx(1)
    assert class_entropy(np.array([0, 1.0, 0])) == 0


def test_the_classifier_learns_and_says_how_well(trained):
    network, accuracy = trained
    assert accuracy > 0.95
    assert not network.training
    found, classes = extract(network, torch.zeros(7, 1, 32, 32))
    assert found.shape == (7, features.NUM_FEATURES)
    assert classes.shape == (7,)


def test_a_missing_class_shows_in_the_report(trained):
    network, _ = trained
    real, same_kind = (squares(120, seed).images.float() / 127.5 - 1 for seed in (2, 3))
    whole = compare(network, real, same_kind)
    without = compare(network, real, same_kind[torch.arange(120) % 3 != 0][torch.arange(120) % 80])
    assert whole.rarest_class == pytest.approx(1 / 3, abs=0.05)
    assert without.rarest_class < 0.05
    assert without.class_entropy < whole.class_entropy - 0.2
    assert without.recall < whole.recall - 0.2
    assert without.frechet_distance > 2 * whole.frechet_distance
    with pytest.raises(InputError, match="3 samples against 120"):
        compare(network, real, same_kind[:3])


def test_the_classifier_is_trained_once_a_folder_and_anew_for_other_images(tmp_path, monkeypatch):
    one, held_out = squares(12, seed=0), squares(6, seed=1)
    network, accuracy = load_or_train_classifier(tmp_path, one, held_out, num_epochs=1)
    assert list(tmp_path.glob("*.safetensors"))

    made = []
    train = train_classifier
    monkeypatch.setattr(features, "train_classifier", lambda *args: made.append(args) or train(*args))
    again, same_accuracy = load_or_train_classifier(tmp_path, one, held_out, num_epochs=1)
    assert not made
    assert same_accuracy == accuracy
    images = torch.rand(4, 1, 32, 32)
    assert torch.equal(again(images)[0], network(images)[0])
    load_or_train_classifier(tmp_path, squares(12, seed=5), held_out, num_epochs=1)
    assert len(made) == 1


def test_the_seed_decides_and_the_random_state_is_left_alone():
    before = torch.get_rng_state()
    networks = [train_classifier(squares(12, 0), squares(6, 1), seed, num_epochs=1)[0] for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    first, second, third = (network.scores.weight for network in networks)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_images_without_labels_are_refused():
    with pytest.raises(InputError, match="no labels"):
        train_classifier(squares(6, 0, labelled=False), squares(6, 1))


def test_colour_images_have_features_too():
    network = FeatureNetwork(channels=3, num_classes=5).eval()
    assert extract(network, torch.zeros(2, 3, 32, 32))[0].shape == (2, features.NUM_FEATURES)
