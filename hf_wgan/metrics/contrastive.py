"""A small network that learns a dataset without labels, whose hidden activations serve as features.

Two views of an image, cropped, turned and of another brightness and contrast, must be more alike than views of two
images (SimCLR: Chen et al. 2020, arXiv 2002.05709). Noise and blur are not among the changes: the features have to tell
them from real images. The network is trained once and saved together with its metrics.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..data import ImageSet, RealBatches
from ..data.batches import normalised
from .classifier import (
    BATCH_SIZE,
    INFERENCE_BATCH_SIZE,
    NUM_FEATURES,
    FeatureLayers,
    fit,
    load_or_train,
    reduced,
)

NUM_STEPS = 1000
TEMPERATURE = 0.2
LEAST_AREA = 0.5  # of a crop
MOST_TURNED = 0.25  # radians
PROBE_PENALTY = 1e-2  # of the ridge regression, in units of the features' variance
RECORD = "contrastive.json"


class ContrastiveNetwork(ModelMixin, ConfigMixin):
    """The convolutions of the small classifier, and a projection that only training uses.

    Args:
        channels: Number of image channels.
    """

    @register_to_config
    def __init__(self, channels: int):
        super().__init__()
        self.features = FeatureLayers(channels)
        self.projection = nn.Sequential(nn.Linear(NUM_FEATURES, 128), nn.ReLU(), nn.Linear(128, NUM_FEATURES))

    def forward(self, images: Tensor) -> Tensor:
        """Return projections `(N, 64)` of length 1 of images `(N, channels, H, W)` in [-1, 1]."""
        return F.normalize(self.projection(self.features(images)), dim=1)


def random_view(images: Tensor, rand: Callable[..., Tensor]) -> Tensor:
    """Return a view of each image: a part of it, turned, in another brightness and contrast.

    Args:
        images: `(N, C, H, W)` in [-1, 1].
        rand: Source of uniform random numbers, called as `torch.rand` is.
    """
    area, down, right, turn, contrast, brightness = rand((6, len(images)), device=images.device)
    side = (LEAST_AREA + (1 - LEAST_AREA) * area).sqrt()
    angle = MOST_TURNED * (2 * turn - 1)
    shift_x, shift_y = ((1 - side) * (2 * place - 1) for place in (right, down))
    rows = [
        torch.stack([side * angle.cos(), -side * angle.sin(), shift_x], dim=1),
        torch.stack([side * angle.sin(), side * angle.cos(), shift_y], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)  # (N, H, W, 2)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (number[:, None, None, None] for number in (contrast, brightness))
    return (images - mean) * (0.6 + 0.8 * contrast) + mean + 0.4 * (brightness - 0.5)


def train_contrastive(
    images: ImageSet,
    held_out: ImageSet,
    seed: int = 0,
    num_steps: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[ContrastiveNetwork, dict[str, float]]:
    """Train the network on images, whose labels it does not use.

    Args:
        images: Training images.
        held_out: Images to measure on.
        seed: Seed of the weights, the order of the images and the views. PyTorch's global random state is left alone.
        num_steps: Number of batches, each of two views of 128 images; by default 1,000.
        device: Device of the training.

    Returns:
        The network on the CPU in eval mode, and its metrics in [0, 1]: `views_matched`, the share of views whose most
        similar one among those of 128 held-out images shows the same image; and for labelled images `linear_probe`, the
        share of held-out images whose class a linear model of the features gets right.
    """
    num_steps = num_steps or NUM_STEPS
    rng = torch.Generator(device).manual_seed(seed)
    rand = partial(torch.rand, generator=rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ContrastiveNetwork(images.shape[0])
    batches = RealBatches(images, min(BATCH_SIZE, len(images)), seed, device)
    fit(network, batches, lambda batch: F.cross_entropy(*_similarities(network, batch.images, rand)), num_steps)
    with torch.no_grad():
        similarities, partners = _similarities(network, normalised(held_out.images[:BATCH_SIZE].to(device)), rand)
    network.cpu()
    metrics = {"views_matched": float((similarities.argmax(1) == partners).float().mean())}
    if images.num_classes > 1 and held_out.labels is not None:
        metrics["linear_probe"] = linear_probe(network, images, held_out)
    return network, metrics


def _similarities(network: nn.Module, images: Tensor, rand: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Return the scaled similarities of all pairs of views `(2N, 2N)`, and for each view the number of its partner."""
    images = reduced(images)
    projections = network(torch.cat([random_view(images, rand), random_view(images, rand)]))
    similarities = (projections @ projections.t() / TEMPERATURE).fill_diagonal_(-torch.inf)
    return similarities, torch.arange(2 * len(images), device=images.device).roll(len(images))


def linear_probe(network: ContrastiveNetwork, images: ImageSet, held_out: ImageSet) -> float:
    """Return the share of held-out images whose class a ridge regression of the features gets right."""
    features, others = (extract(network, image_set.images) for image_set in (images, held_out))
    labels, other_labels = images.labels, held_out.labels
    assert labels is not None and other_labels is not None
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    features, others = ((matrix - mean) / deviation for matrix in (features, others))
    targets = F.one_hot(labels).to(features)
    targets -= targets.mean(0)
    gram = features.t() @ features + PROBE_PENALTY * len(features) * torch.eye(features.shape[1])
    weights = torch.linalg.solve(gram, features.t() @ targets)  # (D, K)
    return float(((others @ weights).argmax(1) == other_labels).float().mean())


@torch.no_grad()
def extract(network: ContrastiveNetwork, images: Tensor) -> Tensor:
    """Compute the features `(N, 64)` of images `(N, C, H, W)` uint8."""
    return torch.cat([network.features(normalised(chunk)) for chunk in images.split(INFERENCE_BATCH_SIZE)])


def load_or_train_contrastive(
    folder: str | Path,
    images: ImageSet,
    held_out: ImageSet | None = None,
    seed: int = 0,
    num_steps: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[ContrastiveNetwork, dict[str, float]]:
    """Load the network in a folder, or train it and save it there. See `train_contrastive` for the arguments.

    A saved network is replaced if it was trained with other images, another seed or another number of steps. Without
    `held_out`, a tenth of the images is held out.
    """
    num_steps = num_steps or NUM_STEPS

    def train(images: ImageSet, held_out: ImageSet) -> tuple[ContrastiveNetwork, dict[str, float]]:
        return train_contrastive(images, held_out, seed, num_steps, device)

    if held_out is not None:
        held_out = held_out.relabelled(images.label_names or [])
    settings = {"seed": seed, "steps": num_steps}
    return load_or_train(Path(folder, RECORD), ContrastiveNetwork, train, images, held_out, settings)
