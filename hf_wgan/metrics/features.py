"""The networks whose activations stand for images in a figure, by name; and their answers about real images, kept."""

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from ..data import ImageSet
from ..data.batches import normalised
from ..data.cache import cache_folder
from ..utils.errors import InputError, one_line
from .classifier import load_classifier, load_or_train_classifier

KINDS = """classifier (a small one of the dataset's own classes, trained once), classifier:FOLDER (one that was trained
before), pixels, inception:FILE (InceptionV3's
weights as torch-fidelity has them; USER/REPOSITORY/FILE on the Hub), timm:NAME, transformers:NAME, or
module:PACKAGE.MODULE:NAME (a torch.nn.Module, or a function that returns one; images (N, C, H, W) in [-1, 1] to
(N, D))"""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of its images


@dataclass(frozen=True)
class FeatureNetwork:
    """Images to features.

    Attributes:
        name: What figures say they are by.
        preprocessing: What is done to images first.
        fingerprint: Of the weights: features are kept under it.
        network: Images `(N, C, H, W)` uint8 to features `(N, D)`.
        classify: Features `(N, D)` to scores of classes `(N, K)`, of a classifier.
    """

    name: str
    preprocessing: str
    fingerprint: str
    network: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """Features `(N, D)` float32 of images `(N, C, H, W)` uint8."""
        features = self.network(images)
        if features.ndim != 2 or len(features) != len(images):
            raise InputError(
                f"features {self.name}: gave shape {tuple(features.shape)} for {len(images)} images: must be (N, D)"
            )
        return features.float().cpu().numpy()

    @torch.no_grad()
    def classes(self, features: np.ndarray) -> tuple[np.ndarray, int]:
        """The likeliest classes `(N,)`, by a classifier, and how many there are."""
        assert self.classify is not None
        scores = self.classify(torch.from_numpy(features))
        return scores.argmax(1).numpy(), scores.shape[1]


def feature_network(
    name: str,
    images: ImageSet,
    held_out: ImageSet | None = None,
    device: torch.device | str = "cpu",
    cache_dir: str | Path | None = None,
) -> FeatureNetwork:
    """A feature network by its name.

    Args:
        name: One of `KINDS`.
        images: What a classifier is trained on.
        held_out: What its accuracy is measured on; a tenth of the images, left out of its training, if not given.
        device: Where it works.
        cache_dir: Where a classifier is kept, if it is not in a folder of its own; by default in the Hugging Face
            cache.

    Raises:
        InputError: there is no such network, or what it needs is missing.
    """
    kind, _, rest = name.partition(":")
    if name == "pixels":
        return FeatureNetwork("pixels", "to [0, 1]", "pixels", lambda some: some.flatten(1).float() / 255)
    if kind == "classifier":
        return _classifier(rest, images, held_out, device, cache_dir)
    if kind in EXTERNAL and rest:
        try:
            return EXTERNAL[kind](rest, device)
        except ImportError as error:
            raise InputError(f"features={name!r}: needs a library that is not installed ({one_line(error)})") from error
        except InputError:
            raise
        except Exception as error:  # each library has its own for what cannot be loaded
            raise InputError(f"features={name!r}: cannot be loaded ({one_line(error)})") from error
    raise InputError(f"features={name!r}: must be {' '.join(KINDS.split())}")


def _classifier(
    folder: str,
    images: ImageSet,
    held_out: ImageSet | None,
    device: torch.device | str,
    cache_dir: str | Path | None,
) -> FeatureNetwork:
    if folder:
        network, accuracy = load_classifier(folder)
    else:
        if images.labels is None:
            raise InputError(
                f"features='classifier': {images.name} has no labels to train one on; set label_column, or name other "
                "features, such as pixels"
            )
        key = f"{images.fingerprint}-{held_out.fingerprint}" if held_out else images.fingerprint
        network, accuracy = load_or_train_classifier(cache_folder(cache_dir) / f"classifier-{key}", images, held_out)
    if network.config.channels != images.shape[0]:
        raise InputError(
            f"features='classifier:{folder}': is for images of {network.config.channels} channels, these have "
            f"{images.shape[0]}"
        )
    network.to(device)

    def features(some: Tensor) -> Tensor:
        return network.features(normalised(some.to(device), None))

    def classify(values: Tensor) -> Tensor:
        return network.scores(values.to(device)).cpu()

    name = f"classifier of {network.config.num_classes} classes, {accuracy:.1%} right"
    return FeatureNetwork(name, "to [-1, 1]", digest_of(network), features, classify)


