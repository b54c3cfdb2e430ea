"""Trains every preset for the same number of minutes and measures what came out, as one Markdown table.

    python benchmarks/presets.py --dataset_name path/to/fashion-mnist --minutes 10
    python benchmarks/presets.py --dataset_name path/to/fashion-mnist --presets wgan,wgan-gp -- --generator_width 32
    python benchmarks/presets.py --train_data_dir pictures --resolution 64 --presets wgan-fast --seeds 0,1,2

The images need classes: a column of labels, or folders. Samples are compared with the test split of a dataset, with the
training images of a folder, or with those of `--compare_with`, by the features of a small classifier. Parameters are
those of both networks, in millions. `--picture` shows some samples of each run in a row. What follows -- is passed to
every run. A run in --output_dir that has ended already is not trained again, only measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from diffusers.utils import logging
from options import split_options
from PIL import Image

from hf_wgan import ImageSet, WGANPipeline
from hf_wgan.data import DataConfig
from hf_wgan.data.batches import normalised
from hf_wgan.data.load import load_image_set
from hf_wgan.metrics.classifier import (
    SmallClassifier,
    class_entropy,
    class_shares,
    extract,
    load_or_train_classifier,
)
from hf_wgan.metrics.distances import frechet_distance, kernel_distance
from hf_wgan.metrics.neighbours import coverage
from hf_wgan.models.checks import has_clusters
from hf_wgan.training.presets import PRESETS
from hf_wgan.utils import files
from hf_wgan.utils.grids import image_grid, save_image

TRAIN = Path(__file__).parents[1] / "scripts" / "train_wgan.py"
NEVER = "1000000"  # steps
COLUMNS = [
    "preset",
    "parameters",
    "minutes",
    "steps",
    "images/s",
    "Fréchet distance",
    "kernel distance",
    "precision",
    "recall",
    "rarest class",
    "entropy",
]
DIGITS = (1, 1, 0, 0, 1, 2, 3, 3, 3, 3)  # after the point, of the columns but the first
PICTURED_SAMPLES = 16  # of a run


class Run(NamedTuple):
    """One preset with one seed."""

    preset: str
    seed: int
    folder: Path


class Measurement(NamedTuple):
    """The row of a run, and some of its samples."""

    numbers: list[float]
    samples: list[Image.Image]


def train(run: Run, args: argparse.Namespace, extra: list[str]) -> None:
    """Train in a process of its own, whose output goes to a file beside its folder."""
    folder = run.folder
    if (folder / files.INDEX).is_file():
        say(f"{folder.name}: has been trained already, in {folder}")
        return
    options = {
        "preset": run.preset,
        **named(args),
        "max_train_minutes": args.minutes,
        "max_train_steps": NEVER,
        "validation_steps": NEVER,
        "checkpointing_steps": NEVER,
        "seed": run.seed,
        "output_dir": folder,
    }
    command = [sys.executable, str(TRAIN), "--overwrite_output_dir"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))] + extra
    with open(f"{folder}.log", "w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        code = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
    say(f"{folder.name}: {'trained' if code == 0 else f'failed with exit code {code}'}, see {folder}.log")


def measure(run: Run, network: SmallClassifier, real: torch.Tensor, compared: ImageSet) -> Measurement | None:
    """Return the numbers and some samples of a run; None if it has no model.

    Samples of a model with labels have those of the `real` images, the first of the set that is compared with; a model
    with clusters draws its own.
    """
    folder = run.folder
    if not (folder / files.INDEX).is_file():
        return None
    metrics = [json.loads(line) for line in (folder / files.METRICS).read_text().splitlines()]
    speed = statistics.median(line["images_per_second"] for line in metrics)
    pipeline = WGANPipeline.from_pretrained(folder).to(PartialState().device)
    pipeline.set_progress_bar_config(disable=True)
    networks = pipeline.generator.config
    has_labels = networks.get("num_classes") and not has_clusters(networks)  # of which no label tells
    labels = compared.relabelled(networks.get("class_names")).labels if has_labels else None
    classes = None if labels is None else labels[: len(real)]

    def sample(number: int, output_type: str) -> Any:
        labels = None if classes is None else classes[:number]
        rng = torch.Generator().manual_seed(run.seed)
        return pipeline(number, generator=rng, class_labels=labels, output_type=output_type).images

    samples = sample(len(real), "pt").cpu()  # (N, C, H, W) in [0, 1]
    parameters = sum(part.num_parameters() for part in (pipeline.generator, pipeline.critic)) / 1e6
    of_run = [parameters, metrics[-1]["seconds"] / 60, metrics[-1]["step"], speed]
    return Measurement([*of_run, *figures(network, real, samples * 2 - 1)], sample(PICTURED_SAMPLES, "pil"))


def cells(name: str, numbers: Sequence[float | None]) -> list[str]:
    """Return a row of the table, with dashes for what is not known."""
    padded = zip_longest(numbers, DIGITS)
    return [name, *("–" if number is None else f"{number:,.{digits}f}" for number, digits in padded)]


def figures(network: SmallClassifier, real_images: torch.Tensor, samples: torch.Tensor) -> list[float]:
    """Compute the metrics of as many samples as real images, both `(N, C, H, W)` in [-1, 1]."""
    real, _ = extract(network, real_images)
    generated, classes = extract(network, samples)
    shares = class_shares(classes, network.config.num_classes)
    precision, recall, *_ = coverage(real, generated)
    distances = [frechet_distance(real, generated), kernel_distance(real, generated)[0]]
    return [*distances, precision, recall, shares.min(), class_entropy(shares)]


def first(images: ImageSet, count: int) -> torch.Tensor:
    """Return the first `count` images `(N, C, H, W)` in [-1, 1]; all of them if there are fewer."""
    return normalised(images.images[:count])


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def named(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that name the training images."""
    options = {name: getattr(args, name) for name in ("dataset_name", "train_data_dir", "resolution")}
    return {name: value for name, value in options.items() if value is not None}


