"""A small classifier of a dataset's own classes, whose hidden activations serve as features.

It suits grey and small images, for which a network trained on photographs is the wrong instrument. It is trained once
and saved together with its accuracy.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..data import ImageSet, RealBatches
from ..data.batches import Batch, normalised
from ..utils import files
from ..utils.commands import shell_command
from ..utils.console import duration, say_once
from ..utils.errors import InputError, one_line

NUM_FEATURES = 64
LARGEST_SIDE = 64  # pixels, so that training a network for features takes minutes for images of any size
INFERENCE_BATCH_SIZE = 500
BATCH_SIZE, LEARNING_RATE, NUM_EPOCHS, MIN_STEPS = 128, 4e-3, 3, 1000
HELD_OUT_INTERVAL = 10  # without held-out images, every tenth is held out
RECORD = "classifier.json"
STEPS_TO_ESTIMATE = 10  # of the training, whose time is said if it is long
LONG = 20.0  # seconds

Network = TypeVar("Network", bound=ModelMixin)


class SmallClassifier(ModelMixin, ConfigMixin):
    """Three convolutions of stride 2 and a hidden layer, whose activations are the features.

    Args:
        channels: Number of image channels.
        num_classes: Number of classes.
    """

    @register_to_config
    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.features = FeatureLayers(channels)
        self.scores = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute features and class scores.

        Args:
            images: `(N, channels, H, W)` in [-1, 1]; the network is designed for 32×32, and those above 64×64 are
                reduced.

        Returns:
            Features `(N, 64)`, none of them negative, and class scores `(N, num_classes)`.
        """
        features = self.features(images)  # (N, 64); the pooling is the identity at 32×32
        return features, self.scores(features)


