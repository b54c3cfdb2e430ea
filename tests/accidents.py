"""Accidents at random moments of a run, and what its folder must be afterwards. For tests and benchmarks/kills.py."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from processes import SMALL, join, outcome, start

from hf_wgan.training.checkpoint import damage
from hf_wgan.utils import files

STEPS = 24
OPTIONS = ["--critic_norm_type", "none", "--train_batch_size", "8", "--max_train_steps", str(STEPS), "--use_ema"]
OPTIONS += ["--validation_steps", "12", "--checkpoints_total_limit", "2"]
# Two runs whose files can be told apart: by seed, width, the size of sample grids, and the steps of reports.
RUNS = [
    [*SMALL, *OPTIONS, "--seed", "0", "--generator_width", "8", "--num_validation_images", "4", "--logging_steps", "3"],
    [
        *SMALL,
        *OPTIONS,
        "--seed",
        "1",
        "--generator_width",
        "16",
        "--num_validation_images",
        "9",
        "--logging_steps",
        "8",
    ],
]
RESUME = ["--resume_from_checkpoint", "latest"]
OVERWRITE = ["--overwrite_output_dir"]
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}
KINDS = [*SIGNALS, "closed pipe", "two starts at once", "a second start", "a resume beside"]


class Life:
    """A process that trains, whose output this process reads."""

    def __init__(self, folder, words):
        reading, writing = multiprocessing.Pipe(duplex=False)
        self.process = start(live, str(folder), words, writing)
        self.said, self._reading = b"", reading
        writing.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        try:
            while text := os.read(self._reading.fileno(), 65536):
                self.said += text
        except OSError:
            pass

    def close_output(self):
        """What the process says next meets a closed pipe."""
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self._reading.fileno())
        os.close(null)

    def ended(self):
        """Its exit code."""
        self.process.join(200)
        assert self.process.exitcode is not None, f"has not ended: {self.said.decode()}"
        self._reader.join(5)
        return self.process.exitcode


def live(folder, words, output):
    from hf_wgan.cli import train as command

    join(0, 1, None)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    sys.exit(command.train([*words, "--output_dir", folder]))


class Whole(NamedTuple):
    """What the two runs leave where nothing happens."""

    outcomes: list
    shapes: list


def whole_runs(folder):
    """Train both runs undisturbed."""
    for seed, words in enumerate(RUNS):
        assert (life := Life(folder / str(seed), words)).ended() == 0, life.said.decode()
    folders = [folder / str(seed) for seed in range(len(RUNS))]
    return Whole([outcome(each) for each in folders], [shapes(each) for each in folders])


class Accident(NamedTuple):
    """What came of an accident."""

    codes: tuple
    problems: list


def happen(kind, folder, rng, whole):
    """Let an accident happen to a run at a random moment, repeat its command, and look at the folder both times."""
    shutil.rmtree(folder, ignore_errors=True)
    lives = [Life(folder, RUNS[0])]
    if kind != "two starts at once":
        wait_for_a_moment(lives[0], folder, rng)
    if kind in SIGNALS:
        with suppress(ProcessLookupError):  # it was faster
            os.kill(lives[0].process.pid, SIGNALS[kind])
    elif kind == "closed pipe":
        lives[0].close_output()
    else:
        lives.append(Life(folder, [*RUNS[0], *RESUME] if kind == "a resume beside" else [*RUNS[1], *OVERWRITE]))
    codes = tuple(life.ended() for life in lives)
    problems = [f"exit code {code}" for code in codes if code not in allowed(kind)]
    if len(lives) == 2 and 0 not in codes:
        problems.append("neither run has ended well")
    problems += mixed(folder, whole)
    seed = record["training"]["seed"] if (record := read_record(folder)) else 0
    again = Life(folder, [*RUNS[seed], *(RESUME if files.checkpoints(folder) else OVERWRITE)])
    if code := again.ended():
        problems.append(f"the same command, again: exit code {code}")
    else:
        problems += mixed(folder, whole)
        if outcome(folder) != whole.outcomes[seed]:
            problems.append("the same command, again: another outcome")
    if problems:
        problems += [life.said.decode() for life in (*lives, again)]
    return Accident(codes, problems)


def wait_for_a_moment(life, folder, rng):
    """Wait for a random moment: of the start, of a step, or of the end of a run. By its steps, as machines are busy."""
    step = rng.randint(-3, STEPS)
    while step > 0 and life.process.is_alive() and max(map(files.step_of, files.checkpoints(folder)), default=0) < step:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, {STEPS: 0.3}.get(step, 0.05) if step > 0 else 0.5))


def allowed(kind):
    """The exit codes that a run may end with: it may be faster than the accident, or not yet listen for signals."""
    if number := SIGNALS.get(kind):
        return (0, -number) if number == signal.SIGKILL else (0, -number, 128 + number)
    return (0,) if kind == "closed pipe" else (0, 2)


def mixed(folder, whole):
    """The problem with a folder whose files are of different runs, or whose checkpoints are damaged."""
    found = {name: seed for name, seed in origins(folder, whole).items() if seed is not None}
    problems = [f"files of different runs: {found}"] if len(set(found.values())) > 1 else []
    checkpoints = files.checkpoints(folder)
    return problems + [f"{each.name}: {damage(each)}" for each in checkpoints if damage(each)]


def origins(folder, whole):
    """Which run each file is of, by its name; None where that cannot be told."""
    from PIL import Image

    # A folder that was being written when the run was killed is of no run, and its files may be cut off.
    unfinished = {path for pattern in (files.TEMPORARY, files.SAVING) for path in folder.rglob(pattern)}
    records = [path for path in folder.rglob(files.CONFIG) if not unfinished & {*path.parents}]
    found = {path.parent.name: json.loads(path.read_text())["training"]["seed"] for path in records}
    if (card := folder / files.CARD).is_file():
        found["card"] = int(re.search(r"\| seed \| (\d+) \|", card.read_text())[1])
    for path in (folder / files.SAMPLES).glob("*.png"):
        with Image.open(path) as picture:
            found[path.name] = {512: 0, 480: 1}[picture.width]
    if (metrics := folder / files.METRICS).is_file():
        steps = {json.loads(line)["step"] for line in metrics.read_text().rpartition("\n")[0].splitlines()}
        of = [seed for seed, interval in enumerate((3, 8)) if not [step for step in steps if step % interval]]
        found["metrics"] = of[0] if len(of) == 1 else None if of else "mixed"
    for name, shape in shapes(folder).items():
        of = [seed for seed, known in enumerate(whole.shapes) if known.get(name) == shape]
        found[name] = of[0] if len(of) == 1 else None if of else "unknown"
    return found


def shapes(folder):
    """The shapes of all tensors, by file."""
    from safetensors.torch import load_file

    paths = [path for network in files.NETWORKS for path in (folder / network).glob("*.safetensors")]
    return {
        str(path.relative_to(folder)): {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}
        for path in paths
    }


def read_record(folder):
    path = Path(folder, files.CONFIG)
    return json.loads(path.read_text()) if path.is_file() else None
