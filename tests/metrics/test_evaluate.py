import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_critic, tiny_generator, tiny_images
from processes import ended, free_port, join, start
from scipy.ndimage import gaussian_filter

from hf_wgan import ImageSet, InputError, WGANPipeline
from hf_wgan.metrics.classifier import load_or_train_classifier
from hf_wgan.metrics.evaluate import cached_features, compare_features, evaluate, faded_images
from hf_wgan.metrics.features import FeatureExtractor, load_feature_extractor


class ReplayPipeline:
    """A stand-in for a pipeline, whose sample k is image k of a given tensor."""

    critic = None

    def __init__(self, images):
        self.images, self.generator = images, SimpleNamespace(config={})

    def __call__(self, batch_size, generator, output_type, class_labels):
        numbers = [rng.initial_seed() for rng in generator]
        return SimpleNamespace(images=self.images[numbers].float() / 255)


def shapes(num_images, seed):
    """Return discs of three sizes, which are the classes, at random positions and in random greys."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    labels = np.arange(num_images) % 3
    images = np.empty((num_images, 1, 16, 16), np.uint8)
    for image, label in zip(images, labels):
        row, column = rng.uniform(5, 11, 2)
        disc = (rows - row) ** 2 + (columns - column) ** 2 < (2 + 1.5 * label) ** 2
        image[0] = disc * rng.integers(120, 256) + rng.integers(0, 20, (16, 16))
    return ImageSet(images=torch.from_numpy(images), labels=torch.from_numpy(labels))


@pytest.fixture(scope="module")
def training():
    return shapes(900, seed=0)


@pytest.fixture(scope="module")
def held_out():
    return shapes(600, seed=1)


@pytest.fixture(scope="module")
def classifier(training, held_out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    load_or_train_classifier(folder, training, held_out, num_epochs=30)
    return load_feature_extractor(f"classifier:{folder}", training)


@pytest.fixture
def measured(training, held_out, classifier, tmp_path):
    def measure(images, **options):
        options = {"features": classifier, "held_out": held_out, "cache_dir": tmp_path, **options}
        return evaluate(ReplayPipeline(images), training, **options)

    return measure


def test_real_images_are_as_good_as_real_images_and_the_floor_says_how_good_that_is(measured, held_out):
    itself = measured(held_out.images)  # the very images that samples are compared with, in another order
    assert itself.metrics["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert itself.metrics["wasserstein_1"] == pytest.approx(0, abs=1e-4)
    assert [itself.metrics[name] for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    fresh = measured(shapes(600, seed=2).images)
    for name in ("frechet_distance", "sliced_wasserstein_distance", "wasserstein_1"):
        assert fresh.floor[name] > 0
        assert fresh.metrics[name] < 1.5 * fresh.floor[name]  # of half as many images, so larger
    assert fresh.metrics["coverage"] == pytest.approx(fresh.floor["coverage"], abs=0.1)
    assert (fresh.settings["num_images"], fresh.settings["floor_num_images"]) == (600, 300)
    assert fresh.settings["compared_with"] == "held-out images of images"


def test_the_precision_of_faded_images_says_how_much_that_of_samples_means(training, tmp_path):
    """They lie within the balls of the pixels of few images, and far from all by their difference from the mean."""
    few = training.subset(np.arange(len(training)) < 60, "few")
    mean = few.images.float().mean(0)

    def difference(images):
        return (images - mean).flatten(1).abs().mean(1, keepdim=True).clamp(max=8)

    from_the_mean = FeatureExtractor("difference from the mean", "none", "difference", difference)
    samples = ReplayPipeline(faded_images(few.images))
    for features, is_high in ((load_feature_extractor("pixels", few), True), (from_the_mean, False)):
        result = evaluate(samples, few, features, num_images=60, batch_size=25, cache_dir=tmp_path)
        precision = result.settings["precision_of_faded_images"]
        assert (precision > 0.5) == is_high
        assert precision == pytest.approx(result.metrics["precision"], abs=0.05)
        assert {row["settings"]["precision_of_faded_images"] for row in result.rows()} == {precision}


def test_a_class_that_is_missing_shows(measured):
    whole, part = shapes(600, seed=2), shapes(900, seed=3)
    without = part.images[part.labels != 2]
    whole, without = measured(whole.images).metrics, measured(without).metrics
    assert whole["rarest_class"] == pytest.approx(1 / 3, abs=0.05)
    assert without["rarest_class"] < 0.03
    assert without["class_entropy"] < whole["class_entropy"] - 0.2
    assert without["recall"] < whole["recall"] - 0.2
    assert without["coverage"] < whole["coverage"] - 0.2
    assert without["precision"] == pytest.approx(whole["precision"], abs=0.1)


def test_a_single_class_is_not_compared_with_itself(training, held_out, classifier, tmp_path):
    features = dataclasses.replace(classifier, classify=lambda features: torch.zeros(len(features), 1))
    samples = ReplayPipeline(shapes(600, seed=2).images)
    metrics = evaluate(samples, training, features, held_out, cache_dir=tmp_path, with_floor=False).metrics
    assert not {"class_entropy", "rarest_class"} & set(metrics)
    json.dumps(metrics, allow_nan=False)
    alike = ImageSet(training.images, labels=torch.zeros(len(training), dtype=torch.int64))
    with pytest.raises(InputError, match="a single class to train one on; set label_column, or choose other features"):
        load_feature_extractor("classifier", alike, cache_dir=tmp_path)


def test_samples_that_are_no_numbers_are_an_error_and_not_black(training, classifier, tmp_path):
    generator = tiny_generator(sample_size=16)
    with torch.no_grad():
        next(generator.parameters())[0] = float("nan")
    pipeline = WGANPipeline(generator)
    with pytest.raises(FloatingPointError, match="the generator returns NaN or infinity"):
        evaluate(pipeline, training, classifier, num_images=20, cache_dir=tmp_path)
    for output_type in ("pil", "np", "pt"):
        with pytest.raises(FloatingPointError, match="the generator returns NaN or infinity"):
            pipeline(output_type=output_type)


@pytest.mark.parametrize("features", ["pixels", "classifier"])
def test_a_model_that_copies_its_training_images_is_told(features, training, classifier, measured):
    network = classifier if features == "classifier" else load_feature_extractor("pixels", training)
    copied = measured(training.images[100:700], features=network)
    assert copied.metrics["copied_share"] == 1
    if features == "pixels":
        assert copied.nearest.tolist() == list(range(100, 700))
    assert measured(shapes(600, seed=2).images, features=network).metrics["copied_share"] < 0.05


@pytest.mark.parametrize("features", ["pixels", "classifier"])
def test_the_more_blurred_the_farther(features, training, classifier, measured):
    network = classifier if features == "classifier" else load_feature_extractor("pixels", training)
    sharp = shapes(300, seed=2).images.numpy()
    distances = []
    for sigma in (0, 0.5, 1, 2, 4):
        blurred = torch.from_numpy(gaussian_filter(sharp, (0, 0, sigma, sigma)))
        distances.append(measured(blurred, features=network, num_images=300).metrics["frechet_distance"])
    assert distances == sorted(distances)
    assert distances[-1] > 3 * distances[0]


def test_batches_of_any_size_give_the_same_figures(measured):
    images = shapes(600, seed=2).images
    small, whole = (measured(images, batch_size=size).metrics for size in (7, 600))
    assert small == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_figures_are_the_same_where_memory_is_used_up_by_a_whole_batch(measured, classifier):
    def network(images):
        if len(images) > 50:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return classifier.network(images)

    images = shapes(600, seed=2).images
    limited = measured(images, features=dataclasses.replace(classifier, network=network)).metrics
    whole = measured(images).metrics
    assert limited == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_without_held_out_images_samples_are_compared_with_training_images(training, classifier, tmp_path):
    result = evaluate(ReplayPipeline(shapes(900, 2).images), training, classifier, cache_dir=tmp_path)
    assert result.settings["compared_with"] == "training images of images"
    assert result.settings["num_images"] == 900 and result.settings["floor_num_images"] == 450
    assert result.metrics["frechet_distance"] < result.floor["frechet_distance"]  # of half as many images


def test_the_critics_estimate_is_the_difference_of_its_mean_scores(tmp_path):
    generator, critic, images = tiny_generator(), tiny_critic(norm_type="none"), tiny_images(32)
    pipeline = WGANPipeline(generator, critic)
    held_out = ImageSet(255 - images.images)
    result = evaluate(pipeline, images, load_feature_extractor("pixels", images), held_out, cache_dir=tmp_path)
    seeds = [torch.Generator().manual_seed(number) for number in range(32)]
    samples = (pipeline(32, generator=seeds, output_type="pt").images * 255).round() / 255
    with torch.no_grad():
        fake = critic.eval()(samples * 2 - 1).mean()
        for name, real in {"critic_estimate": images, "critic_estimate_held_out": held_out}.items():
            expected = critic(real.images / 127.5 - 1).mean() - fake
            assert result.metrics[name] == pytest.approx(float(expected), rel=1e-4)


def evaluated(folder, index, num_processes, port):
    join(index, num_processes, port)
    Accelerator()
    torch.set_num_threads(1)
    images = tiny_images(40)
    pipeline = WGANPipeline(tiny_generator(), tiny_critic(norm_type="none"))
    pipeline.set_progress_bar_config(disable=True)
    network = load_feature_extractor("pixels", images)
    result = evaluate(pipeline, images, network, batch_size=7, cache_dir=folder / "cache")
    if index == 0:
        (folder / f"{num_processes}.json").write_text(json.dumps(result.metrics))
    else:
        assert not result.metrics


def test_two_processes_equal_one(tmp_path):
    for num_processes in (1, 2):
        port = free_port()
        processes = [start(evaluated, tmp_path, index, num_processes, port) for index in range(num_processes)]
        assert ended(processes) == [0] * num_processes
    one, two = (json.loads((tmp_path / f"{number}.json").read_text()) for number in (1, 2))
    assert two == pytest.approx(one, rel=1e-6)


def test_real_images_go_through_a_feature_network_once(training, tmp_path):
    seen = []

    def network(images):
        seen.append(len(images))
        return images.flatten(1)[:, :4].float()

    features = FeatureExtractor("corner", "none", "1", network)
    first = cached_features(training, features, 500, tmp_path)
    assert seen == [500, 400]
    assert np.array_equal(cached_features(training, features, 500, tmp_path), first)
    assert len(seen) == 2
    (file,) = tmp_path.glob("features-*")
    file.write_bytes(b"damaged")
    assert np.array_equal(cached_features(training, features, 500, tmp_path), first)
    assert len(seen) == 4
    cached_features(training, FeatureExtractor("corner", "none", "2", network), 500, tmp_path)  # of other weights
    assert len(seen) == 6


def test_images_of_another_shape_or_without_needed_labels_are_named(training, tmp_path):
    pipeline = WGANPipeline(tiny_generator(), tiny_critic())
    with pytest.raises(InputError, match=r"images of shape \(1, 16, 16\): the model generates \(1, 8, 8\)"):
        evaluate(pipeline, training, load_feature_extractor("pixels", training), cache_dir=tmp_path)
    pipeline = WGANPipeline(tiny_generator(num_classes=3), tiny_critic(num_classes=3))
    with pytest.raises(
        InputError, match="images has no labels, which the critic of this model requires; set label_column"
    ):
        evaluate(pipeline, tiny_images(), load_feature_extractor("pixels", tiny_images()), cache_dir=tmp_path)


def test_images_of_other_classes_than_the_models_are_named(tmp_path):
    names = ["cat", "dog", "cow"]
    pipeline = WGANPipeline(tiny_generator(num_classes=3, class_names=names), tiny_critic(num_classes=3))
    pixels = tiny_images(40).images
    others = ImageSet(pixels, labels=torch.arange(40) % 7, label_names=list("abcdefg"))
    for model in (pipeline, WGANPipeline(pipeline.generator)):
        with pytest.raises(
            InputError, match=r"its classes \(a, b, c, d, e, …\) are none of the model's \(cat, dog, cow\)"
        ):
            evaluate(model, others, load_feature_extractor("pixels", others), cache_dir=tmp_path)


@pytest.mark.parametrize("names", [["a", "b"], ["c", "d"], ["b", "d"]])
def test_a_model_is_compared_with_the_images_of_its_own_classes_whatever_was_measured_before(names, tmp_path):
    pixels = tiny_images(80).images // 4 + 48 * (torch.arange(80) % 4)[:, None, None, None]
    images = ImageSet(pixels.to(torch.uint8), labels=torch.arange(80) % 4, label_names=list("abcd"))
    features = load_feature_extractor("pixels", images)

    def metrics(names, cache_dir):
        pipeline = WGANPipeline(tiny_generator(num_classes=2, class_names=names))
        return evaluate(pipeline, images, features, cache_dir=cache_dir).metrics

    alone = metrics(names, tmp_path / "alone")
    for others in (["a", "c"], ["a", "d"]):
        metrics(others, tmp_path / "shared")
    assert metrics(names, tmp_path / "shared") == alone


def test_samples_of_a_model_with_clusters_have_their_frequencies(tmp_path, monkeypatch):
    generator = tiny_generator(num_classes=3, class_frequencies=[10, 60, 30])
    pipeline = WGANPipeline(generator, tiny_critic(num_classes=3))
    images = ImageSet(tiny_images(80).images, labels=torch.arange(80) % 8)  # of which the clusters know nothing
    drawn = []

    def spy(self, class_labels, batch_size, generator=None):
        numbers = class_numbers(self, class_labels, batch_size, generator)
        drawn.extend(numbers)
        return numbers

    class_numbers = WGANPipeline.class_numbers
    monkeypatch.setattr(WGANPipeline, "class_numbers", spy)
    features = load_feature_extractor("pixels", images)
    result = evaluate(pipeline, images, features, tiny_images(50), num_images=50, batch_size=20, cache_dir=tmp_path)
    assert result.settings["classes"] == "as frequent as in the real images"
    assert not [name for name in result.metrics if name.startswith("critic_estimate")]
    for classes in (drawn[:50], drawn[50:]):
        assert [classes.count(number) for number in range(3)] == pytest.approx([5, 30, 15], abs=1)


@pytest.mark.parametrize(
    "has_critic, own", [(True, {}), (False, {}), (True, {"class_names": list("abc"), "class_frequencies": [1, 1, 1]})]
)
def test_samples_have_classes_in_the_proportions_of_the_real_images(has_critic, own, tmp_path, monkeypatch):
    pixels = tiny_images(80).images
    labels = torch.tensor([0] * 12 + [1] * 24 + [2] * 4).repeat(2)
    names = own.get("class_names")
    images, held_out = (ImageSet(pixels[:number], labels=labels[:number], label_names=names) for number in (80, 40))
    pipeline = WGANPipeline(tiny_generator(num_classes=3, **own), tiny_critic(num_classes=3) if has_critic else None)
    drawn = []

    def spy(self, class_labels, batch_size, generator=None):
        drawn.extend(class_labels.tolist())
        return class_numbers(self, class_labels, batch_size, generator)

    class_numbers = WGANPipeline.class_numbers
    monkeypatch.setattr(WGANPipeline, "class_numbers", spy)
    features = load_feature_extractor("pixels", images)
    result = evaluate(pipeline, images, features, held_out, num_images=20, batch_size=7, cache_dir=tmp_path)
    assert result.settings["classes"] == "as frequent as in the real images"
    classes = drawn[:20]
    assert [classes.count(number) for number in range(3)] == [6, 12, 2]
    assert classes != sorted(classes), "a critic with batch norm sees all classes in a batch"


def test_unequal_or_too_few_images_are_named():
    points = np.zeros((20, 3))
    with pytest.raises(InputError, match="19 samples against 20 real images"):
        compare_features(points, points[1:])
    with pytest.raises(InputError, match=r"15 samples against 15 real images: .* 16 or more"):
        compare_features(points[:15], points[:15])
