import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from torch.distributed.launcher.api import LaunchConfig

from hf_wgan import InputError
from hf_wgan.cli import launch
from hf_wgan.cli.launch import LaunchOptions
from hf_wgan.cli.train import train
from hf_wgan.utils.console import is_first_process
from hf_wgan.utils.files import checkpoints
from hf_wgan.utils.launcher import NUMBERS, OF_LAUNCHERS

TINY = "--generator_width 8 --critic_width 8 --resolution 8 --train_batch_size 8 --n_critic 1 --num_validation_images 4"


class Launcher:
    def __init__(self, line):
        self.line = line

    def cmdline(self):
        return self.line.split()


@pytest.fixture
def agent(monkeypatch, tmp_path):
    """Replace torchrun's agent; hold what it would start."""
    started = []

    def elastic_launch(config: LaunchConfig, program):
        return lambda *arguments: started.append((config, [program, *arguments]))

    monkeypatch.setattr(os, "environ", os.environ.copy())
    set_by_launchers = (launch.COMMAND, launch.STARTED_BY_ACCELERATE, "OMP_NUM_THREADS", "ACCELERATE_USE_CPU")
    for name in (*NUMBERS["size"], *set_by_launchers):
        os.environ.pop(name, None)
    monkeypatch.setattr(launch, "default_config_file", str(tmp_path / "default.yaml"))
    monkeypatch.setattr(launch, "elastic_launch", elastic_launch)
    monkeypatch.setattr(launch.logging, "disable", lambda level: None)
    monkeypatch.setattr(launch, "num_cores", lambda: 8)
    monkeypatch.setattr(sys, "argv", ["hf-wgan train", "--seed", "1"])
    return started


@pytest.fixture
def beside_accelerate(agent, monkeypatch):
    """Start as a process of `accelerate launch` does; return what is started beside it."""

    def start(line, **environment):
        settings = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        for name, value in (settings | {launch.STARTED_BY_ACCELERATE: "no"} | environment).items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(psutil.Process, "parent", lambda self: Launcher(line))
        monkeypatch.setattr(psutil.Process, "parents", lambda self: [Launcher(line)])
        monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "1"])
        code = launch.start(LaunchOptions())
        assert code == (0 if agent else None)
        return agent[-1] if agent else None

    return start


def settings(num_processes, **others):
    values = {"distributed_type": "MULTI_CPU", "use_cpu": "true", "machine_rank": 0, "num_machines": 1, **others}
    lines = [f"{name}: {value}" for name, value in (values | {"num_processes": num_processes}).items()]
    return "\n".join(["compute_environment: LOCAL_MACHINE", *lines])


@pytest.mark.parametrize("options", [{}, {"cpu": True}, {"num_processes": 1}, {"num_cpu_threads_per_process": 1}])
def test_one_process_on_a_cpu_is_this_one(options, agent):
    assert launch.start(LaunchOptions(**options)) is None
    assert not agent
    assert ("ACCELERATE_USE_CPU" in os.environ) == bool(options.get("cpu"))


