"""Processes killed at random moments, and at every moment of writing a checkpoint, lose nothing."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import accidents
import pytest
from conftest import tiny_critic, tiny_generator, tiny_images
from processes import ended, outcome, start_run, taken_down

from hf_wgan import WGANTrainer
from hf_wgan.training import checkpoint as checkpoint_module
from hf_wgan.training.checkpoint import damage, write_checkpoint
from hf_wgan.utils import files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return accidents.whole_runs(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("kind", accidents.KINDS)
def test_an_accident_at_a_random_moment_costs_nothing(kind, whole, tmp_path):
    """`benchmarks/kills.py` has hundreds of them."""
    accident = accidents.happen(kind, tmp_path / "run", random.Random(kind), whole)
    assert not accident.problems, "\n".join(accident.problems)


def test_a_run_of_two_processes_killed_again_and_again_ends_as_one_never_killed(tmp_path):
    options = ["--lipschitz", "gp", "--critic_norm_type", "none", "--train_batch_size", "4", "--max_train_steps", "24"]
    began = time.monotonic()
    assert ended(start_run(tmp_path / "whole", options, 2)) == [0, 0]
    whole_run = time.monotonic() - began
    folder, kills, tries = tmp_path / "killed", 0, 0
    while kills < 2:
        tries += 1
        assert tries < 20, Path(f"{folder}.log").read_text()
        resume = accidents.RESUME if files.checkpoints(folder) else accidents.OVERWRITE
        processes = start_run(folder, [*options, *resume], 2)
        time.sleep(random.uniform(0.2, 0.8) * whole_run)
        for victim in random.sample(processes, random.randint(1, 2)):
            victim.kill()
        codes = taken_down(processes)
        kills += -signal.SIGKILL in codes
        if codes == [0, 0]:  # it was faster
            shutil.rmtree(folder)
    resume = accidents.RESUME if files.checkpoints(folder) else accidents.OVERWRITE
    assert ended(start_run(folder, [*options, *resume], 2)) == [0, 0]
    assert outcome(folder) == outcome(tmp_path / "whole")
    assert [path.name for path in folder.glob(".*")] == [files.LOCK], "nothing half written stays"


def die_at(at, network):
    """Let this process be killed when it does the nth thing to the disk."""
    count = 0

    def deadly(function):
        def counted(*args, **kwargs):
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    for owner, name in [
        (Path, "mkdir"),
        (type(network), "save_pretrained"),
        (checkpoint_module.torch, "save"),
        (Path, "write_text"),
        (checkpoint_module.files, "flush"),
        (Path, "rename"),
        (checkpoint_module.shutil, "rmtree"),
    ]:
        setattr(owner, name, deadly(getattr(owner, name)))


def killed_while_writing(at, *arguments):
    """Whether a copy of this process was killed at the nth thing that writing a checkpoint does to the disk."""
    child = os.fork()
    if not child:
        try:
            die_at(at, arguments[1].networks["critic"])
            write_checkpoint(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code == -signal.SIGKILL


def test_a_process_killed_at_any_moment_of_writing_a_checkpoint_leaves_a_whole_one(tiny_config, tmp_path, monkeypatch):
    def train(folder, **options):
        settings = {"use_ema": True, "checkpointing_steps": 1, "checkpoints_total_limit": 1, **options}
        config = tiny_config(output_dir=str(folder), **settings)
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config).train()

    def keeping(folder, checkpoint, keep):
        if checkpoint.progress.step == 3:
            third.append(checkpoint)
            shutil.copytree(folder.parent, tmp_path / "before")
        write_checkpoint(folder, checkpoint, keep)

    third = []
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_checkpoint", keeping)
        train(tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    deaths = 0
    for at in range(1, 100):
        folder = shutil.copytree(tmp_path / "before", tmp_path / f"killed-{at}")
        if not killed_while_writing(at, folder / "checkpoint-000003", third[0], 1):
            break
        deaths += 1
        assert [found for found in files.checkpoints(folder) if not damage(found)], f"killed at {at}"
        if at % 6 == 0:
            train(folder, resume_from_checkpoint="latest")
            assert outcome(folder) == expected
    assert deaths >= 20, "or else not every moment was tried"
