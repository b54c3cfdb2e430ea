"""`hf-wgan train`: what it says before it trains, and modules of one's own."""

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from hub_server import hub

from hf_wgan import RunConfig, WGANTrainer, build_trainer
from hf_wgan.algorithm.lipschitz import CONSTRAINTS
from hf_wgan.cli import dry_run
from hf_wgan.cli.train import train
from hf_wgan.utils.hints import EPOCHS
from hf_wgan.utils.memory import peak_memory_of

TINY = "--generator_width 8 --critic_width 8 --resolution 8 --train_batch_size 8 --n_critic 1 --num_validation_images 4"
MINE = """
from hf_wgan.algorithm.lipschitz import CONSTRAINTS, WeightClipping

class Loose(WeightClipping):
    def __init__(self, *args, **kwargs):
        super().__init__(0.5)

CONSTRAINTS["loose"] = Loose
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = dict(CONSTRAINTS)
    yield tmp_path
    sys.modules.pop("my_constraint", None)
    CONSTRAINTS.clear()
    CONSTRAINTS.update(before)


def test_a_dry_run_prints_the_settings_and_makes_nothing(folder, capsys):
    arguments = [
        *TINY.split(),
        "--preset",
        "wgan-fast",
        "--max_train_steps",
        "100000",
        "--hub_token",
        "hf_secret",
        "--push_to_hub",
    ]
    assert train([*arguments, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert list(folder.iterdir()) == []
    assert "# 1,797 images of 8×8×1" in printed and "# DCGANCritic: " in printed and " parameters" in printed
    assert "# 100,000 steps: about " in printed and "images a second" in printed and "# Memory: " in printed
    assert "hf_secret" not in printed
    Path("run.yaml").write_text(printed)
    again, direct = RunConfig.resolve("run.yaml"), RunConfig.resolve(**yaml.safe_load(RUN))
    assert (again.data, again.networks, again.training) == (direct.data, direct.networks, direct.training)
    assert again.preset == "wgan-fast"


def test_a_dry_run_takes_no_step_that_the_memory_is_too_small_for_and_says_so(folder, capsys, monkeypatch):
    if peak_memory_of(lambda: None) is None:
        pytest.skip("no Linux")
    # Less than this process has, as memory that tests before this one have freed may suffice for the growth.
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 1e8 - psutil.Process().memory_info().rss)
    monkeypatch.setattr(WGANTrainer, "step", lambda trainer: pytest.fail("the system would end the process here"))
    wide = "--generator_width 64 --critic_width 64 --resolution 32 --train_batch_size 256 --class_conditional"
    assert train([*wide.split(), "--dry_run"]) == 1
    printed = capsys.readouterr()
    assert "# 1,797 images of 32×32×1" in printed.out and "# DCGANCritic: " in printed.out
    assert re.search(
        r"error: train_batch_size=256 .* takes more memory than there is \(about \d+\.\d GB, of which this process can "
        r"have \d+\.\d\): use --train_batch_size 128 --gradient_accumulation_steps 2",
        printed.err,
    )


@pytest.mark.parametrize("options", [{}, {"class_conditional": True, "gradient_accumulation_steps": 2}])
def test_the_memory_of_a_step_is_estimated_without_reading_images(options, folder):
    trainer = build_trainer(
        RunConfig.resolve(output_dir="run", resolution=8, train_batch_size=16, n_critic=1, **options)
    )
    trainer.real_batches = None
    dry_run.check_memory(trainer)
    assert trainer.state.global_step == 0


MEMORY = """
from hf_wgan import RunConfig, build_trainer
from hf_wgan.cli import dry_run
from hf_wgan.utils.memory import peak_memory_of

wide = {"generator_width": 64, "critic_width": 64, "resolution": 32, "train_batch_size": 256, "n_critic": 1}
trainer = build_trainer(RunConfig.resolve(**wide, output_dir="run"))
dry_run.free_memory = lambda device: -1e12
before = peak_memory_of(lambda: None)
try:
    dry_run.check_memory(trainer)
except MemoryError as error:
    print(error, before, peak_memory_of(trainer.step))
