"""Threads that wait for each other on cores that other programs keep busy."""

import json
import os
import subprocess
import sys

import psutil
import pytest
import torch

from hf_wgan.cli import launch
from hf_wgan.cli.train import train
from hf_wgan.utils import cores

TINY = "--generator_width 8 --critic_width 8 --resolution 8 --train_batch_size 8 --n_critic 1 --max_train_steps 2"
LOOP = [sys.executable, "-c", "while True: pass"]


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(cores.WAIT_POLICY, raising=False)


@pytest.mark.parametrize("others, crowded", [(0.0, False), (0.4, False), (0.6, True), (2.0, True)])
def test_cores_are_crowded_where_a_thread_has_to_share_one(others, crowded, two_threads):
    assert cores.is_crowded(others) == crowded


def test_ones_own_work_is_not_that_of_others(monkeypatch):
    clock = {"monotonic": 0.0, "busy": 0.0, "own": 0.0}
    monkeypatch.setattr(cores.time, "monotonic", lambda: clock["monotonic"])
    monkeypatch.setattr(cores, "busy_seconds", lambda: clock["busy"])
    monkeypatch.setattr(cores, "own_seconds", lambda: clock["own"])
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(cores, "num_cores", lambda: 1)  # of which this process may use one
    others = cores.OtherPrograms()
    clock.update(monotonic=10.0, busy=25.0, own=10.0)
    assert others.cores() == 1.5
    others.restart()
    clock.update(monotonic=20.0, busy=35.0, own=20.0)
    assert others.cores() == 0.0


def test_the_processor_time_of_a_child_is_ones_own():
    before = cores.own_seconds()
    with subprocess.Popen(LOOP) as child:
        try:
            while child.poll() is None and cores.own_seconds() < before + 0.3:
                pass
            process = psutil.Process(child.pid)
            assert cores.own_seconds() >= process.cpu_times().user
        finally:
            child.kill()


def test_a_run_that_is_crowded_starts_again_with_threads_that_sleep(tmp_path):
    number = psutil.cpu_count()
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(2, number))}
    environment.pop(cores.WAIT_POLICY, None)
    words = [
        sys.executable,
        "-X",
        "utf8",
        "-m",
        "hf_wgan",
        "train",
        *TINY.split(),
        "--output_dir",
        str(tmp_path / "a b"),
    ]
    loops = [subprocess.Popen(LOOP) for _ in range(number)]
    try:
        result = subprocess.run(words, env=environment, capture_output=True, text=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("starts again with OMP_WAIT_POLICY=PASSIVE") == 1
    record = json.loads((tmp_path / "a b" / "training_config.json").read_text())
    assert record["command"] == f"hf-wgan train {TINY} --output_dir '{tmp_path}/a b'"


@pytest.mark.parametrize("why", ["called from Python", "the policy is set", "cores are free"])
def test_nothing_starts_again_where_it_would_do_harm_or_not_help(why, two_threads, monkeypatch):
    monkeypatch.setattr(os, "execv", lambda *args: pytest.fail("it starts again"))
    monkeypatch.setattr(launch, "spins", lambda: why != "the policy is set")
    others = type("Others", (), {"cores": lambda self: 0.0 if why == "cores are free" else 2.0})()
    if why != "called from Python":
        monkeypatch.setattr(launch, "is_own_command", lambda: True)
    launch.start_again_if_crowded(others)


def test_a_run_that_becomes_crowded_says_once_what_helps(two_threads, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hf_wgan.training.advice.SECONDS_OF_CORES", 0.0)
    monkeypatch.setattr(cores.OtherPrograms, "cores", lambda self: 2.0)
    assert train([*TINY.split(), "--logging_steps", "1", "--output_dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert said.count("resume with OMP_WAIT_POLICY=PASSIVE") == 1
