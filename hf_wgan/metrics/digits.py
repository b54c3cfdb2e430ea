"""How many generated digits a classifier can read: the measure of the default run.

The classifier is a support vector machine over pixels, with calibrated probabilities, fitted on three quarters of
scikit-learn's real digits. An ordinary one is sure of almost anything, so this one has an eleventh class, for what is
no digit: blends of two real digits, noise with the mean and covariance of the digits, and digits with their pixels
shuffled. Its own figures on the held-out quarter come with every result, and so does its verdict on held-out blends.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from ..data import DataConfig, ImageSet, load_images
from ..pipelines import WGANPipeline
from ..utils.errors import InputError

SURE = 0.7  # probability from which a sample counts as read
NO_DIGIT = 10
NEGATIVES_OF_A_KIND = 30  # more make it reject real digits


@dataclass(frozen=True)
class DigitReport:
    """All but the counts are shares, in [0, 1]."""

    num_images: int
    seed: int
    read: float  # samples given one digit with probability >= 0.7
    smallest_class: float  # of all samples, the share read as the rarest digit
    classes: list[float]  # of all samples, the share read as 0, 1, …, 9
    held_out_accuracy: float  # of the classifier, on real digits it was not fitted on
    held_out_read: float  # of these
    blends_read: float  # of averages of two of these, which are no digits
    agreement: float | None = None  # of samples of an asked class, the share whose likeliest digit it is


def evaluate(pipeline: WGANPipeline, num_images: int = 1000, seed: int = 0) -> DigitReport:
    """Generates samples and classifies them.

    Args:
        pipeline: Of a model trained on the digits, with the margin that `load_images` gives them.
        num_images: How many samples.
        seed: Of the samples.

    Raises:
        InputError: the model does not make grey images.
    """
    config = pipeline.generator.config
    if config.out_channels != 1:
        raise InputError(f"the model makes images of {config.out_channels} channels: the digits have one")
    digits = load_images(DataConfig(resolution=config.sample_size))
    assert isinstance(digits, ImageSet) and digits.labels is not None
    pixels, labels = digits.images.flatten(1).numpy() / 255, digits.labels.numpy()
    fit, held_out, fit_labels, held_out_labels = train_test_split(
        pixels, labels, test_size=0.25, stratify=labels, random_state=0
    )
    classifier = _fitted(fit, fit_labels)

    samples = pipeline(num_images, generator=torch.Generator().manual_seed(seed), output_type="np").images
    samples = samples.reshape(num_images, -1)
    classes = _read(classifier, samples)
    agreement = None
    if num_classes := config.get("num_classes"):  # the pipeline gave them in turn
        agreement = float((classifier.predict(samples) == np.arange(num_images) % num_classes).mean())
    held_out_digits = classifier.predict_proba(held_out)[:, :NO_DIGIT]
    return DigitReport(
        num_images=num_images,
        seed=seed,
        read=float(classes.sum()),
        smallest_class=float(classes.min()),
        classes=classes.tolist(),
        held_out_accuracy=float((held_out_digits.argmax(1) == held_out_labels).mean()),
        held_out_read=float(_read(classifier, held_out).sum()),
        blends_read=float(_read(classifier, _blends(held_out, len(held_out), np.random.default_rng(1))).sum()),
        agreement=agreement,
    )


def _fitted(digits: np.ndarray, labels: np.ndarray) -> CalibratedClassifierCV:
    rng = np.random.default_rng(0)
    noise = rng.multivariate_normal(digits.mean(0), np.cov(digits.T), NEGATIVES_OF_A_KIND).clip(0, 1)
    shuffled = rng.permuted(digits[:NEGATIVES_OF_A_KIND], axis=1)
    negatives = np.concatenate([_blends(digits, NEGATIVES_OF_A_KIND, rng), noise, shuffled])
    classifier = CalibratedClassifierCV(SVC(C=10, gamma=0.05), cv=5, method="temperature", ensemble=False)
    return classifier.fit(
        np.concatenate([digits, negatives]), np.concatenate([labels, np.full(len(negatives), NO_DIGIT)])
    )


def _blends(digits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    one, other = (digits[rng.integers(len(digits), size=count)] for _ in range(2))
    share = rng.uniform(0.35, 0.65, (count, 1))
    return share * one + (1 - share) * other


def _read(classifier: CalibratedClassifierCV, pixels: np.ndarray) -> np.ndarray:
    """Of images `(N, pixels)` in [0, 1], the share that is read as each digit: `(10,)`."""
    probabilities = classifier.predict_proba(pixels)
    best = probabilities.argmax(1)[probabilities.max(1) >= SURE]
    return np.bincount(best, minlength=NO_DIGIT + 1)[:NO_DIGIT] / len(pixels)