def load(args: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """Load the training images and the images to compare with, which may be the same."""
    data = named(args)
    images = load_image_set(DataConfig(**data))
    if args.compare_with:
        return images, load_image_set(DataConfig(train_data_dir=args.compare_with, resolution=args.resolution))
    return images, load_image_set(DataConfig(**data, dataset_split="test")) if args.dataset_name else images


def main(args: argparse.Namespace, extra: list[str]) -> None:
    presets = args.presets.split(",")
    if unknown := [name for name in presets if name not in PRESETS]:
        raise SystemExit(f"--presets: there is no {', '.join(unknown)}, only {', '.join(PRESETS)}")
    seeds = [int(seed) for seed in args.seeds.split(",")]
    runs = [
        Run(preset, seed, Path(args.output_dir, preset if len(seeds) == 1 else f"{preset}-seed-{seed}"))
        for preset in presets
        for seed in seeds
    ]
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    # All that is costly besides the training is done before it or after it, so that it slows no run down.
    images, compared = load(args)
    learnt = [images, compared] if args.dataset_name and not args.compare_with else [compared]
    device = PartialState().device
    network, accuracy = load_or_train_classifier(Path(args.output_dir, "classifier"), *learnt, device=device)
    say(f"The classifier is right about {accuracy:.2%} of the images that it was not trained on.")

    logging.disable_progress_bar()
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: train(run, args, extra), runs))

    real = first(compared, args.num_images)
    training = [] if compared is images else [None] * 4 + figures(network, real, first(images, len(real)))
    table = [cells("real training images", training)]
    pictured: list[Image.Image] = []
    for preset in presets:
        rows = {run: measure(run, network, real, compared) for run in runs if run.preset == preset}
        table += [cells(run.folder.name, row.numbers if row else []) for run, row in rows.items()]
        all_numbers = [row.numbers for row in rows.values() if row]
        if len(all_numbers) == len(seeds) > 1:
            table.append(cells(f"{preset}, mean", [statistics.mean(values) for values in zip(*all_numbers)]))
        pictured += [image for row in rows.values() if row for image in row.samples]
    if args.picture and pictured:
        save_image(image_grid(pictured, PICTURED_SAMPLES, smallest_width=1024), Path(args.picture))
    print(
        f"\nThreads of each run: {args.threads}; runs at once: {args.jobs}; {args.resolution} pixels; {len(real):,} "
        f"samples against as many images, by the features of a classifier that is right about {accuracy:.1%} of those "
        "that it was not trained on. images/s: real images that the critic saw."
        + (f" Options of every run: {' '.join(extra)}." if extra else "")
        + "\n"
    )
    for line in (COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)], *table):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset_name", help="as for training, with labels and a test split")
    source.add_argument("--train_data_dir", help="as for training, with a folder for each class")
    parser.add_argument("--compare_with", help="another such folder, of images that are not trained on")
    parser.add_argument("--resolution", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--minutes", type=float, default=10, help="of training, each")
    parser.add_argument("--presets", default=",".join(PRESETS), help="some of them, separated by commas")
    parser.add_argument("--output_dir", default="presets", help="for the runs and the classifier")
    parser.add_argument("--picture", help="file for samples of the runs, a row each, in the order of the table")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--num_images", type=int, default=10_000, help="samples to measure, at most")
    parser.add_argument("--seeds", default="0", help="of the runs and of the samples measured, separated by commas")
    main(*split_options(parser))
