"""Every figure of a model in one pass: each image goes through the generator and the feature network once."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..algorithm.losses import wasserstein_estimate
from ..data import ImageSet
from ..data.batches import normalised
from ..data.cache import cache_folder
from ..pipelines import WGANPipeline
from ..utils.console import progress_bar
from ..utils.errors import InputError
from .classifier import class_entropy, class_shares
from .distances import NUM_MATCHED, frechet_distance, kernel_distance, sliced_wasserstein_distance, wasserstein_1
from .features import FeatureNetwork
from .neighbours import copies, copy_threshold, coverage

FORMAT = 1  # of what is kept of real images; part of its key
IMAGES_AT_ONCE = 500
LEAST_IMAGES = 16

NAMES = {
    "frechet_distance": "Fréchet distance",
    "kernel_distance": "Kernel distance (squared MMD, mean over subsets)",
    "kernel_distance_std": "Kernel distance, standard deviation over subsets",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "sliced_wasserstein_distance": "Sliced Wasserstein-2 distance",
    "wasserstein_1": f"Exact Wasserstein-1 distance, of {NUM_MATCHED:,} images at most",
    "rarest_class": "Samples of the rarest class",
    "class_entropy": "Entropy of the classes of samples (1: all as common)",
    "copied_share": "Samples nearer to a training image than 99 % of training images are to another",
    "critic_estimate": "Wasserstein estimate of the critic, training images against samples",
    "critic_estimate_held_out": "Wasserstein estimate of the critic, held-out images against samples",
}
"""Of every figure, what a person reads."""
SMALLER_IS_BETTER = ("frechet_distance", "kernel_distance", "sliced_wasserstein_distance", "wasserstein_1")
LARGER_IS_BETTER = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Evaluation:
    """Figures by name, as in `NAMES`, and all that they depend on."""

    figures: dict[str, float]
    floor: dict[str, float]  # the same of one half of the real images against the other: how low a figure can be
    settings: dict[str, Any]
    nearest: np.ndarray = field(
        repr=False, default_factory=lambda: np.empty(0, int)
    )  # of each sample, a training image

    def rows(self, **more: Any) -> list[dict[str, Any]]:
        """The figures as `record_evaluation` takes them, with the settings and the floor of each beside it."""
        found = []
        for name, value in self.figures.items():
            settings = {**more, **self.settings}
            if name in self.floor:
                settings["real_images_instead"] = round(self.floor[name], 4)
            found.append(
                {
                    "metric_type": name,
                    "metric_name": NAMES[name],
                    "metric_value": round(value, 4),
                    "settings": settings,
                }
            )
        return found


def compare_features(real: np.ndarray, generated: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Every distance and share of two sets of features.

    Args:
        real: `(N, D)`.
        generated: `(N, D)`: as many, for most of the figures depend on how many there are.
        seed: Of subsets and projections.

    Raises:
        InputError: the numbers differ, or are too small.
    """
    if len(real) != len(generated) or len(real) < LEAST_IMAGES:
        raise InputError(
            f"{len(generated)} samples against {len(real)} real images: must be as many of both, {LEAST_IMAGES} or more"
        )
    mean, deviation = kernel_distance(real, generated, seed)
    return {
        "frechet_distance": frechet_distance(real, generated),
        "kernel_distance": mean,
        "kernel_distance_std": deviation,
        **coverage(real, generated)._asdict(),
        "sliced_wasserstein_distance": sliced_wasserstein_distance(real, generated, seed),
        "wasserstein_1": wasserstein_1(real[:NUM_MATCHED], generated[:NUM_MATCHED]),
    }


