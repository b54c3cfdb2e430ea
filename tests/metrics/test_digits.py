import numpy as np
import pytest
import torch
from conftest import tiny_generator

from hf_wgan import InputError, WGANPipeline, load_images
from hf_wgan.data import DataConfig
from hf_wgan.metrics.digits import evaluate


class Replaying(WGANPipeline):
    """A pipeline whose samples are what it is given, in [0, 1]."""

    samples = None

    def __call__(self, batch_size, **options):
        images = self.samples[np.arange(batch_size) % len(self.samples)]
        return type("Output", (), {"images": images.reshape(batch_size, 16, 16, 1)})


@pytest.fixture
def replaying():
    def make(samples):
        pipeline = Replaying(tiny_generator(sample_size=16))
        pipeline.samples = samples
        return pipeline

    return make


@pytest.fixture(scope="module")
def real():
    return load_images(DataConfig(resolution=16)).images.flatten(1).numpy() / 255


def test_the_classifier_reads_real_digits_and_says_how_well(real, replaying):
    report = evaluate(replaying(real), num_images=1797)
    assert report.read > 0.98
    assert report.smallest_class > 0.08
    assert report.held_out_accuracy >= 0.98
    assert report.held_out_read >= 0.99
    assert sum(report.classes) == pytest.approx(report.read)


def test_it_does_not_read_noise_nor_most_blends(real, replaying):
    rng = np.random.default_rng(5)
    assert evaluate(replaying(rng.random((200, 256))), 200).read < 0.05
    assert evaluate(replaying(rng.permuted(real[:200], axis=1)), 200).read < 0.05
    report = evaluate(replaying((real[:400] + real[400:800]) / 2), 400)
    assert report.read < 0.6
    assert report.blends_read < 0.6


def test_a_missing_kind_shows(real, replaying):
    labels = load_images(DataConfig(resolution=16)).labels.numpy()
    without_fives = real[labels != 5]
    assert evaluate(replaying(without_fives), len(without_fives)).smallest_class < 0.01


def test_the_same_seed_gives_the_same_report():
    torch.manual_seed(0)
    pipeline = WGANPipeline(tiny_generator())
    assert evaluate(pipeline, 20, seed=3) == evaluate(pipeline, 20, seed=3)


def test_models_of_colour_are_refused():
    with pytest.raises(InputError, match="3 channels"):
        evaluate(WGANPipeline(tiny_generator(out_channels=3)))


NAMES = ["9", "0", "1", "2", "3", "4", "5", "6", "7", "8"]


@pytest.mark.parametrize(
    ("classes", "agrees"),
    [
        ({"num_classes": 10, "class_names": NAMES}, True),
        ({"num_classes": 10, "class_frequencies": [1] * 10}, None),
        ({"num_classes": 3, "class_names": ["bag", "coat", "shirt"]}, None),
        ({}, None),
    ],
)
def test_agreement_is_of_the_digits_that_were_asked_for(classes, agrees, real):
    asked = []

    class Answering(Replaying):
        def __call__(self, batch_size, class_labels=None, **options):
            asked.append(class_labels)
            names = NAMES if class_labels is None else [NAMES[number] for number in class_labels]
            self.samples = np.stack([of_digit[int(name)] for name in names])
            return super().__call__(batch_size)

    labels = load_images(DataConfig(resolution=16)).labels.numpy()
    of_digit = [real[labels == digit][0] for digit in range(10)]
    generator = tiny_generator(sample_size=16, num_classes=classes.get("num_classes"))
    generator.register_to_config(**classes)
    report = evaluate(Answering(generator), 20)
    assert report.agreement == (1.0 if agrees else None)
    assert (asked[0] is not None) == bool(agrees)
