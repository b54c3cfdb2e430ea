"""All metrics of a model in one pass: each image goes through the generator and the feature extractor once."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..algorithm.losses import wasserstein_estimate
from ..data import ImageSet, check_same_ranges
from ..data.batches import normalised
from ..data.cache import cache_folder
from ..models.checks import has_clusters
from ..pipelines import WGANPipeline
from ..pipelines.pipeline_wgan import check_finite
from ..utils import files
from ..utils.console import progress_bar
from ..utils.errors import InputError
from ..utils.memory import passed
from .classifier import class_entropy, class_shares
from .distances import frechet_distance, kernel_distance, sliced_wasserstein_distance, wasserstein_1
from .features import FeatureExtractor
from .names import METRICS, MIN_IMAGES, NUM_MATCHED, check_number
from .neighbours import copies, copy_threshold, coverage

FORMAT = 2  # of the cached features; part of their key
BATCH_SIZE = 500
CONTRAST = 0.1  # of faded images, whose precision is measured beside that of samples
NUM_FADED = 500


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model, and everything that they depend on."""

    metrics: dict[str, float]  # by name, as in `METRICS`
    floor: dict[str, float]  # the same between two halves of the real images: the best value to expect
    settings: dict[str, Any]
    nearest: np.ndarray = field(  # (N,) index of the training image nearest to each sample, if the images are those
        repr=False, default_factory=lambda: np.empty(0, int)
    )

    def rows(self, **extra_settings: Any) -> list[dict[str, Any]]:
        """Return the metrics as `record_evaluation` takes them, each with the settings and its floor."""
        rows = []
        for name, value in self.metrics.items():
            settings = {**extra_settings, **self.settings}
            if name in self.floor:
                settings["real_images_instead"] = round(self.floor[name], 4)
            rows.append(
                {
                    "metric_type": name,
                    "metric_name": METRICS[name].label,
                    "metric_value": round(value, 4),
                    "settings": settings,
                }
            )
        return rows


