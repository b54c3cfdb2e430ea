"""What the record of a model says about images: followed where it was written here, shown and asked for elsewhere."""

import json
import os
import shutil

import pytest
from conftest import pictures

from hf_wgan import WGANPipeline
from hf_wgan.cli import common
from hf_wgan.cli.evaluate import evaluate
from hf_wgan.cli.generate import generate
from hf_wgan.cli.train import train
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

    def make(**options):
        folder = shutil.copytree(trained / "run", tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint*"))
        record = json.loads((folder / files.CONFIG).read_text())
        record["dataset"]["config"] |= options
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
    model = strangers(train_data_dir=None, max_train_samples=40, cache_dir=str(tmp_path / "autostart"))
    config = common.training_data_of(str(model), WGANPipeline.from_pretrained(model), {})
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


def test_options_that_this_version_does_not_know_are_left_out(strangers, tmp_path):
    model = strangers(train_data_dir=None, new_option=5)
    common.training_data_of(str(model), WGANPipeline.from_pretrained(model), {})


def test_a_record_behind_a_link_is_not_read(trained, strangers, tmp_path, capsys):
    model = strangers()
    (model / files.CONFIG).unlink()
    os.symlink(trained / "run" / files.CONFIG, model / files.CONFIG)
    assert generate([str(model), "--num_neighbours", "1", "--output_dir", str(tmp_path / "out")]) == 2
    assert "does not say what it was trained on" in capsys.readouterr().err
