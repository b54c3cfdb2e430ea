"""How long a preset takes to make images as good as the paper's settings in a plain loop make in ten minutes.

    python benchmarks/time_to_quality.py --dataset_name path/to/fashion-mnist

First the plain loop of `speed.py`: DCGAN of width 64, weight clipping, RMSProp at 5e-5, batches of 64, five critic
steps and the warm-up of the paper's own code, in float32. Then ours, for as long, stopped at marks to see its samples.
Only training is timed. Distances are Fréchet distances by the features of a small classifier, of as many samples as
held-out images; those of the plain loop are made as its users make them, in training mode. The dataset needs labels and
a test split.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from options import split_options
from PIL import Image
from presets import first
from speed import LATENT_DIM, NEVER, PlainLoop, Setting

from hf_wgan import ImageSet, TrainingConfig, WGANTrainer, load_images
from hf_wgan.algorithm.step import critic_steps
from hf_wgan.data import DataConfig
from hf_wgan.data.cache import cache_folder
from hf_wgan.metrics.classifier import SmallClassifier, extract, load_or_train_classifier
from hf_wgan.metrics.distances import frechet_distance
from hf_wgan.models.factory import NetworkConfig, build_networks
from hf_wgan.training.presets import preset_options
from hf_wgan.training.report import ProgressCallback
from hf_wgan.utils.grids import image_grid
from hf_wgan.utils.options import OptionParser

RESOLUTION, BATCH, N_CRITIC = 32, 64, 5
MARKS = (10, 20, 30, 40, 50, 60, 90, 120, 180, 300, 600)


class Judge:
    def __init__(self, network: SmallClassifier, held_out: ImageSet, count: int):
        self.network, self.count = network, count
        self.real, _ = extract(network, first(held_out, count))

    def distance(self, samples: torch.Tensor) -> float:
        """Compute the Fréchet distance of samples `(N, C, H, W)` in [-1, 1]."""
        return round(frechet_distance(self.real, extract(self.network, samples)[0]), 2)


def reference(images: torch.Tensor, seconds: float, judge: Judge) -> tuple[dict[str, Any], torch.Tensor]:
    loop = PlainLoop(images, Setting("dcgan", RESOLUTION, 1, 64, "clip"), torch.device("cpu"))
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        loop.iterate(critic_steps(steps, N_CRITIC, warmup=True))
        steps += 1
    torch.manual_seed(0)
    with torch.no_grad():
        samples = torch.cat([loop.generator(torch.randn(500, LATENT_DIM)) for _ in range(judge.count // 500)])
    return {"steps": steps, "seconds": round(seconds), "distance": judge.distance(samples)}, samples


def ours(
    images: ImageSet, seconds: float, judge: Judge, settings: dict[str, Any], folder: str
) -> tuple[list[dict[str, Any]], torch.Tensor]:
    def chosen(kind: type) -> Any:
        names = {field.name for field in dataclasses.fields(kind)}
        return kind(**{name: value for name, value in settings.items() if name in names})

    torch.manual_seed(0)
    networks = build_networks(chosen(NetworkConfig), RESOLUTION, 1)
    trainer = WGANTrainer(*networks, images, dataclasses.replace(chosen(TrainingConfig), output_dir=folder))
    trainer.remove_callback(ProgressCallback)
    steps = trainer.iterate()
    rows, spent = [], 0.0
    for mark in sorted({mark for mark in MARKS if mark < seconds} | {seconds}):
        began = time.perf_counter()
        trainer.meter.restart()  # to leave out what measuring took
        while spent + time.perf_counter() - began < mark and next(steps, None):
            pass
        spent += time.perf_counter() - began
        pipeline = trainer.pipeline()
        samples = pipeline(judge.count, generator=torch.Generator().manual_seed(0), output_type="pt").images * 2 - 1
        rows.append({"steps": trainer.state.global_step, "seconds": round(spent), "distance": judge.distance(samples)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    steps.close()
    return rows, samples


def main(args: argparse.Namespace, extra: list[str]) -> None:
    data = {"dataset_name": args.dataset_name, "resolution": RESOLUTION}
    images, held_out = (load_images(DataConfig(**data, dataset_split=split)) for split in ("train", "test"))
    network, accuracy = load_or_train_classifier(Path(cache_folder(None), "time-to-quality"), images, held_out)
    judge = Judge(network, held_out, args.num_images)
    chosen = OptionParser(TrainingConfig, NetworkConfig).parse(extra).options
    steps = {"max_train_steps": NEVER, "validation_steps": NEVER, "checkpointing_steps": NEVER}
    limit = {"max_train_minutes": args.minutes}  # with which schedules end
    settings = {**preset_options(args.preset, RESOLUTION), **steps, **limit, **chosen}

    seconds = 60 * args.minutes
    plain, plain_samples = reference(images.images.contiguous(), seconds, judge)
    print(json.dumps(plain), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows, samples = ours(images, seconds, judge, settings, folder)
    reached = next((row["seconds"] for row in rows if row["distance"] <= plain["distance"]), math.nan)
    print(
        f"\n{torch.get_num_threads()} threads; {args.num_images:,} samples against as many held-out images, by a "
        f"classifier that is right about {accuracy:.1%} of these. Ours: --preset {' '.join([args.preset, *extra])}\n"
    )
    print("| | seconds of training | steps | Fréchet distance |\n|---|---|---|---|")
    for name, row in [("the plain loop", plain), *(("ours", row) for row in rows)]:
        print(f"| {name} | {row['seconds']} | {row['steps']:,} | {row['distance']} |")
    print(
        f"\nThe plain loop's distance was reached by {reached} s, 1/{seconds / reached:.1f} of its time; in the same "
        f"time ours is {rows[-1]['distance'] / plain['distance']:.3f} of it."
    )
    if args.grids:
        Path(args.grids).mkdir(parents=True, exist_ok=True)
        for name, grid in (("plain", plain_samples), ("ours", samples)):
            grey = (grid[:64, 0] * 127.5 + 127.5).round().to(torch.uint8).numpy()
            image_grid([Image.fromarray(image) for image in grey]).save(Path(args.grids, f"{name}.png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="as for training")
    parser.add_argument("--minutes", type=float, default=10, help="of training, each")
    parser.add_argument("--preset", default="wgan-fast", help="of ours; what follows -- changes its settings")
    parser.add_argument("--num_images", type=int, default=10_000, help="samples to measure, a multiple of 500")
    parser.add_argument("--grids", help="folder for 64 samples of each, not selected")
    main(*split_options(parser))