def _inception(path: str, device: torch.device | str) -> FeatureNetwork:
    """The InceptionV3 of Heusel et al. 2017, as torch-fidelity ported it; its weights from a file or the Hub."""
    if not Path(path).exists() and path.count("/") >= 2:
        user, repository, file = path.split("/", 2)
        path = hf_hub_download(f"{user}/{repository}", file)
    torch.load(path, weights_only=True, map_location="cpu")  # torch-fidelity unpickles whatever is there
    inception = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    network = inception.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
    network = network.eval().to(device)

    def features(images: Tensor) -> Tensor:
        return network(_as_rgb(images).to(device))[0]

    preprocessing = "RGB, to 299×299 as TensorFlow 1 does"
    return FeatureNetwork("InceptionV3 pool3", preprocessing, digest_of(network), features)


def _timm(name: str, device: torch.device | str) -> FeatureNetwork:
    timm = importlib.import_module("timm")
    network = timm.create_model(name, pretrained=True, num_classes=0).eval().to(device)
    data = timm.data.resolve_model_data_config(network)
    return _photographic(f"timm {name}", network, data["input_size"][-1], (data["mean"], data["std"]), device)


def _transformers(name: str, device: torch.device | str) -> FeatureNetwork:
    transformers = importlib.import_module("transformers")
    network = transformers.AutoModel.from_pretrained(name).eval().to(device)
    config = getattr(network.config, "vision_config", network.config)
    network = getattr(network, "vision_model", network)
    processing, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    colours = processing.get("image_mean", IMAGENET[0]), processing.get("image_std", IMAGENET[1])

    def pooled(images: Tensor) -> Tensor:
        output = network(pixel_values=images)
        return (
            output.last_hidden_state[:, 0] if output.get("pooler_output") is None else output.pooler_output.flatten(1)
        )

    size = getattr(config, "image_size", 224)
    return _photographic(f"transformers {name}", pooled, size, colours, device, digest_of(network))


def _module(path: str, device: torch.device | str) -> FeatureNetwork:
    module, _, attribute = path.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    network = found if isinstance(found, nn.Module) else found()
    network = network.eval().to(device)

    def features(images: Tensor) -> Tensor:
        return network(normalised(images.to(device), None))

    return FeatureNetwork(path, "to [-1, 1]", digest_of(network), features)


EXTERNAL: dict[str, Callable[[str, Any], FeatureNetwork]] = {
    "inception": _inception,
    "timm": _timm,
    "transformers": _transformers,
    "module": _module,
}


def _photographic(
    name: str,
    network: Callable[[Tensor], Tensor],
    size: int,
    colours: tuple[Any, Any],
    device: torch.device | str,
    fingerprint: str | None = None,
) -> FeatureNetwork:
    """Of a network for colour photographs of one size, with its mean and standard deviation of each colour."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in colours)

    def features(images: Tensor) -> Tensor:
        pixels = _as_rgb(images).to(device).float() / 255
        pixels = nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return network((pixels - mean) / std)

    preprocessing = f"RGB, to {size}×{size} bicubic with antialias, normalised by the network's mean and deviation"
    assert fingerprint or isinstance(network, nn.Module)
    return FeatureNetwork(name, preprocessing, fingerprint or digest_of(network), features)  # type: ignore[arg-type]


def _as_rgb(images: Tensor) -> Tensor:
    """Grey to three equal channels; alpha is left out."""
    return images[:, :1].expand(-1, 3, -1, -1) if images.shape[1] < 3 else images[:, :3]


def digest_of(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(
            name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]
