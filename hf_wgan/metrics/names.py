"""The metrics of an evaluation, by name. Free of heavy imports, so that options can list them."""

from typing import Literal, NamedTuple

from ..utils.errors import InputError

MIN_IMAGES = 16  # of a set that is compared with another
NUM_MATCHED = 2000  # images per set for the exact distance, whose cost grows with the cube of this number


def check_number(name: str, number: int, remedy: str = "use more") -> None:
    """Check that there are enough images to compare samples with.

    Args:
        name: What has so many images.
        number: Number of images.
        remedy: What to do where they are too few.

    Raises:
        InputError: There are fewer than 16.
    """
    if number < MIN_IMAGES:
        raise InputError(f"{name} has {number} images, and an evaluation needs {MIN_IMAGES}; {remedy}")


class Metric(NamedTuple):
    """A metric of an evaluation."""

    label: str  # for cards and messages
    better: Literal["lower", "higher"] | None = None  # None: a diagnostic, which cannot select the best model


METRICS = {
    "frechet_distance": Metric("Fréchet distance", "lower"),
    "kernel_distance": Metric("Kernel distance (squared MMD, mean over subsets)", "lower"),
    "kernel_distance_std": Metric("Kernel distance, standard deviation over subsets"),
    "sliced_wasserstein_distance": Metric("Sliced Wasserstein-2 distance", "lower"),
    "wasserstein_1": Metric(f"Exact Wasserstein-1 distance, of {NUM_MATCHED:,} images at most", "lower"),
    "precision": Metric("Precision", "higher"),
    "recall": Metric("Recall", "higher"),
    "density": Metric("Density", "higher"),
    "coverage": Metric("Coverage", "higher"),
    "rarest_class": Metric("Samples of the rarest class"),
    "class_entropy": Metric("Entropy of the classes of samples (1: all as common)"),
    "copied_share": Metric("Samples nearer to a training image than 99 % of training images are to another"),
    "critic_estimate": Metric("Wasserstein estimate of the critic, training images against samples"),
    "critic_estimate_held_out": Metric("Wasserstein estimate of the critic, held-out images against samples"),
}

MODEL_SELECTION_METRICS = tuple(name for name, metric in METRICS.items() if metric.better)
