"""Processes killed at random moments, and at every moment of writing a checkpoint, lose nothing."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from processes import ended, outcome, start, start_run, taken_down

from hf_wgan.training import checkpoint as checkpoint_module
from hf_wgan.training.checkpoint import damage
from hf_wgan.utils import files

STEPS = 24
KILLS = 4  # of each kind of run
KINDS = {
    f"{constraint}{' and ema' if ema else ''}, {count} process{'es' if count > 1 else ''}": (constraint, ema, count)
    for constraint in ("clip", "gp")
    for ema in (False, True)
    for count in (1, 2)
}


def arguments(constraint, ema, num_processes, *more):
    batch = ["--train_batch_size", str(8 // num_processes)]
    average = ["--use_ema"] if ema else []
    return [
        "--lipschitz",
        constraint,
        "--critic_norm_type",
        "none",
        *batch,
        *average,
        "--max_train_steps",
        str(STEPS),
        *more,
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_again_and_again_ends_as_one_never_killed(kind, tmp_path):
    constraint, ema, num_processes = KINDS[kind]
    options = arguments(constraint, ema, num_processes)
    ended([start(int)])  # what processes are forked from is up before a run is timed
    began = time.monotonic()
    assert ended(start_run(tmp_path / "whole", options, num_processes)) == [0] * num_processes
    whole_run = time.monotonic() - began

    folder, rng, kills, tries = tmp_path / "killed", random.Random(kind), 0, 0
    while kills < KILLS:
        tries += 1
        assert tries < 40, Path(f"{folder}.log").read_text()
        resume = ["--resume_from_checkpoint", "latest"] if files.checkpoints(folder) else ["--overwrite_output_dir"]
        processes = start_run(folder, [*options, *resume], num_processes)
        time.sleep(rng.uniform(0.2, 0.8) * whole_run)
        victims = rng.sample(processes, rng.randint(1, num_processes))
        for victim in victims:
            victim.kill()
        codes = taken_down(processes)
        kills += -signal.SIGKILL in codes
        if codes == [0] * num_processes:  # it was faster
            shutil.rmtree(folder)
    resume = ["--resume_from_checkpoint", "latest"] if files.checkpoints(folder) else ["--overwrite_output_dir"]
    assert ended(start_run(folder, [*options, *resume], num_processes)) == [0] * num_processes
    assert outcome(folder) == outcome(tmp_path / "whole")
    assert [path.name for path in folder.glob(".*")] == [files.LOCK], "nothing half written stays"


class Dying:
    """Kills the process at the nth thing that is done to the disk for the third checkpoint."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def __call__(self):
        write = checkpoint_module.write_checkpoint

        def writing(folder, checkpoint, keep):
            if checkpoint.progress.step == 3:
                owners = [
                    (Path, "mkdir"),
                    (type(checkpoint.networks["critic"]), "save_pretrained"),
                    (checkpoint_module.torch, "save"),
                    (Path, "write_text"),
                    (checkpoint_module.files, "flush"),
                    (Path, "rename"),
                    (checkpoint_module.shutil, "rmtree"),
                ]
                for owner, name in owners:
                    setattr(owner, name, self.deadly(getattr(owner, name)))
            write(folder, checkpoint, keep)

        checkpoint_module.write_checkpoint = writing

    def deadly(self, function):
        def deadly(*args, **kwargs):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return deadly


def test_a_process_killed_at_any_moment_of_writing_a_checkpoint_leaves_a_whole_one(tmp_path):
    options = arguments("clip", True, 1, "--max_train_steps", "5", "--checkpoints_total_limit", "1")
    assert ended(start_run(tmp_path / "whole", options)) == [0]
    expected = outcome(tmp_path / "whole")
    deaths = 0
    for first in range(1, 100, 2):  # two at a time
        folders = {at: tmp_path / f"killed-{at}" for at in (first, first + 1)}
        killed = [start_run(folder, options, before=Dying(at)) for at, folder in folders.items()]
        codes = [code for (code,) in map(ended, killed)]
        deaths += codes.count(-signal.SIGKILL)
        if codes != [-signal.SIGKILL] * 2:
            break
        for at, folder in folders.items():
            assert [found for found in files.checkpoints(folder) if not damage(found)], f"killed at {at}"
        if first % 3 == 0:  # each takes a second
            latest = ["--resume_from_checkpoint", "latest"]
            resumed = [start_run(folder, [*options, *latest]) for folder in folders.values()]
            assert list(map(ended, resumed)) == [[0], [0]]
            assert [outcome(folder) for folder in folders.values()] == [expected] * 2
    assert set(codes) <= {0, -signal.SIGKILL}
    assert deaths >= 20, "or else not every moment was tried"
