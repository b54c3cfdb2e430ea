"""Trains for half an hour and watches the process: memory, open files, threads and speed must stay as they are.

    python benchmarks/soak.py
    python benchmarks/soak.py --minutes 5 -- --preset wgan-gp

What follows -- goes to `hf-wgan train`; checkpoints and sample grids come often, so that a leak in them shows.
Exit code 1: memory grew by 1 % or more over the second half, files stayed open, or the speed of the last quarter is
more than 5 % below that of the second.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from options import split_options

TRAIN = Path(__file__).parents[1] / "scripts" / "train_wgan.py"
SECONDS_BETWEEN = 2.0


class Sample(NamedTuple):
    seconds: float
    memory: int  # bytes, resident
    files: int  # open descriptors
    threads: int


def watch(command: list[str], log: Path) -> list[Sample]:
    began, samples = time.monotonic(), []
    with open(log, "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                with watched.oneshot():
                    state = watched.memory_info().rss, watched.num_fds(), watched.num_threads()
                samples.append(Sample(time.monotonic() - began, *state))
            except psutil.NoSuchProcess:
                break
            time.sleep(SECONDS_BETWEEN)
    if process.wait():
        raise SystemExit(f"the run ended with exit code {process.returncode}:\n{log.read_text()[-2000:]}")
    return samples


def main(args: argparse.Namespace, extra: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        often = ["--max_train_steps", "100000000", "--checkpointing_steps", "100", "--validation_steps", "200"]
        command = [sys.executable, str(TRAIN), *often, "--max_train_minutes", str(args.minutes), *extra]
        samples = watch([*command, "--output_dir", str(run)], Path(folder, "log"))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # The end of a run saves and draws; what is watched is the training.
    end = samples[0].seconds + rows[-1]["seconds"]
    training = [sample for sample in samples if sample.seconds < end]
    half = training[len(training) // 2 :]
    early, late = half[: len(half) // 4], half[-(len(half) // 4) :]

    def of(samples: list[Sample], name: str) -> list[float]:
        return [getattr(sample, name) for sample in samples]

    memory = [statistics.median(of(part, "memory")) for part in (early, late)]
    opened, threads = ([max(of(part, name)) for part in (early, late)] for name in ("files", "threads"))
    speeds = [
        statistics.median(
            row["images_per_second"] for row in rows if start <= row["seconds"] / rows[-1]["seconds"] < end
        )
        for start, end in ((0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
    ]
    growth = memory[1] / memory[0] - 1
    print(f"{rows[-1]['step']:,} steps in {rows[-1]['seconds'] / 60:.1f} minutes; over the second half of them:")
    print(f"memory: from {memory[0] / 1e6:.1f} to {memory[1] / 1e6:.1f} MB, {growth:+.2%}")
    print(f"open files: from {opened[0]} to {opened[1]}; threads: from {threads[0]} to {threads[1]}")
    print("images a second, medians of the second, third and last quarter: " + ", ".join(f"{x:,.0f}" for x in speeds))
    steady = growth < 0.01 and opened[1] <= opened[0] and threads[1] <= threads[0] and speeds[2] > 0.95 * speeds[0]
    print("steady" if steady else "NOT steady")
    return 0 if steady else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of training")
    sys.exit(main(*split_options(parser)))
