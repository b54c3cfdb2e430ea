"""Every option of every configuration means the same by command line, by YAML, by JSON and from Python."""

import hashlib
import json
import re

import pytest
import torch
import yaml
from conftest import pictures
from datasets import Dataset, Image

from hf_wgan import (
    DCGANCritic,
    DCGANGenerator,
    InputError,
    RunConfig,
    TrainingConfig,
    WGANPipeline,
    build_trainer,
)
from hf_wgan.cli.launch import LaunchOptions
from hf_wgan.cli.train import train
from hf_wgan.training.config import NO_LIMIT
from hf_wgan.training.presets import PRESETS
from hf_wgan.training.resolve import FIELDS, HINTS, OPTION_CLASSES
from hf_wgan.utils.options import OptionParser, choices_of, depends_on, kind_of, option_fields

# Values for the options whose texts are checked as a whole, or together with others.
PARTICULAR = {
    "augmentation": "color,cutout",
    "background": "#102030",
    "value_range": "0,4095",
    "hub_model_id": "me/model",
    "latent_prior": "uniform",
    "report_to": "tensorboard",
    "evaluation_features": "pixels",
    "lr_warmup_steps": 3,
    "evaluation_steps": 30,
}
TOGETHER = {
    "adaptive_augmentation": {"augmentation": "cutout"},
    "penalty_in_float32": {"mixed_precision": "bf16"},
}


def with_needs(name):
    """Return the options beside which an option can be set, by its declaration and those of the others."""
    options = dict(TOGETHER.get(name, {}))
    if name == "streaming":
        options["dataset_name"] = another_value(FIELDS["dataset_name"])
    for other, need in list(FIELDS[name].metadata["needs"].items())[:1]:
        options |= with_needs(other)
        options[other] = another_value(FIELDS[other]) if need is True else next(iter(allowed(need)))
    return options


def allowed(need):
    return need() if callable(need) else need


def another_value(field):
    """Return a valid value that is not the default."""
    kind, _ = kind_of(field)
    if field.name in PARTICULAR:
        return PARTICULAR[field.name]
    if (choices := choices_of(field)) is not None:
        return next(choice for choice in choices if choice != field.default)
    if kind is bool:
        return not RunConfig.resolve().options()[field.name]
    if kind is int:
        return (field.default or 1) + 1 if field.name != "channels" else 3
    if kind is float:
        return 0.25
    return "some-text"


def by_command_line(options):
    words = [
        f"--{'' if value is not False else 'no-'}{name}" + ("" if isinstance(value, bool) else f"={value}")
        for name, value in options.items()
    ]
    return RunConfig.resolve(**OptionParser(*OPTION_CLASSES, hints=HINTS).parse(words).options)


def by_file(options, path):
    path.write_text(json.dumps(options) if path.suffix == ".json" else yaml.safe_dump(options))
    return RunConfig.resolve(path)


@pytest.mark.parametrize("name", FIELDS)
def test_an_option_means_the_same_whichever_way_it_comes(name, tmp_path):
    options = {**with_needs(name), name: another_value(FIELDS[name])}
    expected = RunConfig.resolve(**options)
    if name not in ("preset", "learning_rate", "hub_token"):
        assert expected.options()[name] == options[name] != RunConfig.resolve().options()[name]
    for config in (
        by_command_line(options),
        by_file(options, tmp_path / "run.yaml"),
        by_file(options, tmp_path / "run.json"),
        RunConfig.resolve(options),
    ):
        assert config == expected


TINY = {"resolution": 8, "generator_width": 8, "critic_width": 8, "train_batch_size": 4, "n_critic": 1}
SHAPED = {  # options that need other networks
    "width": {"architecture": "mlp"},
    "critic_pooling": {"architecture": "resnet", "resolution": 32},
    "num_blocks": {"architecture": "r3gan", "resolution": 16},
}
NOT_HERE = {
    "variant": "some-text",
    "cuda_graphs": "needs a CUDA GPU",
    "dataset_revision": "which is here and not on the Hub",
    "revision": "a folder; leave it out",
}
"""Options that nothing here can train with, and what the error says."""


