"""What checkpoints cost: the default run with one every 100 steps against the same run with none, in turns.

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --rounds 10 -- --train_data_dir photos --resolution 64

What follows -- is passed to both runs. Both are made of the same object and take steps in turns of `--every` each, so
that whatever else the machine does slows both alike. Printed is the median of the rounds' ratios.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from options import split_options

from hf_wgan import RunConfig, WGANTrainer, load_images
from hf_wgan.models.factory import build_networks
from hf_wgan.training.report import ProgressCallback
from hf_wgan.training.resolve import OPTION_CLASSES
from hf_wgan.utils.options import OptionParser

NEVER = 10**9


class Run:
    """A run that is taken some steps further at a time."""

    def __init__(self, folder: Path, every: int, extra: list[str]):
        parsed = OptionParser(*OPTION_CLASSES).parse(extra)
        pace = {"validation_steps": NEVER, "max_train_steps": NEVER, "checkpointing_steps": every}
        config = RunConfig.resolve(**{**pace, **parsed.options, "output_dir": str(folder)})
        dataset = load_images(config.data)
        torch.manual_seed(config.training.seed)
        networks = build_networks(config.networks, config.data.resolution, dataset.shape[0])
        self.trainer = WGANTrainer(*networks, dataset, config.training)
        self.trainer.remove_callback(ProgressCallback)
        self.steps = self.trainer.iterate()

    def seconds(self, steps: int) -> float:
        """Measure the next steps and what is due after them, up to the last byte on the disk."""
        began = time.perf_counter()
        for _ in range(steps):
            next(self.steps)
        self.trainer.checkpoints.writer.wait()
        return time.perf_counter() - began


def main(args: argparse.Namespace, extra: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        without = Run(Path(folder, "without"), NEVER, extra)
        every = Run(Path(folder, "every"), args.every, extra)
        for run in (without, every):
            run.seconds(20)  # to warm up
            run.seconds(args.every - 20)
        ratios = []
        for number in range(args.rounds):
            order = (without, every) if number % 2 else (every, without)
            seconds = {run: run.seconds(args.every) for run in order}
            ratios.append(seconds[every] / seconds[without])
            print(
                f"round {number + 1}: {args.every} steps and a checkpoint {seconds[every]:.3f} s, "
                f"without {seconds[without]:.3f} s, ratio {ratios[-1]:.4f}",
                file=sys.stderr,
            )
        size = sum(path.stat().st_size for path in Path(folder, "every").glob("checkpoint-*/**/*") if path.is_file())
        count = len(list(Path(folder, "every").glob("checkpoint-*")))
    print(
        f"A checkpoint ({size / count / 1e6:.1f} MB) every {args.every} steps costs "
        f"{statistics.median(ratios) - 1:+.2%} of the time (median of {args.rounds} rounds; "
        f"{torch.get_num_threads()} threads)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=100, help="steps from one checkpoint to the next")
    parser.add_argument("--rounds", type=int, default=12, help="rounds, each with `--every` steps of both runs")
    main(*split_options(parser))
