import numpy as np
import pytest
import torch

from hf_wgan import ImageSet
from hf_wgan.data import class_means, clustered, in_clusters_of


def two_kinds(number=80, size=32, channels=3):
    """Noise that is bright on the left or on the right, in random order, and which of them each image is."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, number)
    images = rng.integers(0, 100, (number, channels, size, size), np.uint8)
    for image, kind in zip(images, kinds):
        image[:, :, kind * size // 2 : (kind + 1) * size // 2] += 100
    return images, torch.from_numpy(kinds)


def partition(labels):
    """Labels by the order in which they occur, so that only the groups matter."""
    order = {}
    return [order.setdefault(label, len(order)) for label in labels.tolist()]


@pytest.mark.parametrize("size, channels", [(32, 3), (8, 1), (40, 4)])
def test_images_that_look_alike_are_a_cluster(size, channels):
    images, kinds = two_kinds(size=size, channels=channels)
    image_set = ImageSet(torch.from_numpy(images))
    result = clustered(image_set, 2)
    assert partition(result.labels) == partition(kinds)
    assert torch.equal(result.images, image_set.images) and image_set.labels is None
    assert result.has_clusters and not image_set.has_clusters and result.label_names is None


def test_the_same_images_and_seed_give_the_same_clusters_and_fingerprint():
    images = ImageSet(torch.from_numpy(two_kinds()[0]))
    first, second, other = clustered(images, 4), clustered(images, 4), clustered(images, 4, seed=1)
    assert torch.equal(first.labels, second.labels) and first.fingerprint == second.fingerprint
    assert len({images.fingerprint, first.fingerprint, clustered(images, 2).fingerprint}) == 3
    assert not torch.equal(first.labels, other.labels)


@pytest.mark.parametrize("number, expected", [(1, 1), (11, 1), (12, 2), (80, 3)])
def test_small_sets_have_fewer_clusters(number, expected):
    images = torch.from_numpy(two_kinds(number)[0])
    assert clustered(ImageSet(images), 3).labels.unique().tolist() == list(range(expected))


def test_clusters_are_found_by_some_of_the_images_and_hold_all(monkeypatch):
    monkeypatch.setattr("hf_wgan.data.clusters.COMPARED_IMAGES", 20)
    monkeypatch.setattr("hf_wgan.data.clusters.IMAGES_AT_ONCE", 32)
    images, kinds = two_kinds()
    assert partition(clustered(ImageSet(torch.from_numpy(images)), 2).labels) == partition(kinds)


def test_labels_and_parts_of_a_set():
    images, kinds = two_kinds()
    labelled = ImageSet(torch.from_numpy(images), labels=torch.arange(len(images)) % 5, label_names=list("abcde"))
    some = labelled.subset(np.arange(len(images)) % 2 == 0, "even")
    result = clustered(some, 2)
    assert partition(result.labels) == partition(kinds[::2])
    assert result.without_clusters().fingerprint == some.fingerprint
    part = result.subset(np.arange(len(result)) < 10, "first")
    before = part.without_clusters()
    assert torch.equal(before.labels, some.labels[:10]) and before.label_names == list("abcde")
    assert before.fingerprint == f"{some.fingerprint}-first" and not before.has_clusters
    assert some.without_clusters() is some
    assert part.has_clusters and partition(part.labels) == partition(kinds[::2][:10])
    assert labelled.labels.tolist() == [number % 5 for number in range(len(images))]


@pytest.mark.parametrize("size, channels", [(32, 3), (8, 1), (40, 4)])
def test_other_images_are_in_the_clusters_that_they_are_nearest_to(size, channels, monkeypatch):
    monkeypatch.setattr("hf_wgan.data.clusters.IMAGES_AT_ONCE", 32)
    images, kinds = two_kinds(size=size, channels=channels)
    whole = ImageSet(torch.from_numpy(images), labels=torch.arange(80) % 5, label_names=list("abcde"))
    is_other = np.arange(80) % 4 == 3
    found = clustered(whole.subset(~is_other, "found"), 2)
    others = in_clusters_of(whole.subset(is_other, "others"), found)
    assert others.has_clusters and others.without_clusters().labels.tolist() == whole.labels[is_other].tolist()
    assert partition(torch.cat([found.labels, others.labels])) == partition(
        torch.cat([kinds[~is_other], kinds[is_other]])
    )


def test_no_image_is_in_a_cluster_that_has_none():
    """As that of a published model may have; its mean would be that of a black image."""
    bright = ImageSet(torch.full((4, 1, 8, 8), 200, dtype=torch.uint8)).with_clusters(np.full(4, 3))
    assert in_clusters_of(ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), bright).labels.tolist() == [3, 3]


def test_the_appearance_of_a_class_is_the_mean_of_its_images(monkeypatch):
    monkeypatch.setattr("hf_wgan.data.clusters.IMAGES_AT_ONCE", 32)
    images, kinds = two_kinds()
    result = class_means(ImageSet(torch.from_numpy(images), labels=kinds))
    for kind, row in enumerate(result):
        mean = images[kinds == kind].mean(0).reshape(3, 16, 2, 16, 2).mean((2, 4))
        assert np.allclose(row.numpy(), mean.flatten(), rtol=1e-5)
