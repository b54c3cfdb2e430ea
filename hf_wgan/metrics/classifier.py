"""A small classifier of a dataset's own classes, whose hidden activations are features: for grey and small images,
where a network trained on photographs is the wrong instrument. It is trained once and kept, with its accuracy."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..data import ImageSet, RealBatches
from ..data.batches import normalised
from ..utils.errors import InputError, one_line

NUM_FEATURES = 64
IMAGES_AT_ONCE = 500
BATCH_SIZE, NUM_EPOCHS, LEAST_STEPS = 128, 3, 1000
HELD_OUT = 10  # one image in so many, where there are no others
RECORD = "classifier.json"


class SmallClassifier(ModelMixin, ConfigMixin):
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


def train_classifier(
    images: ImageSet, held_out: ImageSet, seed: int = 0, num_epochs: float | None = None
) -> tuple[SmallClassifier, float]:
    """Fits the network to the labels.

    Args:
        images: With labels from 0.
        held_out: Others with the same labels.
        seed: Of the weights and the order of the images. The state of torch's own random numbers is left alone.
        num_epochs: How often each image is seen; 3 times, and in 1,000 batches or more, if not given.

    Returns:
        The network in evaluation mode, and its accuracy on `held_out`, in [0, 1].

    Raises:
        InputError: there are no labels.
    """
    labels, held_out_labels = _labels(images), _labels(held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallClassifier(images.shape[0], int(labels.max()) + 1)
    network.to(memory_format=torch.channels_last).train()
    batches = RealBatches(images, min(BATCH_SIZE, len(images)), seed)
    num_steps = int((num_epochs or NUM_EPOCHS) * len(images) / batches.batch_size) + 1
    if num_epochs is None:
        num_steps = max(num_steps, LEAST_STEPS)
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
    folder: str | Path,
    images: ImageSet,
    held_out: ImageSet | None = None,
    seed: int = 0,
    num_epochs: float | None = None,
) -> tuple[SmallClassifier, float]:
    """`train_classifier` once for each folder, where it leaves the network in safetensors and its accuracy beside it;
    anew if that was with other images or another seed. Without held-out images a tenth of the images is left out."""
    folder = Path(folder)
    if held_out is None:
        held_out, images = _parts(images)
    made_with = {"images": images.fingerprint, "held_out": held_out.fingerprint, "seed": seed, "epochs": num_epochs}
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text())
        accuracy = record.pop("accuracy")
        if record == made_with:
            return SmallClassifier.from_pretrained(folder, use_safetensors=True).eval(), accuracy
    network, accuracy = train_classifier(images, held_out, seed, num_epochs)
    network.save_pretrained(folder)
    (folder / RECORD).write_text(json.dumps({**made_with, "accuracy": accuracy}, indent=2) + "\n")
    return network, accuracy


def load_classifier(folder: str | Path) -> tuple[SmallClassifier, float]:
    """A classifier that was trained before, and its accuracy.

    Raises:
        InputError: there is none.
    """
    try:
        accuracy = json.loads((Path(folder) / RECORD).read_text())["accuracy"]
        return SmallClassifier.from_pretrained(folder, use_safetensors=True).eval(), accuracy
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder} holds no classifier that scripts/train_classifier.py left ({one_line(error)})"
        ) from error


def _parts(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Every tenth image, and the others."""
    labels, numbers = _labels(images), torch.arange(len(images))
    chosen = numbers % HELD_OUT == 0
    parts = (
        ImageSet(images.images[which], images.name, labels[which], images.label_names) for which in (chosen, ~chosen)
    )
    return tuple(parts)  # type: ignore[return-value]


@torch.no_grad()
def extract(network: SmallClassifier, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The features `(N, 64)` and the likeliest classes `(N,)` of images `(N, C, H, W)` in [-1, 1]."""
    outputs = [network(chunk) for chunk in images.split(IMAGES_AT_ONCE)]
    features, scores = (torch.cat(parts) for parts in zip(*outputs))
    return features.numpy(), scores.argmax(1).numpy()


def class_shares(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """The histogram `(num_classes,)` of classes `(N,)`, which sums to 1."""
    return np.bincount(classes, minlength=num_classes) / len(classes)


def class_entropy(shares: np.ndarray) -> float:
    """The entropy of a histogram over that of an even one, in [0, 1]."""
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum() / np.log(len(shares)))