def compare_features(real: np.ndarray, generated: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Compute every metric that compares two sets of features.

    Args:
        real: `(N, D)`.
        generated: `(N, D)`. The sizes must be equal, as most of the metrics depend on them.
        seed: Seed of the random subsets and projections.

    Raises:
        InputError: The sizes differ or are too small.
    """
    if len(real) != len(generated) or len(real) < MIN_IMAGES:
        raise InputError(
            f"{len(generated)} samples against {len(real)} real images: must be as many of both, {MIN_IMAGES} or more"
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
    features: FeatureExtractor,
    held_out: ImageSet | None = None,
    num_images: int = 10_000,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    cache_dir: str | Path | None = None,
    with_floor: bool = True,
    progress: bool = False,
    trained_on: bool = True,
) -> Evaluation:
    """Evaluate the samples of a pipeline.

    In a distributed run every process generates a share of the samples, and the main process computes the metrics.

    Args:
        pipeline: The model. Sample k is made of `seed + k`, without classes as in `hf-wgan generate`, and samples are
            rounded to 8 bits as in an image file. Those of a model with classes or clusters have them in the
            proportions of the real images, whatever the seed.
        images: The training images of the model, or others (see `trained_on`).
        features: The feature extractor.
        held_out: Images that the model was not trained on, to compare the samples with. By default they are compared
            with the training images.
        num_images: Number of samples, and of real images; at most the number of real images.
        seed: Seed of the samples, subsets and projections.
        batch_size: Batch size of the generator and the feature extractor.
        cache_dir: Folder for the features of real images. By default in the Hugging Face cache.
        with_floor: Whether to compare two halves of the real images too, and to measure the precision of faded ones.
        progress: Whether to show a progress bar.
        trained_on: Whether the model was trained on `images`. With others nothing is said of copies, and the critic's
            estimate of them is that of held-out images.

    Returns:
        The evaluation; an empty one in all processes but the main process.

    Raises:
        InputError: As for `evaluated_sets`, or the shapes differ.
    """
    images, held_out = evaluated_sets(pipeline, images, held_out)
    num_classes = pipeline.generator.config.get("num_classes")
    clusters = has_clusters(pipeline.generator.config)  # which no label names
    reference = images if held_out is None else held_out
    has_labels = bool(num_classes) and not clusters and all(part.num_classes for part in (images, reference))
    state = PartialState()
    num_images = min(num_images, len(reference))
    score = None if clusters else critic_scores(pipeline)

    def shuffled(image_set: ImageSet) -> np.ndarray:
        return np.random.default_rng(seed).permutation(len(image_set))

    with progress_bar(num_images, " samples", disable=not (progress and state.is_main_process)) as bar:
        bar.set_description("samples")
        classes = None
        if has_labels:
            classes = classes_as_in(reference, num_images, seed)
        elif num_classes:
            classes = torch.tensor(pipeline.class_numbers(None, num_images))
        generated, fake_scores = _evaluate_samples(
            pipeline, features, score, num_images, images.shape, classes, seed, batch_size, bar
        )
        if not state.is_main_process:
            return Evaluation({}, {}, {})
        bar.set_description("real images")
        training = cached_features(images, features, batch_size, cache_dir)
        compared = training if held_out is None else cached_features(held_out, features, batch_size, cache_dir)
        compared = compared[shuffled(reference)]
        bar.set_description("metrics")
        metrics = compare_features(compared[:num_images], generated, seed)
        nearest = np.empty(0, int)
        if trained_on:
            threshold = _cached(
                images, features, "copy-distance", cache_dir, lambda: np.array(copy_threshold(training))
            )
            metrics["copied_share"], nearest, _ = copies(training, generated, float(threshold))
        if features.classify:
            shares = class_shares(*features.classes(generated))
            if len(shares) > 1:  # with one class there is nothing to compare
                metrics |= {"rarest_class": float(shares.min()), "class_entropy": class_entropy(shares)}
        scored = {"critic_estimate": images, "critic_estimate_held_out": held_out}
        for name, image_set in (scored if trained_on else {"critic_estimate_held_out": reference}).items():
            if score and image_set is not None:
                batches = _batches(image_set, shuffled(image_set)[:num_images], batch_size)
                real_scores = torch.cat([score(*batch) for batch in batches])
                metrics[name] = float(wasserstein_estimate(real_scores, torch.from_numpy(fake_scores)))
        kind = "" if not trained_on else "training " if held_out is None else "held-out "
        settings = {
            "num_images": num_images,
            "features": features.name,
            "preprocessing": features.preprocessing,
            "seed": seed,
            "compared_with": f"{kind}images of {Path(reference.name).name}",
        }
        if not trained_on:
            settings["dataset"] = f"{Path(reference.name).name} {reference.fingerprint[:8]}"  # names are not unique
        if num_classes:
            others = "by the model's frequencies" if pipeline.generator.config.get("class_frequencies") else "in turn"
            settings["classes"] = "as frequent as in the real images" if clusters or has_labels else others
        floor = {}
        if with_floor:
            num_floor = min(num_images, len(compared) // 2)
            if num_floor >= MIN_IMAGES:
                floor = compare_features(compared[:num_floor], compared[-num_floor:], seed)
                settings["floor_num_images"] = num_floor

            def faded_precision() -> np.ndarray:
                faded = faded_images(reference.middles(shuffled(reference)[: min(num_images, NUM_FADED)]))
                points = np.concatenate([features(batch) for batch in faded.split(batch_size)])
                return np.array(coverage(compared[:num_images], points).precision)

            name = f"faded-precision-{num_images}-{seed}"  # which the images compared with follow from
            precision = _cached(reference, features, name, cache_dir, faded_precision)
            settings["precision_of_faded_images"] = round(float(precision), 4)
    return Evaluation(metrics, floor, settings, nearest)


def faded_images(images: torch.Tensor) -> torch.Tensor:
    """Return images `(N, C, H, W)` uint8 that are almost their mean: with a tenth of their contrast around it."""
    mean = images.float().mean(dim=0)
    return (mean + CONTRAST * (images - mean)).round().to(torch.uint8)


def evaluated_sets(
    pipeline: WGANPipeline, images: ImageSet, held_out: ImageSet | None
) -> tuple[ImageSet, ImageSet | None]:
    """Return the images that a model is compared with: those of its classes, numbered as its networks have them.

    Raises:
        InputError: There are too few images, the ranges of values differ, or a class-conditional critic lacks labels.
    """
    if held_out is not None:
        check_same_ranges(images, held_out)
    config = pipeline.generator.config
    image_sets = [images] if held_out is None else [images, held_out]
    if config.get("num_classes") and not has_clusters(config):
        unlabelled = [image_set for image_set in image_sets if image_set.num_unlabelled == len(image_set)]
        if unlabelled and pipeline.critic is not None and pipeline.critic.config.get("num_classes"):
            raise InputError(
                f"{unlabelled[0].name} has no labels, which the critic of this model requires; set label_column"
            )
        if not unlabelled:  # labels are names
            names = list(config.get("class_names") or [])
            image_sets = [image_set.of_classes(names) for image_set in image_sets]
    check_number(image_sets[-1].name, len(image_sets[-1]))
    return image_sets[0], None if held_out is None else image_sets[1]


def classes_as_in(images: ImageSet, num_images: int, seed: int = 0) -> torch.Tensor:
    """Return classes for samples, `(N,)` int64, in the proportions of labelled images and in random order.

    Args:
        images: Real images, all of them with a label.
        num_images: Number of samples.
        seed: Seed of the order.
    """
    labels = images.labels
    assert labels is not None
    in_order = labels.sort().values
    proportional = in_order[torch.arange(num_images) * len(in_order) // num_images]
    return proportional[torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))]


Scores = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def critic_scores(pipeline: WGANPipeline) -> Scores | None:
    """Return the critic as a function of images `(N, C, H, W)` uint8 and their classes, or None without a critic.

    Its batch norm uses the statistics of the batch, as in training; everything else is in eval mode.
    """
    if pipeline.critic is None:
        return None
    critic = copy.deepcopy(pipeline.critic).eval()
    for module in critic.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train()

    def scores(images: torch.Tensor, *labels: torch.Tensor) -> torch.Tensor:
        inputs = normalised(images.to(critic.device)).to(critic.dtype), *(label.to(critic.device) for label in labels)
        return critic(*inputs).float().cpu()

    @torch.no_grad()
    def score(images: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        labels = () if class_labels is None or not critic.config.get("num_classes") else (class_labels,)
        return passed("the critic", scores, images, *labels)

    return score


def cached_features(
    images: ImageSet, features: FeatureExtractor, batch_size: int = BATCH_SIZE, cache_dir: str | Path | None = None
) -> np.ndarray:
    """Return the features `(N, D)` of all images, computed once per dataset and feature extractor."""

    def compute() -> np.ndarray:
        return np.concatenate([features(batch) for batch, _ in _batches(images, np.arange(len(images)), batch_size)])

    return _cached(images, features, "features", cache_dir, compute)


def _cached(
    images: ImageSet,
    features: FeatureExtractor,
    name: str,
    cache_dir: str | Path | None,
    compute: Callable[[], np.ndarray],
) -> np.ndarray:
    """Load an array that depends on these images and this extractor, or compute and store it."""
    key = json.dumps([FORMAT, images.fingerprint, images.shape, features.fingerprint, features.preprocessing])
    path = cache_folder(cache_dir) / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    try:
        return safetensors.numpy.load_file(path)[name]
    except (OSError, safetensors.SafetensorError, KeyError):
        pass  # missing or damaged
    array = compute()
    with suppress(OSError):  # the next evaluation takes longer
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            safetensors.numpy.save_file({name: array}, temporary)
    return array


def _batches(
    images: ImageSet, indices: np.ndarray, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield centre-cropped images `(n, C, H, W)` uint8 and their classes."""
    labels = images.labels
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        yield images.middles(batch), None if labels is None else labels[batch]


def _evaluate_samples(
    pipeline: WGANPipeline,
    features: FeatureExtractor,
    score: Scores | None,
    num_images: int,
    shape: tuple[int, ...],
    classes: torch.Tensor | None,
    seed: int,
    batch_size: int,
    bar: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features `(N, D)` and the critic's scores `(N,)` of samples, gathered from all processes."""
    state = PartialState()
    results = []
    starts = range(0, num_images, batch_size)
    for start in starts[state.process_index :: state.num_processes]:
        numbers = range(start, min(start + batch_size, num_images))
        labels = None if classes is None else classes[numbers.start : numbers.stop]
        samples = pipeline(
            len(numbers),
            generator=[torch.Generator().manual_seed(seed + number) for number in numbers],
            output_type="pt",
            class_labels=labels,
        ).images
        if samples.shape[1:] != shape:
            raise InputError(f"images of shape {shape}: the model generates {tuple(samples.shape[1:])}")
        check_finite(samples)
        samples = (samples.float() * 255).round().to(torch.uint8)
        scores = np.empty(0, np.float32) if score is None else score(samples, labels).numpy()
        results.append((start, features(samples), scores))
        bar.update(min(len(numbers) * state.num_processes, num_images - bar.n))
    gathered = sorted(gather_object(results), key=lambda result: result[0])
    return tuple(np.concatenate([result[index] for result in gathered]) for index in (1, 2))  # type: ignore[return-value]
