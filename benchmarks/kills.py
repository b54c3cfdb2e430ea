"""Runs to which something happens at random moments: kills, signals, closed pipes, and second runs in one folder.

    python benchmarks/kills.py
    python benchmarks/kills.py --accidents 20 --seed 1

After each accident the folder must be of one run only (record, card, samples, metrics, weights and checkpoints), and
the same command must end with the same bytes as a run that nothing happened to. Exit code 1: one did not.
"""

import argparse
import collections
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import accidents


def main(num_accidents: int, seed: int) -> int:
    rng, failures = random.Random(seed), 0
    codes: dict[str, collections.Counter] = {kind: collections.Counter() for kind in accidents.KINDS}
    broken: collections.Counter = collections.Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        whole = accidents.whole_runs(Path(folder))
        for number in range(num_accidents):
            kind = accidents.KINDS[number % len(accidents.KINDS)]
            accident = accidents.happen(kind, Path(folder, "run"), rng, whole)
            codes[kind][accident.codes] += 1
            if accident.problems:
                broken[kind] += 1
                failures += 1
                print(f"accident {number}, {kind}:", *accident.problems, sep="\n  ", file=sys.stderr, flush=True)
    print("| accident | times | exit codes (times) | folders of two runs, damage or another outcome |")
    print("|---|---|---|---|")
    for kind, counts in codes.items():
        ends = ", ".join(f"{' and '.join(map(str, code))} ({count})" for code, count in counts.most_common())
        print(f"| {kind} | {counts.total()} | {ends} | {broken[kind]} |")
    print(f"{num_accidents} accidents in {time.monotonic() - began:.0f} s.")
    return int(failures > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accidents", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    sys.exit(main(args.accidents, args.seed))
