"""What a small classifier of a dataset's own classes sees in samples: how far they are from real images, how much of
these they cover, and how they spread over the classes. Figures compare runs on one dataset, by one classifier."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors
from torch import nn

from ..data import ImageSet, RealBatches
from ..data.batches import normalised
from ..errors import InputError

NUM_FEATURES = 64
NUM_NEIGHBOURS = 3  # as in Kynkäänniemi et al. 2019
IMAGES_AT_ONCE = 500
RECORD = "classifier.json"


class FeatureNetwork(ModelMixin, ConfigMixin):
    """Three convolutions of stride 2 and a hidden layer, whose activations are the features.

    Args:
        channels: Of the images.
        num_classes: Of the dataset.
    """

    @register_to_config
    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((channels, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU()]
        hidden = nn.Linear(128 * 4 * 4, NUM_FEATURES)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), hidden, nn.ReLU())
        self.scores = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            images: `(N, channels, H, W)` in [-1, 1], made for 32×32.

        Returns:
            Features, `(N, 64)`, none negative, and scores of the classes, `(N, num_classes)`.
        """
        features = self.features(images)  # (N, 64); the pooling changes nothing at 32×32
        return features, self.scores(features)


@dataclass(frozen=True)
class FeatureReport:
    """Samples against as many real images, by their features. Shares are in [0, 1]."""

    num_images: int
    frechet_distance: float
    precision: float  # samples that lie among the real images
    recall: float  # real images that lie among the samples
    rarest_class: float  # of all samples, the share classified as the rarest class
    class_entropy: float  # of the classes of samples: 0 where there is one only, 1 where all are as common


def train_classifier(
    images: ImageSet, held_out: ImageSet, seed: int = 0, num_epochs: float = 3
) -> tuple[FeatureNetwork, float]:
    """Fits the network to the labels.

    Args:
        images: With labels from 0.
        held_out: Others with the same labels.
        seed: Of the weights and the order of the images. The state of torch's own random numbers is left alone.
        num_epochs: How often each image is seen.

    Returns:
        The network in evaluation mode, and its accuracy on `held_out`, in [0, 1].

    Raises:
        InputError: there are no labels.
    """
    labels, held_out_labels = _labels(images), _labels(held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FeatureNetwork(images.shape[0], int(labels.max()) + 1)
    network.to(memory_format=torch.channels_last).train()
    batches = RealBatches(images, min(128, len(images)), seed)
    num_steps = int(num_epochs * len(images) / batches.batch_size) + 1
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=num_steps)
    for _ in range(num_steps):
        batch = next(batches)
        assert batch.labels is not None
        loss = nn.functional.cross_entropy(network(batch.images)[1], batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.to(memory_format=torch.contiguous_format).eval()  # as it will be loaded, to the last bit
    _, classes = extract(network, normalised(held_out.images, None))
    return network, float((classes == held_out_labels.numpy()).mean())


def _labels(images: ImageSet) -> torch.Tensor:
    if images.labels is None:
        raise InputError(f"{images.name} has no labels, which the features are learnt from; set label_column")
    return images.labels


def load_or_train_classifier(
    folder: str | Path, images: ImageSet, held_out: ImageSet, seed: int = 0, num_epochs: float = 3
) -> tuple[FeatureNetwork, float]:
    """`train_classifier` once for each folder, where it leaves the network in safetensors and its accuracy beside it;
    anew if that was with other images or another seed."""
    folder = Path(folder)
    made_with = {"images": images.fingerprint, "held_out": held_out.fingerprint, "seed": seed, "epochs": num_epochs}
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text())
        accuracy = record.pop("accuracy")
        if record == made_with:
            return FeatureNetwork.from_pretrained(folder, use_safetensors=True).eval(), accuracy
    network, accuracy = train_classifier(images, held_out, seed, num_epochs)
    network.save_pretrained(folder)
    (folder / RECORD).write_text(json.dumps({**made_with, "accuracy": accuracy}, indent=2) + "\n")
    return network, accuracy


@torch.no_grad()
def extract(network: FeatureNetwork, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The features `(N, 64)` and the likeliest classes `(N,)` of images `(N, C, H, W)` in [-1, 1]."""
    outputs = [network(chunk) for chunk in images.split(IMAGES_AT_ONCE)]
    features, scores = (torch.cat(parts) for parts in zip(*outputs))
    return features.numpy(), scores.argmax(1).numpy()


def compare(network: FeatureNetwork, real_images: torch.Tensor, samples: torch.Tensor) -> FeatureReport:
    """Every figure of samples against as many real images, both `(N, C, H, W)` in [-1, 1]."""
    if len(real_images) != len(samples):
        raise InputError(f"{len(samples)} samples against {len(real_images)} real images: must be as many of both")
    real, _ = extract(network, real_images)
    generated, classes = extract(network, samples)
    shares = class_shares(classes, network.config.num_classes)
    precision, recall = precision_and_recall(real, generated)
    return FeatureReport(
        num_images=len(samples),
        frechet_distance=frechet_distance(real, generated),
        precision=precision,
        recall=recall,
        rarest_class=float(shares.min()),
        class_entropy=class_entropy(shares),
    )


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """`‖µa − µb‖² + tr(Σa + Σb − 2 (Σa Σb)^½)`, between Gaussians with the features' means and covariances (Heusel et
    al. 2017, arXiv 1706.08500, eq. 6).

    Args:
        features_a: `(N, D)`, N at least 2. With few images the figure is too large; compare equal numbers.
        features_b: `(M, D)`, likewise.
    """
    a, b = (np.asarray(features, np.float64) for features in (features_a, features_b))
    covariance_a, covariance_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    # Σa Σb has the eigenvalues of Σa^½ Σb Σa^½, which is symmetric: so no complex roots where it is singular.
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    trace_of_root = np.sqrt(np.linalg.eigvalsh(root @ covariance_b @ root).clip(min=0)).sum()
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2 * trace_of_root
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + max(spread, 0))


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, num_neighbours: int = NUM_NEIGHBOURS
) -> tuple[float, float]:
    """How much of each set lies within the other (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    A set's region is the balls around its points, each as far as the k-th other point of the set.

    Args:
        real: `(N, D)`.
        generated: `(M, D)`. Both figures depend on N and M: compare equal ones only.
        num_neighbours: k.

    Returns:
        Precision, the share of generated points in the region of the real ones, and recall, the share of real points
        in the region of the generated ones, which is near 0 for a collapsed model.
    """
    return _share_within(real, generated, num_neighbours), _share_within(generated, real, num_neighbours)


def _share_within(region: np.ndarray, points: np.ndarray, num_neighbours: int) -> float:
    distances, _ = NearestNeighbors(n_neighbors=num_neighbours).fit(region).kneighbors()  # itself not among them
    radii = distances[:, -1]
    chunks = pairwise_distances_chunked(points, region, reduce_func=lambda chunk, _: (chunk <= radii).any(axis=1))
    return float(np.concatenate(list(chunks)).mean())


def class_shares(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """The histogram `(num_classes,)` of classes `(N,)`, which sums to 1."""
    return np.bincount(classes, minlength=num_classes) / len(classes)


def class_entropy(shares: np.ndarray) -> float:
    """The entropy of a histogram over that of an even one, in [0, 1]."""
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum() / np.log(len(shares)))
