"""Training processes that start in a moment, forked from one that has imported everything, to be killed."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from unittest.mock import patch

MODULES = ["warm", "processes"]
SMALL_RUN = {
    "resolution": 16,
    "max_train_samples": 40,
    "generator_width": 8,
    "critic_width": 8,
    "latent_dim": 4,
    "num_validation_images": 4,
    "validation_steps": 20,
    "logging_steps": 3,
    "n_critic": 2,
    "checkpointing_steps": 1,
}
SMALL = [word for name, value in SMALL_RUN.items() for word in (f"--{name}", str(value))]

_context = multiprocessing.get_context("forkserver")


def start(function, *arguments, **keywords):
    """The function in a process of its own, which uses one core."""
    # The server keeps what it finds at the first start, and Python 3.11's looks for MODULES on PYTHONPATH alone.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    with patch.dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=path):
        _context.set_forkserver_preload(MODULES)
        process = _context.Process(target=function, args=arguments, kwargs=keywords, daemon=True)
        process.start()
    return process


def start_run(folder, arguments, num_processes=1, before=None):
    """The processes of `scripts/train_wgan.py`; each says what it says into `folder.log`."""
    port = free_port() if num_processes > 1 else None
    return [
        start(train, str(folder), [*SMALL, *arguments], index, num_processes, port, before)
        for index in range(num_processes)
    ]


def train(folder, arguments, index, num_processes, port, before):
    import torch

    from hf_wgan.cli import train as command
    from hf_wgan.training import report

    join(index, num_processes, port)
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    report.plot_runs = draw_one_pixel
    if before:
        before()
    code = command.train([*arguments, "--output_dir", folder])
    assert code or not torch.distributed.is_initialized(), "an interpreter that ends within a group may abort"
    sys.exit(code)


def draw_one_pixel(runs, path, metrics):
    """Take the place of `plot_runs`, which takes longer than a small run."""
    from PIL import Image

    from hf_wgan.utils import files

    with files.replacing(path) as temporary:
        Image.new("L", (1, 1)).save(temporary)


def join(index, num_processes, port):
    """Makes this process one of several, as torchrun would."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # multiprocessing's server ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    if num_processes > 1:
        rank = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in {**rank, **where}.items()})


def ended(processes, timeout=200):  # seconds, of a machine that may be busy
    """Their exit codes, once all have ended; minus the signal's number where one was killed."""
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            for each in processes:
                each.kill()
            raise AssertionError(f"process {process.pid} has not ended in {timeout} s")
    return [process.exitcode for process in processes]


def taken_down(processes):
    """Their exit codes, as under a launcher: once one has failed, the others are told to end."""
    while None in (codes := [process.exitcode for process in processes]) and not any(codes):
        time.sleep(0.01)
    for process in processes:
        process.terminate()
    return ended(processes)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def outcome(folder):
    """What a run leaves that two equal runs have to the byte: weights, samples, and metrics but for the clock's.

    A run that was stopped has a grid of that step too.
    """
    import json

    folder = Path(folder)
    options = json.loads((folder / "training_config.json").read_text())["training"]

    def is_due(grid):
        step = int(grid.stem.removeprefix("step-"))
        return step % options["validation_steps"] == 0 or step & (step - 1) == 0 or step == options["max_train_steps"]

    kept = [*folder.glob("generator/*"), *folder.glob("critic/*"), *filter(is_due, folder.glob("samples/step-*"))]
    left = {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.is_file()}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "images_per_second", "evaluation_seconds")
    left["metrics"] = [{name: value for name, value in row.items() if name not in clock} for row in rows]
    return left
