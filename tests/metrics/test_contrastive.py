"""Features that are learnt without labels, on a set whose labels are known."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_images
from scipy.ndimage import gaussian_filter

from hf_wgan import DCGANCritic, DCGANGenerator, ImageSet, TrainingConfig, WGANTrainer, load_images
from hf_wgan.data import DataConfig
from hf_wgan.metrics import contrastive, features
from hf_wgan.metrics.classifier import load_or_train_classifier
from hf_wgan.metrics.contrastive import load_or_train_contrastive
from hf_wgan.metrics.distances import frechet_distance
from hf_wgan.metrics.features import DINOV2, load_feature_extractor
from hf_wgan.metrics.neighbours import coverage


@pytest.fixture(scope="module")
def digits():
    """Return two thirds of the digits to train on, and the others."""
    images = load_images(DataConfig(resolution=16))
    is_held_out = np.random.default_rng(0).permutation(len(images)) % 3 == 0
    return images.subset(~is_held_out, "training"), images.subset(is_held_out, "held-out")


@pytest.fixture(scope="module")
def extractors(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    load_or_train_classifier(folder / "classifier", *digits, num_epochs=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "NUM_STEPS", 160)
        network = load_feature_extractor("self-supervised", *digits, cache_dir=folder)
    return {
        "classifier": load_feature_extractor(f"classifier:{folder / 'classifier'}", digits[0]),
        "self-supervised": network,
    }


@pytest.fixture(scope="module")
def samples(digits, tmp_path_factory):
    """Return as many images as are held out: real ones, those of a half-trained model, and what is no digit."""
    training, held_out = digits
    real = training.images[: len(held_out)].float()
    generator, critic = DCGANGenerator(16, 1, 16, 16), DCGANCritic(16, 1, 16, norm_type="layer")
    config = TrainingConfig(
        output_dir=str(tmp_path_factory.mktemp("run")),
        lipschitz="gp",
        optimizer="adam",
        generator_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        adam_beta1=0.0,
        n_critic=2,
        max_train_steps=60,
    )
    pipeline = WGANTrainer(generator, critic, training, config).train()
    rng = torch.Generator().manual_seed(0)
    return {
        "real": real.byte(),
        "half-trained": (pipeline(len(real), generator=rng, output_type="pt").images * 255).byte(),
        "blurred": torch.from_numpy(gaussian_filter(real.numpy(), (0, 0, 2, 2))).byte(),
        "fog": (0.1 * real + 0.9 * real.mean(0)).byte(),
        "noise": torch.randint(0, 256, real.shape, dtype=torch.uint8, generator=rng),
    }


def test_samples_are_ordered_as_by_a_classifier_and_noise_is_the_worst(digits, extractors, samples):
    orders = {}
    for name in ("classifier", "self-supervised"):
        extract = extractors[name]
        real = extract(digits[1].images)
        distances = {kind: frechet_distance(real, extract(images)) for kind, images in samples.items()}
        orders[name] = sorted(set(distances) - {"noise"}, key=distances.get)
        assert distances["half-trained"] > 5 * distances["real"]
    assert orders["self-supervised"][:2] == orders["classifier"][:2] == ["real", "half-trained"]
    assert max(distances, key=distances.get) == "noise"


def test_precision_and_recall_tell_real_images_from_the_others(digits, extractors, samples):
    extract = extractors["self-supervised"]
    real = extract(digits[1].images)
    figures = {kind: coverage(real, extract(images)) for kind, images in samples.items()}
    assert figures["real"].precision > 0.85 and figures["real"].recall > 0.85
    assert figures["noise"].precision == 0
    assert figures["half-trained"].precision < figures["real"].precision - 0.1
    assert all(figures[kind].recall < 0.3 for kind in ("half-trained", "blurred", "fog", "noise"))


def test_the_network_is_saved_with_its_figures_and_loaded_again(digits, tmp_path):
    training, held_out = digits
    network, figures = load_or_train_contrastive(tmp_path / "network", training, held_out, num_steps=40)
    assert 0.2 < figures["views_matched"] <= 1 and 0.5 < figures["linear_probe"] <= 1
    again, same = load_or_train_contrastive(tmp_path / "network", training, held_out, num_steps=40)
    assert same == figures and features.digest_of(again) == features.digest_of(network)
    assert again is not network
    assert (tmp_path / "network" / "diffusion_pytorch_model.safetensors").is_file()
    other, _ = load_or_train_contrastive(tmp_path / "network", training, held_out, seed=1, num_steps=1)
    assert features.digest_of(other) != features.digest_of(network)


class Output(dict):
    """What a model of transformers returns."""

    __getattr__ = dict.get


class Vision(torch.nn.Module):
    """A stand-in for DINOv2, which notes the size of what it gets."""

    config = SimpleNamespace(image_size=518)

    def forward(self, pixel_values):
        self.size = pixel_values.shape[-1]
        return Output(pooler_output=pixel_values.mean((2, 3)))


def test_without_labels_the_default_is_dinov2_or_this(short_training, tmp_path, monkeypatch, capsys):
    images = tiny_images(40)
    vision = Vision()
    library = SimpleNamespace(
        AutoModel=SimpleNamespace(from_pretrained=lambda name: {DINOV2: vision}[name]),
        ImageProcessingMixin=SimpleNamespace(get_image_processor_dict=lambda name: ({"crop_size": {"height": 28}}, {})),
    )
    monkeypatch.setitem(sys.modules, "transformers", library)
    network = load_feature_extractor("auto", images)
    assert network.name == f"transformers {DINOV2}"
    assert network(images.images).shape == (40, 3) and vision.size == 28, "not what it was trained with"

    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    network = load_feature_extractor("auto", images, cache_dir=tmp_path)
    assert network.name.startswith("self-supervised network") and "probe" not in network.name
    assert "no dinov2 (transformers is not installed)" in capsys.readouterr().err
    assert network(images.images).shape == (40, 64)
    labelled = ImageSet(images.images, labels=torch.arange(40) % 4)
    assert "classifier of 4 classes" in load_feature_extractor("auto", labelled, cache_dir=tmp_path).name
