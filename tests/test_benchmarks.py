"""Every benchmark starts, and nothing reaches into the trainer."""

import ast
import importlib
import math
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_wgan.algorithm.lipschitz import CONSTRAINTS
from hf_wgan.models.factory import ARCHITECTURES
from hf_wgan.utils.errors import DeviceMemoryError

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted(path for path in (ROOT / "benchmarks").rglob("*.py") if "__main__" in path.read_text())


@pytest.fixture
def import_benchmark(monkeypatch):
    """A function that imports a benchmark, for the time of a test: those in two folders have modules of one name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    modules = dict(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - set(modules):
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_shows_its_options(path, import_benchmark, monkeypatch, capsys):
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code in (0, None)
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lipschitz", CONSTRAINTS)
def test_the_checks_of_a_gpu_build_their_trainers(architecture, lipschitz, import_benchmark):
    trainer = import_benchmark("gpu").trainer(architecture, lipschitz=lipschitz)
    assert torch.stack(trainer.step()).isfinite().all()


def test_a_check_of_a_gpu_that_does_not_exist_is_named(import_benchmark, capsys):
    assert import_benchmark("gpu").main(SimpleNamespace(run=None, only="typo")) == 2
    assert "--only typo: must be some of environment, " in capsys.readouterr().err


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, DeviceMemoryError])
def test_a_check_for_which_a_gpu_has_too_little_memory_is_left_out(error, import_benchmark):
    def check():
        raise error("too little")

    assert import_benchmark("gpu").judged("a check", check).status == "skip"


def test_what_a_check_of_a_gpu_found_before_its_time_was_up_is_kept(import_benchmark, monkeypatch, tmp_path):
    gpu = import_benchmark("gpu")

    def run(words, timeout, **options):
        raise subprocess.TimeoutExpired(words, timeout, output=b'@["pass", "clip", "equal"]\n')

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert [(row.status, row.name) for row in gpu.process("graphs", tmp_path)] == [("pass", "clip"), ("fail", "graphs")]


@pytest.mark.parametrize(
    ("is_recorded", "failure", "flaw"),
    [(True, "", ""), (True, "a branch", "without branches: a branch"), (False, "both", "not recorded: both")],
)
def test_iterations_that_are_not_recorded_with_branches_fail_a_check_of_a_gpu(
    is_recorded, failure, flaw, import_benchmark
):
    gpu = import_benchmark("gpu")
    run = gpu.trainer(graphed=True)
    run.iteration.failure = failure
    if is_recorded:
        gpu.steps(run, 4)
    assert gpu.flaw_of_graphs(run).endswith(flaw) and bool(gpu.flaw_of_graphs(run)) == bool(flaw)


@pytest.mark.parametrize("architecture", ["dcgan", "resnet", "r3gan"])
def test_the_plain_loop_has_the_same_networks(architecture, import_benchmark):
    speed = import_benchmark("speed")
    setting = speed.Setting(architecture, 32, 1, 8, "gp")
    images = torch.randint(0, 256, (80, 1, 32, 32), dtype=torch.uint8)
    plain, networks = speed.PlainLoop(images, setting, torch.device("cpu")), setting.networks()
    latents = torch.randn(4, speed.LATENT_DIM)
    with torch.no_grad():
        samples, plain_samples = networks[0](latents), plain.generator(latents)
        scores, plain_scores = networks[1](samples), plain.critic(samples)
    assert torch.allclose(samples, plain_samples, atol=1e-5) and torch.allclose(scores, plain_scores, atol=1e-4)
    plain.iterate(n_critic=1)
    assert all(map(math.isfinite, plain.losses)) and plain.losses


def test_the_plain_loop_of_the_paper_is_measured(import_benchmark, monkeypatch):
    module, judged = import_benchmark("time_to_quality"), []
    monkeypatch.setattr(module, "critic_steps", lambda *args, **options: 1)
    judge = SimpleNamespace(count=500, distance=lambda samples: judged.append(samples.shape) or 1.0)
    images = torch.randint(0, 256, (80, 1, 32, 32), dtype=torch.uint8)
    outcome, samples = module.reference(images, 0.01, judge)
    assert outcome["steps"] >= 1 and judged == [samples.shape] == [(500, 1, 32, 32)]


def private_names(folder):
    """Return the names with a leading underscore that the files of a folder define."""
    names = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.name if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                name = node.attr
            if name and name.startswith("_") and not name.startswith("__"):
                names.add(name)
    return names


def test_tests_and_benchmarks_use_the_public_names_of_training():
    private = private_names(ROOT / "hf_wgan" / "training")
    assert {"_after_step", "_output", "_WithLabels"} <= private
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in private:
                owner = node.value.id if isinstance(node.value, ast.Name) else None
                assert owner in ("self", "cls"), f"{path.name}:{node.lineno} uses {node.attr}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_wgan.training"):
                assert not any(alias.name.startswith("_") for alias in node.names), f"{path.name}:{node.lineno}"
