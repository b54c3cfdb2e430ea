import fcntl
import io
import json
import os
import struct
import subprocess
import sys
import termios
import tty
from contextlib import suppress
from types import SimpleNamespace

import pytest

from hf_wgan import TrainingConfig
from hf_wgan.training.config import NO_LIMIT
from hf_wgan.training.report import ProgressCallback
from hf_wgan.utils import console


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes when it is told to."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_after_each_tenth_and_nothing_to_go_back_over(clock, capsys):
    with console.progress_bar(1000, " steps", desc="Training") as bar:
        for _ in range(1000):
            clock[0] += 1 / 64
            bar.set_postfix_str("all is well")
            bar.update()
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert len(lines) == 10 and "\r" not in said
    assert lines[0] == "Training: 100 of 1,000 steps (10%), 00:01, 00:14 to go: all is well"
    assert lines[-1] == "Training: 1,000 of 1,000 steps (100%), 00:15: all is well"


def test_a_log_of_a_long_run_gets_a_line_every_half_minute(clock, capsys):
    bar = console.progress_bar(1_000_000, " steps", initial=500_000)
    for _ in range(90):
        clock[0] += 1
        bar.update()
    assert [line.partition(" of")[0] for line in capsys.readouterr().err.splitlines()] == [
        "500,030",
        "500,060",
        "500,090",
    ]
    bar.close()
    assert capsys.readouterr().err == "", "it has all been said"


def test_a_log_tells_how_far_it_came_before_it_ended(clock, capsys):
    bar = console.progress_bar(100, " steps")
    bar.update(7)
    assert capsys.readouterr().err == ""
    bar.close()
    assert capsys.readouterr().err.startswith("7 of 100 steps (7%)")


def test_what_has_no_total_yet_is_counted(clock, capsys):
    bar = console.progress_bar(None, " steps")
    bar.update(7)
    assert capsys.readouterr().err == ""
    clock[0] += 60
    bar.update(1)
    assert capsys.readouterr().err == "8 steps, 01:00\n"
    bar.total = 100
    bar.update(20)
    assert capsys.readouterr().err.startswith("28 of 100 steps (28%)")


def test_a_run_that_only_its_time_limits_has_no_total_before_its_first_report():
    totals = {}
    for steps in (300, NO_LIMIT):
        report = ProgressCallback()
        config = TrainingConfig(max_train_steps=steps, max_train_minutes=1)
        report.on_train_begin(config, SimpleNamespace(global_step=0), None)
        totals[steps] = report.bar.total
    assert totals == {300: 300, NO_LIMIT: None}


def test_a_run_that_goes_back_is_reported_from_there(clock, capsys):
    bar = console.progress_bar(100, " steps")
    for steps in (50, -30, 10):
        bar.update(steps)
    assert [line.partition(" of")[0] for line in capsys.readouterr().err.splitlines()] == ["50", "30"]


def test_what_is_disabled_says_nothing(capsys):
    with console.progress_bar(1, " steps", disable=True) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_one_bar_with_what_matters_most_within_80_columns(monkeypatch):
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    losses = {"critic_loss": -0.1234, "generator_loss": -0.5678, "wasserstein_estimate": 0.1234}
    with os.fdopen(theirs, "w", buffering=1) as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        config, report = TrainingConfig(max_train_steps=3000), ProgressCallback()
        report.on_train_begin(config, SimpleNamespace(global_step=0), None)
        report.bar.mininterval = 0
        logs = {**losses, "images_per_second": 4321.0}
        report.on_log(config, SimpleNamespace(global_step=300), None, logs=logs)
        console.say("A word in between.")
        report.on_log(config, SimpleNamespace(global_step=3000), None, logs=logs)
        report.close()
    written = b""
    with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # how a terminal ends
        while more := terminal.read(4096):
            written += more
    written = written.decode()
    assert written.count("\n") == 2, "one after the word, one after the bar"
    assert "\rA word in between.\n" in written
    shown = written.rstrip("\n").rpartition("\r")[2]
    assert "100%" in shown and "3000/3000" in shown and "Wasserstein 0.1234, generator -0.5678, 4321" in shown
    assert len(shown) <= 80


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_messages_and_bars_outlive_their_reader(error, monkeypatch):
    def fail(*_):
        raise error

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.progress_bar(3, " steps") as bar:
        terminal.write = terminal.flush = fail
        for _ in range(3):
            bar.update()
            bar.set_postfix_str("a loss", refresh=True)
    console.say("done")


def test_a_run_outlives_the_reader_of_its_output(tmp_path):
    code = "import sys, time\nfrom hf_wgan.utils.console import say\n"
    code += "say('first'); sys.stdin.readline(); say('lost'); print('lost too', file=sys.stderr, flush=True)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "first\n"
    process.stderr.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(timeout=100) == 0


def test_names_in_messages_do_not_steer_the_terminal(capsys, tmp_path):
    from hf_wgan.cli.evaluate import evaluate_digits

    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e"
    console.say(f"Bad image left out: {evil}é.png\n\tsecond line")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": evil}))
    assert evaluate_digits([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert not [letter for letter in said if not letter.isprintable() and letter not in "\n\t"]
    assert "é.png\n\tsecond line\n" in said and "describes no Wasserstein GAN pipeline" in said
