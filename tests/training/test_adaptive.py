"""Augmentation that follows how far the critic memorises the training images."""

import numpy as np
import pytest
import torch
from conftest import pictures, tiny_critic, tiny_generator, tiny_images
from datasets import Dataset

from hf_wgan import ImageSet, InputError, WGANTrainer
from hf_wgan.algorithm.augment import AdaptiveAugmentation
from hf_wgan.algorithm.step import critic_steps
from hf_wgan.training.adaptive import INTERVAL, AdaptiveAugmentationCallback, set_aside
from hf_wgan.training.curves import read_metrics

ADAPTIVE = {"augmentation": "translation", "adaptive_augmentation": True, "adaptive_augmentation_images": 100}


def trainer(config, dataset=None, **options):
    return WGANTrainer(tiny_generator(), tiny_critic(norm_type="none"), dataset or tiny_images(80), config, **options)


def drawn_images(run):
    """Return the numbers of the images that the run draws from now on."""
    return {index for position in range(len(run.dataset)) for index in run.real_batches.indices(position)}


def grey(number, level):
    return ImageSet(torch.full((number, 1, 8, 8), level, dtype=torch.uint8))


@pytest.mark.parametrize(("number", "set_aside"), [(16, 8), (30, 10), (80, 8), (800, 80)])
def test_a_tenth_of_the_images_is_set_aside_and_not_trained_on(number, set_aside, tiny_config, capsys):
    whole = tiny_images(number)
    run = trainer(tiny_config(lipschitz="lp", **ADAPTIVE), whole)
    run.train()
    drawn = drawn_images(run)
    assert len(drawn) == number - set_aside and len(run.set_aside) == set_aside
    parts = torch.cat([whole.images[sorted(drawn)], run.set_aside.images]).flatten(1).tolist()
    assert sorted(parts) == sorted(whole.images.flatten(1).tolist()), "each image is in one of them"
    said = capsys.readouterr().err
    assert f"on {number} images" in said and f"{set_aside} of them are set aside" in said


@pytest.mark.parametrize("kind", ["labels", "clusters"])
def test_no_class_is_set_aside_as_a_whole(kind, tiny_config):
    numbers = np.arange(80) // 20
    numbers[[9, 19, 79]] = 4, 5, 5  # of two images that are set aside with others, and of one alone
    images = tiny_images(80).images
    if kind == "labels":
        dataset = ImageSet(images, labels=torch.from_numpy(numbers))
    else:
        dataset = ImageSet(images).with_clusters(numbers)
    config = tiny_config(lipschitz="lp", class_conditional=True, **ADAPTIVE)
    aside, trained_on = set_aside(config, dataset, None)
    assert dataset.labels[trained_on].unique().tolist() == list(range(6))
    assert sum(trained_on) + len(aside) == 80 and len(aside) == 5
    with pytest.raises(
        InputError, match="classes of images have too few images to set some of them aside; use held_out"
    ):
        set_aside(config, ImageSet(images, labels=torch.arange(80)), None)


def test_held_out_images_that_are_given_are_the_ones_to_compare_with(tiny_config, capsys):
    held_out = tiny_images(9)
    run = trainer(tiny_config(lipschitz="lp", **ADAPTIVE), held_out=held_out)
    run.train()
    assert run.set_aside is held_out and len(run.dataset) == 80
    assert "set aside" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (tiny_images(15), {}, "images has 15 images, and it needs 16; use more, or --no-adaptive_augmentation"),
        (tiny_images(80), {"held_out": tiny_images(3)}, "images has 3 images, and it needs 8; use more"),
        (tiny_images(80), {"held_out": tiny_images(9, size=16)}, r"held_out with images of shape \(1, 16, 16\)"),
        (tiny_images(80), {"augmentation": lambda images: images}, "adapts the operations that are named"),
    ],
)
def test_what_cannot_be_adapted_is_refused_at_the_start(dataset, options, message, tiny_config, tmp_path):
    with pytest.raises(InputError, match=message):
        trainer(tiny_config(lipschitz="lp", **ADAPTIVE), dataset, **options)
    assert not (tmp_path / "run").exists()


