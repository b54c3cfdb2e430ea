"""What the record of a model says about images: followed where it was written here, shown and asked for elsewhere."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
from conftest import pictures, tiny_critic, tiny_generator
from datasets import Dataset
from hub_server import hub
from huggingface_hub import ModelCard
from PIL import Image

from hf_wgan import WGANPipeline, WGANTrainer
from hf_wgan.cli import common
from hf_wgan.cli.evaluate import evaluate
from hf_wgan.cli.generate import generate
from hf_wgan.cli.publish import push
from hf_wgan.cli.train import train
from hf_wgan.data import DataConfig, images_of
from hf_wgan.data.config import DIGITS
from hf_wgan.utils import files

TINY = "--generator_width 8 --critic_width 8 --resolution 8 --train_batch_size 4 --n_critic 1 --max_train_steps 1"
COMMANDS = {
    "generate": (generate, ["--num_images", "2", "--num_neighbours", "1", "--output_dir"]),
    "evaluate": (evaluate, ["--features", "pixels", "--num_images", "16", "--cache_dir"]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a local folder of pictures."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "photos").mkdir()
    for number, picture in enumerate(pictures(20, mode="L")):
        picture.save(folder / "photos" / f"{number:02d}.png")
    options = ["--train_data_dir", str(folder / "photos"), "--cache_dir", str(folder / "cache"), "--random_flip"]
    assert train([*TINY.split(), *options, "--output_dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def strangers(trained, tmp_path):
    """Returns a function that makes the model of a stranger, whose record names these data options."""

    def make(dataset="photos", **options):
        folder = shutil.copytree(trained / "run", tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint*"))
        record = json.loads((folder / files.CONFIG).read_text())
        record["dataset"] |= {"name": dataset, "config": record["dataset"]["config"] | options}
        (folder / files.CONFIG).write_text(json.dumps(record))
        return folder

    return make


@pytest.mark.parametrize("name", COMMANDS)
def test_the_images_of_a_run_of_ones_own_are_found_by_themselves(name, trained, tmp_path):
    command, options = COMMANDS[name]
    moved = shutil.copytree(trained / "run", tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoint*"))
    assert command([str(moved), *options, str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_the_images_that_a_strangers_model_names_are_shown_and_not_read(
    name, trained, strangers, tmp_path, monkeypatch, capsys
):
    command, options = COMMANDS[name]
    private = str(trained / "photos")
    model = strangers(cache_dir=str(tmp_path / "autostart"), label_column="a\x1b[31m b")
    with monkeypatch.context() as patch:
        patch.setattr("hf_wgan.data.load_image_set", lambda config: pytest.fail("images are read"))
        assert command([str(model), *options, str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "was not trained here" in error and "\x1b" not in error
    assert error.rstrip().endswith(
        f"add: --train_data_dir {private} --label_column 'a\N{REPLACEMENT CHARACTER}[31m b' --random_flip"
    )
    assert command([str(model), *options, str(tmp_path / "out2"), "--train_data_dir", private]) == 0
    assert not (tmp_path / "autostart").exists()


def test_a_strangers_model_of_the_embedded_digits_reads_no_file_and_writes_nowhere(strangers, tmp_path):
    model = strangers(DIGITS, train_data_dir=None, max_train_samples=40, cache_dir=str(tmp_path / "autostart"))
    config = common.training_data_of(str(model), common.record_of(str(model)), WGANPipeline.from_pretrained(model), {})
    assert (config.max_train_samples, config.cache_dir) == (40, None)


RECORDS = {
    "not JSON": "{",
    "a list": "[]",
    "no dataset": '{"dataset": 5}',
    "a list of options": '{"dataset": {"config": [1]}}',
    "a wrong type": '{"dataset": {"config": {"max_train_samples": "5"}}}',
    "a wrong value": '{"dataset": {"config": {"on_bad_image": "explode"}}}',
    "a wrong combination": '{"dataset": {"config": {"streaming": true}}}',
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_makes_no_sense_is_one_line(kind, strangers, capsys, tmp_path):
    model = strangers()
    (model / files.CONFIG).write_text(RECORDS[kind])
    assert generate([str(model), "--num_neighbours", "1", "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "record that cannot be used" in error and "name the images with" in error


@pytest.mark.parametrize("kind", ["a list", "no dataset"])
def test_figures_are_not_written_into_a_record_that_makes_no_sense(kind, trained, strangers, capsys):
    model = strangers()
    (model / files.CONFIG).write_text(RECORDS[kind])
    assert evaluate([str(model), "--features", "pixels", "--train_data_dir", str(trained / "photos")]) == 2
    output = capsys.readouterr()
    assert "frechet_distance" in json.loads(output.out)["metrics"]
    assert output.err.splitlines()[-1].endswith("is damaged: it is not what a run records; remove or correct it")


def test_options_that_this_version_does_not_know_are_left_out(strangers, tmp_path):
    model = strangers(DIGITS, train_data_dir=None, new_option=5)
    common.training_data_of(str(model), common.record_of(str(model)), WGANPipeline.from_pretrained(model), {})


def test_a_record_behind_a_link_is_not_read(trained, strangers, tmp_path, capsys):
    model = strangers()
    (model / files.CONFIG).unlink()
    os.symlink(trained / "run" / files.CONFIG, model / files.CONFIG)
    assert generate([str(model), "--num_neighbours", "1", "--output_dir", str(tmp_path / "out")]) == 2
    assert "does not say what it was trained on" in capsys.readouterr().err


def pictures_in(folder, mode, **options):
    folder.mkdir()
    for number, picture in enumerate(pictures(mode=mode, **options)):
        picture.save(folder / f"{number:02d}.png")
    return str(folder)


def measured(capsys, model, *options):
    capsys.readouterr()
    assert evaluate([str(model), "--features", "pixels", "--num_images", "16", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_precision_that_faded_images_have_too_is_said_to_mean_little(trained, monkeypatch, capsys):
    options = [str(trained / "run"), "--features", "pixels", "--num_images", "16"]
    for limit, lines in ((-0.1, 1), (1.0, 0)):
        monkeypatch.setattr("hf_wgan.cli.evaluate.HIGH_PRECISION", limit)
        assert evaluate(options) == 0
        said = capsys.readouterr().err
        assert said.count("The precision says little here: images faded to a tenth of their contrast have") == lines


def test_figures_of_other_images_are_not_called_those_of_training_images(trained, tmp_path, capsys):
    model = shutil.copytree(trained / "run", tmp_path / "model")
    others = pictures_in(tmp_path / "others", "L", count=20, seed=1)
    own = measured(capsys, model)
    other = measured(capsys, model, "--train_data_dir", others)
    assert own["settings"]["compared_with"] == "training images of photos" and "copied_share" in own["metrics"]
    assert other["settings"]["compared_with"] == "images of others"
    assert not {"copied_share", "critic_estimate"} & other["metrics"].keys()
    assert "critic_estimate_held_out" in other["metrics"]
    measures = ModelCard.load(model / "README.md").data.eval_results
    results = [result for result in measures if result.metric_type == "frechet_distance"]
    distances = {result.dataset_name.split()[0]: result.metric_value for result in results}
    assert distances == {
        name: round(report["metrics"]["frechet_distance"], 4) for name, report in (("photos", own), ("others", other))
    }
    moved = shutil.copytree(trained / "photos", tmp_path / "moved")
    assert measured(capsys, model, "--train_data_dir", str(moved))["settings"]["compared_with"].startswith("training")


def test_a_part_of_the_training_images_is_theirs_and_folders_of_one_name_are_two(trained, tmp_path, capsys):
    model = shutil.copytree(trained / "run", tmp_path / "model")
    part = measured(capsys, model, "--max_train_samples", "16")
    assert part["settings"]["compared_with"].startswith("training") and "copied_share" in part["metrics"]
    for name in "ab":
        (tmp_path / name).mkdir()
        others = pictures_in(tmp_path / name / "photos", "L", count=20, seed=ord(name))
        assert measured(capsys, model, "--train_data_dir", others)["settings"]["compared_with"] == "images of photos"
    results = ModelCard.load(model / "README.md").data.eval_results
    assert len({result.dataset_name for result in results if result.metric_type == "frechet_distance"}) == 3


SPLITS = {
    ("train", "train[:50%]"): True,
    ("train+test", "test[10:]"): True,
    ("train[:50%]", "train[:25%]"): False,  # which nothing but the images tells
    ("train", "test"): False,
    ("train", "train+test"): False,
}


@pytest.mark.parametrize(("before", "now"), SPLITS)
def test_parts_of_the_training_split_are_of_the_training_images(before, now, strangers):
    record = json.loads((strangers() / files.CONFIG).read_text())
    record["dataset"]["config"] |= {"dataset_split": before}
    config = DataConfig(train_data_dir=record["dataset"]["config"]["train_data_dir"], dataset_split=now)
    images = SimpleNamespace(fingerprint="another", config=config)
    assert common.is_trained_on(json.dumps(record), images) is SPLITS[before, now]


def test_images_that_are_named_are_prepared_as_those_of_the_run(tmp_path, capsys):
    photos = pictures_in(tmp_path / "photos", "RGBA", count=20)
    for number, path in enumerate(sorted((tmp_path / "photos").iterdir())):
        with Image.open(path) as picture:
            picture.putalpha(10 * number)
        picture.save(path)
    options = ["--channels", "3", "--background", "black"]
    assert train([*TINY.split(), "--train_data_dir", photos, *options, "--output_dir", str(tmp_path / "run")]) == 0
    own = measured(capsys, tmp_path / "run")
    assert measured(capsys, tmp_path / "run", "--train_data_dir", photos) == own
    white = measured(capsys, tmp_path / "run", "--train_data_dir", photos, "--background", "white")
    assert white["settings"]["compared_with"] == "images of photos"


def test_the_record_of_a_model_on_the_hub_is_followed_as_far_as_how_images_are_prepared(tmp_path, capsys):
    photos = pictures_in(tmp_path / "photos", "RGBA", count=20)
    options = ["--channels", "3", "--background", "black", "--train_data_dir", photos]
    assert train([*TINY.split(), *options, "--output_dir", str(tmp_path / "run")]) == 0
    own = measured(capsys, tmp_path / "run")
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        assert push([str(tmp_path / "run"), "--hub_model_id", "me/model"]) == 0
        assert measured(capsys, "me/model", "--train_data_dir", photos) == own
        other = measured(capsys, "me/model", "--train_data_dir", photos, "--background", "white")
        assert other["settings"]["compared_with"] == "images of photos"
        assert evaluate(["me/model"]) == 2
        assert "was not trained here" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["missing", "of images of Python"])
def test_without_a_record_nothing_is_called_the_training_images(record, trained, strangers, capsys):
    model = strangers()
    written = json.loads((model / files.CONFIG).read_text())
    written["dataset"] |= {"config": None, "fingerprint": "of a tensor"}
    (model / files.CONFIG).unlink()
    if record != "missing":
        (model / files.CONFIG).write_text(json.dumps(written))
    assert evaluate([str(model), "--features", "pixels", "--train_data_dir", str(trained / "photos")]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result["settings"]["compared_with"] == "images of photos" and "copied_share" not in result["metrics"]
    assert "has no record of what it was trained on" in output.err


def test_too_few_images_are_named_before_features_are_trained(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hf_wgan.metrics.features.load_feature_extractor", lambda *args: pytest.fail("too late"))
    few = pictures_in(tmp_path / "few", "L", count=3)
    assert evaluate([str(trained / "run"), "--train_data_dir", few]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.endswith("few has 3 images, and an evaluation needs 16; use more")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_model_of_a_dataset_in_python_is_not_compared_with_the_digits(name, tiny_config, tmp_path, capsys):
    images = images_of(Dataset.from_dict({"image": pictures(24, "L")}), DataConfig(resolution=8))
    WGANTrainer(tiny_generator(), tiny_critic(), images, tiny_config()).train()
    command, options = COMMANDS[name]
    assert command([str(tmp_path / "run"), *options, str(tmp_path / "out")]) == 2
    assert "was trained on a dataset in Python; name the images with --dataset_name" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_record_of_digits_may_have_options_that_act_on_no_digit(name, tmp_path):
    """As records of earlier versions have."""
    command, options = COMMANDS[name]
    assert train([*TINY.split(), "--output_dir", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / files.CONFIG).read_text())
    record["dataset"]["config"] |= {"background": "black", "center_crop": False}
    (tmp_path / "run" / files.CONFIG).write_text(json.dumps(record))
    assert command([str(tmp_path / "run"), *options, str(tmp_path / "out")]) == 0
