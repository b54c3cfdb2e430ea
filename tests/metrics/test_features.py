import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_images
from torch import nn

from hf_wgan import ImageSet, InputError
from hf_wgan.metrics import features
from hf_wgan.metrics.features import EXTRACTORS, describe_features, load_feature_extractor


class Means(nn.Module):
    """Maps images to the mean of each channel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.scale * images.mean(dim=(2, 3))


@pytest.fixture
def images():
    return tiny_images(6)


def test_the_description_and_the_error_list_every_registered_extractor(images):
    for kind in EXTRACTORS.values():
        assert f"{kind.usage} ({kind.summary})" in describe_features()
    with pytest.raises(InputError, match="features='unknown': must be auto") as raised:
        load_feature_extractor("unknown", images)
    assert all(kind.usage in str(raised.value) for kind in EXTRACTORS.values())


@pytest.mark.parametrize("kind", [kind for kind, entry in EXTRACTORS.items() if "[" not in entry.usage])
def test_an_extractor_without_its_argument_or_with_one_too_many_is_refused(kind, images):
    usage = EXTRACTORS[kind].usage
    with pytest.raises(InputError, match=f"features='{kind}.*': must be auto"):
        load_feature_extractor(kind if ":" in usage else f"{kind}:argument", images)


def test_pixels_are_features_in_0_to_1(images):
    output = load_feature_extractor("pixels", images)(images.images)
    assert output.shape == (6, 64) and output.dtype == np.float32
    assert output[0] == pytest.approx(images.images[0].flatten().numpy() / 255)


def test_a_module_is_found_by_its_name_and_gets_images_in_minus_1_to_1(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "user_networks", SimpleNamespace(Means=Means, means=Means()))
    for name in ("module:user_networks:Means", "module:user_networks:means"):
        network = load_feature_extractor(name, images)
        assert network(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)).tolist() == [[1, 1, 1]] * 2
        assert network.name == name.removeprefix("module:")
    other = Means()
    other.scale.data += 1
    monkeypatch.setitem(sys.modules, "user_networks", SimpleNamespace(means=other))
    assert load_feature_extractor("module:user_networks:means", images).fingerprint != network.fingerprint


def test_a_network_of_timm_gets_colour_photographs_of_its_size_and_colours(images, monkeypatch):
    seen = []

    class Spy(Means):
        def forward(self, images):
            seen.append(images)
            return super().forward(images)

    data = {"input_size": (3, 20, 20), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    timm = SimpleNamespace(
        create_model=lambda name, pretrained, num_classes: Spy(),
        data=SimpleNamespace(resolve_model_data_config=lambda network: data),
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    network = load_feature_extractor("timm:resnet50", images)
    network(torch.full((2, 1, 8, 8), 255, dtype=torch.uint8))
    assert seen[0].shape == (2, 3, 20, 20)
    assert seen[0].unique().tolist() == pytest.approx([2] * len(seen[0].unique()))
    assert network.name == "timm resnet50" and "20×20" in network.preprocessing


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "inceptoin",
            r"features='inceptoin': must be auto, classifier\[:FOLDER\], .*pixels, .* or module:PACKAGE.MODULE:NAME$",
        ),
        ("timm:", "features='timm:': must be auto"),
        ("module:nowhere:Network", "requires a library that is not installed .*nowhere"),
        ("module:torch.nn:Nothing", "features='module:torch.nn:Nothing': cannot be loaded"),
        ("classifier:nowhere", "nowhere holds no classifier"),
        ("inception:nowhere.pth", "no such file; torch-fidelity's is at https://.*2015-12-05"),
    ],
)
def test_an_unknown_feature_extractor_is_named(name, message, images):
    with pytest.raises(InputError, match=message):
        load_feature_extractor(name, images)


def test_inception_weights_that_would_run_code_are_refused(images, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"weight": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_feature_extractor(f"inception:{tmp_path / 'weights.pth'}", images)
    assert not (tmp_path / "ran").exists()


def test_inception_weights_come_from_a_file_or_the_hub(images, tmp_path, monkeypatch):
    torch.save(Means().state_dict(), tmp_path / "weights.pth")
    asked = []
    monkeypatch.setattr(features, "hf_hub_download", lambda *args: asked.append(args) or str(tmp_path / "weights.pth"))

    class Extractor(Means):
        def __init__(self, name, layers, feature_extractor_weights_path):
            super().__init__()
            self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))

        def forward(self, images):
            assert images.dtype == torch.uint8 and images.shape[1] == 3
            return (super().forward(images.float()),)

    module = SimpleNamespace(FeatureExtractorInceptionV3=Extractor)
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    for name in (tmp_path / "weights.pth", "me/inception/folder/weights.pth"):
        assert load_feature_extractor(f"inception:{name}", images)(images.images).shape == (6, 3)
    assert asked == [("me/inception", "folder/weights.pth")]


def test_a_classifier_needs_labels_and_is_for_as_many_channels(images, tmp_path, short_training):
    with pytest.raises(InputError, match=r"images has no labels to train one on; .*such as self-supervised"):
        load_feature_extractor("classifier", images)
    labelled = ImageSet(tiny_images(40).images, labels=torch.arange(40) % 4)
    network = load_feature_extractor("classifier", labelled, cache_dir=tmp_path)
    output = network(labelled.images)
    classes, num_classes = network.classes(output)
    assert output.shape == (40, 64) and classes.shape == (40,) and num_classes == 4
    (folder,) = tmp_path.glob("classifier-*")
    again = load_feature_extractor(f"classifier:{folder}", labelled)
    assert again.fingerprint == network.fingerprint and "of 4 classes" in again.name
    with pytest.raises(InputError, match="expects images with 1 channels, these have 3"):
        load_feature_extractor(f"classifier:{folder}", tiny_images(channels=3))


def test_a_network_with_features_of_another_shape_is_named(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "user_networks", SimpleNamespace(flat=nn.Flatten(0)))
    with pytest.raises(InputError, match=r"returned shape \(384,\) for 6 images: must be \(N, D\)"):
        load_feature_extractor("module:user_networks:flat", images)(images.images)
