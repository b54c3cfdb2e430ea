"""Feature extractors for the metrics, in one registry. Help texts, error messages and tests follow from it.

Importing this module for its registry stays cheap: data, classifiers and other libraries are imported when an extractor
is loaded.
"""

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from ..utils.console import say_once
from ..utils.errors import InputError, is_out_of_memory, memory_error, one_line
from ..utils.memory import passed

if TYPE_CHECKING:
    from ..data import ImageSet

DINOV2 = "facebook/dinov2-small"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FeatureExtractor:
    """A function from images to features.

    Attributes:
        name: Name in results and cards.
        preprocessing: Preprocessing of the images, in words.
        fingerprint: Digest of the weights; part of the key under which features are cached.
        network: Function from images `(N, C, H, W)` uint8 to features `(N, D)`.
        classify: Function from features `(N, D)` to class scores `(N, K)`, if the extractor is a classifier.
    """

    name: str
    preprocessing: str
    fingerprint: str
    network: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """Compute the features `(N, D)` float32 of images `(N, C, H, W)` uint8."""
        features = passed(f"features {self.name}", self.network, images)
        if features.ndim != 2 or len(features) != len(images):
            raise InputError(
                f"features {self.name}: returned shape {tuple(features.shape)} for {len(images)} images: must be (N, D)"
            )
        return features.float().cpu().numpy()

    @torch.no_grad()
    def classes(self, features: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the most likely classes `(N,)` and the number of classes, for a classifier."""
        assert self.classify is not None
        scores = self.classify(torch.from_numpy(features))
        return scores.argmax(1).numpy(), scores.shape[1]


INCEPTION_WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


class Resources(NamedTuple):
    """What a loader may use besides the argument in the name."""

    images: "ImageSet"
    held_out: "ImageSet | None"
    device: torch.device | str
    cache_dir: str | Path | None


Loader = Callable[[str, Resources], FeatureExtractor]


class ExtractorKind(NamedTuple):
    """An entry of the registry."""

    usage: str  # how a user writes the name
    summary: str
    load: Loader
    needs_argument: bool
    is_external: bool  # loads with another library, whose errors need translating

    def accepts(self, colon: str, argument: str) -> bool:
        """Return whether what follows the kind in a name, if anything, is allowed."""
        return bool(argument) if self.needs_argument else ":" in self.usage or not colon


EXTRACTORS: dict[str, ExtractorKind] = {}


def register_extractor(usage: str, summary: str, is_external: bool = False) -> Callable[[Loader], Loader]:
    """Add a kind of feature extractor to the registry, as a decorator of its loader.

    Args:
        usage: The name as a user writes it: `kind`, `kind:ARGUMENT`, or `kind[:ARGUMENT]` if the argument is optional.
        summary: Noun phrase for help texts.
        is_external: Whether the loader uses another library. Its exceptions then become `InputError`s.
    """
    kind = usage.partition("[")[0].partition(":")[0]

    def register(load: Loader) -> Loader:
        needs_argument = ":" in usage and "[" not in usage
        EXTRACTORS[kind] = ExtractorKind(usage, summary, load, needs_argument, is_external)
        return load

    return register


def describe_features() -> str:
    """Return the names that `load_feature_extractor` accepts, with what they mean, for help texts."""
    *others, last = (f"{kind.usage} ({kind.summary})" for kind in EXTRACTORS.values())
    return f"{', '.join(others)} or {last}"


def extractor_kind(name: str) -> tuple[ExtractorKind, str]:
    """Return the kind of feature extractor that a name means, and the argument in the name.

    Raises:
        InputError: There is no such extractor.
    """
    prefix, colon, argument = name.partition(":")
    kind = EXTRACTORS.get(prefix)
    if kind is None or not kind.accepts(colon, argument):
        *others, last = (kind.usage for kind in EXTRACTORS.values())
        raise InputError(f"features={name!r}: must be {', '.join(others)} or {last}")
    return kind, argument


def load_feature_extractor(
    name: str,
    images: "ImageSet",
    held_out: "ImageSet | None" = None,
    device: torch.device | str = "cpu",
    cache_dir: str | Path | None = None,
) -> FeatureExtractor:
    """Load a feature extractor by name.

    Args:
        name: A name that `describe_features` lists.
        images: Training images for a classifier.
        held_out: Images to measure a classifier's accuracy on. By default every tenth of `images`, left out of its
            training.
        device: Device of the network.
        cache_dir: Parent folder of the classifiers that are trained here. By default in the Hugging Face cache.

    Raises:
        InputError: There is no such extractor, or something that it needs is missing.
        DeviceMemoryError: Memory is used up.
    """
    kind, argument = extractor_kind(name)
    resources = Resources(images, held_out, device, cache_dir)
    try:
        return kind.load(argument, resources)
    except InputError:
        raise
    except Exception as error:  # every library raises exceptions of its own
        if is_out_of_memory(error):
            remedy = "choose others, or classifier:FOLDER, one that was trained where there is more"
            raise memory_error(f"loading or training features={name!r}", error, remedy) from error
        if not kind.is_external:
            raise
        if isinstance(error, ImportError):
            why = f"requires a library that is not installed ({one_line(error)})"
        else:
            why = f"cannot be loaded ({one_line(error)})"
        raise InputError(f"features={name!r}: {why}") from error


@register_extractor("auto", "classifier for labelled images, else dinov2 where it can be had, else self-supervised")
def _auto(_: str, resources: Resources) -> FeatureExtractor:
    images = resources.images
    if images.num_unlabelled < len(images) and images.labelled().num_classes > 1:
        return _classifier("", resources)
    try:
        return _dinov2("", resources)
    except Exception as error:  # every library raises exceptions of its own
        why = "transformers is not installed" if isinstance(error, ImportError) else one_line(error)
        say_once(f"features='auto': self-supervised features, as there are no labels and no dinov2 ({why}).")
        return _self_supervised("", resources)


@register_extractor(
    "classifier[:FOLDER]", "a small classifier of the dataset's own classes, trained once, or the one in FOLDER"
)
def _classifier(folder: str, resources: Resources) -> FeatureExtractor:
    from ..data.batches import normalised
    from ..data.cache import cache_folder
    from .classifier import load_classifier, load_or_train_classifier

    images, held_out, device = resources.images, resources.held_out, resources.device
    if folder:
        network, accuracy = load_classifier(folder)
    else:
        parts = images.fingerprint, images.labels_fingerprint, held_out.fingerprint if held_out else None
        key = "-".join(filter(None, parts))
        cache = cache_folder(resources.cache_dir) / f"classifier-{key}"
        network, accuracy = load_or_train_classifier(cache, images, held_out, device=device)
    if network.config.channels != images.shape[0]:
        raise InputError(
            f"features='classifier:{folder}': expects images with {network.config.channels} channels, these have "
            f"{images.shape[0]}"
        )
    network.to(device)

    def extract(images: Tensor) -> Tensor:
        return network.features(normalised(images.to(device)))

    def classify(features: Tensor) -> Tensor:
        return network.scores(features.to(device)).cpu()

    name = f"classifier of {network.config.num_classes} classes, {accuracy:.1%} right"
    return FeatureExtractor(name, "to [-1, 1]", digest_of(network), extract, classify)


@register_extractor(
    "self-supervised", "a small network trained once on the images without their labels, by telling them apart"
)
def _self_supervised(_: str, resources: Resources) -> FeatureExtractor:
    from ..data.cache import cache_folder
    from .contrastive import extract, load_or_train_contrastive

    images, held_out, device = resources.images, resources.held_out, resources.device
    key = f"{images.fingerprint}-{held_out.fingerprint}" if held_out else images.fingerprint
    folder = cache_folder(resources.cache_dir) / f"self-supervised-{key}"
    network, metrics = load_or_train_contrastive(folder, images, held_out, device=device)
    network.to(device)
    name = f"self-supervised network, {metrics['views_matched']:.1%} of views matched"
    if "linear_probe" in metrics:
        name += f", linear probe {metrics['linear_probe']:.1%} right"
    return FeatureExtractor(name, "to [-1, 1]", digest_of(network), lambda batch: extract(network, batch.to(device)))


@register_extractor("pixels", "pixel values; for small grey images")
def _pixels(_: str, resources: Resources) -> FeatureExtractor:
    say_once(
        "features='pixels': their precision is high for blurred and faint images too; recall and the distances are not."
    )
    return FeatureExtractor("pixels", "to [0, 1]", "pixels", lambda images: images.flatten(1).float() / 255)


@register_extractor(
    "inception:FILE",
    "InceptionV3 with weights in torch-fidelity's format; USER/REPOSITORY/FILE names a file on the Hub",
    is_external=True,
)
def _inception(path: str, resources: Resources) -> FeatureExtractor:
    """Load the InceptionV3 of Heusel et al. 2017 as torch-fidelity ported it."""
    if not Path(path).exists() and path.count("/") >= 2:
        user, repository, file = path.split("/", 2)
        path = hf_hub_download(f"{user}/{repository}", file)
    if not Path(path).is_file():
        raise InputError(
            f"features='inception:{path}': there is no such file; torch-fidelity's is at {INCEPTION_WEIGHTS}"
        )
    torch.load(path, weights_only=True, map_location="cpu")  # torch-fidelity would unpickle arbitrary objects
    inception = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    network = inception.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
    network = network.eval().to(resources.device)

    def extract(images: Tensor) -> Tensor:
        return network(_as_rgb(images).to(resources.device))[0]

    preprocessing = "RGB, to 299×299 as TensorFlow 1 does"
    return FeatureExtractor("InceptionV3 pool3", preprocessing, digest_of(network), extract)


@register_extractor("timm:NAME", "a pretrained model of timm", is_external=True)
def _timm(name: str, resources: Resources) -> FeatureExtractor:
    timm = importlib.import_module("timm")
    network = timm.create_model(name, pretrained=True, num_classes=0).eval().to(resources.device)
    data = timm.data.resolve_model_data_config(network)
    statistics = data["mean"], data["std"]
    digest = digest_of(network)
    return _photographic(f"timm {name}", network, data["input_size"][-1], statistics, resources.device, digest)


@register_extractor(
    "dinov2", f"DINOv2 (Stein et al. 2023, arXiv 2306.04675): {DINOV2} by transformers", is_external=True
)
def _dinov2(_: str, resources: Resources) -> FeatureExtractor:
    return _transformers(DINOV2, resources)


@register_extractor("transformers:NAME", "a vision model of transformers", is_external=True)
def _transformers(name: str, resources: Resources) -> FeatureExtractor:
    transformers = importlib.import_module("transformers")
    network = transformers.AutoModel.from_pretrained(name).eval().to(resources.device)
    config = getattr(network.config, "vision_config", network.config)
    network = getattr(network, "vision_model", network)
    processing, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    statistics = processing.get("image_mean", IMAGENET_MEAN), processing.get("image_std", IMAGENET_STD)

    def pooled(images: Tensor) -> Tensor:
        output = network(pixel_values=images)
        return (
            output.last_hidden_state[:, 0] if output.get("pooler_output") is None else output.pooler_output.flatten(1)
        )

    size = processing.get("crop_size") or getattr(config, "image_size", 224)
    size = size["height"] if isinstance(size, dict) else size
    return _photographic(f"transformers {name}", pooled, size, statistics, resources.device, digest_of(network))


@register_extractor(
    "module:PACKAGE.MODULE:NAME",
    "a torch.nn.Module, or a function that returns one; maps images (N, C, H, W) in [-1, 1] to features (N, D)",
    is_external=True,
)
def _module(path: str, resources: Resources) -> FeatureExtractor:
    from ..data.batches import normalised

    module, _, name = path.partition(":")
    attribute = getattr(importlib.import_module(module), name)
    network = attribute if isinstance(attribute, nn.Module) else attribute()
    network = network.eval().to(resources.device)

    def extract(images: Tensor) -> Tensor:
        return network(normalised(images.to(resources.device)))

    return FeatureExtractor(path, "to [-1, 1]", digest_of(network), extract)


def _photographic(
    name: str,
    network: Callable[[Tensor], Tensor],
    size: int,
    statistics: tuple[Any, Any],
    device: torch.device | str,
    fingerprint: str,
) -> FeatureExtractor:
    """Wrap a network that expects RGB photographs of one size, normalised by the mean and std of each channel."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in statistics)

    def extract(images: Tensor) -> Tensor:
        pixels = _as_rgb(images).to(device).float() / 255
        pixels = nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return network((pixels - mean) / std)

    preprocessing = f"RGB, to {size}×{size} bicubic with antialias, normalised by the network's mean and deviation"
    return FeatureExtractor(name, preprocessing, fingerprint, extract)


def _as_rgb(images: Tensor) -> Tensor:
    """Repeat grey images to three channels, and drop alpha."""
    return images[:, :1].expand(-1, 3, -1, -1) if images.shape[1] < 3 else images[:, :3]


def digest_of(network: nn.Module) -> str:
    """Return a digest of the names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(
            name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]
