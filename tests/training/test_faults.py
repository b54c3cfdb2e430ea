"""Each row of docs/faults.md: what the user sees, what is left, how to go on."""

import errno
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from processes import SMALL, ended, outcome, start, start_run, train

from hf_wgan import InputError, TrainerCallback, WGANTrainer
from hf_wgan.algorithm import step as step_module
from hf_wgan.cli.common import command, empty_folder
from hf_wgan.metrics.features import EXTRACTORS, FeatureExtractor
from hf_wgan.training import checkpoint as checkpoint_module
from hf_wgan.training import run_folder
from hf_wgan.training.callbacks import CallbackHandler
from hf_wgan.training.checkpoint import damage
from hf_wgan.training.presets import PRESETS
from hf_wgan.utils import files
from hf_wgan.utils.errors import DeviceMemoryError, DiskError, NotFiniteError
from hf_wgan.utils.launcher import SECONDS_BETWEEN_LOOKS
from hf_wgan.utils.signals import STOPPING

STEPS = ["--max_train_steps", "30", "--train_batch_size", "4"]
SELDOM_SAVED = [*STEPS, "--checkpointing_steps", "1000"]


def log(folder):
    return Path(f"{folder}.log").read_text()


def whole(folder):
    return [found.name for found in files.checkpoints(folder) if not damage(found)]


# Signals.


class Signalling:
    """Sends the process signals from within, after so many steps."""

    def __init__(self, step, *numbers, only=None):
        self.step, self.numbers, self.only = step, numbers, only

    def __call__(self):
        one_step = WGANTrainer.step

        def signalled(run):
            if run.state.progress.step == self.step and self.only in (None, run.accelerator.process_index):
                for number in self.numbers:
                    os.kill(os.getpid(), number)
                    time.sleep(0.05)
            return one_step(run)

        WGANTrainer.step = signalled


def launcher(folder, before=None):
    """Wait for a run as `accelerate launch` does, which ends at a signal without a word to the run."""
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if os.fork() == 0:
        os.environ["TORCHELASTIC_RUN_ID"] = "1"
        train(folder, [*SMALL, "--max_train_steps", "100000", "--train_batch_size", "4"], 0, 1, None, before)
    signal.pause()


def slow_to_end():
    """Let what follows the last saved file take longer than it takes to see that the launcher has ended."""
    one_call = CallbackHandler.call

    def slow(handler, event, **arguments):
        if event == "on_train_end":
            time.sleep(3 * SECONDS_BETWEEN_LOOKS)
        one_call(handler, event, **arguments)

    CallbackHandler.call = slow


def test_a_run_whose_launcher_is_gone_is_saved(tmp_path):
    folder = tmp_path / "run"
    process = start(launcher, str(folder))
    until(lambda: files.checkpoints(folder))
    process.terminate()
    assert ended([process]) == [-signal.SIGTERM]
    until(lambda: "Interrupted at step" in log(folder))
    assert "The launcher of this process has ended" in log(folder)
    until(lambda: (folder / "model_index.json").exists())
    assert not damage(files.checkpoints(folder)[-1])


def test_ctrl_c_that_ends_the_launcher_too_lets_the_run_end_in_its_own_time(tmp_path):
    folder = tmp_path / "run"
    process = start(launcher, str(folder), slow_to_end)
    until(lambda: files.checkpoints(folder))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the launcher and the run alike
    assert ended([process]) == [-signal.SIGINT]
    until(lambda: "Interrupted at step" in log(folder))
    assert "launcher of this process" not in log(folder)


