"""Trains every preset for the same number of minutes and measures what came out, as one Markdown table.

    python benchmarks/presets.py --dataset_name path/to/fashion-mnist --minutes 10
    python benchmarks/presets.py --dataset_name path/to/fashion-mnist --presets wgan,wgan-gp -- --generator_width 32

The dataset needs labels and a test split. What follows -- is passed to every run. A preset whose run in --output_dir
has ended already is not trained again, only measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from diffusers.utils import logging
from options import split_options

from hf_wgan import ImageSet, WGANPipeline, load_images
from hf_wgan.data import DataConfig
from hf_wgan.data.batches import normalised
from hf_wgan.metrics.classifier import (
    SmallClassifier,
    class_entropy,
    class_shares,
    extract,
    load_or_train_classifier,
)
from hf_wgan.metrics.distances import frechet_distance
from hf_wgan.metrics.neighbours import coverage
from hf_wgan.training.presets import PRESETS
from hf_wgan.utils import files

RESOLUTION = 32
TRAIN = Path(__file__).parents[1] / "scripts" / "train_wgan.py"
NEVER = "1000000"  # steps
COLUMNS = [
    "preset",
    "minutes",
    "steps",
    "images/s",
    "Fréchet distance",
    "precision",
    "recall",
    "rarest class",
    "entropy",
]


def train(preset: str, args: argparse.Namespace, extra: list[str]) -> None:
    """Run one preset in a process of its own; its output goes to a file beside its folder."""
    folder = Path(args.output_dir, preset)
    if (folder / files.INDEX).is_file():
        say(f"{preset}: has been trained already, in {folder}")
        return
    options = {
        "preset": preset,
        "dataset_name": args.dataset_name,
        "resolution": RESOLUTION,
        "max_train_minutes": args.minutes,
        "max_train_steps": NEVER,
        "validation_steps": NEVER,
        "checkpointing_steps": NEVER,
        "seed": args.seed,
        "output_dir": folder,
    }
    command = [sys.executable, str(TRAIN), "--overwrite_output_dir"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))] + extra
    with open(f"{folder}.log", "w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        code = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
    say(f"{preset}: {'trained' if code == 0 else f'failed with exit code {code}'}, see {folder}.log")


def row(preset: str, args: argparse.Namespace, network: SmallClassifier, real: torch.Tensor) -> list[str]:
    folder = Path(args.output_dir, preset)
    if not (folder / files.INDEX).is_file():
        return [preset, *["–"] * (len(COLUMNS) - 1)]
    metrics = [json.loads(line) for line in (folder / files.METRICS).read_text().splitlines()]
    speed = statistics.median(line["images_per_second"] for line in metrics)
    pipeline = WGANPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(args.seed)
    samples = pipeline(len(real), generator=rng, output_type="pt").images  # (N, C, H, W) in [0, 1]
    measured = figures(network, real, samples * 2 - 1)
    trained = [f"{metrics[-1]['seconds'] / 60:.1f}", f"{metrics[-1]['step']:,}", f"{speed:,.0f}"]
    return [preset, *trained, *measured]


def figures(network: SmallClassifier, real_images: torch.Tensor, samples: torch.Tensor) -> list[str]:
    """Compute the metrics of as many samples as real images, both `(N, C, H, W)` in [-1, 1]."""
    real, _ = extract(network, real_images)
    generated, classes = extract(network, samples)
    shares = class_shares(classes, network.config.num_classes)
    precision, recall, *_ = coverage(real, generated)
    numbers = [f"{value:.3f}" for value in (precision, recall, shares.min(), class_entropy(shares))]
    return [f"{frechet_distance(real, generated):.1f}", *numbers]


def first(images: ImageSet, count: int) -> torch.Tensor:
    """Return the first `count` images `(N, C, H, W)` in [-1, 1]; all of them if there are fewer."""
    return normalised(images.images[:count])


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(args: argparse.Namespace, extra: list[str]) -> None:
    presets = args.presets.split(",")
    if unknown := [name for name in presets if name not in PRESETS]:
        raise SystemExit(f"--presets: there is no {', '.join(unknown)}, only {', '.join(PRESETS)}")
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    # All that is costly besides the training is done before it or after it, so that it slows no run down.
    data = {"dataset_name": args.dataset_name, "resolution": RESOLUTION}
    images, held_out = (load_images(DataConfig(**data, dataset_split=split)) for split in ("train", "test"))
    network, accuracy = load_or_train_classifier(Path(args.output_dir, "classifier"), images, held_out)
    say(f"The classifier is right about {accuracy:.2%} of the test images.")

    logging.disable_progress_bar()
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda preset: train(preset, args, extra), presets))

    real = first(held_out, args.num_images)
    table = [["real training images", "–", "–", "–", *figures(network, real, first(images, len(real)))]]
    table += [row(preset, args, network, real) for preset in presets]
    print(
        f"\nThreads of each run: {args.threads}; runs at once: {args.jobs}; {RESOLUTION}×{RESOLUTION} pixels; "
        f"{len(real):,} samples against as many test images, by the features of a classifier that is right about "
        f"{accuracy:.1%} of these. images/s: real images that the critic saw."
        + (f" Options of every run: {' '.join(extra)}." if extra else "")
        + "\n"
    )
    for cells in (COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)], *table):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="as for training")
    parser.add_argument("--minutes", type=float, default=10, help="of training, each")
    parser.add_argument("--presets", default=",".join(PRESETS), help="some of them, separated by commas")
    parser.add_argument("--output_dir", default="presets", help="for the runs and the classifier")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--num_images", type=int, default=10_000, help="samples to measure")
    parser.add_argument("--seed", type=int, default=0, help="of the runs and of the samples measured")
    main(*split_options(parser))
