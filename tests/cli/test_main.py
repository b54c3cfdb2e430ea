"""The `hf-wgan` command."""

import contextlib
import io
import json
import re
import sys

import pytest

from hf_wgan.cli.common import command
from hf_wgan.cli.main import COMMANDS, main
from hf_wgan.utils.hints import POSITIONAL
from hf_wgan.version import __version__

WITHOUT_MODEL = ("train", "train-classifier")


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


@pytest.mark.parametrize("name", COMMANDS)
def test_the_console_of_windows_shows_the_help_of_every_command(name, monkeypatch):
    """Its encoding lacks the ellipsis and the times sign."""
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp437")
    monkeypatch.setattr(sys, "stdout", console)
    for option in ("--help", "--help-all"):  # of which some commands have the first only
        with contextlib.suppress(SystemExit):
            main([name, option])
    console.flush()
    assert f"usage: hf-wgan {name}" in console.buffer.getvalue().decode("cp437")


def test_a_name_that_the_console_lacks_is_no_error(tmp_path, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp437", errors="strict")
    monkeypatch.setattr(sys, "stdout", console)
    assert command(lambda args: print("写真×\udcff") or 0)([]) == 0
    console.flush()
    assert console.buffer.getvalue().decode("cp437").rstrip() == "????"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_argument_without_a_name_that_is_typed_as_an_option_is_answered_with_what_to_write(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    usage = capsys.readouterr().out.splitlines()[0].split()
    for here in sorted(POSITIONAL.keys() & set(usage)):
        for other in (here, *POSITIONAL[here]):
            assert main([name, f"--{other}", "wgan-digits"]) == 2
            said = capsys.readouterr().err
            assert f"{here} is no option; leave --{other} out, and write {here.upper()} alone" in said, (name, other)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "plot"])  # which takes any number of runs
def test_a_word_too_many_is_answered_with_the_option_that_names_the_output(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    printed = capsys.readouterr().out
    outputs = re.findall(r"^  --(output|output_dir) ", printed, re.MULTILINE)
    assert main([name, "wgan-digits", "digits.onnx"]) == 2
    said = capsys.readouterr().err
    hints = [f"--{output} names what is written" for output in outputs if name not in WITHOUT_MODEL]
    assert "unrecognized arguments: " in said and all(hint in said for hint in hints)


def test_training_records_the_command_as_it_was_typed(tmp_path):
    options = "--max_train_steps 1 --train_batch_size 4 --num_validation_images 4 --architecture mlp --resolution 8"
    assert main(["train", *options.split(), "--output_dir", str(tmp_path / "run")]) == 0
    command = json.loads((tmp_path / "run" / "training_config.json").read_text())["command"]
    assert command.startswith("hf-wgan train --max_train_steps 1 ")


@pytest.mark.parametrize(
    "name, option", [("evaluate", "features"), ("generate", "num_images"), ("train", "max_train_steps")]
)
def test_the_short_help_of_a_command_has_its_own_options(name, option, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = capsys.readouterr().out
    assert f"--{option} " in said and "--shuffle_buffer_size" not in said and "--help-all" in said
