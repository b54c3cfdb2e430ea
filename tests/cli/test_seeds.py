"""A seed that the random numbers of some library cannot take is one line, in every command with a seed."""

import pytest

from hf_wgan.cli.evaluate import evaluate, evaluate_digits, train_classifier
from hf_wgan.cli.generate import generate
from hf_wgan.cli.train import train
from hf_wgan.utils.options import MAX_SEED

COMMANDS = {train: [], generate: ["model"], evaluate: ["model"], evaluate_digits: ["model"], train_classifier: []}


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**64, 10**30])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_seed_out_of_range_is_one_line(command, seed, capsys):
    assert command([*COMMANDS[command], "--seed", str(seed)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"seed={seed}: must be a whole number" in error


def test_the_largest_seed_trains_and_generates(tmp_path):
    small = "--resolution 8 --generator_width 8 --critic_width 8 --n_critic 1 --max_train_steps 1"
    seed = ["--seed", str(MAX_SEED)]
    assert train([*small.split(), "--num_validation_images", "4", *seed, "--output_dir", str(tmp_path / "run")]) == 0
    assert generate([str(tmp_path / "run"), "--num_images", "2", *seed, "--output_dir", str(tmp_path / "images")]) == 0