@pytest.mark.parametrize("number", [2, 4])
def test_the_processes_share_the_cores_and_know_the_command(number, agent):
    assert launch.start(LaunchOptions(num_processes=number)) == 0
    ((config, words),) = agent
    assert config.nproc_per_node == number and config.max_nodes == 1 and config.rdzv_backend == "c10d"
    assert words[1:] == ["-u", "-m", "hf_wgan.cli.train", "--seed", "1"]
    assert os.environ["OMP_NUM_THREADS"] == str(8 // number)
    assert os.environ["ACCELERATE_USE_CPU"] == "true"
    assert launch.command_line() == "hf-wgan train --seed 1"
    assert "SIGUSR1" in config.signals_to_handle
    assert config.shutdown_timeout == launch.SECONDS_TO_SAVE


def test_an_explicit_number_of_threads_overrides_the_environment(agent):
    os.environ["OMP_NUM_THREADS"] = "1"
    threads = torch.get_num_threads()
    try:
        launch.start(LaunchOptions(num_processes=2, num_cpu_threads_per_process=3))
    finally:
        torch.set_num_threads(threads)
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_process_that_has_been_started_starts_no_others(agent, monkeypatch):
    launch.start(LaunchOptions(num_processes=2))
    assert launch.start(LaunchOptions(num_processes=2)) is None, "its own command line says the same"
    monkeypatch.delenv(launch.COMMAND)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.start(LaunchOptions()) is None
    with pytest.raises(InputError, match="num_processes=2: the processes have been started already"):
        launch.start(LaunchOptions(num_processes=2))
    assert len(agent) == 1


@pytest.mark.parametrize("num_gpus, options, processes", [(1, {}, None), (4, {}, 4), (4, {"num_processes": 2}, 2)])
def test_every_gpu_gets_a_process(num_gpus, options, processes, agent, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert launch.start(LaunchOptions(**options)) == (None if processes is None else 0)
    assert [config.nproc_per_node for config, _ in agent] == ([processes] if processes else [])
    assert "ACCELERATE_USE_CPU" not in os.environ


def test_the_configuration_file_fills_what_the_options_leave_open(agent, tmp_path):
    (tmp_path / "default.yaml").write_text(settings(3))
    (tmp_path / "named.yaml").write_text(settings(5))
    launch.start(LaunchOptions())
    os.environ.pop(launch.COMMAND)
    launch.start(LaunchOptions(config_file=str(tmp_path / "named.yaml")))
    os.environ.pop(launch.COMMAND)
    launch.start(LaunchOptions(config_file=str(tmp_path / "named.yaml"), num_processes=2))
    assert [config.nproc_per_node for config, _ in agent] == [3, 5, 2]


def test_several_machines_name_the_first(agent):
    address = {"main_process_ip": "127.0.0.1", "main_process_port": 1234}
    launch.start(LaunchOptions(num_processes=4, num_machines=2, machine_rank=1, **address))
    ((config, _),) = agent
    assert (config.nproc_per_node, config.max_nodes, config.rdzv_endpoint) == (2, 2, "127.0.0.1:1234")
    assert config.rdzv_configs["rank"] == 1


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_configurations_that_divide_a_network_are_refused(kind, agent, tmp_path):
    (tmp_path / "default.yaml").write_text(settings(2, distributed_type=kind))
    with pytest.raises(InputError, match=f"distributed_type {kind} is not supported"):
        launch.start(LaunchOptions())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"config_file": "nowhere.yaml"}, "config_file='nowhere.yaml': there is no such file"),
        ({"num_processes": 3, "num_machines": 2}, "num_processes=3: must be a multiple of num_machines=2"),
        ({"num_processes": 0}, "num_processes=0: must be a whole number at least 1"),
        ({"gpu_ids": "0,1", "cpu": True}, "gpu_ids='0,1': has no effect with cpu; leave one of them out"),
        ({"gpu_ids": "0,7"}, "gpu_ids='0,7': this machine has only 1 of these GPUs; name those"),
        ({"main_process_ip": "10.0.0.1"}, "main_process_ip='10.0.0.1': has no effect on one process; leave it out"),
        ({"main_process_port": 1234}, "main_process_port=1234: has no effect on one process; leave it out"),
        (
            {"main_process_ip": "10.0.0.1", "num_processes": 2, "cpu": True},
            "main_process_ip='10.0.0.1': has no effect on one machine; leave it out",
        ),
    ],
)
def test_what_cannot_be_started_is_one_line(options, message, agent, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=message):
        launch.start(LaunchOptions(**options))
    assert not agent


def test_a_job_script_may_name_the_address_of_a_single_process_with_the_number_of_machines(agent):
    address = {"main_process_ip": "127.0.0.1", "main_process_port": 1234}
    assert launch.start(LaunchOptions(cpu=True, num_processes=1, num_machines=1, machine_rank=0, **address)) is None


