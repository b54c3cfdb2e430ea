"""Two machines of one process each, by the example's configuration: two network namespaces, or one machine with two
launchers where those cannot be made."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from processes import SMALL, ended, free_port, outcome, start_run

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train_wgan.py"
CONFIG = ROOT / "examples" / "two_machines.yaml"
ADDRESSES = ["10.77.0.1", "10.77.0.2"]


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@contextmanager
def machines():
    """Of each machine, what goes before a command that shall run there; and the first one's address."""
    names = [f"wgan{os.getpid()}{letter}" for letter in "ab"]
    try:
        made = all(ip("netns", "add", name) for name in names)
        made = made and ip("link", "add", names[0][-15:], "netns", names[0], "type", "veth", "peer", "name", "eth1")
        made = made and ip("link", "set", "eth1", "netns", names[1])
        for name, link, address in zip(names, (names[0][-15:], "eth1"), ADDRESSES):
            inside = ["-n", name]
            made = made and ip(*inside, "address", "add", f"{address}/24", "dev", link)
            made = made and ip(*inside, "link", "set", link, "up") and ip(*inside, "link", "set", "lo", "up")
    except FileNotFoundError:  # there is no ip command
        made = False
    try:
        if made:
            yield [["ip", "netns", "exec", name] for name in names], ADDRESSES[0]
        else:
            yield [[], []], "127.0.0.1"
    finally:
        if made or os.path.exists("/var/run/netns"):
            for name in names:
                ip("netns", "delete", name)


def launch(machine, rank, address, port, folder):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIG, "--machine_rank", rank]
    where = ["--cpu", "--num_processes", "2", "--main_process_ip", address, "--main_process_port", port]
    run = [SCRIPT, *SMALL, "--max_train_steps", "12", "--train_batch_size", "4", "--output_dir", folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*machine, *map(str, [*accelerate, *where, *run])],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_machines_train_together_as_two_processes_of_one(tmp_path):
    with machines() as (prefixes, address):
        port = free_port()
        started = [launch(prefix, rank, address, port, tmp_path / "two") for rank, prefix in enumerate(prefixes)]
        said = [process.communicate(timeout=200)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    assert "on 2 × cpu" in said[0] and "on 2 × cpu" not in said[1]
    record = json.loads((tmp_path / "two" / "training_config.json").read_text())
    assert record["machine"]["num_processes"] == 2
    assert [name.name for name in sorted((tmp_path / "two").glob("checkpoint-*"))] == [
        "checkpoint-000011",
        "checkpoint-000012",
    ]

    of_one = start_run(tmp_path / "one", ["--max_train_steps", "12", "--train_batch_size", "4"], num_processes=2)
    assert ended(of_one) == [0, 0]
    assert outcome(tmp_path / "two") == outcome(tmp_path / "one")
