"""What the benchmarks that train have in common."""

import argparse
import sys


def split_options(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Return the benchmark's own options, and the words after `--`, which are for the runs."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:end]), words[end + 1 :]