def test_a_broken_configuration_file_is_one_line(agent, tmp_path):
    (tmp_path / "default.yaml").write_text("- a\n- list\n")
    with pytest.raises(InputError, match=r"default\.yaml': cannot be read"):
        launch.start(LaunchOptions())


def test_more_processes_than_gpus_are_refused(agent, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="num_processes=3: this machine has 2 GPUs"):
        launch.start(LaunchOptions(num_processes=3))


@pytest.mark.parametrize("program", ["/bin/accelerate launch", "accelerate-launch", "-m accelerate.commands.launch"])
def test_accelerate_is_given_the_cpu_processes_that_it_does_not_start(program, beside_accelerate):
    config, words = beside_accelerate(f"python {program} --cpu --num_processes 2 train.py --seed 1")
    assert (config.nproc_per_node, config.rdzv_endpoint) == (2, "127.0.0.1:29500")
    assert words[1:] == ["-u", "train.py", "--seed", "1"]
    assert launch.command_line() == "accelerate launch --cpu --num_processes 2 train.py --seed 1"


def test_accelerates_own_configuration_counts_beside_it(beside_accelerate, tmp_path):
    (tmp_path / "default.yaml").write_text(settings(3))
    assert beside_accelerate("python accelerate launch --cpu train.py") is None
    assert beside_accelerate("python accelerate launch train.py")[0].nproc_per_node == 3


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
def test_everything_else_is_left_alone(line, environment, beside_accelerate):
    assert beside_accelerate(line, **environment) is None


@pytest.mark.parametrize(
    "launcher, command",
    [
        ("bash job.sh", "python train.py --seed 1 --name 'my run'"),
        (
            "python accelerate launch --num_processes 2 train.py --hub_token hf_x --seed 1",
            "accelerate launch --num_processes 2 train.py --seed 1",
        ),
        ("/bin/uv run --with . train.py --hub_token hf_x --seed 1", "uv run --with . train.py --seed 1"),
        (
            "/bin/python /bin/torchrun --nproc_per_node 2 train.py --hub_token hf_x",
            "torchrun --nproc_per_node 2 train.py",
        ),
        ("python -m torch.distributed.run --nnodes 2 -m x.train", "torchrun --nnodes 2 -m x.train"),
        (
            "uv run --with hf_wgan@git+https://user:TOKEN@example.org/x train.py",
            "uv run --with hf_wgan@git+https://example.org/x train.py",
        ),
    ],
)
def test_the_command_is_recorded_with_its_launcher_and_without_credentials(launcher, command, monkeypatch):
    arguments = ["train.py", "--hub_token", "hf_x", "--seed", "1", "--hub_token=hf_x", "--name", "my run"]
    monkeypatch.delenv(launch.COMMAND, raising=False)
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(psutil.Process, "parents", lambda self: [Launcher("python -m torchrun"), Launcher(launcher)])
    assert launch.command_line() == command


def test_launch_options_are_called_as_accelerates_are():
    known = {name for action in launch_command_parser()._actions for name in action.option_strings}
    assert {f"--{name}" for name in launch.NAMES} <= known


OWN_COMMAND = ["-m", "hf_wgan", "train", "--num_processes", "2"]


def started(folder, *options, words=OWN_COMMAND, **kwargs):
    """Start a run of two processes; return it once it has taken steps."""
    process = subprocess.Popen(
        [sys.executable, *words, *TINY.split(), "--logging_steps", "2", "--output_dir", folder, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )
    metrics = Path(folder, "metrics.jsonl")
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_all_processes_runs_and_is_the_exit_code(number, tmp_path):
    process = started(tmp_path / "run", "--max_train_steps", "1000000", start_new_session=True)
    # Ctrl-C reaches every process of a terminal; a service manager's signal only the first.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 128 + number, output
    assert len(checkpoints(tmp_path / "run")) == 1
    assert "Interrupted at step" in output and "--resume_from_checkpoint latest" in output
    assert "Traceback" not in output and "torch/distributed" not in output


def test_processes_whose_launcher_alone_is_ended_save_the_run(tmp_path):
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "29541"]
    words = [*launcher, "-m", "hf_wgan.cli.train"]
    process = started(tmp_path / "run", "--max_train_steps", "1000000", words=words)
    others = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(timeout=100) != 0
    _, alive = psutil.wait_procs(others, timeout=100)
    assert not alive
    assert len(checkpoints(tmp_path / "run")) == 1 and (tmp_path / "run" / "model_index.json").is_file()