class FeatureLayers(nn.Sequential):
    """Three convolutions of stride 2 and a hidden layer: from images `(N, channels, H, W)` to `(N, 64)`.

    Args:
        channels: Number of image channels.
    """

    def __init__(self, channels: int):
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((channels, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU()]
        hidden = nn.Linear(128 * 4 * 4, NUM_FEATURES)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), hidden, nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of images, those above 64×64 reduced."""
        return super().forward(reduced(images))


def reduced(images: torch.Tensor) -> torch.Tensor:
    """Return images `(N, C, H, W)` whose longer side is at most 64 pixels, each the mean of some of theirs."""
    height, width = images.shape[-2:]
    if max(height, width) <= LARGEST_SIDE:
        return images
    scale = LARGEST_SIDE / max(height, width)
    return F.adaptive_avg_pool2d(images, (max(1, round(height * scale)), max(1, round(width * scale))))


def train_classifier(
    images: ImageSet,
    held_out: ImageSet,
    seed: int = 0,
    num_epochs: float | None = None,
    device: torch.device | str = "cpu",
) -> tuple[SmallClassifier, float]:
    """Train the network on labelled images.

    Args:
        images: Training images, with labels from 0.
        held_out: Images with the same labels, to measure the accuracy on.
        seed: Seed of the weights and the order of the images. PyTorch's global random state is left alone.
        num_epochs: Number of epochs. By default 3, and at least 1,000 batches.
        device: Device of the training.

    Returns:
        The network on the CPU in eval mode, and its accuracy on `held_out`, in [0, 1].

    Raises:
        InputError: The images have no labels, or all the same.
    """
    labels, held_out_labels = _labels(images), _labels(held_out, 1)
    num_classes = max(int(labels.max()) + 1, len(images.label_names or []))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallClassifier(images.shape[0], num_classes)
    batches = RealBatches(images, min(BATCH_SIZE, len(images)), seed, device)
    num_steps = int((num_epochs or NUM_EPOCHS) * len(images) / batches.batch_size) + 1
    if num_epochs is None:
        num_steps = max(num_steps, MIN_STEPS)

    def loss_of(batch: Batch) -> torch.Tensor:
        assert batch.labels is not None
        return nn.functional.cross_entropy(network(batch.images)[1], batch.labels)

    fit(network, batches, loss_of, num_steps)
    _, classes = extract(network.cpu(), normalised(held_out.images))
    return network, float((classes == held_out_labels.numpy()).mean())


def fit(network: ModelMixin, batches: RealBatches, loss_of: Callable[[Batch], torch.Tensor], num_steps: int) -> None:
    """Train a network by AdamW in one cycle of the learning rate, where the batches are; leave it in eval mode."""
    # In channels-last batch norm computes wrong gradients on MPS (pytorch/pytorch#175189).
    layout = torch.channels_last if batches.device.type == "cpu" else torch.contiguous_format
    network.to(batches.device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=num_steps)
    began = time.monotonic()
    for step in range(num_steps):
        if step == STEPS_TO_ESTIMATE:
            seconds = (time.monotonic() - began) / step * (num_steps - step)
            if seconds > LONG:
                say_once(f"The network of the features is trained first, once: about {duration(seconds)}.")
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.to(memory_format=torch.contiguous_format).eval()  # bitwise equal to the network as it will be loaded


def _with_labels(images: ImageSet) -> ImageSet:
    """Return those of the images that have a label, or all where none has."""
    return images if images.num_unlabelled == len(images) else images.labelled()


def _labels(images: ImageSet, least: int = 2) -> torch.Tensor:
    """Return labels of at least so many classes."""
    labels = images.labels
    if labels is None or images.num_classes < least:
        number = "no labels" if labels is None else "a single class"
        raise InputError(
            f"features='classifier': {images.name} has {number} to train one on; set label_column, or choose other "
            "features, such as self-supervised"
        )
    return labels


def load_or_train_classifier(
    folder: str | Path,
    images: ImageSet,
    held_out: ImageSet | None = None,
    seed: int = 0,
    num_epochs: float | None = None,
    device: torch.device | str = "cpu",
) -> tuple[SmallClassifier, float]:
    """Load the classifier in a folder, or train it and save it there.

    A saved classifier is replaced if it was trained with other images, labels, seed or number of epochs.
    Without `held_out`, or if it has no labels, a tenth of the images is held out. Images without a label are left out.
    See `train_classifier` for the arguments.
    """

    def train(images: ImageSet, held_out: ImageSet) -> tuple[SmallClassifier, dict[str, float]]:
        network, accuracy = train_classifier(images, held_out, seed, num_epochs, device)
        return network, {"accuracy": accuracy}

    images = _with_labels(images)
    if held_out is not None:
        held_out = _with_labels(held_out.relabelled(images.label_names or []))
        held_out = None if held_out.labels is None else held_out
    settings = {"seed": seed, "epochs": num_epochs}
    network, metrics = load_or_train(Path(folder, RECORD), SmallClassifier, train, images, held_out, settings)
    return network, metrics["accuracy"]


def load_or_train(
    record_path: Path,
    kind: type[Network],
    train: Callable[[ImageSet, ImageSet], tuple[Network, dict[str, float]]],
    images: ImageSet,
    held_out: ImageSet | None,
    settings: dict[str, Any],
) -> tuple[Network, dict[str, float]]:
    """Load a network and its metrics if they are of these images, labels and settings; else train and save both.

    Args:
        record_path: The file of the inputs and metrics, in the network's folder.
        kind: Class of the network.
        train: Function that takes the training and the held-out images, and returns the network and its metrics.
        images: Training images.
        held_out: Held-out images; by default a tenth of `images`, which is left out of the training.
        settings: All else that the trained network depends on.
    """
    if held_out is None:
        held_out, images = split_off_held_out(images)
    inputs = {"images": images.fingerprint, "held_out": held_out.fingerprint, **settings}
    inputs |= {"labels": images.labels_fingerprint, "held_out_labels": held_out.labels_fingerprint}
    if max(images.shape[1:]) > LARGEST_SIDE:
        inputs["largest_side"] = LARGEST_SIDE
    if record_path.is_file():
        metrics = files.read_mapping(record_path, "remove it, and the network is trained again")
        if inputs == {name: metrics.pop(name, None) for name in inputs}:
            return kind.from_pretrained(record_path.parent, use_safetensors=True).eval(), metrics
    network, metrics = train(images, held_out)
    with files.replacing_in(record_path.parent) as temporary:
        network.save_pretrained(temporary)
        files.write_text(temporary / record_path.name, json.dumps({**inputs, **metrics}, indent=2) + "\n")
    return network, metrics


def load_classifier(folder: str | Path) -> tuple[SmallClassifier, float]:
    """Load a classifier that `load_or_train_classifier` saved, and its accuracy.

    Raises:
        InputError: The folder holds no such classifier.
    """
    try:
        accuracy = files.read_mapping(Path(folder) / RECORD)["accuracy"]
        return SmallClassifier.from_pretrained(folder, use_safetensors=True).eval(), accuracy
    except (OSError, ValueError, KeyError) as error:
        remedy = shell_command("train-classifier", "--output_dir", str(folder))
        raise InputError(
            f"{folder} holds no classifier ({one_line(error)}); to train one, with the options that name your images: "
            f"{remedy}"
        ) from error


def split_off_held_out(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split images into every tenth one and the others, which keep one of every class."""
    is_held_out = np.arange(len(images)) % HELD_OUT_INTERVAL == 0
    if (numbers := images.label_numbers) is not None:
        classes, firsts = np.unique(numbers, return_index=True)
        is_held_out[firsts[~np.isin(classes, numbers[~is_held_out])]] = False
        is_held_out[0] |= not is_held_out.any()  # every image has a class of its own
    return images.subset(is_held_out, "held-out"), images.subset(~is_held_out, "others")


@torch.no_grad()
def extract(network: SmallClassifier, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Compute the features `(N, 64)` and the most likely classes `(N,)` of images `(N, C, H, W)` in [-1, 1]."""
    outputs = [network(chunk) for chunk in images.split(INFERENCE_BATCH_SIZE)]
    features, scores = (torch.cat(parts) for parts in zip(*outputs))
    return features.numpy(), scores.argmax(1).numpy()


def class_shares(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the share of each class, `(num_classes,)`, among classes `(N,)`."""
    return np.bincount(classes, minlength=num_classes) / len(classes)


def class_entropy(shares: np.ndarray) -> float:
    """Return the entropy of class shares, divided by that of uniform shares; in [0, 1]."""
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum() / np.log(len(shares)))