def test_a_stream_has_no_images_to_set_aside(tiny_config):
    stream = Dataset.from_dict({"image": pictures(20)}).to_iterable_dataset()
    with pytest.raises(InputError, match="and this is a stream; use --no-adaptive_augmentation, or leave streaming"):
        trainer(tiny_config(lipschitz="lp", **ADAPTIVE), stream)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptive_augmentation": True}, "adaptive_augmentation: needs operations; set augmentation="),
        ({"augmentation_probability": 0.5}, "augmentation_probability=0.5: has no effect without augmentation"),
        ({**ADAPTIVE, "augmentation_probability": 0.5}, "has no effect with adaptive_augmentation; leave one of"),
    ],
)
def test_options_without_effect_are_refused(options, message, tiny_config):
    with pytest.raises(InputError, match=message):
        tiny_config(**options)


@pytest.mark.parametrize(("level", "rises"), [(0, True), (255, False)])
def test_the_probability_follows_the_scores_of_held_out_images(level, rises, tiny_config):
    """A critic that learns white images by heart, and held-out ones that are white, or not."""
    config = tiny_config(lipschitz="lp", critic_learning_rate=1e-2, max_train_steps=80, logging_steps=8, **ADAPTIVE)
    run = trainer(config, grey(80, 255), held_out=grey(8, level))
    run.train()
    rows = read_metrics(run.output_dir)
    probabilities, ratios = ([row[name] for row in rows] for name in ("augmentation_probability", "r_v"))
    assert len(probabilities) == 10
    if rises:
        assert probabilities[-1] == pytest.approx(0.3) and min(ratios) > 0.5
    else:
        assert max(probabilities) == 0 and max(map(abs, ratios)) < 0.01


