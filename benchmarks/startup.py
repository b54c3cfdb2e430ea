"""What a user waits for before anything happens: the import, and the first training step of the default data.

    python benchmarks/startup.py

Medians of separate processes. The import is counted over that of torch and diffusers; `from hf_wgan import *` loads all
that `import hf_wgan` leaves for when it is needed. The first step is that of `hf-wgan train`, from the command
to the first line of `metrics.jsonl`: imports, the decoded digits, networks, and a step.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hf_wgan.utils import files

TRAIN = Path(__file__).parents[1] / "scripts" / "train_wgan.py"
IMPORTS = (
    "import torch, diffusers",
    "import torch, diffusers, hf_wgan",
    "import torch, diffusers; from hf_wgan import *",
)


def seconds_to_import(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def seconds_to_first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, str(TRAIN), "--output_dir", folder, "--logging_steps", "1"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        metrics = Path(folder, files.METRICS)
        try:
            while not (metrics.is_file() and metrics.read_text()):
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def main(args: argparse.Namespace) -> None:
    measured: dict[str, list[float]] = {statement: [] for statement in IMPORTS}
    for number in range(args.rounds + 1):
        for statement in IMPORTS:
            seconds = seconds_to_import(statement)
            if number:  # the first reads from the disk
                measured[statement].append(seconds)
    torch_and_diffusers, package, everything = (statistics.median(times) for times in measured.values())
    print(f"import torch, diffusers: {torch_and_diffusers:.2f} s")
    print(f"import hf_wgan: {package - torch_and_diffusers:.2f} s more, everything in it {everything - package:.2f} s")
    first = [seconds_to_first_step() for _ in range(args.rounds)]
    print(f"from command to first training step: {statistics.median(first):.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