def outcome(config):
    """Return the weights after a step and the record of a run, or the error that it ends in."""
    try:
        trainer = build_trainer(config)
        trainer.step()
    except InputError as error:
        return str(error)
    digest = hashlib.sha256()
    for network in (trainer.generator, trainer.critic):
        for tensor in network.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest(), trainer.describe()


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Values for the options that name files."""
    folder = tmp_path_factory.mktemp("material")
    for number, picture in enumerate(pictures(24, mode="L")):
        path = folder / "photos" / ("test" if number % 2 else "train") / f"{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    (folder / "table").mkdir()
    Dataset.from_dict({"image": pictures(24, mode="L")}).cast_column("image", Image()).to_parquet(
        folder / "table" / "train.parquet"
    )
    (folder / "table" / "README.md").write_text(
        "---\nconfigs:\n- config_name: some-text\n  data_files: train.parquet\n---\n"
    )
    generator = DCGANGenerator(sample_size=8, out_channels=1, width=8)
    WGANPipeline(generator, DCGANCritic(sample_size=8, in_channels=1, width=8)).save_pretrained(folder / "model")
    images = {name: str(folder / "photos") for name in ("dataset_name", "train_data_dir")}
    splits = {"dataset_split": "test", "held_out_split": "test"}
    columns = {"image_column": "image", "label_column": "label"}
    sizes = {"max_train_samples": 20, "resolution": 16, "width": 12, "dataloader_num_workers": 0}
    rest = {"cache_dir": str(folder / "cache"), "resume_from_checkpoint": "latest", "table": str(folder / "table")}
    return {**images, **splits, **columns, **sizes, **rest, "pretrained_model_name_or_path": str(folder / "model")}


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "output_dir"])
def test_an_option_trains_the_same_weights_and_leaves_the_same_record_whichever_way_it_comes(
    name, material, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: None)  # takes too long
    for option, value in material.items():
        monkeypatch.setitem(PARTICULAR, option, value)
    options = {**TINY, "output_dir": str(tmp_path / "run"), **SHAPED.get(name, {}), **with_needs(name)}
    if options.get("streaming") or name == "streaming":
        options["dataloader_num_workers"] = 0
    options[name] = another_value(FIELDS[name])
    if name in ("image_column", "dataset_config_name"):
        options["dataset_name"] = material["table"]
    if "pretrained_model_name_or_path" in options:
        options = {option: value for option, value in options.items() if not option.endswith("_width")}
    expected = outcome(RunConfig.resolve(**options))
    assert NOT_HERE[name] in expected if name in NOT_HERE else len(expected) == 2, expected
    for config in (by_command_line(options), by_file(options, tmp_path / "run.yaml")):
        assert outcome(config) == expected


def without_needs(name):
    """Return options beside which an option has no effect."""
    options = {}
    for other in FIELDS[name].metadata["unless"]:
        options |= with_needs(name) | with_needs(other) | {other: another_value(FIELDS[other])}
        return options
    for other, need in FIELDS[name].metadata["needs"].items():
        if need is not True:
            options[other] = next(word for word in choices_of(FIELDS[other]) if word not in allowed(need))
    return options


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if depends_on(field)])
def test_an_option_without_effect_is_one_line_by_every_way_unless_a_higher_layer_took_its_effect(name, tmp_path):
    options = {**without_needs(name), name: another_value(FIELDS[name])}

    def run_of(config):
        for part in (config.data, config.networks, config.training):  # as loading the images and building networks do
            part.check_effects()

    for attempt in (
        lambda: RunConfig.resolve(**options),
        lambda: by_command_line(options),
        lambda: by_file(options, tmp_path / "run.yaml"),
    ):
        with pytest.raises(InputError, match=f"^{name}.*: has no effect ") as caught:
            run_of(attempt())
        assert "\n" not in str(caught.value)

    with_effect = {**with_needs(name), name: another_value(FIELDS[name])}
    defaults = {
        other: FIELDS[other].default for other in FIELDS[name].metadata["needs"] if other not in without_needs(name)
    }
    above = defaults if not FIELDS[name].metadata["unless"] else {}
    above |= {other: value for other, value in without_needs(name).items() if with_effect.get(other) != value}
    config = RunConfig.resolve(with_effect, **above)
    run_of(config)
    assert config.options().get(name) == FIELDS[name].default


@pytest.mark.parametrize(
    "name", [name for name, field in FIELDS.items() if depends_on(field) and field.default not in (None, False)]
)
def test_a_default_that_is_typed_where_it_has_no_effect_is_one_line_but_not_in_a_file_of_all_options(name, tmp_path):
    options = {**without_needs(name), name: FIELDS[name].default}
    for attempt in (lambda: RunConfig.resolve(**options), lambda: by_command_line(options)):
        with pytest.raises(InputError, match=f"^{name}=.*: has no effect ") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert by_file(options, tmp_path / "run.yaml").options()[name] == FIELDS[name].default


def test_the_learning_rate_of_both_networks_beside_that_of_each_is_one_line():
    rates = {"learning_rate": 1e-3, "generator_learning_rate": 2e-4, "critic_learning_rate": 3e-4}
    for attempt in (
        lambda: RunConfig.resolve(**rates),
        lambda: RunConfig.resolve(rates),
        lambda: by_command_line(rates),
        lambda: TrainingConfig.from_preset("wgan-fast", **rates),
    ):
        with pytest.raises(InputError, match=r"^learning_rate=0.001: has no effect beside generator_learning_rate and"):
            attempt()
    config = RunConfig.resolve({"learning_rate": 1e-3}, generator_learning_rate=2e-4, critic_learning_rate=3e-4)
    assert (config.training.generator_learning_rate, config.training.critic_learning_rate) == (2e-4, 3e-4)


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if kind_of(field)[1]])
def test_none_can_be_typed_where_a_message_says_that_it_may_be(name, tmp_path):
    words = choices_of(FIELDS[name])
    if kind_of(FIELDS[name])[0] is str and (words is None or "none" in words):
        return
    (tmp_path / "run.yaml").write_text(f"{name}: None\n")
    configs = [RunConfig.resolve(tmp_path / "run.yaml")]
    if kind_of(FIELDS[name])[0] is not bool:  # a flag is left out
        configs.append(by_command_line({name: "none"}))
    for config in configs:
        assert config.options().get(name) is None


WRONG = {
    bool: ["maybe", 2, 0.5],
    int: [2.5, -1, "five", float("nan"), True, [1]],
    float: [-1.0, "much", float("nan"), float("inf"), True],
    str: [3.5, ["a"], True],
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_value_is_one_line_by_every_way(name, tmp_path):
    field = FIELDS[name]
    kind, _ = kind_of(field)
    wrong = ["GP", "Adam"] if choices_of(field) is not None else WRONG[kind]
    for value in wrong:
        with pytest.raises(InputError) as caught:
            RunConfig.resolve(**{name: value})
        assert str(caught.value).startswith(f"{name}={value!r}: must be ")
        assert "\n" not in str(caught.value)
        if isinstance(value, str) and kind is not bool:
            with pytest.raises(InputError, match=f"{name}={value!r}: must be "):
                by_command_line({name: value})
            with pytest.raises(InputError, match=f"{name}={value!r}: must be "):
                by_file({name: value}, tmp_path / "run.yaml")


@pytest.mark.parametrize(
    "name, content",
    [
        ("run.yaml", "seed: 1\nseed: 2\n"),
        ("run.yaml", "training: {seed: 1, seed: 2}\n"),
        ("run.json", '{"seed": 1, "seed": 2}'),
    ],
)
def test_an_option_twice_in_a_file_is_one_line(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=r"is no valid YAML or JSON .seed is there twice; keep one"):
        RunConfig.resolve(tmp_path / name)


@pytest.mark.parametrize(
    "content, where",
    [
        ("seed: [1\nresolution: 2\n", "line 2, column 11: expected ',' or "),
        ("seed: *other\n", "line 1, column 7: found undefined alias"),
        ("seed: 1\n\tresolution: 2\n", "line 2, column 1: "),
        ("seed: {{ seed }}\n", "line 1, column 8: found unhashable key"),
        ("seed: \a\n", "character 7: special characters are not allowed"),
    ],
)
def test_a_mistake_in_a_file_of_yaml_is_named_with_its_place(content, where, tmp_path):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(InputError, match=re.escape(f"run.yaml': is no valid YAML or JSON ({where}")) as error:
        RunConfig.resolve(tmp_path / "run.yaml")
    assert "unicode string" not in str(error.value) and "\n" not in str(error.value)


def test_yaml_keeps_merge_keys_and_names_keys_that_are_none(tmp_path):
    (tmp_path / "run.yaml").write_text("<<: {max_train_steps: 2, seed: 1}\nseed: 3\n")
    training = RunConfig.resolve(tmp_path / "run.yaml").training
    assert (training.max_train_steps, training.seed) == (2, 3)
    (tmp_path / "run.yaml").write_text("output_dir: {{ name }}\n")
    with pytest.raises(InputError, match=r"is no valid YAML or JSON .*unhashable key"):
        RunConfig.resolve(tmp_path / "run.yaml")


def test_an_unquoted_no_is_a_text_where_texts_are_meant(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset_name: x\ndataset_config_name: no\nlabel_column: yes\n")
    data = RunConfig.resolve(tmp_path / "run.yaml").data
    assert (data.dataset_config_name, data.label_column) == ("no", "yes")


def test_settings_that_are_no_parts_are_one_line():
    with pytest.raises(InputError, match=r"takes data, networks, training, not seed; RunConfig.resolve takes options"):
        RunConfig(seed=1)


@pytest.mark.parametrize("word", ["true", "yes", "on", "No", "False", "OFF"])
def test_words_of_yaml_are_texts_where_a_text_is_meant_and_true_is_one_only_in_quotes(word, tmp_path):
    is_true = word in ("true", "yes", "on")
    (tmp_path / "run.yaml").write_text(f"use_ema: {word}\ndataset_name: x\nlabel_column: '{word}'\n")
    config = RunConfig.resolve(tmp_path / "run.yaml")
    assert config.training.use_ema is is_true and config.data.label_column == word
    (tmp_path / "run.yaml").write_text(f"dataset_name: x\nlabel_column: {word}\n")
    if word.lower() in ("true", "false"):
        with pytest.raises(InputError, match=f"label_column={is_true}: must be a text"):
            RunConfig.resolve(tmp_path / "run.yaml")
    else:
        assert RunConfig.resolve(tmp_path / "run.yaml").data.label_column == word


@pytest.mark.parametrize("name", ["seed", "critic_learning_rate", "max_train_minutes", "output_dir", "license"])
@pytest.mark.parametrize(
    "word", ["010", "1_000", "0x10", "1:30", "1.10", "1e3", ".5", ".nan", ".inf", "2024-01-05", "12e03", "+5", "=", "y"]
)
def test_a_plain_word_of_yaml_is_what_it_is_on_a_command_line(word, name, tmp_path):
    def outcome(resolve):
        try:
            return resolve().options()[name]
        except InputError as error:
            return str(error)

    (tmp_path / "run.yaml").write_text(f"{name}: {word}\n")
    assert outcome(lambda: RunConfig.resolve(tmp_path / "run.yaml")) == outcome(lambda: by_command_line({name: word}))


@pytest.mark.parametrize(
    "line, message",
    [
        ("background: #ffffff", "background: has no value; leave it out, or put a text that begins with # in quotes"),
        ("output_dir: true", "output_dir=True: must be a text; put it in quotes"),
        ("augmentation: [color, cutout]", "augmentation=.'color', 'cutout'.: must be one text, such as 'color,cutout'"),
        ("config: run.yaml", "--config is for the command line: hf-wgan train --config"),
    ],
)
def test_what_a_line_of_a_file_lacks_is_said(line, message, tmp_path):
    (tmp_path / "run.yaml").write_text(line)
    with pytest.raises(InputError, match=message):
        RunConfig.resolve(tmp_path / "run.yaml")


def test_a_home_directory_is_meant_by_every_way(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = {"output_dir": "~/run"}
    for config in (by_command_line(options), by_file(options, tmp_path / "run.yaml"), RunConfig.resolve(**options)):
        assert config.training.output_dir == str(tmp_path / "run")


@pytest.mark.parametrize(
    "words, name, value",
    [
        ("--use_ema=true", "use_ema", True),
        ("--use_ema=No", "use_ema", False),
        ("--use_ema yes", "use_ema", True),
        ("--use_ema false --seed 3", "use_ema", False),
        ("--output_dir -dd", "output_dir", "-dd"),
        ("--train_data_dir x --value_range -1,3", "value_range", "-1,3"),
    ],
)
def test_words_after_an_option_are_its_value(words, name, value):
    options = OptionParser(*OPTION_CLASSES, hints=HINTS).parse(words.split()).options
    assert options[name] == value


def test_a_word_that_is_no_option_takes_no_value():
    parser = OptionParser(*OPTION_CLASSES, hints=HINTS)
    parser.add_argument("model")
    assert parser.parse(["use_ema", "--seed", "3"]).others["model"] == "use_ema"
    with pytest.raises(InputError, match="unrecognized arguments: -x"):
        parser.parse(["output_dir", "-x"])


@pytest.mark.parametrize("words", ["--output_dir --seed 3", "--use_ema=maybe", "--use_ema maybe", "--dry-run"])
def test_other_words_are_not(words):
    with pytest.raises(InputError):
        OptionParser(*OPTION_CLASSES, hints=HINTS).parse(words.split())


def test_yaml_reads_no_and_powers_of_ten_as_they_are_meant(tmp_path):
    (tmp_path / "run.yaml").write_text("mixed_precision: no\ncritic_learning_rate: 1e-4\nlicense: 2024\n")
    training = RunConfig.resolve(tmp_path / "run.yaml").training
    assert (training.mixed_precision, training.critic_learning_rate, training.license) == ("no", 1e-4, "2024")


def test_sections_of_a_file_hold_the_options_of_their_class(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {resolution: 32}\ntraining: {n_critic: 2}\npreset: wgan-fast\n")
    config = RunConfig.resolve(tmp_path / "run.yaml")
    assert (config.data.resolution, config.training.n_critic, config.training.lipschitz) == (32, 2, "r1")


def test_an_option_in_the_section_of_another_class_is_one_line(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {resolution: 32, n_critic: 2}\n")
    with pytest.raises(InputError, match="n_critic is no option of data; put it outside of the sections"):
        RunConfig.resolve(tmp_path / "run.yaml")


def test_a_preset_over_a_preset_leaves_nothing_of_the_lower_one():
    for lower in PRESETS:
        for upper in PRESETS:
            config = RunConfig.resolve({"preset": lower}, preset=upper)
            assert config.options() == RunConfig.resolve(preset=upper).options()


@pytest.mark.parametrize("name", PRESETS)
def test_explicit_options_override_a_preset_of_training_options(name):
    for options in ({"use_ema": False}, {"optimizer": "rmsprop"}, {"lipschitz": "clip"}, {"lr_scheduler": "constant"}):
        resolved = RunConfig.resolve(preset=name, train_data_dir="photos", **options).training
        assert TrainingConfig.from_preset(name, **options) == resolved


def test_clusters_of_the_digits_are_resolved_again_from_their_own_options():
    config = RunConfig.resolve(num_clusters=5)
    assert not config.training.class_conditional
    assert RunConfig.resolve(config.options()).options() == config.options()


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if kind_of(field)[0] is str])
def test_an_empty_text_is_no_value(name):
    if FIELDS[name].default != "":
        with pytest.raises(InputError, match=f"^{name}='': must "):
            RunConfig.resolve(**{name: ""})


SECTIONS = {
    "training:\n": "training=None: must be a section",
    "data: 5\n": "data='5': must be a section",
    "dataset: {resolution: 8}\ntraining: {seed: 2}\n": "no option 'dataset'; dataset is called dataset_name here",
    "seed: 1\ntraining: {seed: 2}\n": "seed: both in a section and outside of it",
}


@pytest.mark.parametrize("content, message", SECTIONS.items())
def test_a_section_that_is_none_is_named(content, message, tmp_path):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        RunConfig.resolve(tmp_path / "run.yaml")


@pytest.mark.parametrize("part", ["machine", "dataset", "training"])
def test_a_damaged_record_is_one_line(part):
    record = {"versions": {}, "machine": {}, "training": {}, "networks": {}, "dataset": {"config": {}}}
    RunConfig.resolve(record)
    RunConfig.resolve({name: part for name, part in record.items() if name != "versions"})
    for number in (True, 0, 1.5):
        with pytest.raises(InputError, match=f"is damaged: num_processes is {number}"):
            RunConfig.resolve({**record, "machine": {"num_processes": number}})
    for name in ("imports", "callbacks"):
        with pytest.raises(InputError, match=f"is damaged: {name} is 3"):
            RunConfig.resolve({**record, name: [3]})
    with pytest.raises(InputError, match="config: resolution, seed: the record of a run has its options in training"):
        RunConfig.resolve({**record, "seed": 5, "resolution": 8})
    entries = {"imports": 3, "callbacks": 3, "constraint": "x", "networks": [1], "dataset": {"config": [1]}}
    for name, value in {**entries, "machine": {"num_processes": "x"}}.items():
        with pytest.raises(InputError, match=r"config: the record of the run is damaged: [a-z_]+ is ") as error:
            RunConfig.resolve({**record, name: value})
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="there is no option 'n_critics'; did you mean n_critic"):
        RunConfig.resolve({**record, "training": {"n_critics": 3}})
    with pytest.raises(InputError, match=f"config: the record of the run is damaged: {part} is 5"):
        RunConfig.resolve({**record, part: 5})


def test_every_unknown_option_is_named():
    for attempt in (lambda: RunConfig.resolve(foo=1, n_critics=2), lambda: TrainingConfig(foo=1, n_critics=2)):
        with pytest.raises(InputError, match=r"no option 'foo', 'n_critics'; did you mean n_critic\?"):
            attempt()


def test_settings_that_are_put_together_by_hand_are_what_they_say():
    with pytest.raises(InputError, match=r"preset='wgan-gp': .*RunConfig.resolve\(preset='wgan-gp', \.\.\.\)"):
        RunConfig(preset="wgan-gp", training=TrainingConfig())
    with pytest.raises(InputError, match=r"training=\{'n_critic': 2\}: must be a TrainingConfig"):
        RunConfig(training={"n_critic": 2})
    assert RunConfig(training=TrainingConfig(n_critic=2)).training.n_critic == 2


def test_an_option_of_another_part_or_of_the_command_line_is_named_as_such():
    with pytest.raises(InputError, match="no option 'resolution'; it is an option of DataConfig"):
        TrainingConfig(resolution=32)
    for field in option_fields(LaunchOptions):
        with pytest.raises(InputError, match=f"command line alone: hf-wgan train --{field.name}"):
            RunConfig.resolve({field.name: 2})


def test_explicit_options_override_the_file_which_overrides_the_preset_and_the_digits(tmp_path):
    (tmp_path / "run.yaml").write_text("preset: wgan-gp\nn_critic: 2\nresolution: 64\n")
    config = RunConfig.resolve(tmp_path / "run.yaml", n_critic=3)
    assert (config.training.n_critic, config.data.resolution, config.training.lipschitz) == (3, 64, "gp")
    assert config.training.max_train_steps == 3000


def test_the_digits_are_trained_with_their_classes_unless_a_preset_a_model_or_an_option_says_otherwise():
    assert RunConfig.resolve().training.class_conditional
    for options in (
        {"class_conditional": False},
        {"preset": "wgan"},
        {"pretrained_model_name_or_path": "me/model"},
        {"train_data_dir": "photos"},
    ):
        assert not RunConfig.resolve(**options).training.class_conditional


def test_a_time_limit_alone_is_the_length_of_a_run(tmp_path):
    def steps(source=None, **options):
        return RunConfig.resolve(source, **options).training.max_train_steps

    (tmp_path / "run.yaml").write_text("max_train_minutes: 5\n")
    for options in ({}, {"preset": "wgan-fast"}, {"train_data_dir": "photos"}):
        assert steps(**options, max_train_minutes=5) == steps(tmp_path / "run.yaml", **options) == NO_LIMIT
        assert steps(tmp_path / "run.yaml", **options, max_train_steps=7) == 7
        assert steps(**options, max_train_minutes=None) == steps(**options) < NO_LIMIT
    limited = RunConfig.resolve(max_train_minutes=5)
    assert RunConfig.resolve(limited.options()).training == limited.training


def test_labels_that_are_asked_for_replace_clusters_of_a_preset_or_a_lower_layer_and_the_other_way_round(tmp_path):
    def resolved(source=None, **options):
        config = RunConfig.resolve(source, train_data_dir="photos", **options)
        return config.networks.num_clusters, config.training.class_conditional

    preset = {"preset": "wgan-color"}
    assert resolved(**preset) == (PRESETS["wgan-color"]["num_clusters"], False)
    assert resolved(**preset, class_conditional=True) == (None, True)
    assert resolved(**preset, num_clusters=8) == (8, False)
    with pytest.raises(InputError, match="num_clusters and class_conditional were both given"):
        resolved(**preset, class_conditional=True, num_clusters=8)
    assert resolved(**preset, streaming=True) == (None, False)
    (tmp_path / "run.yaml").write_text("preset: wgan-color\nnum_clusters: 8\n")
    assert resolved(tmp_path / "run.yaml") == (8, False)
    assert resolved(tmp_path / "run.yaml", **preset) == (PRESETS["wgan-color"]["num_clusters"], False)
    assert resolved(tmp_path / "run.yaml", class_conditional=True) == (None, True)
    (tmp_path / "run.yaml").write_text("class_conditional: true\n")
    assert resolved(tmp_path / "run.yaml", **preset) == (None, True)
    assert resolved(tmp_path / "run.yaml", num_clusters=8) == (8, False)


def test_a_preset_overrides_what_is_below_the_place_where_it_is_named(tmp_path):
    (tmp_path / "run.yaml").write_text("lipschitz: gp\nseed: 3\n")
    config = RunConfig.resolve(tmp_path / "run.yaml", preset="wgan")
    assert (config.training.lipschitz, config.training.seed, config.preset) == ("clip", 3, "wgan")


def test_naming_other_images_replaces_those_of_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset_name: user/photos\n")
    config = RunConfig.resolve(tmp_path / "run.yaml", train_data_dir="photos")
    assert (config.data.dataset_name, config.data.train_data_dir) == (None, "photos")


def test_one_learning_rate_sets_both_unless_one_is_named():
    config = RunConfig.resolve(learning_rate=1e-3, critic_learning_rate=1e-4).training
    assert (config.generator_learning_rate, config.critic_learning_rate) == (1e-3, 1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_from_python_is_the_preset_of_the_command_line(name):
    ours = RunConfig.resolve(preset=name, train_data_dir="photos").training
    assert TrainingConfig.from_preset(name) == ours


@pytest.mark.parametrize(
    "option, answer",
    [
        ("lipshitz", "did you mean lipschitz?"),
        ("num_epochs", "max_train_steps counts generator updates"),
        ("lr", "lr is called learning_rate here"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_the_right_one(option, answer, tmp_path):
    (tmp_path / "run.yaml").write_text(f"{option}: 3\n")
    for attempt in (
        lambda: RunConfig.resolve(**{option: 3}),
        lambda: RunConfig.resolve(tmp_path / "run.yaml"),
        lambda: OptionParser(*OPTION_CLASSES, hints=HINTS).parse([f"--{option}", "3"]),
    ):
        with pytest.raises(InputError, match=answer.replace("?", r"\?")) as caught:
            attempt()
        assert option in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "3: x\n"])
def test_a_file_that_holds_no_options_is_one_line(content, tmp_path):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(InputError, match="config=") as caught:
        RunConfig.resolve(tmp_path / "run.yaml")
    assert "\n" not in str(caught.value)


SMALL = ["--preset", "wgan-fast", "--architecture", "mlp", "--generator_width", "8", "--critic_width", "8"]
SMALL += ["--max_train_steps", "3", "--logging_steps", "1", "--num_validation_images", "4", "--resolution", "8"]


def test_a_record_of_several_processes_says_what_repeats_it(tmp_path, capsys):
    record = tmp_path / "first" / "training_config.json"
    assert train([*SMALL, "--output_dir", str(record.parent)]) == 0
    for number, is_said in ((1, False), (2, True)):
        content = json.loads(record.read_text())
        content["machine"]["num_processes"] = number
        record.write_text(json.dumps(content))
        capsys.readouterr()
        assert train(["--config", str(record), "--output_dir", str(tmp_path / f"of-{number}")]) == 0
        assert (f"--num_processes {number} repeats it" in capsys.readouterr().err) == is_said


@pytest.mark.parametrize("name, dump", [("run.JSON", json.dumps), ("run.yaml", json.dumps), ("run", yaml.safe_dump)])
def test_a_record_is_read_under_any_name(name, dump, tmp_path):
    options = {**TINY, "max_train_steps": 1, "num_validation_images": 4, "output_dir": tmp_path / "run"}
    assert train([f"--{option}={value}" for option, value in options.items()]) == 0
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / name).write_text(dump(record))
    assert RunConfig.resolve(tmp_path / "copy" / name) == RunConfig.resolve(record)


def test_a_run_is_repeated_bit_for_bit_from_its_own_record(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert train([*SMALL, "--learning_rate", "3e-4", "--output_dir", str(first)]) == 0
    assert train(["--config", str(first / "training_config.json"), "--output_dir", str(second)]) == 0
    for name in ("generator", "critic"):
        digests = [
            hashlib.sha256((run / name / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
            for run in (first, second)
        ]
        assert digests[0] == digests[1]
    records = [json.loads((run / "training_config.json").read_text()) for run in (first, second)]
    assert records[0]["preset"] == records[1]["preset"] == "wgan-fast"
    assert records[0]["training"]["generator_learning_rate"] == 3e-4
