"""One process and two on the same batches: speed, and what they tell each other.

    python benchmarks/scale.py

The global batch is 64 images in every case: one process on one thread, one on two, and two on one thread each, through
`torchrun` as `accelerate launch` starts it. Efficiency is the speed over that of one thread, divided by the threads.
Bytes are those of the gradients that are averaged in an iteration, for each process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from hf_wgan import DCGANCritic, DCGANGenerator
from hf_wgan.utils import files

TRAIN = Path(__file__).parents[1] / "scripts" / "train_wgan.py"
BATCH, N_CRITIC = 64, 5
CASES = {"one process, one thread": (1, 1), "one process, two threads": (1, 2), "two processes, one thread": (2, 1)}


def images_per_second(processes: int, threads: int, args: argparse.Namespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "train_batch_size": BATCH // processes,
            "resolution": args.resolution,
            "generator_width": args.width,
            "critic_width": args.width,
            "max_train_steps": args.steps,
            "logging_steps": 5,
            "validation_steps": args.steps,
            "checkpointing_steps": args.steps,
            "output_dir": folder,
        }
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
        subprocess.run([*launch, str(TRAIN), *words], env=environment, check=True, stderr=subprocess.DEVNULL)
        rows = [json.loads(line) for line in Path(folder, files.METRICS).read_text().splitlines()]
        return statistics.median(row["images_per_second"] for row in rows[1:])


def main(args: argparse.Namespace) -> None:
    rounds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(args.rounds):
        for name, (processes, threads) in CASES.items():
            rounds[name].append(images_per_second(processes, threads, args))
            print(f"{name}: {rounds[name][-1]:.0f} images/s", file=sys.stderr, flush=True)
    speeds = {name: statistics.median(speeds) for name, speeds in rounds.items()}
    alone = next(iter(speeds.values()))
    print(f"\n{args.resolution}×{args.resolution} grey, width {args.width}, global batch {BATCH}\n")
    print("| | images/s | times one thread | efficiency |\n|---|---:|---:|---:|")
    for name, speed in speeds.items():
        processes, threads = CASES[name]
        print(f"| {name} | {speed:.0f} | {speed / alone:.2f} | {speed / alone / (processes * threads):.0%} |")
    generator = DCGANGenerator(args.resolution, 1, width=args.width).num_parameters()
    critic = DCGANCritic(args.resolution, 1, width=args.width).num_parameters()
    print(
        f"\n{critic:,} parameters of the critic, {generator:,} of the generator: "
        f"{4 * (N_CRITIC * critic + generator) / 1e6:.1f} MB of gradients an iteration."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args())
