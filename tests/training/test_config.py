import dataclasses

import pytest

from hf_wgan import InputError, TrainingConfig
from hf_wgan.data import DataConfig
from hf_wgan.models.factory import NetworkConfig
from hf_wgan.utils.options import OptionParser


def test_the_defaults_are_those_of_the_paper():
    config = TrainingConfig()
    assert (config.n_critic, config.clip_value, config.optimizer, config.train_batch_size) == (5, 0.01, "rmsprop", 64)
    assert config.generator_learning_rate == config.critic_learning_rate == 5e-5


@pytest.mark.parametrize(
    "name, value",
    [
        ("generator_learning_rate", -5e-5),
        ("critic_learning_rate", 0.0),
        ("critic_learning_rate", float("nan")),
        ("clip_value", -0.01),
        ("n_critic", 0),
        ("train_batch_size", -1),
        ("max_train_steps", 0),
        ("logging_steps", 0),
        ("checkpoints_total_limit", 0),
        ("adam_beta1", 1.0),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=f"{name}={value}"):
        TrainingConfig(**{name: value})


def test_every_option_is_an_option_with_a_sentence_of_help():
    classes = (DataConfig, NetworkConfig, TrainingConfig)
    assert OptionParser(*classes).parse_options([]) == [option_class() for option_class in classes]
    for option_class in classes:
        for field in dataclasses.fields(option_class):
            assert field.metadata["help"].endswith((".", ")")), field.name


def test_options_are_parsed_into_their_types():
    args = "--train_batch_size 7 --clip_value 0.1 --critic_warmup --optimizer adam --resume_from_checkpoint latest"
    (config,) = OptionParser(TrainingConfig).parse_options(args.split())
    assert config == TrainingConfig(
        train_batch_size=7, clip_value=0.1, critic_warmup=True, optimizer="adam", resume_from_checkpoint="latest"
    )


@pytest.mark.parametrize(
    "args, message",
    [
        ("--clip 1", "unrecognized arguments: --clip 1"),
        ("--n_critic five", "n_critic='five': must be a whole number at least 1"),
        ("--optimizer sgd", "optimizer='sgd': must be one of rmsprop, adam, adamw"),
    ],
)
def test_unknown_options_and_values_are_one_line(args, message):
    with pytest.raises(InputError, match=message) as caught:
        OptionParser(TrainingConfig).parse_options(args.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "preset, options",
    [("wgan-gp", {"resolution": "64"}), (["wgan-gp"], {}), ("x", {}), ("wgan-gp", {"resolution": -1})],
)
def test_the_arguments_of_from_preset_are_checked(preset, options):
    with pytest.raises(InputError, match=r"^(preset|resolution)=.*: must be "):
        TrainingConfig.from_preset(preset, **options)


def test_a_number_that_is_too_large_is_one_line():
    with pytest.raises(InputError, match=r"^clip_value=1000.*: must be a finite number above 0"):
        TrainingConfig(clip_value=10**400)


@pytest.mark.parametrize("text", ["mit\nfoo: bar", "a\0b", "a\rb", " ", "\t"])
def test_a_text_is_one_line_and_not_blank(text):
    for name in ("license", "output_dir"):
        with pytest.raises(InputError, match=f"^{name}=.*: must (be one line|not be empty)"):
            TrainingConfig(**{name: text})


@pytest.mark.parametrize("license", ["MIT License", "MIT", "Apache 2.0", "https://example.com/license"])
def test_a_licence_that_the_hub_would_refuse_after_the_training_is_refused_before(license):
    with pytest.raises(InputError, match=r"license=.*: must be one of the Hub's identifiers, such as mit"):
        TrainingConfig(license=license)
    for known in ("mit", "apache-2.0", "cc-by-4.0", "llama3.1", "other", "unknown"):
        assert TrainingConfig(license=known).license == known
