from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from PIL import Image

from hf_wgan import ImageSet, TrainingConfig, WGANTrainer
from hf_wgan.algorithm.lipschitz import WeightClipping
from hf_wgan.training.adaptive import FEWEST_HELD_OUT
from hf_wgan.training.advice import (
    FEW_IMAGES,
    FIRST_STEP,
    IMAGES_OF_A_CLASS,
    REPORTS,
    AdviceCallback,
    advice_at_the_start,
    are_alike,
    largest_estimate,
    memorisation,
)
from hf_wgan.training.presets import FOR_COLOUR, PRESETS


def trainer(config, channels=1, size=8, images=None, num_classes=None, **options):
    networks = (
        tiny_generator(out_channels=channels, sample_size=size, num_classes=num_classes),
        tiny_critic(in_channels=channels, sample_size=size, num_classes=num_classes),
    )
    return WGANTrainer(*networks, images or tiny_images(channels=channels, size=size), config, **options)


class State:
    global_step = FIRST_STEP


def told(capsys, config, estimates, repeats=1):
    """What is said while the estimate takes these values."""
    advice = AdviceCallback(None)
    for _ in range(repeats):
        for estimate in estimates:
            advice.on_log(config, State, None, logs={"wasserstein_estimate": float(estimate)})
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("channels, size, advised", [(1, 8, False), (3, 8, True), (1, 64, True)])
def test_settings_of_2017_for_colour_or_large_images_name_the_preset_that_fits(
    channels, size, advised, tiny_config, monkeypatch
):
    monkeypatch.setattr("hf_wgan.training.advice.has_bf16_arithmetic", lambda device: False)
    lines = advice_at_the_start(trainer(tiny_config(), channels, size))
    assert len(lines) == advised and all(f"--preset {FOR_COLOUR}" in line for line in lines)
    assert FOR_COLOUR in PRESETS


def test_who_chose_a_constraint_is_not_advised(tiny_config):
    assert not advice_at_the_start(trainer(tiny_config(lipschitz="none"), channels=3))
    assert not advice_at_the_start(trainer(tiny_config(), channels=3, constraint=WeightClipping(0.1)))


@pytest.mark.parametrize(
    "size, has_arithmetic, slowdown, precision, advised",
    [
        (32, True, 0.5, None, True),
        (16, True, 0.5, None, False),
        (32, False, 0.5, None, False),
        (32, True, 0.9, None, False),
        (32, True, 0.5, "no", False),
    ],
)
def test_bf16_is_named_where_it_is_faster_unless_float32_was_chosen(
    size, has_arithmetic, slowdown, precision, advised, tiny_config, monkeypatch
):
    monkeypatch.setattr("hf_wgan.training.advice.has_bf16_arithmetic", lambda device: has_arithmetic)
    monkeypatch.setattr("hf_wgan.training.advice.bf16_slowdown", lambda: slowdown)
    lines = advice_at_the_start(trainer(tiny_config(mixed_precision=precision), size=size))
    assert ("This CPU multiplies 2.0 times as fast in bf16" in "".join(lines)) == advised


@pytest.mark.parametrize(
    "number, steps, options, objects, advised",
    [
        (40, 1000, {"lipschitz": "gp"}, {}, True),
        (40, 999, {"lipschitz": "gp"}, {}, False),
        (40, 500, {"lipschitz": "gp", "n_critic": 2}, {}, True),
        (40, 1000, {"lipschitz": "clip"}, {}, False),
        (40, 1000, {"lipschitz": "gp", "augmentation": "color"}, {}, False),
        (40, 1000, {"lipschitz": "gp"}, {"augmentation": torch.sin}, False),
        (FEWEST_HELD_OUT * 2 - 1, 2000, {"lipschitz": "gp"}, {}, False),
        (FEW_IMAGES + 1, 10**9, {"lipschitz": "gp"}, {}, False),
    ],
)
def test_few_images_seen_often_are_advised_to_be_augmented(number, steps, options, objects, advised, tiny_config):
    config = tiny_config(**{"n_critic": 1, "max_train_steps": steps, **options})
    assert config.train_batch_size == 8
    lines = advice_at_the_start(trainer(config, images=tiny_images(number), **objects))
    assert ("--augmentation translation --adaptive_augmentation" in "".join(lines)) == advised


