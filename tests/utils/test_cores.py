"""Threads that wait for each other on cores that other programs keep busy."""

import json
import math
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


GROUPS = {
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "Docker's --cpus=1.5": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "below a limit": (
        "0::/pods/one\n",
        {"pods/cpu.max": "200000 100000", "pods/one/cpu.max": "max 100000", "cpu.max": "400000 100000"},
        2.0,
    ),
    "a group that the container does not see": ("0::/system/docker-1\n", {"cpu.max": "50000 100000"}, 0.5),
    "version 1": (
        "3:memory:/x\n4:cpu,cpuacct:/x\n",
        {"cpu/x/cpu.cfs_quota_us": "300000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
        3.0,
    ),
    "version 1 without a limit": (
        "4:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "no groups": (None, {}, None),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_the_cores_of_a_container_are_those_that_it_is_granted(kind, control_groups, monkeypatch):
    own, files, expected = GROUPS[kind]
    control_groups(own, files)
    assert cores.quota() == (math.inf if expected is None else expected)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert cores.num_cores() == (64 if expected is None else max(1, int(expected)))


@pytest.mark.parametrize("is_set", [False, True])
def test_a_run_in_a_container_has_as_many_threads_as_it_is_granted_cores(is_set, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(launch, "num_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if is_set:
        monkeypatch.setenv("OMP_NUM_THREADS", "64")
    launch.choose(launch.LaunchOptions())
    assert threads == ([] if is_set else [2])
