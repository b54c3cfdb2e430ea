"""The share of generated digits that a classifier can read: the metric of the default run.

The classifier is a support vector machine over pixels, with calibrated probabilities, fitted on three quarters of
scikit-learn's real digits. An ordinary one is confident about almost anything, so this one has an eleventh class for
images that are no digits: blends of two real digits, noise with the mean and covariance of the digits, and digits with
shuffled pixels. Every report includes the classifier's own accuracy on the held-out quarter and on held-out blends.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from ..data import DataConfig, ImageSet, load_images
from ..pipelines import WGANPipeline
from ..utils.errors import InputError

READ_PROBABILITY = 0.7  # from which a sample counts as read
NO_DIGIT = 10
NEGATIVES_PER_KIND = 30  # with more, the classifier rejects real digits


@dataclass(frozen=True)
class DigitReport:
    """How many samples a classifier can read. All fields but the first two are shares, in [0, 1]."""

    num_images: int
    seed: int
    read: float  # samples that are one digit with probability 0.7 or more
    smallest_class: float  # samples read as the rarest digit
    classes: list[float]  # samples read as 0, 1, …, 9
    held_out_accuracy: float  # accuracy of the classifier on real digits it was not fitted on
    held_out_read: float  # real digits among these that are read
    blends_read: float  # averages of two of these, which are no digits, that are read all the same
    agreement: float | None = None  # samples of a model whose classes are the digits that are most likely of theirs


def evaluate(pipeline: WGANPipeline, num_images: int = 1000, seed: int = 0) -> DigitReport:
    """Generate samples and classify them.

    Args:
        pipeline: A model trained on the digits, with the margin that `load_images` adds.
        num_images: Number of samples.
        seed: Seed of the samples.

    Raises:
        InputError: The model does not generate grey images.
    """
    config = pipeline.generator.config
    if config.out_channels != 1:
        raise InputError(f"the model generates images with {config.out_channels} channels; the digits have one")
    digits = load_images(DataConfig(resolution=config.sample_size))
    assert isinstance(digits, ImageSet) and digits.labels is not None
    pixels, labels = digits.images.flatten(1).numpy() / 255, digits.labels.numpy()
    fit, held_out, fit_labels, held_out_labels = train_test_split(
        pixels, labels, test_size=0.25, stratify=labels, random_state=0
    )
    classifier = _fit(fit, fit_labels)

    names = list(config.get("class_names") or [])
    asked = np.arange(num_images) % NO_DIGIT if sorted(names) == sorted(digits.label_names or []) else None
    labels_asked: dict[str, Any] = {} if asked is None else {"class_labels": asked.tolist()}
    rng = torch.Generator().manual_seed(seed)
    samples = pipeline(num_images, generator=rng, output_type="np", **labels_asked).images
    samples = samples.reshape(num_images, -1)
    classes = _read_shares(classifier, samples)
    agreement = None
    if asked is not None:
        agreement = float((classifier.predict(samples) == np.array(names, int)[asked]).mean())
    held_out_probabilities = classifier.predict_proba(held_out)[:, :NO_DIGIT]
    blends = _blend(held_out, len(held_out), np.random.default_rng(1))
    return DigitReport(
        num_images=num_images,
        seed=seed,
        read=float(classes.sum()),
        smallest_class=float(classes.min()),
        classes=classes.tolist(),
        held_out_accuracy=float((held_out_probabilities.argmax(1) == held_out_labels).mean()),
        held_out_read=float(_read_shares(classifier, held_out).sum()),
        blends_read=float(_read_shares(classifier, blends).sum()),
        agreement=agreement,
    )


def _fit(digits: np.ndarray, labels: np.ndarray) -> CalibratedClassifierCV:
    rng = np.random.default_rng(0)
    noise = rng.multivariate_normal(digits.mean(0), np.cov(digits.T), NEGATIVES_PER_KIND).clip(0, 1)
    shuffled = rng.permuted(digits[:NEGATIVES_PER_KIND], axis=1)
    negatives = np.concatenate([_blend(digits, NEGATIVES_PER_KIND, rng), noise, shuffled])
    classifier = CalibratedClassifierCV(SVC(C=10, gamma=0.05), cv=5, method="temperature", ensemble=False)
    return classifier.fit(
        np.concatenate([digits, negatives]), np.concatenate([labels, np.full(len(negatives), NO_DIGIT)])
    )


def _blend(digits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return averages of two random digits each."""
    a, b = (digits[rng.integers(len(digits), size=count)] for _ in range(2))
    weight = rng.uniform(0.35, 0.65, (count, 1))
    return weight * a + (1 - weight) * b


def _read_shares(classifier: CalibratedClassifierCV, pixels: np.ndarray) -> np.ndarray:
    """Return the share `(10,)` of images `(N, pixels)` in [0, 1] that is read as each digit."""
    probabilities = classifier.predict_proba(pixels)
    best = probabilities.argmax(1)[probabilities.max(1) >= READ_PROBABILITY]
    return np.bincount(best, minlength=NO_DIGIT + 1)[:NO_DIGIT] / len(pixels)