NEW, FINE_TUNED = ({"networks": {"pretrained_model_name_or_path": name}} for name in (None, "me/model"))


@pytest.mark.parametrize(
    "classes, conditional, record, advised",
    [
        (2, False, NEW, True),
        (2, True, NEW, False),
        (1, False, NEW, False),
        (3, False, NEW, False),
        (0, False, NEW, False),
        (2, False, FINE_TUNED, False),
        (2, False, None, False),  # networks handed to the trainer
    ],
)
def test_classes_that_could_be_trained_on_are_named(classes, conditional, record, advised, tiny_config):
    images = tiny_images(2 * IMAGES_OF_A_CLASS)
    if classes:
        images = ImageSet(images.images, labels=torch.arange(len(images)) % classes)
    config = tiny_config(class_conditional=conditional)
    lines = advice_at_the_start(
        trainer(config, images=images, num_classes=classes if conditional else None, record=record)
    )
    assert bool(lines) == advised
    assert all("2 classes: with --class_conditional" in line for line in lines)


GROWING = 500 * 1.2 ** np.arange(REPORTS)


@pytest.mark.parametrize(
    "options, estimates, says",
    [
        ({"lipschitz": "none"}, GROWING, "is 15,974 and growing: try --lipschitz gp"),
        ({"lipschitz": "clip", "clip_value": 1.0}, -GROWING, "try a lower --critic_learning_rate"),
        ({"lipschitz": "clip"}, np.full(REPORTS, 1e-9), "so the critic learns nothing: try a larger --clip_value"),
        ({"lipschitz": "gp"}, np.full(REPORTS, 0.0), "try other learning rates"),
    ],
)
def test_an_estimate_that_explodes_or_is_flat_is_told_once_with_an_option(options, estimates, says, capsys):
    lines = told(capsys, TrainingConfig(**options), estimates, repeats=3)
    assert len(lines) == 1 and says in lines[0] and lines[0].startswith(f"Step {FIRST_STEP}: ")


def test_an_estimate_that_moves_or_is_large_by_its_scale_is_not_told(capsys):
    falling = np.linspace(1, 0.5, REPORTS)
    assert told(capsys, TrainingConfig(), falling) == []
    assert told(capsys, TrainingConfig(lipschitz="none"), GROWING[:-1]) == [], "too few reports"
    small_weight = TrainingConfig(lipschitz="r1r2", gradient_penalty_weight=0.05, gradient_penalty_weight_end=0.005)
    assert largest_estimate(small_weight) == 200_000 and told(capsys, small_weight, GROWING) == []


def test_samples_that_are_all_alike_are_told_once(capsys):
    advice, black = AdviceCallback(None), [Image.new("L", (8, 8), 3)] * 4
    for _ in range(2):
        advice.on_sample(TrainingConfig(generator_learning_rate=0.5), State, None, images=black)
    (line,) = capsys.readouterr().err.splitlines()
    assert "all samples are alike: try a lower --learning_rate (now 0.5 and 5e-05)" in line
    assert not are_alike([Image.new("L", (8, 8), grey) for grey in (0, 60)])


def test_the_first_samples_and_a_single_one_may_be_alike(capsys):
    advice, black = AdviceCallback(None), [Image.new("L", (8, 8))] * 4
    early = type("Early", (), {"global_step": FIRST_STEP - 1})
    advice.on_sample(TrainingConfig(), early, None, images=black)
    advice.on_sample(TrainingConfig(), State, None, images=black[:1])
    assert capsys.readouterr().err == ""


class Pipeline:
    """Scores real images by a function of their first pixel; samples score 0. With classes, the class is added."""

    def __init__(self, score, num_classes=None):
        self.score, self.generator = score, SimpleNamespace(config={"num_classes": num_classes})

    def __call__(self, number, **options):
        return SimpleNamespace(images=torch.full((number, 1, 8, 8), 0.5))

    @property
    def critic(self):
        def scores(images, labels=0):
            return torch.where(images[:, 0, 0, 0] == 0, 0.0, self.score(images)) + labels

        critic = torch.nn.Identity()
        critic.device, critic.dtype, critic.forward = torch.device("cpu"), torch.float32, scores
        return critic