@pytest.mark.parametrize("begins, limit", [(56, 0.3), (64, 0.7), (72, 1.0)])
def test_what_is_set_aside_is_trained_on_where_the_augmentation_is_at_its_limit(
    begins, limit, tiny_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(AdaptiveAugmentationCallback, "advantages", lambda self, position: torch.tensor([1.0, 0.0]))
    options = {"lipschitz": "lp", "max_train_steps": 80, "logging_steps": 8, "checkpointing_steps": 8, **ADAPTIVE}
    options["adaptive_augmentation_limit"] = limit
    run = trainer(tiny_config(**options, checkpoints_total_limit=None))
    drawn = [len(drawn_images(run)) for _ in run.iterate()]
    assert drawn == [72] * 63 + [80] * 17
    assert (
        "At step 64 the augmentation is at its limit: the 8 images set aside are trained on" in capsys.readouterr().err
    )
    rows = read_metrics(run.output_dir)
    assert [row["step"] for row in rows if "r_v" in row] == list(range(8, 65, 8))
    assert [row["augmentation_probability"] for row in rows[-3:]] == pytest.approx([limit] * 3)

    resumed = {
        "output_dir": str(tmp_path / "resumed"),
        "resume_from_checkpoint": str(tmp_path / f"run/checkpoint-0000{begins}"),
    }
    again = trainer(tiny_config(**options, **resumed))
    again.train()
    weights = (each.generator.state_dict().values() for each in (run, again))
    assert all(torch.equal(one, other) for one, other in zip(*weights))


def test_given_held_out_images_are_never_trained_on(tiny_config, monkeypatch):
    monkeypatch.setattr(AdaptiveAugmentationCallback, "advantages", lambda self, position: torch.tensor([1.0, 0.0]))
    run = trainer(tiny_config(lipschitz="lp", max_train_steps=80, **ADAPTIVE), held_out=tiny_images(9))
    run.train()
    assert run.algorithm.augment.at_limit and "r_v" in read_metrics(run.output_dir)[-1]


def test_scores_are_of_augmented_images_and_change_neither_data_nor_weights(tiny_config):
    run = trainer(tiny_config(lipschitz="lp", **ADAPTIVE))
    run.step()
    position, critic = run.real_batches.position, {k: v.clone() for k, v in run.critic.state_dict().items()}
    callback = AdaptiveAugmentationCallback(run, run.set_aside)
    run.random.seed(1)
    advantages = callback.advantages(0)
    callback.augmentation.probability.fill_(1.0)
    run.random.seed(1)
    assert not torch.equal(callback.advantages(0), advantages)
    assert run.real_batches.position == position
    assert all(torch.equal(value, critic[name]) for name, value in run.critic.state_dict().items())


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("step", [INTERVAL, 4 * INTERVAL, 63 * INTERVAL])
def test_the_probability_can_change_with_the_images_that_the_critic_has_seen(step, warmup, tiny_config, monkeypatch):
    seen = []
    monkeypatch.setattr(AdaptiveAugmentation, "adjust", lambda self, advantages, num_images: seen.append(num_images))
    config = tiny_config(lipschitz="lp", critic_warmup=warmup, **ADAPTIVE)
    run = trainer(config)
    run.state.progress.step = step
    AdaptiveAugmentationCallback(run, run.set_aside).on_step_end(config, run.state, run.control)
    steps = range(step - INTERVAL, step)
    assert seen == [config.train_batch_size * sum(critic_steps(number, config.n_critic, warmup) for number in steps)]


def test_a_score_that_depends_on_the_class_alone_says_nothing_of_what_is_memorised(tiny_config):
    images = ImageSet(tiny_images(50).images, labels=torch.arange(50) % 7)
    networks = tiny_generator(num_classes=7), tiny_critic(num_classes=7, norm_type="none")
    run = WGANTrainer(*networks, images, tiny_config(lipschitz="lp", class_conditional=True, **ADAPTIVE))
    run.step()

    def score(images, labels):
        return labels.float() ** 3

    run.algorithm.critic = score
    assert torch.equal(AdaptiveAugmentationCallback(run, run.set_aside).advantages(0), torch.zeros(2))


def test_held_out_images_are_numbered_as_the_training_images(tiny_config):
    images = ImageSet(tiny_images(50).images, labels=torch.arange(50) % 3, label_names=["a", "b", "c"])
    others = ImageSet(tiny_images(40).images, labels=torch.arange(40) % 4, label_names=["x", "c", "b", "y"])
    networks = tiny_generator(num_classes=3), tiny_critic(num_classes=3, norm_type="none")
    config = tiny_config(lipschitz="lp", class_conditional=True, **ADAPTIVE)
    run = WGANTrainer(*networks, images, config, held_out=others)
    assert run.set_aside.labels.tolist() == [2, 1] * 10, "the others are of classes that no training image has"
    run.train()


def test_it_adjusts_at_its_interval_by_the_images_since(tiny_config, monkeypatch):
    calls = []
    monkeypatch.setattr(
        AdaptiveAugmentation, "adjust", lambda self, advantages, images: calls.append((run.state.global_step, images))
    )
    run = trainer(tiny_config(lipschitz="lp", max_train_steps=3 * INTERVAL + 1, n_critic=2, **ADAPTIVE))
    run.train()
    assert calls == [(step, INTERVAL * 2 * 8) for step in (INTERVAL, 2 * INTERVAL, 3 * INTERVAL)]


def test_a_conditional_run_adapts_too(tiny_config):
    images = ImageSet(tiny_images(80).images, labels=torch.arange(80) % 2)
    networks = tiny_generator(num_classes=2), tiny_critic(num_classes=2, norm_type="none")
    config = tiny_config(lipschitz="lp", class_conditional=True, **ADAPTIVE)
    with pytest.raises(InputError, match="held_out images has no labels, which adaptive_augmentation needs"):
        WGANTrainer(*networks, images, config, held_out=tiny_images(9))
    run = WGANTrainer(*networks, images, config)
    run.train()
    assert run.algorithm.augment.probability in (0, pytest.approx(0.64, abs=0.2))
    assert len(run.set_aside) == 8


def test_held_out_images_are_compared_with_samples_of_the_clusters_that_they_are_nearest_to(tiny_config):
    kinds = torch.arange(80) % 2
    images, others = (
        ImageSet(tiny_images(number).images // 2 + (kinds * 128).byte()[:number, None, None, None])
        for number in (80, 9)
    )
    networks = tiny_generator(num_classes=2), tiny_critic(num_classes=2, norm_type="none")
    config = tiny_config(lipschitz="lp", class_conditional=True, **ADAPTIVE)
    run = WGANTrainer(*networks, images.with_clusters(kinds.numpy()), config, held_out=others)
    run.train()
    assert len(run.dataset) == 80 and run.set_aside.labels.tolist() == kinds[:9].tolist()
    assert run.algorithm.augment.probability in (0, pytest.approx(0.64, abs=0.2))
    assert run.held_out.labels is None, "an evaluation compares with them as they are"