"""


def test_the_estimated_memory_of_a_step_is_about_what_it_takes(folder):
    if peak_memory_of(lambda: None) is None:
        pytest.skip("no Linux")
    words = [sys.executable, "-c", MEMORY]  # a process of its own, in which no freed memory is left to be used again
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    estimated = 1e9 * float(re.match(r"about (\d+\.\d) GB", printed)[1])
    before, taken = map(int, printed.split()[-2:])
    assert estimated - before == pytest.approx(taken - before, rel=0.5, abs=1e8)


def test_a_dry_run_says_who_would_push_or_why_nobody_could(folder, capsys):
    assert train([*TINY.split(), "--push_to_hub", "--dry_run"]) == 0
    assert "# Hub: a push to wgan-digits would fail now: " in capsys.readouterr().out
    with hub() as server, server.online("hf_me", folder / "cache"):
        assert train([*TINY.split(), "--push_to_hub", "--dry_run"]) == 0
        assert not server.repositories
    assert "# Hub: me pushes to wgan-digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    "number, line", [(1, "1 cluster of 1,797 images."), (2, r"2 clusters of \d+ to [\d,]+ images.")]
)
def test_clusters_are_counted_in_a_sentence(number, line, folder, capsys):
    assert train([*TINY.split(), "--num_clusters", str(number), "--dry_run"]) == 0
    assert re.fullmatch(line, capsys.readouterr().err.splitlines()[-1])


def test_a_dry_run_of_any_length_takes_seconds(folder, capsys):
    assert train([*TINY.split(), "--max_train_steps", "2000000000", "--critic_warmup", "--dry_run"]) == 0
    assert "# 2,000,000,000 steps: about " in capsys.readouterr().out


@pytest.mark.parametrize(
    "option",
    [
        "--evaluation_features pixels",
        "--evaluation_features auto",
        "--num_evaluation_images 30",
        "--metric_for_best_model precision",
    ],
)
def test_an_option_of_evaluations_needs_some(option, folder, capsys):
    assert train([*TINY.split(), *option.split()]) == 2
    assert "has no effect with evaluation_steps=None; leave it out" in capsys.readouterr().err
    assert train([*TINY.split(), *option.split(), "--evaluation_steps", "10", "--dry_run"]) == 0


@pytest.mark.parametrize(
    "option, answer",
    [
        ("--critic_lr 1", "critic_lr is called critic_learning_rate here"),
        ("--gradient_penalty 10", "gradient_penalty_weight its weight"),
        ("--multi_gpu", "every GPU is used by default"),
        ("--use_deepspeed", "accelerate launch has it: accelerate launch --use_deepspeed"),
        ("--no_cuda", "--cpu keeps to the CPU"),
        ("--gpus 8", "gpus is called num_processes here"),
        ("--precision bf16-mixed", "precision is called mixed_precision here"),
        ("--strategy ddp", "--num_processes says how many"),
        ("--kimg 25000", "one takes train_batch_size × n_critic real images"),
        ("photos", "--train_data_dir names a folder of images, --dataset_name a dataset"),
    ],
)
def test_options_of_other_programs_are_answered(option, answer, folder, capsys):
    assert train([*TINY.split(), *option.split()]) == 2
    assert answer in capsys.readouterr().err


def test_a_run_whose_push_failed_has_an_exit_code_of_its_own(folder, capsys):
    assert train([*TINY.split(), "--max_train_steps", "1", "--push_to_hub"]) == 2
    assert "was not pushed to the Hub as wgan-digits" in capsys.readouterr().err
    assert (folder / "wgan-digits" / "model_index.json").is_file()


def test_a_dry_run_of_several_processes_says_that_it_measures_one(folder, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # which it sets itself
    threads = torch.get_num_threads()
    try:
        assert train([*TINY.split(), "--cpu", "--num_processes", "2", "--dry_run"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert "# One process of 2 was measured" in capsys.readouterr().out


def test_a_dry_run_refuses_what_the_run_would(folder, capsys):
    for more in ([], ["--dry_run"]):
        assert train([*TINY.split(), "--penalty_interval", "4", *more]) == 2
        assert "penalty_interval=4: has no effect with lipschitz='clip'" in capsys.readouterr().err
        assert train([*TINY.split(), "--report_to", "wandb", *more]) == 2
        assert "report_to='wandb': wandb is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--import"], ["--import", "--seed", "1"]])
def test_an_import_of_nothing_is_one_line(words, folder, capsys):
    assert train([*TINY.split(), *words]) == 2
    assert "--import: names no module" in capsys.readouterr().err


def test_a_file_whose_name_is_taken_is_one_line(folder, capsys):
    (folder / "queue.py").write_text("raise SystemExit")
    assert train([*TINY.split(), "--import", "queue.py"]) == 2
    assert "import='queue.py': another module of this name is there already" in capsys.readouterr().err


def test_from_python_a_launch_option_is_one_line(folder, capsys):
    assert train([*TINY.split(), "--num_processes", "2"]) == 2
    assert "num_processes: from Python this trains in the calling process" in capsys.readouterr().err


def test_a_recorded_run_is_repeated_with_the_modules_that_it_imported(folder, capsys):
    (folder / "my_constraint.py").write_text(MINE)
    options = [*TINY.split(), "--max_train_steps", "1", "--lipschitz", "loose", "--output_dir", "first"]
    again = ["--config", "first/training_config.json", "--output_dir", "second"]
    assert train(["--import", "my_constraint.py", *options]) == 0
    sys.modules.pop("my_constraint")
    assert train(again) == 2
    assert "imported my_constraint.py; add --import my_constraint.py" in capsys.readouterr().err
    assert train(["--import", "my_constraint.py", *again]) == 0


def test_a_dry_run_with_a_time_limit_says_how_many_steps_fit(folder, capsys):
    assert train([*TINY.split(), "--max_train_minutes", "600", "--dry_run"]) == 0
    steps = re.search(r"# 10\.0 hours: about ([\d,]+) steps on ", capsys.readouterr().out)
    assert int(steps[1].replace(",", "")) > 1000
    assert train([*TINY.split(), "--max_train_minutes", "600", "--max_train_steps", "9", "--dry_run"]) == 0
    assert "# 9 steps: about " in capsys.readouterr().out


RUN = """
preset: wgan-fast
generator_width: 8
critic_width: 8
resolution: 8
train_batch_size: 8
n_critic: 1
num_validation_images: 4
max_train_steps: 100000
push_to_hub: true
"""


def test_a_dry_run_says_what_would_stop_the_run(folder, capsys):
    (folder / "wgan-digits").mkdir()
    (folder / "wgan-digits" / "mine.txt").touch()
    assert train([*TINY.split(), "--dry_run"]) == 2
    assert "output_dir='wgan-digits': is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(EPOCHS))
@pytest.mark.parametrize("form", ["--{} 12", "--{}=12"])
def test_epochs_are_answered_in_steps(name, form, folder, capsys):
    assert train([*TINY.split(), *form.format(name).split(), "--n_critic", "2"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "max_train_steps counts generator updates" in line or "is called num_epochs here" in line
    assert f"12 epochs of these 1,797 images are --max_train_steps {round(12 * 1797 / 16)}" in line


@pytest.mark.parametrize("word", ["my_constraint", "my_constraint.py"])
def test_a_module_of_ones_own_is_imported_before_the_options_are_read(word, folder, capsys):
    (folder / "my_constraint.py").write_text(MINE)
    arguments = [*TINY.split(), "--lipschitz", "loose", "--max_train_steps", "1", "--output_dir", "run"]
    assert train(arguments) == 2
    assert "lipschitz='loose': must be one of clip" in capsys.readouterr().err
    assert train([*arguments, "--import", word]) == 0


@pytest.mark.parametrize("word", ["no_such_module", "no/such/file.py"])
def test_a_module_that_is_not_there_is_one_line(word, folder, capsys):
    assert train(["--import", word]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: import={word!r}: there is no such module in ")


@pytest.mark.parametrize("name", ["my_constraint", "my_constraint.py"])
@pytest.mark.parametrize(
    "code, reason",
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("if:", "SyntaxError: invalid syntax"),
        ("raise SystemError", "SystemError: "),
    ],
)
def test_an_error_within_a_module_shows_where_it_is(name, code, reason, folder, capsys):
    (folder / "my_constraint.py").write_text(f"\n{code}")
    assert train(["--import", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: import={name!r}: fails in {folder / 'my_constraint.py'}, line 2 ({reason})"