def until(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The outcomes of runs that nothing stopped, by the number of processes."""
    outcomes = {}
    for num_processes in (1, 2):
        folder = tmp_path_factory.mktemp("uninterrupted") / "run"
        assert ended(start_run(folder, SELDOM_SAVED, num_processes)) == [0] * num_processes
        outcomes[num_processes] = outcome(folder)
    return outcomes


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_the_run_at_the_next_step_with_a_checkpoint(number, num_processes, tmp_path, uninterrupted):
    folder, options = tmp_path / "run", SELDOM_SAVED
    hook = Signalling(9, number, only=num_processes - 1)  # one process is enough; no samples are due until step 16
    assert ended(start_run(folder, options, num_processes, hook)) == [128 + number] * num_processes
    step = 9 + num_processes  # several agree while they take the next step
    assert whole(folder) == [f"checkpoint-{step:06d}"]
    assert f"Interrupted at step {step}. To resume: the same, with resume_from_checkpoint" in log(folder)
    resumed = [*options, "--resume_from_checkpoint", "latest"]
    assert ended(start_run(folder, resumed, num_processes)) == [0] * num_processes
    assert outcome(folder) == uninterrupted[num_processes]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_resumes_exactly(preset, tmp_path):
    sizes = ["--preset", preset, "--resolution", "32", "--generator_width", "8", "--critic_width", "8"]
    options = [*sizes, "--train_batch_size", "4", "--max_train_steps", "6", "--checkpointing_steps", "1000"]
    assert ended(start_run(tmp_path / "whole", options)) == [0]
    assert ended(start_run(tmp_path / "run", options, before=Signalling(3, signal.SIGTERM))) == [128 + signal.SIGTERM]
    assert ended(start_run(tmp_path / "run", [*options, "--resume_from_checkpoint", "latest"])) == [0]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_signals_that_come_together_are_one(tmp_path):
    hook = Signalling(7, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    assert ended(start_run(tmp_path / "run", STEPS, before=hook)) == [128 + signal.SIGUSR1]
    assert whole(tmp_path / "run")[-1] == "checkpoint-000008"


def test_a_second_interrupt_ends_the_process_at_once(tmp_path):
    hook = Signalling(7, signal.SIGINT, signal.SIGINT)
    assert ended(start_run(tmp_path / "run", STEPS, before=hook)) == [128 + signal.SIGINT]
    assert "Stopped at once." in log(tmp_path / "run")
    assert "Traceback" not in log(tmp_path / "run")
    assert whole(tmp_path / "run")
    assert not (tmp_path / "run" / files.INDEX).exists()


# The disk.


def from_step(step, act):
    """Has something done when a checkpoint of that step or a later one is about to be written."""
    write = checkpoint_module.write_checkpoint

    def writing(folder, checkpoint, keep):
        if checkpoint.progress.step == step:
            act(folder.parent)
        write(folder, checkpoint, keep)

    checkpoint_module.write_checkpoint = writing


def quota():
    from_step(3, lambda folder: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)))


def read_only():
    def lock(folder):
        folder.chmod(0o555)
        os.seteuid(65534)  # root may write anywhere

    from_step(3, lock)


def vanished():
    from_step(3, lambda folder: folder.rename(f"{folder}-elsewhere"))


DISK = {
    "quota": (quota, "File too large", "run"),
    "read-only": (read_only, "Permission denied", "run"),
    "vanished": (vanished, "No such file or directory", "run-elsewhere"),
}


@pytest.fixture
def open_path():
    """A folder that other users can enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("kind", DISK)
def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_one_before(kind, open_path):
    hook, reason, left = DISK[kind]
    tmp_path = open_path
    (code,) = ended(start_run(tmp_path / "run", STEPS, before=hook))
    assert code == 1
    (line,) = [line for line in log(tmp_path / "run").splitlines() if line.startswith("error: ")]
    assert str(tmp_path / "run") in line and reason in line
    assert "bytes" in line or kind == "vanished"
    if kind == "quota":  # the other user may not read what root has written, and what vanished is not there
        assert "checkpoint-000002 is whole, to resume from" in line
    (tmp_path / left).chmod(0o755)
    assert whole(tmp_path / left)[-1] == "checkpoint-000002"
    (tmp_path / left).rename(tmp_path / "mended")
    assert ended(start_run(tmp_path / "mended", [*STEPS, "--resume_from_checkpoint", "latest"])) == [0]


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        (code,) = ended(start_run(mount / "run", [*STEPS, "--checkpoints_total_limit", "1"], before=fill))
        assert code == 1
        (line,) = [line for line in log(mount / "run").splitlines() if line.startswith("error: ")]
        assert "o space left on device" in line and "checkpoint-000002 is whole, to resume from" in line
        assert whole(mount / "run") == ["checkpoint-000002"]
        (mount / "filling").unlink()
        assert ended(start_run(mount / "run", [*STEPS, "--max_train_steps", "4", "--resume_from_checkpoint", "latest"]))
        assert whole(mount / "run")
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def fill():
    def act(folder):
        with open(folder.parent / "filling", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC

    from_step(3, act)


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_read(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match=r"output_dir='.*run': .* cannot be written to; name another folder"):
        trainer(tiny_config())


@pytest.mark.parametrize("target", ["not mounted", "run"])
@pytest.mark.parametrize("name", ["run", "run/inside"])
def test_a_folder_behind_a_link_that_leads_nowhere_is_refused(name, target, tiny_config, tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / target)
    folder, line = str(tmp_path / name), rf"output_dir=.*: .*run is a link to .*{target}, which does not exist; create"
    with pytest.raises(InputError, match=line):
        trainer(tiny_config(output_dir=folder))
    with pytest.raises(InputError, match=line):
        empty_folder(folder)


def test_a_folder_from_which_no_model_could_be_read_is_refused(tiny_config, tmp_path):
    with pytest.raises(InputError, match=r"output_dir=.*has bytes that are no UTF-8, .*name another"):
        trainer(tiny_config(output_dir=str(tmp_path / os.fsdecode(b"caf\xe9"))))
    assert not any(tmp_path.iterdir())


def test_metrics_that_cannot_be_written_name_the_folder_and_what_is_left(tiny_config, tmp_path):
    run = trainer(tiny_config())
    at_step(
        run, 3, lambda: (tmp_path / "run" / "metrics.jsonl").unlink() or (tmp_path / "run" / "metrics.jsonl").mkdir()
    )
    with pytest.raises(DiskError, match=r"run: .*Is a directory.*bytes are free; .*checkpoint-000002 is whole"):
        run.train()


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB). Tried to allocate 256 bytes."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


def raises(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_memory_that_is_used_up_names_the_options_that_need_less(tiny_config, monkeypatch, error):
    monkeypatch.setattr("hf_wgan.training.failures.has_bf16_arithmetic", lambda device: True)
    run = trainer(tiny_config())
    at_step(run, 3, raises(error))
    options = "--train_batch_size 4 --gradient_accumulation_steps 2, or in a new run, --mixed_precision bf16 or smaller"
    with pytest.raises(
        DeviceMemoryError, match=f"^train_batch_size=8 with .*: use {options}.*checkpoint-000002 is whole"
    ):
        run.train()


@pytest.mark.parametrize(
    "place",
    ["setup.RealBatches", "setup.placed", "setup.build_optimizer", "setup.AveragedWeights", "DCGANGenerator.forward"],
)
def test_memory_that_is_used_up_before_the_first_step_names_them_too(place, tiny_config, monkeypatch):
    target = "hf_wgan.models.dcgan" if place.startswith("DCGAN") else "hf_wgan.training"
    monkeypatch.setattr(f"{target}.{place}", lambda *args, **options: raises(OUT_OF_MEMORY[0])())
    with pytest.raises(DeviceMemoryError, match=r"^train_batch_size=8 with .*: use --train_batch_size 4 "):
        trainer(tiny_config(use_ema=True))


def with_extractor(monkeypatch, **changes):
    monkeypatch.setitem(EXTRACTORS, "pixels", EXTRACTORS["pixels"]._replace(**changes))


USING_UP = {
    "an evaluation beside the training takes .*: leave out evaluation_steps, and evaluate": lambda patch, fail: (
        patch.setattr("hf_wgan.training.evaluation.evaluate", fail)
    ),
    "features mine, for even one image of 1×8×8, takes more": lambda patch, fail: with_extractor(
        patch, load=lambda *_: FeatureExtractor("mine", "", "", fail)
    ),
    "loading or training features='pixels' takes more .*: choose others": lambda patch, fail: with_extractor(
        patch, load=fail
    ),
    "loading or training features='pixels' takes .* ": lambda patch, fail: with_extractor(
        patch, load=fail, is_external=True
    ),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
@pytest.mark.parametrize("message", USING_UP)
def test_memory_that_an_evaluation_uses_up_does_not_blame_the_training(message, error, tiny_config, monkeypatch):
    USING_UP[message](monkeypatch, lambda *args, **options: raises(error)())
    options = {"evaluation_features": "pixels", "num_evaluation_images": 20}
    with pytest.raises(DeviceMemoryError, match=f"^{message}") as caught:
        trainer(tiny_config(evaluation_steps=4, **options)).train()
    assert "train_batch_size" not in str(caught.value) and "\n" not in str(caught.value)
    assert "loading" in message or "checkpoint-000002 is whole" in str(caught.value)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_a_command_whose_memory_is_used_up_says_so_in_a_line(error, capsys):
    assert command(lambda args: raises(error)())([]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")


# Damaged checkpoints.


def trainer(config, **networks):
    networks = {"generator": tiny_generator(), "critic": tiny_critic()} | networks
    return WGANTrainer(**networks, dataset=tiny_images(), config=config)


def truncated(folder):
    weights = folder / "generator" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def flipped(folder):
    path = folder / "optimizers.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def missing(folder):
    (folder / "critic" / "config.json").unlink()


def without_manifest(folder):
    (folder / "manifest.json").unlink()


def emptied_manifest(folder):
    (folder / "manifest.json").write_text("")


DAMAGE = {
    truncated: "diffusion_pytorch_model.safetensors has .* bytes instead of",
    flipped: "optimizers.pt has another content than was written",
    missing: "config.json is missing",
    without_manifest: "manifest.json is missing",
    emptied_manifest: "manifest.json: ",
}


@pytest.mark.parametrize("spoil", DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_passed_over(spoil, tiny_config, tmp_path, capsys):
    trainer(tiny_config()).train()
    expected = outcome(tmp_path / "run")
    spoil(tmp_path / "run" / "checkpoint-000004")
    capsys.readouterr()
    trainer(tiny_config(resume_from_checkpoint="latest")).train()
    said = capsys.readouterr().err
    assert "checkpoint-000004 is damaged (" in said and "passed over" in said and "Resumed at step 2" in said
    assert outcome(tmp_path / "run") == expected
    assert not damage(tmp_path / "run" / "checkpoint-000004"), "written again"
    assert (tmp_path / "run" / "set-aside-checkpoint-000004").is_dir()
    spoil(tmp_path / "run" / "checkpoint-000004")
    with pytest.raises(InputError, match=rf"checkpoint-000004': is damaged \(.*{DAMAGE[spoil]}"):
        trainer(tiny_config(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-000004"))).train()


def test_when_all_checkpoints_are_damaged_nothing_is_overwritten(tiny_config, tmp_path):
    trainer(tiny_config()).train()
    for folder in files.checkpoints(tmp_path / "run"):
        truncated(folder)
    before = outcome(tmp_path / "run")
    with pytest.raises(InputError, match="there is no whole checkpoint in"):
        trainer(tiny_config(resume_from_checkpoint="latest")).train()
    assert outcome(tmp_path / "run") == before


# Processes that end.


def fail_in_process_1():
    one_step = WGANTrainer.step

    def failing(run):
        if (run.state.progress.step, run.accelerator.process_index) == (7, 1):
            raise OSError(errno.EIO, "the images are gone")
        return one_step(run)

    WGANTrainer.step = failing


def test_a_process_that_is_killed_takes_the_other_down_within_a_minute(tmp_path):
    processes = start_run(tmp_path / "run", [*STEPS, "--max_train_steps", "100000"], 2)
    while not files.checkpoints(tmp_path / "run"):
        assert processes[1].is_alive(), log(tmp_path / "run")
        time.sleep(0.05)
    processes[1].kill()
    assert ended(processes, timeout=60) == [1, -signal.SIGKILL]
    said = log(tmp_path / "run")
    assert "error: process 0 ends because another process has ended" in said
    assert "is whole, to resume from" in said
    assert whole(tmp_path / "run")


def test_a_process_that_fails_takes_the_other_down_and_shows_its_own_error(tmp_path):
    assert ended(start_run(tmp_path / "run", STEPS, 2, fail_in_process_1), timeout=60) == [1, 1]
    said = log(tmp_path / "run")
    assert "process 1: " in said and "the images are gone" in said
    assert "process 0 ends because another process has ended" in said


# Numbers gone wrong.

NAN = float("nan")


def at_step(run, step, act):
    one_step = run.step

    def acting():
        if run.state.progress.step == step:
            act()
        return one_step()

    run.step = acting


def poison_score(run, monkeypatch, times):
    at_step(run, 4, lambda: times and (times.pop(), run.critic.register_forward_hook(once(lambda m, i, o: o * NAN))))


def poison_loss(run, monkeypatch, times):
    def act():
        if times:
            times.pop()
            poisoned = once(lambda real, fake: critic_loss(real, fake) * NAN)
            monkeypatch.setattr(
                step_module, "critic_loss", lambda *s: poisoned(*s) if poisoned.left else critic_loss(*s)
            )

    critic_loss = step_module.critic_loss
    at_step(run, 4, act)


def poison_gradient(run, monkeypatch, times):
    poisons_gradient_of(run.critic, run, times)


def poison_generator_gradient(run, monkeypatch, times):
    poisons_gradient_of(run.generator, run, times)


def poisons_gradient_of(network, run, times):
    def act():
        if times:
            times.pop()
            parameter = next(network.parameters())
            handle = parameter.register_hook(lambda gradient: (handle.remove(), gradient * NAN)[1])

    at_step(run, 4, act)


def poison_weight(run, monkeypatch, times):
    after_step, calls = run.algorithm.constraint.after_step, []

    def poisoned(critic):
        after_step(critic)
        calls.append(1)
        if run.state.progress.step == 4 and times and len(calls) % 2 == 0:  # after the second critic step of two
            times.pop()
            next(critic.parameters()).data[0, 0] = NAN

    run.algorithm.constraint.after_step = poisoned


def poison_generator_weight(run, monkeypatch, times):
    step = run.algorithm.generator_optimizer.step

    def poisoned(*args, **kwargs):
        step(*args, **kwargs)
        if run.state.progress.step == 4 and times:
            times.pop()
            next(run.generator.parameters()).data[0, 0] = NAN

    run.algorithm.generator_optimizer.step = poisoned


def once(function):
    def called(*args):
        if called.left:
            called.left = 0
            return function(*args)
        return args[-1]

    called.left = 1
    return called


POISONS = {
    poison_score: "real_score is nan at step 5: lower critic_learning_rate, and see that the images",
    poison_loss: "critic_loss is nan at step 5: lower critic_learning_rate",
    poison_gradient: "critic_gradient_norm is nan at step 5: lower critic_learning_rate",
    poison_weight: "critic_weight_norm is nan at step 5: lower critic_learning_rate",
    poison_generator_gradient: "generator_gradient_norm is nan at step 5: lower generator_learning_rate",
    poison_generator_weight: "generator_weight_norm is nan at step 5: lower generator_learning_rate",
}


def poisoned_run(poison, monkeypatch, tiny_config, times, **options):
    # Reported at every fourth step, checkpoints at every second: one is due between the poison and the next report.
    config = tiny_config(max_train_steps=10, logging_steps=4, checkpoints_total_limit=None, **options)
    run = trainer(config, critic=tiny_critic(norm_type="none"))
    poison(run, monkeypatch, [1] * times)
    return run


@pytest.mark.parametrize("poison", POISONS)
def test_a_number_that_is_not_finite_is_named_and_reaches_no_checkpoint(poison, monkeypatch, tiny_config, tmp_path):
    run = poisoned_run(poison, monkeypatch, tiny_config, times=1)
    with pytest.raises(NotFiniteError, match=POISONS[poison]) as caught:
        run.train()
    assert "checkpoint-000004 is whole: resume with --resume_from_checkpoint latest" in str(caught.value)
    assert whole(tmp_path / "run") == ["checkpoint-000002", "checkpoint-000004"]
    trainer(
        tiny_config(max_train_steps=10, logging_steps=4, checkpoints_total_limit=None, resume_from_checkpoint="latest"),
        critic=tiny_critic(norm_type="none"),
    ).train()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]


@pytest.mark.parametrize("network", ["generator", "critic"])
def test_a_weight_that_a_callback_makes_not_finite_reaches_no_checkpoint(network, tiny_config, tmp_path):
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6:
                next(getattr(run, network).parameters()).data[0, 0] = NAN

    run = trainer(
        tiny_config(max_train_steps=8, validation_steps=100, checkpoints_total_limit=None), callbacks=[Poison()]
    )
    expected = f"a weight of the {network} is not finite at step 6, .* a callback has changed it.*checkpoint-000004 is"
    with pytest.raises(NotFiniteError, match=expected):
        run.train()
    assert whole(tmp_path / "run") == ["checkpoint-000002", "checkpoint-000004"]


@pytest.mark.parametrize("poison", POISONS)
def test_on_nan_restore_goes_back_to_the_newest_checkpoint_and_on(poison, monkeypatch, tiny_config, tmp_path, capsys):
    run = poisoned_run(poison, monkeypatch, tiny_config, times=2, on_nan="restore")
    pipeline = run.train()
    assert run.state.progress.restores == 2 and run.state.progress.step == 10
    said = capsys.readouterr().err
    assert (
        said.count("checkpoint-000004; training continues with other random numbers") == 2
        and POISONS[poison].split(":")[0] in said
    )
    assert all(parameter.isfinite().all() for parameter in pipeline.generator.parameters())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]
    monkeypatch.undo()
    trainer(tiny_config(output_dir=str(tmp_path / "never"), max_train_steps=10, logging_steps=4)).train()
    assert (
        outcome(tmp_path / "run")["generator/diffusion_pytorch_model.safetensors"]
        != (outcome(tmp_path / "never")["generator/diffusion_pytorch_model.safetensors"])
    ), "other random numbers"


def test_it_goes_back_a_bounded_number_of_times(monkeypatch, tiny_config, tmp_path):
    run = poisoned_run(poison_gradient, monkeypatch, tiny_config, times=100, on_nan="restore", max_restores=2)
    with pytest.raises(
        NotFiniteError, match=r"The run was restored max_restores=2 times; .*checkpoint-000004 is whole"
    ):
        run.train()
    assert whole(tmp_path / "run")[-1] == "checkpoint-000004"


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(monkeypatch, tiny_config):
    run = poisoned_run(poison_loss, monkeypatch, tiny_config, times=1, on_nan="restore", checkpointing_steps=100)
    with pytest.raises(NotFiniteError, match=r"critic_loss is nan at step 5.* There is no whole checkpoint"):
        run.train()
