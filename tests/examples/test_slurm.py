"""The SLURM script, with stand-ins for SLURM's own commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from processes import SMALL, free_port

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "slurm.sh"
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" with "$OUTPUT_DIR"/checkpoint-* >> "$CALLS"; fi
"""
# A task on each node; a signal goes to every process of every task, and none outlives the first.
SRUN = """#!/bin/bash
shift
for ((node = 0; node < SLURM_NNODES; node++)); do
  SLURM_NODEID=$node setsid "$@" &
  tasks+=($!)
done
trap 'for task in "${tasks[@]}"; do kill -USR1 -- -"$task"; done' USR1
code=0
for task in "${tasks[@]}"; do
  while kill -0 "$task" 2> /dev/null; do wait "$task"; done
  wait "$task" || code=1
  kill -KILL -- -"$task" 2> /dev/null
done
exit $code
"""


def batch(tmp_path, *arguments, nodes=1):
    """The script as SLURM starts it: in the folder that it was submitted from."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    for name, text in {"scontrol": SCONTROL, "srun": SRUN}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": str(nodes), "SLURM_JOB_NODELIST": "node[1-2]"}
    ours = {"OUTPUT_DIR": tmp_path / "run", "CALLS": tmp_path / "calls"}
    return subprocess.Popen(
        ["bash", SCRIPT, *SMALL, "--main_process_port", str(free_port()), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, **slurm, **{name: str(ours[name]) for name in ours}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_job_whose_time_is_up_saves_is_put_back_into_the_queue_and_goes_on(tmp_path):
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    arguments = ["--train_batch_size", "8", "--max_train_steps", "5000", "--checkpointing_steps", "10000"]
    job = batch(tmp_path, *arguments)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").is_file():
        assert time.monotonic() < deadline and job.poll() is None, job.communicate()[0]
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=200)[0]
    assert job.returncode != 0 and "Interrupted at step" in said, said
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    calls = f"requeue 7 with {checkpoint}\n"
    assert (tmp_path / "calls").read_text() == calls

    job = batch(tmp_path, *arguments, "--max_train_minutes", "0.0001")
    said = job.communicate(timeout=200)[0]
    assert job.returncode == 0, said
    assert f"Resumed at step {int(checkpoint.name.rpartition('-')[2])}." in said
    assert (tmp_path / "calls").read_text() == calls, "what has ended by itself is not put back"