def test_r_v_is_the_share_of_the_advantage_that_held_out_images_do_not_have():
    from hf_wgan import ImageSet

    bright, dark = (ImageSet(torch.full((20, 1, 8, 8), grey, dtype=torch.uint8)) for grey in (250, 5))
    by_heart = Pipeline(lambda images: 4.0 * (images[:, 0, 0, 0] > 0))
    assert memorisation(by_heart, bright, dark) == pytest.approx(1)
    assert memorisation(by_heart, bright, bright) == pytest.approx(0)
    assert memorisation(Pipeline(lambda images: 3 + torch.sign(images[:, 0, 0, 0])), bright, dark) == pytest.approx(0.5)


@pytest.mark.parametrize("score, ratio", [(4.0, 1), (0.0, 0)])
def test_r_v_of_a_critic_with_classes_compares_images_with_samples_of_their_class(score, ratio):
    """Whatever the classes that a set has more of."""
    bright, dark = (
        ImageSet(torch.full((20, 1, 8, 8), grey, dtype=torch.uint8), labels=torch.arange(20) * number // 20)
        for grey, number in ((250, 2), (5, 9))
    )
    critic = Pipeline(lambda images: 1 - ratio + score * (images[:, 0, 0, 0] > 0), num_classes=9)
    assert memorisation(critic, bright, dark) == pytest.approx(ratio, abs=1e-5)


def test_r_v_is_of_the_whole_sets_and_not_of_the_first_images_of_a_sorted_one():
    """As in folders of classes, of which the critic scores some higher than others."""
    classes = torch.arange(600).mul(250).div(600, rounding_mode="floor").add(2).byte()
    pictures = classes[:, None, None, None].expand(-1, 1, 8, 8)
    score_by_class = Pipeline(lambda images: images[:, 0, 0, 0] + 1.1)
    ratio = memorisation(score_by_class, ImageSet(pictures), ImageSet(pictures[::2]))
    assert abs(ratio) < 0.1


def test_a_critic_that_knows_its_images_by_heart_is_told(tiny_config, capsys, monkeypatch):
    monkeypatch.setattr("hf_wgan.training.advice.memorisation", lambda *args: 0.8)
    held_out = tiny_images(30)
    measured = {"evaluation_steps": 2, "evaluation_features": "pixels", "num_evaluation_images": 20}
    line = "(r_v = 0.80), so it knows the 24 training images by heart: try --augmentation"
    trainer(tiny_config(**measured), held_out=held_out).train()
    assert capsys.readouterr().err.count(line) == 1
    labelled = (ImageSet(images.images, labels=torch.arange(len(images)) % 3) for images in (tiny_images(), held_out))
    images, others = labelled
    config = tiny_config(**measured, class_conditional=True, overwrite_output_dir=True)
    trainer(config, images=images, num_classes=3, held_out=others).train()
    assert capsys.readouterr().err.count(line) == 1
    with_clusters = tiny_images().with_clusters(np.arange(24) % 3)
    networks = tiny_generator(num_classes=3, class_frequencies=[8, 8, 8]), tiny_critic(num_classes=3)
    WGANTrainer(*networks, with_clusters, config, held_out=held_out).train()
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.parametrize(
    ("probability", "ratio", "lines"), [(0.8, 0.7, 1), (0.5, 0.9, 0), (0.8, 0.4, 0), (0.8, None, 0)]
)
def test_images_known_by_heart_in_spite_of_the_augmentation_are_said_once(
    probability, ratio, lines, tiny_config, capsys
):
    advice = AdviceCallback(trainer(tiny_config()))
    logs = {"wasserstein_estimate": 1.0, "augmentation_probability": probability}
    rows = [
        {**logs, "wasserstein_estimate": float(step)} | ({} if ratio is None else {"r_v": ratio}) for step in range(30)
    ]
    adaptive = {"augmentation": "cutout", "adaptive_augmentation": True, "adaptive_augmentation_limit": 0.8}
    for row in rows:
        advice.on_log(tiny_config(**adaptive), State, None, logs=row)
    said = capsys.readouterr().err
    assert said.count("by heart in spite of the highest probability of augmentation (0.8; r_v = 0.70)") == lines
