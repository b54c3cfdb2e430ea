"""The `hf-wgan` command."""

import json
import sys

import pytest

from hf_wgan.cli.main import COMMANDS, main
from hf_wgan.version import __version__


@pytest.fixture(autouse=True)
def arguments_are_restored(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_the_list_of_commands_names_every_one(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-wgan {__version__}\n"


def test_a_mistyped_command_is_answered_with_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: hf-wgan {name}" in capsys.readouterr().out


def test_training_records_the_command_as_it_was_typed(tmp_path):
    options = "--max_train_steps 1 --train_batch_size 4 --num_validation_images 4 --architecture mlp --resolution 8"
    assert main(["train", *options.split(), "--output_dir", str(tmp_path / "run")]) == 0
    command = json.loads((tmp_path / "run" / "training_config.json").read_text())["command"]
    assert command.startswith("hf-wgan train --max_train_steps 1 ")


@pytest.mark.parametrize("name, option", [("evaluate", "features"), ("generate", "num_images"), ("train", "n_critic")])
def test_the_short_help_of_a_command_has_its_own_options(name, option, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = capsys.readouterr().out
    assert f"--{option} " in said and "--shuffle_buffer_size" not in said and "--help-all" in said