def test_a_mistake_found_by_the_processes_is_one_line_and_its_exit_code(tmp_path):
    rates = ["--critic_learning_rate", "1e30", "--optimizer", "adam", "--lipschitz", "none"]
    process = started(tmp_path / "run", "--max_train_steps", "4", *rates)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1, output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "critic_weight_norm is" in line
    assert "Traceback" not in output and "ChildFailedError" not in output


def test_a_launcher_that_is_ended_while_its_process_starts_leaves_none(tmp_path):
    words = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1"]
    run = [
        "-m",
        "hf_wgan.cli.train",
        *TINY.split(),
        "--max_train_steps",
        "1000000",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    with open(tmp_path / "log", "w") as log:
        process = psutil.Popen([*words, *run], stdout=log, stderr=log)
    deadline = time.monotonic() + 100
    while not (children := process.children()):
        assert time.monotonic() < deadline, "it starts no process"
    is_ours = False
    while not (is_ours and any("libtorch" in mapped.path for mapped in children[0].memory_maps())):  # it imports
        is_ours = children[0].cmdline()[1:2] == ["-m"] and children[0].cmdline()[2] == "hf_wgan.cli.train"
        assert time.monotonic() < deadline and children[0].is_running(), (tmp_path / "log").read_text()
        time.sleep(0.05)
    process.terminate()
    process.wait(timeout=100)
    _, alive = psutil.wait_procs(children, timeout=100)
    assert not alive
    assert "The launcher of this process has ended" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("size, rank", [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK")])
def test_processes_that_mpi_started_and_nobody_connects_are_refused(size, rank, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(size, "2")
    monkeypatch.setenv(rank, "1")
    assert not is_first_process()
    monkeypatch.setenv(rank, "0")
    with patch.dict(os.environ):  # in which Accelerate translates MPI's names
        assert train([*TINY.split(), "--output_dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: 2 processes were started") and "use accelerate launch" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", sorted({*OF_LAUNCHERS, "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP"})
)
def test_a_run_takes_an_empty_variable_for_an_unset_one(name, tmp_path, monkeypatch):
    for other in OF_LAUNCHERS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "")
    with patch.dict(os.environ):
        assert train([*TINY.split(), "--max_train_steps", "1", "--output_dir", str(tmp_path / "run")]) == 0


def test_an_empty_variable_of_a_launcher_counts_as_none_and_a_wrong_one_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "")
    assert not launch.is_one_of_several()
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert train([*TINY.split(), "--output_dir", str(tmp_path / "run")]) == 2
    assert "WORLD_SIZE='two' in the environment: must be a whole number" in capsys.readouterr().err


def test_what_accelerates_file_says_of_compilation_acts_and_what_does_not_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    lines = ["compute_environment: LOCAL_MACHINE", "distributed_type: 'NO'", "mixed_precision: 'no'", "use_cpu: true"]
    lines += [
        "debug: false",
        "num_processes: 1",
        "enable_cpu_affinity: true",
        "dynamo_config:",
        "  dynamo_backend: EAGER",
    ]
    (tmp_path / "file.yaml").write_text("\n".join(lines))
    with patch.dict(os.environ):
        launch.choose(launch.LaunchOptions(config_file=str(tmp_path / "file.yaml")))
        assert os.environ["ACCELERATE_DYNAMO_BACKEND"] == "EAGER"
    assert "enable_cpu_affinity acts with accelerate launch alone" in capsys.readouterr().err
