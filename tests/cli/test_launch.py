import os
import sys

import psutil
import pytest

from hf_wgan.cli import launch


class Launcher:
    def __init__(self, line):
        self.line = line

    def cmdline(self):
        return self.line.split()


@pytest.fixture
def relaunched(monkeypatch, tmp_path):
    """What torchrun would be started with, given the launcher's command line."""

    def make(line, **environment):
        for name in launch.WORLD_SIZES:
            monkeypatch.delenv(name, raising=False)
        settings = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", **environment}
        for name, value in settings.items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(launch, "default_config_file", str(tmp_path / "config.yaml"))
        monkeypatch.setattr(psutil.Process, "parent", lambda self: Launcher(line))
        monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "1"])
        started = []
        monkeypatch.setattr(launch.os, "execv", lambda path, command: started.append(command))
        monkeypatch.setattr(os, "environ", os.environ.copy())  # which it changes for the process that it becomes
        monkeypatch.delenv("PET_SIGNALS_TO_HANDLE", raising=False)
        launch.relaunch_on_cpus()
        return " ".join(started[0][1:]) if started else None

    return make


TORCHRUN = "-m torch.distributed.run"


@pytest.mark.parametrize("program", ["/bin/accelerate launch", "accelerate-launch", "-m accelerate.commands.launch"])
def test_several_cpu_processes_are_started_by_torchrun(program, relaunched):
    command = relaunched(f"python {program} --cpu --num_processes 2 train.py --seed 1")
    assert command == f"{TORCHRUN} --nproc_per_node 2 --master_port 29500 train.py --seed 1"


def test_torchrun_passes_slurms_signal_on(relaunched):
    from torch.distributed.run import get_args_parser

    relaunched("accelerate launch --cpu --num_processes 2 train.py")
    assert "SIGUSR1" in get_args_parser().parse_args(["train.py"]).signals_to_handle


def test_several_machines_find_each_other(relaunched):
    line = "python accelerate launch --cpu --num_processes 4 --num_machines 2 --machine_rank 1"
    line += " --main_process_ip 10.0.0.1 --main_process_port 1234 train.py"
    command = relaunched(line, MASTER_ADDR="10.0.0.1", MASTER_PORT="1234")
    assert command.startswith(
        f"{TORCHRUN} --nproc_per_node 2 --nnodes 2 --node_rank 1 --master_addr 10.0.0.1 --master_port 1234 train.py"
    )


def test_the_configuration_file_counts_as_it_does_for_accelerate(relaunched, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 3\nuse_cpu: true\n"
        "machine_rank: 0\nnum_machines: 1\n"
    )
    assert "--nproc_per_node 3" in relaunched("python accelerate launch train.py")
    assert relaunched("python accelerate launch --cpu train.py") is None
    named = f"python accelerate launch --cpu --config_file {tmp_path / 'config.yaml'} train.py"
    assert "--nproc_per_node 3" in relaunched(named)


@pytest.mark.parametrize(
    "line, environment",
    [
        ("python accelerate launch --cpu train.py", {"MASTER_ADDR": ""}),
        ("python accelerate launch --num_processes 2 train.py", {"ACCELERATE_USE_CPU": "False"}),
        ("python accelerate launch --cpu --num_processes 2 train.py", {"WORLD_SIZE": "2"}),
        ("python accelerate launch --cpu --num_processes 2 train.py", {"OMPI_COMM_WORLD_SIZE": "2"}),
        ("bash job.sh", {}),
    ],
)
def test_everything_else_is_left_alone(line, environment, relaunched):
    assert relaunched(line, **environment) is None


@pytest.mark.parametrize(
    "launcher, command",
    [
        ("bash job.sh", "python train.py --seed 1 --name 'my run'"),
        (
            "python accelerate launch --num_processes 2 train.py --hub_token hf_x --seed 1",
            "accelerate launch --num_processes 2 train.py --seed 1",
        ),
        ("/bin/uv run --with . train.py --hub_token hf_x --seed 1", "uv run --with . train.py --seed 1"),
    ],
)
def test_the_command_is_recorded_with_its_launcher_and_without_its_token(launcher, command, monkeypatch):
    arguments = ["train.py", "--hub_token", "hf_x", "--seed", "1", "--hub_token=hf_x", "--name", "my run"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(psutil.Process, "parents", lambda self: [Launcher("python -m torchrun"), Launcher(launcher)])
    assert launch.command_line() == command
