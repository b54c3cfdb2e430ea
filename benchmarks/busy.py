"""How fast the default run trains beside other programs that keep cores busy, with threads that spin or sleep.

    python benchmarks/busy.py
    python benchmarks/busy.py --seconds 30 --programs 0,1,2 -- --preset wgan-fast

A ratio is the number of steps over that of the same number of threads which spin, as OpenMP does by default, with no
other program. Each other program is a Python loop. What follows -- is passed to every run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

import torch
from options import split_options
from speed import machine

from hf_wgan import RunConfig, build_trainer
from hf_wgan.training.resolve import OPTION_CLASSES
from hf_wgan.utils.cores import WAIT_POLICY
from hf_wgan.utils.options import OptionParser

LOOP = "while True: pass"


def count_steps(seconds, words):
    """Train for a time and print the number of steps."""
    options = OptionParser(*OPTION_CLASSES).parse(words).options
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(RunConfig.resolve(**{**options, "output_dir": f"{folder}/run"}))
        trainer.step()
        began, steps = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            trainer.step()
            steps += 1
    print(steps)


def steps_of(threads, policy, seconds, words):
    """Return the number of steps of a process with so many threads that wait by this policy."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop(WAIT_POLICY, None)
    if policy:
        environment[WAIT_POLICY] = policy
    command = [sys.executable, __file__, "--count", "--seconds", str(seconds), "--", *words]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="time of every run")
    parser.add_argument("--programs", default="0,1,2", help="numbers of other programs, separated by commas")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    arguments, words = split_options(parser)
    if arguments.count:
        count_steps(arguments.seconds, words)
        return
    threads = torch.get_num_threads()
    ways = {f"{threads} threads that spin": (threads, ""), f"{threads} threads that sleep": (threads, "PASSIVE")}
    ways["1 thread"] = (1, "")
    print(f"{machine()}; steps in {arguments.seconds:g} s\n")
    print("| other programs | " + " | ".join(ways) + " |\n|---:|" + "---:|" * len(ways))
    alone = None
    for number in map(int, arguments.programs.split(",")):
        with ExitStack() as loops:
            for _ in range(number):
                loops.callback(subprocess.Popen([sys.executable, "-c", LOOP]).kill)
            steps = [steps_of(*way, arguments.seconds, words) for way in ways.values()]
        alone = alone or steps[0]
        print(f"| {number} | " + " | ".join(f"{count} ({count / alone:.2f})" for count in steps) + " |", flush=True)


if __name__ == "__main__":
    main()
