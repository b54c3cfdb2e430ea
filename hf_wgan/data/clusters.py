"""Classes for images that have none: groups of images that look alike from afar."""

import numpy as np
import torch
import torch.nn.functional as F

from .images import ImageSet

SIDE = 16  # pixels, at most, of the images that are compared
IMAGES_OF_A_CLUSTER = 6  # in the mean, at least
COMPARED_IMAGES = 20_000  # at most, to find the clusters by
IMAGES_AT_ONCE = 1024


def clustered(images: ImageSet, num_clusters: int, seed: int = 0) -> ImageSet:
    """Return the same images with clusters instead of labels, found by k-means of their coarse pixels.

    Networks that are conditional on them learn each part of a varied set by itself (Liu et al. 2020, arXiv 2006.10728,
    with features of the critic; Sage et al. 2018, arXiv 1712.04407, for logos).

    Args:
        images: The images, of which the middle is compared if they are larger than what is trained on.
        num_clusters: Number of clusters, at most. Small sets have fewer: one for six images.
        seed: Seed of the initial clusters.
    """
    from sklearn.cluster import KMeans  # needs what hf_wgan[train] installs

    number = max(1, min(num_clusters, len(images) // IMAGES_OF_A_CLUSTER))
    chosen = np.random.default_rng(seed).permutation(len(images))[:COMPARED_IMAGES]
    model = KMeans(number, n_init=1, random_state=seed)
    model.fit(np.concatenate([_coarse(images, part) for part in _parts(chosen)]))
    numbers = np.concatenate([model.predict(_coarse(images, part)) for part in _parts(np.arange(len(images)))])
    return images.with_clusters(np.unique(numbers, return_inverse=True)[1])  # none of them empty


def in_clusters_of(others: ImageSet, images: ImageSet) -> ImageSet:
    """Return other images with the clusters of a set, to which they are nearest, instead of labels.

    Args:
        others: Images that the clusters were not found by, `(C, H, W)` as those of the set.
        images: The set, with clusters.
    """
    assert images.labels is not None
    numbers = images.labels.unique()
    means = class_means(images)[numbers]
    coarse = (torch.from_numpy(_coarse(others, part)) for part in _parts(np.arange(len(others))))
    nearest = torch.cat([torch.cdist(rows, means).argmin(dim=1) for rows in coarse])
    return others.with_clusters(numbers[nearest].numpy())


def class_means(images: ImageSet) -> torch.Tensor:
    """Return what the images of each class look like in the mean: coarse pixels, `(num_classes, C · 256)` float32."""
    assert images.labels is not None
    counts = images.labels.bincount()
    sums = torch.zeros(len(counts), _coarse(images, np.arange(1)).shape[1])
    for part in _parts(np.arange(len(images))):
        sums.index_add_(0, images.labels[part], torch.from_numpy(_coarse(images, part)))
    return sums / counts.clamp(min=1).unsqueeze(1)


def _parts(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + IMAGES_AT_ONCE] for start in range(0, len(indices), IMAGES_AT_ONCE)]


def _coarse(images: ImageSet, indices: np.ndarray) -> np.ndarray:
    """Return images by number as rows of at most 16 × 16 pixels, `(n, C · 256)` float32."""
    maps = images.middles(indices).float()
    height, width = (min(side, SIDE) for side in maps.shape[2:])
    return F.adaptive_avg_pool2d(maps, (height, width)).flatten(1).numpy()
