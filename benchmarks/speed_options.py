"""Whether every option that is meant for speed is faster than leaving it out, on this machine, for every preset.

    python benchmarks/speed_options.py
    python benchmarks/speed_options.py --presets wgan,wgan-fast --rounds 5 -- --resolution 64

A ratio is the time of an iteration without the option over the time with it, the median of the rounds; below 0.97 it is
marked. Every way to train has a process of its own, and they take turns; other work on the machine makes the ratios
uncertain, as their range over the rounds shows. The images are the embedded digits. What follows -- is passed to all.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from options import split_options
from speed import in_turns, machine, seconds, spawning

from hf_wgan import InputError, RunConfig, build_trainer
from hf_wgan.training.presets import PRESETS
from hf_wgan.training.report import ProgressCallback
from hf_wgan.training.resolve import OPTION_CLASSES
from hf_wgan.utils.options import OptionParser

NEVER = 10**9
COMMON = {"resolution": 32, "generator_width": 32, "critic_width": 32, "train_batch_size": 32}
COMMON |= {"logging_steps": 100, "max_train_steps": NEVER, "validation_steps": NEVER, "checkpointing_steps": NEVER}
# Each option, and the settings with it and without it.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fast paths": ({}, {"fast_paths": False}),
    "--mixed_precision bf16": ({"mixed_precision": "bf16"}, {}),
    "fast paths in bf16": ({"mixed_precision": "bf16"}, {"mixed_precision": "bf16", "fast_paths": False}),
}
ON_GPUS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "TF32": ({}, {"allow_tf32": False}),
    "CUDA graphs": ({}, {"cuda_graphs": False}),
    "--compile": ({"compile": True}, {}),
}


def serve(pipe: Connection, settings: dict[str, Any]) -> None:
    """Train when asked to, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = RunConfig.resolve(**{**COMMON, "output_dir": str(Path(folder, "run")), **settings})
            trainer = build_trainer(config)
        except InputError as error:
            pipe.send(str(error))
            return
        trainer.remove_callback(ProgressCallback)
        steps, device = trainer.iterate(), trainer.accelerator.device
        pipe.send("")
        while count := pipe.recv():
            pipe.send(seconds(lambda: next(steps), count, device))


class Run:
    """A way to train, in a process of its own."""

    def __init__(self, settings: dict[str, Any]):
        self.pipe, theirs = spawning.Pipe()
        self.process = spawning.Process(target=serve, args=(theirs, settings), daemon=True)
        self.process.start()
        theirs.close()
        self.refusal: str = self.pipe.recv()

    def seconds(self, count: int) -> float:
        self.pipe.send(count)
        return self.pipe.recv()

    def end(self) -> None:
        if not self.refusal:
            self.pipe.send(0)
        self.process.join()


def ratios(common: dict[str, Any], pairs: dict[str, tuple[dict[str, Any], dict[str, Any]]], rounds: int) -> list[str]:
    """Return the ratio of each pair in words: the median over the rounds, and the least and the greatest."""
    ways = {repr(settings): settings for pair in pairs.values() for settings in pair}
    runs = {name: Run({**common, **settings}) for name, settings in ways.items()}
    contenders: dict[str, Callable[[int], float]] = {name: run.seconds for name, run in runs.items() if not run.refusal}
    times = in_turns(contenders, rounds)
    cells = []
    for option, without in pairs.values():
        if refusal := runs[repr(option)].refusal or runs[repr(without)].refusal:
            cells.append(refusal)
            continue
        values = sorted(slow / fast for slow, fast in zip(times[repr(without)], times[repr(option)]))
        ratio = statistics.median(values)
        mark = " **slower**" if ratio < 0.97 else ""
        cells.append(f"{ratio:.2f} ({values[0]:.2f} – {values[-1]:.2f}){mark}")
    for run in runs.values():
        run.end()
    return cells


def main(args: argparse.Namespace, extra: list[str]) -> None:
    pairs = {**PAIRS, **ON_GPUS} if torch.cuda.is_available() else PAIRS
    print(f"{machine()}\n")
    print(f"| preset | {' | '.join(pairs)} |\n|---|{'---|' * len(pairs)}", flush=True)
    options = OptionParser(*OPTION_CLASSES).parse(extra).options
    for preset in args.presets.split(","):
        print(f"| {preset} | {' | '.join(ratios({'preset': preset, **options}, pairs, args.rounds))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default=",".join(PRESETS), help="some, separated by commas")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way is timed")
    main(*split_options(parser))