def evaluate(
    pipeline: WGANPipeline,
    images: ImageSet,
    features: FeatureNetwork,
    held_out: ImageSet | None = None,
    num_images: int = 10_000,
    seed: int = 0,
    batch_size: int = IMAGES_AT_ONCE,
    cache_dir: str | Path | None = None,
    with_floor: bool = True,
    progress: bool = False,
) -> Evaluation:
    """Measures what a pipeline makes. Launched in several processes, each generates its share, and the first measures.

    Args:
        pipeline: Image k is made from the seed plus k, as by `scripts/generate.py`, and rounded to 8 bits as in a file.
        images: What it was trained on.
        features: By which network.
        held_out: Images it was not trained on: samples are compared with these if they are given, else with the
            training images.
        num_images: How many samples, and as many real images; fewer where there are fewer real ones.
        seed: Of the samples, subsets and projections.
        batch_size: How many images pass through the networks at once.
        cache_dir: Where the features of real images are kept; by default in the Hugging Face cache.
        with_floor: Whether to measure one half of the real images against the other too.
        progress: Whether to show a bar.

    Returns:
        The figures; in processes other than the first an empty one.

    Raises:
        InputError: the shapes differ, there are too few images, or no labels for a critic that takes them.
    """
    for some in (images, held_out):
        if some is not None and some.labels is None and pipeline.critic and pipeline.critic.config.get("num_classes"):
            raise InputError(f"{some.name} has no labels, which the critic of this model takes; set label_column")
    state = PartialState()
    reference = images if held_out is None else held_out
    num_images = min(num_images, len(reference))
    scores = critic_scores(pipeline)

    def chosen(some: ImageSet) -> np.ndarray:
        return np.random.default_rng(seed).permutation(len(some))

    with progress_bar(num_images, " samples", disable=not (progress and state.is_main_process)) as bar:
        bar.set_description("samples")
        generated, fake_scores = _of_samples(
            pipeline, features, scores, num_images, images.shape, seed, batch_size, bar
        )
        if not state.is_main_process:
            return Evaluation({}, {}, {})
        bar.set_description("real images")
        training = kept_features(images, features, batch_size, cache_dir)
        compared = training if held_out is None else kept_features(held_out, features, batch_size, cache_dir)
        compared = compared[chosen(reference)]
        bar.set_description("figures")
        figures = compare_features(compared[:num_images], generated, seed)
        threshold = _kept(images, features, "copy-threshold", cache_dir, lambda: np.array(copy_threshold(training)))
        found = copies(training, generated, float(threshold))
        figures["copied_share"] = found.share
        if features.classify:
            shares = class_shares(*features.classes(generated))
            figures |= {"rarest_class": float(shares.min()), "class_entropy": class_entropy(shares)}
        for name, some in {"critic_estimate": images, "critic_estimate_held_out": held_out}.items():
            if scores and some is not None:
                batches = _batches(some, chosen(some)[:num_images], batch_size)
                real_scores = torch.cat([scores(*batch) for batch in batches])
                figures[name] = float(wasserstein_estimate(real_scores, torch.from_numpy(fake_scores)))
        settings = {
            "num_images": num_images,
            "features": features.name,
            "preprocessing": features.preprocessing,
            "seed": seed,
            "compared_with": f"{'training' if held_out is None else 'held-out'} images of {Path(reference.name).name}",
        }
        floor = {}
        if with_floor:
            num_floor = min(num_images, len(compared) // 2)
            if num_floor >= LEAST_IMAGES:
                floor = compare_features(compared[:num_floor], compared[-num_floor:], seed)
                settings["floor_num_images"] = num_floor
    return Evaluation(figures, floor, settings, found.nearest)


Scores = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def critic_scores(pipeline: WGANPipeline) -> Scores | None:
    """The critic as in training, as a function of images `(N, C, H, W)` uint8 and their classes: a batch is normalised
    by its own statistics where it was. None if the pipeline has no critic."""
    if pipeline.critic is None:
        return None
    critic = copy.deepcopy(pipeline.critic).eval()
    for module in critic.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train()

    @torch.no_grad()
    def scores(images: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        labels = () if class_labels is None else (class_labels.to(critic.device),)
        labels = labels if critic.config.get("num_classes") else ()
        return critic(normalised(images.to(critic.device), None).to(critic.dtype), *labels).float().cpu()

    return scores


def kept_features(
    images: ImageSet, features: FeatureNetwork, batch_size: int = IMAGES_AT_ONCE, cache_dir: str | Path | None = None
) -> np.ndarray:
    """The features `(N, D)` of all images, computed once for each dataset and feature network, and kept on the disk."""

    def compute() -> np.ndarray:
        return np.concatenate([features(batch) for batch, _ in _batches(images, np.arange(len(images)), batch_size)])

    return _kept(images, features, "features", cache_dir, compute)


def _kept(
    images: ImageSet,
    features: FeatureNetwork,
    what: str,
    cache_dir: str | Path | None,
    compute: Callable[[], np.ndarray],
) -> np.ndarray:
    """What was computed of the images by their features before, or is now."""
    key = json.dumps([FORMAT, images.fingerprint, images.shape, features.fingerprint, features.preprocessing])
    path = cache_folder(cache_dir) / f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    try:
        return safetensors.numpy.load_file(path)[what]
    except (OSError, safetensors.SafetensorError, KeyError):
        pass  # there is none yet, or it is damaged
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    safetensors.numpy.save_file({what: found}, temporary)
    temporary.replace(path)
    return found


def _batches(
    images: ImageSet, indices: np.ndarray, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Images `(n, C, H, W)` uint8, cropped to the middle, and their classes."""
    labels = images.labels
    for start in range(0, len(indices), batch_size):
        some = indices[start : start + batch_size]
        pixels = images.gather(some, np.full((len(some), 2), 0.5))
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2), None if labels is None else labels[some]


def _of_samples(
    pipeline: WGANPipeline,
    features: FeatureNetwork,
    scores: Scores | None,
    num_images: int,
    shape: tuple[int, ...],
    seed: int,
    batch_size: int,
    bar: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Features `(N, D)` and the critic's scores `(N,)` of samples, those of all processes together."""
    state = PartialState()
    num_classes = pipeline.generator.config.get("num_classes")
    mine = []
    starts = range(0, num_images, batch_size)
    for start in starts[state.process_index :: state.num_processes]:
        numbers = range(start, min(start + batch_size, num_images))
        labels = torch.tensor([number % num_classes for number in numbers]) if num_classes else None
        samples = pipeline(
            len(numbers),
            generator=[torch.Generator().manual_seed(seed + number) for number in numbers],
            output_type="pt",
            class_labels=labels,
        ).images
        if samples.shape[1:] != shape:
            raise InputError(f"images of shape {shape}: the model makes {tuple(samples.shape[1:])}")
        samples = (samples.float() * 255).round().to(torch.uint8)
        scored = np.empty(0, np.float32) if scores is None else scores(samples, labels).numpy()
        mine.append((start, features(samples), scored))
        bar.update(min(len(numbers) * state.num_processes, num_images - bar.n))
    gathered = sorted(gather_object(mine), key=lambda part: part[0])
    return tuple(np.concatenate([part[place] for part in gathered]) for place in (1, 2))  # type: ignore[return-value]
