"""Damaged folders, missing files and empty names: one line that names what is wrong."""

import shutil
import signal
import subprocess
import sys

import pytest
from conftest import tiny_critic, tiny_generator, tiny_images

from hf_wgan import TrainingConfig, WGANTrainer
from hf_wgan.cli.convert import convert
from hf_wgan.cli.generate import generate
from hf_wgan.cli.plot import plot
from hf_wgan.cli.publish import push


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    config = TrainingConfig(max_train_steps=2, train_batch_size=8, logging_steps=1, output_dir=str(folder))
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config).train()
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.mark.parametrize("file", ["training_config.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b'{"training": {\n', b"[]\n", b"{}\n", b"5\n", b'{"step": "x"}\n', b"\xff\xfe\n"])
def test_curves_of_a_damaged_run_are_one_line(file, content, run, tmp_path, capsys):
    rest = (run / file).read_bytes() if file == "metrics.jsonl" else b""
    (run / file).write_bytes(content + rest)
    assert plot([str(run), "--output", str(tmp_path / "curves.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run / file}: ") and "is damaged" in line
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_damaged_pipeline_is_named_and_not_pushed(content, run, capsys):
    (run / "model_index.json").write_text(content)
    assert push([str(run), "--hub_model_id", "me/model"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run / 'model_index.json'}: is damaged" in line and "completes the push" not in line


def test_a_folder_whose_network_is_damaged_is_called_a_folder(run, tmp_path, capsys):
    (run / "generator" / "config.json").write_text("")
    assert generate([str(run), "--output_dir", str(tmp_path / "images")]) == 2
    said = capsys.readouterr().err
    assert f"'{run}': the pipeline in it cannot be loaded (" in said and "Hub" not in said


def test_missing_files_and_empty_names_are_named(tmp_path, capsys):
    for command, words, message in (
        (generate, [""], "model='': must not be empty"),
        (convert, [str(tmp_path / "none.pth")], f"{tmp_path / 'none.pth'}: there is no such file"),
    ):
        assert command([*words, "--output_dir", str(tmp_path / "new")]) == 2
        assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named_as_it_was_typed(run, capsys):
    assert plot([str(run), "--output", "/proc/curves.png"]) == 1
    assert "'/proc/curves.png'" in capsys.readouterr().err


CTRL_C = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "diffusers":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets programs in the background ignore it
sys.meta_path.insert(0, Finder())
sys.argv = ["PROGRAM", "generate", "none"]
import hf_wgan
"""


@pytest.mark.parametrize("program, is_own", [("/usr/bin/hf-wgan", True), ("my_script.py", False)])
def test_ctrl_c_while_a_command_imports_is_one_line(program, is_own):
    ended = subprocess.run([sys.executable, "-c", CTRL_C.replace("PROGRAM", program)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGINT, "130 for a shell"
    assert (ended.stderr == "Stopped at once.\n") == is_own
    assert ("Traceback" in ended.stderr) != is_own
