"""The package as a stranger has it: a wheel, an empty folder, and the `hf-wgan` command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import hub

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Install the wheel, and nothing else, into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, timeout=300)
    (file,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", file], check=True, timeout=300)
    return folder / "site"


@pytest.fixture(scope="module")
def server():
    with hub() as server:
        yield server


@pytest.fixture(scope="module")
def run(wheel, server, tmp_path_factory):
    """Run a command in a folder that was empty at first; return what it prints."""
    folder = tmp_path_factory.mktemp("empty")
    path = os.pathsep.join([str(wheel / "bin"), os.environ["PATH"]])
    environment = {**os.environ, **server.environment(), "PYTHONPATH": str(wheel), "PATH": path, "HF_TOKEN": "hf_me"}

    def run(command, **options):
        result = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment | options.pop("env", {}),
            capture_output=True,
            text=True,
            timeout=400,
            **options,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        return result.stdout + result.stderr

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def trained(run):
    run("hf-wgan train --max_train_steps 50")
    return run.folder / "wgan-digits"


def test_the_command_is_the_wheels(run, wheel):
    where = run(f'{sys.executable} -c "import hf_wgan; print(hf_wgan.__file__)"').strip()
    assert Path(where).parent == wheel / "hf_wgan"
    assert Path(shutil.which("hf-wgan", path=wheel / "bin")).is_file()
    assert run("hf-wgan --version").startswith("hf-wgan ")
    assert re.findall(r"^  (\S+) ", run("hf-wgan --help"), re.MULTILINE)


def test_a_run_leaves_a_pipeline_with_a_card(trained):
    assert (trained / "model_index.json").is_file() and (trained / "samples").is_dir()
    assert "hf-wgan train --max_train_steps 50" in (trained / "README.md").read_text()


@pytest.mark.parametrize(
    "command, file",
    [
        ("hf-wgan generate wgan-digits --num_images 4", "generated/grid.png"),
        ("hf-wgan evaluate wgan-digits --num_images 200 --features pixels", "wgan-digits/evaluation.json"),
        ("hf-wgan export wgan-digits --format onnx --output digits.onnx", "digits.onnx"),
        ("hf-wgan push wgan-digits --hub_model_id me/digits", "wgan-digits/README.md"),
        ("hf-wgan generate me/digits --num_images 4 --output_dir from-the-hub", "from-the-hub/grid.png"),
        ("hf-wgan space me/digits --hub_space_id me/digits-demo", "wgan-digits/README.md"),
    ],
)
def test_commands_work_from_the_wheel(command, file, run, trained):
    run(command)
    assert (run.folder / file).is_file()


def test_a_repeated_run_has_the_same_weights(run, trained):
    run("hf-wgan train --config wgan-digits/training_config.json --output_dir repeated")
    weights = [
        folder / "generator" / "diffusion_pytorch_model.safetensors" for folder in (trained, run.folder / "repeated")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
