"""Tiny real work that the tests share."""

import atexit
import os
import shutil
import sysconfig
import tempfile
import venv
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks so small gain nothing from more, which wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for a network
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_wgan-tests-")  # nor leave caches behind
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])  # has hf-wgan
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from PIL import Image
from processes import draw_one_pixel

from hf_wgan import DCGANCritic, DCGANGenerator, ImageSet, TrainingConfig


def pytest_addoption(parser):
    parser.addoption("--screenshots", help="Folder for the demo's screenshots, of a trained model given by --model.")
    parser.addoption("--gpu", action="store_true", help="Let the tests see the GPU, for those that need one.")
    parser.addoption("--model", help="The demo's model in a browser, a folder; by default a tiny one, untrained.")


def pytest_configure(config):
    """What a test says of numbers and processes is meant for the CPU, also where there is a GPU."""
    if not config.getoption("--gpu"):
        os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def tiny_generator(**changes):
    torch.manual_seed(0)
    return DCGANGenerator(**{"sample_size": 8, "out_channels": 1, "latent_dim": 4, "width": 8, **changes})


def tiny_critic(**changes):
    torch.manual_seed(1)
    return DCGANCritic(**{"sample_size": 8, "in_channels": 1, "width": 8, **changes})


def tiny_images(num_images=24, channels=1, size=8):
    rng = torch.Generator().manual_seed(2)
    return ImageSet(torch.randint(0, 256, (num_images, channels, size, size), generator=rng, dtype=torch.uint8))


def seeded_rand(seed=1):
    """Called as `torch.rand` is."""
    return partial(torch.rand, generator=torch.Generator().manual_seed(seed))


def pictures(count=3, mode="RGB", size=(8, 8), seed=0):
    """PIL images of noise."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode) for _ in range(count)]


@pytest.fixture(autouse=True)
def as_in_a_new_process():
    """Accelerate keeps its precision for the life of a process, and random numbers would depend on the tests before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    set_seed(0)


@pytest.fixture(autouse=True)
def curves_of_one_pixel(request, monkeypatch):
    """Drawing them takes longer than a small run: the tests of curves, and of commands in new processes, draw them."""
    if request.path.stem not in ("test_curves", "test_docs", "test_run_folder"):
        monkeypatch.setattr("hf_wgan.training.report.plot_runs", draw_one_pixel)


@pytest.fixture
def tiny_config(tmp_path):
    """A factory of configs for runs of a second."""

    def make(**changes):
        small = {"max_train_steps": 4, "train_batch_size": 8, "logging_steps": 1, "n_critic": 2}
        intervals = {"validation_steps": 2, "checkpointing_steps": 2, "num_validation_images": 4}
        return TrainingConfig(**{"output_dir": str(tmp_path / "run"), **small, **intervals, **changes})

    return make


@pytest.fixture
def short_training(monkeypatch):
    """Let networks for features be trained for a moment: how good they are does not matter here."""
    monkeypatch.setattr("hf_wgan.metrics.classifier.MIN_STEPS", 20)
    monkeypatch.setattr("hf_wgan.metrics.contrastive.NUM_STEPS", 20)


@pytest.fixture
def control_groups(tmp_path, monkeypatch):
    """Let this process be in the control groups that a file lists, or in none, whose files hold these contents."""

    def limited(own, contents):
        for name, content in contents.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        if own is not None:
            (tmp_path / "own").write_text(own)
        monkeypatch.setattr("hf_wgan.utils.linux.GROUPS", tmp_path)
        monkeypatch.setattr("hf_wgan.utils.linux.OWN_GROUPS", tmp_path / "own")

    return limited


@pytest.fixture(scope="session")
def python_without_the_package(tmp_path_factory):
    """The interpreter of an environment with all that is installed in this one, but what is only linked into it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    site_packages = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    with open(os.path.join(site_packages, "everything_else.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"
