"""What the data path costs: the share of a step spent waiting for images, cache times, and peak memory.

    python benchmarks/data.py share
    python benchmarks/data.py cache --dataset_name /usr/share/datasets/fashion-mnist --resolution 32
    python benchmarks/data.py memory

Each part prints a table. Times are of this machine; the shares and the ratio to the limit are the claims.
"""

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hf_wgan import DCGANCritic, DCGANGenerator, ImageSet, TrainingConfig, WGANTrainer, load_images
from hf_wgan.data import DataConfig, RealBatches, cache
from hf_wgan.data.sources import ArraySource

NUM_CRITIC = 5


def share(steps: int) -> None:
    """Print the time inside `next(real_batches)` beside that of the whole training steps that contain it."""
    print(f"{torch.get_num_threads()} threads, DCGAN of width 64, batch 64, {NUM_CRITIC} critic steps, {steps} steps")
    print(f"{'images':>16} {'set':>12} {'step':>10} {'batches':>10} {'share':>8}")
    for size, channels in ((32, 1), (32, 3), (64, 1), (64, 3)):
        for kind in ("in memory", "over limit"):
            with tempfile.TemporaryDirectory() as folder:
                images = cached_noise(10_000, size, channels, folder, limit=None if kind == "in memory" else 1e6)
                step, waiting = timed_steps(images, size, channels, steps, folder)
            row = f"{size}×{size}×{channels}"
            print(
                f"{row:>16} {kind:>12} {step * 1e3:>7.1f} ms {waiting * 1e3:>7.2f} ms {waiting / step:>8.2%}",
                flush=True,
            )


def timed_steps(images: ImageSet, size: int, channels: int, steps: int, folder: str) -> tuple[float, float]:
    """Return the median seconds of a step, and of the batches drawn in it."""
    generator, critic = DCGANGenerator(size, channels), DCGANCritic(size, channels)
    trainer = WGANTrainer(generator, critic, images, TrainingConfig(output_dir=f"{folder}/run", n_critic=NUM_CRITIC))
    draw = trainer.real_batches.batch
    spent = 0.0

    def timed(position: int) -> object:
        nonlocal spent
        began = time.perf_counter()
        batch = draw(position)
        spent += time.perf_counter() - began
        return batch

    trainer.real_batches.batch = timed
    whole, waiting = [], []
    for _ in range(steps + 2):
        spent, began = 0.0, time.perf_counter()
        trainer.step()
        whole.append(time.perf_counter() - began)
        waiting.append(spent)
    return statistics.median(whole[2:]), statistics.median(waiting[2:])


def cached_noise(num_images: int, size: int, channels: int, folder: str, limit: float | None) -> ImageSet:
    """Pass random images through the cache, like those of a dataset."""
    rng = np.random.default_rng(0)
    shape = (num_images, size, size) if channels == 1 else (num_images, size, size, channels)
    source = ArraySource("noise", rng.integers(0, 256, shape, np.uint8), None)
    cached = cache.open_cache(source, cache.Preprocessing(size, channels), False, f"{folder}/cache", False)
    gigabytes = None if limit is None else limit / 1e9
    return ImageSet.from_cache(cached, "noise", DataConfig(resolution=size, memory_limit_gb=gigabytes))


def cache_times(config: dict[str, object]) -> None:
    """Return the seconds to build a cache and to open it again, each in a new process after its imports."""
    folder = tempfile.mkdtemp()
    try:
        for name in ("first start", "second start", "third start"):
            seconds, num_images = in_new_process(_load, {**config, "cache_dir": folder})
            print(f"{name:>12}: {seconds:6.2f} s for {num_images:,} images", flush=True)
    finally:
        shutil.rmtree(folder)


def _load(config: dict[str, object]) -> tuple[float, int]:
    began = time.perf_counter()
    images = load_images(DataConfig(**config))
    return time.perf_counter() - began, len(images)


def memory(limit_mb: int) -> None:
    """Return the peak memory of reading a set four times the memory limit, less that of reading a tiny one."""
    with tempfile.TemporaryDirectory() as folder:
        in_new_process(_build_large, (folder, 4 * limit_mb))
        small = in_new_process(_peak, (folder, limit_mb, True))
        large = in_new_process(_peak, (folder, limit_mb, False))
    print(f"limit {limit_mb} MB, set {4 * limit_mb} MB, every image drawn once")
    print(f"peak over a tiny set's: {large - small:.0f} MB, {(large - small) / limit_mb:.2f} of the limit")


def _build_large(arguments: tuple[str, int]) -> None:
    folder, megabytes = arguments
    cached_noise(megabytes * 1_000_000 // (64 * 64 * 3), 64, 3, folder, None)


def _peak(arguments: tuple[str, int, bool]) -> float:
    """Return the peak resident memory in MB, the pages of mapped files included."""
    folder, limit_mb, tiny = arguments
    if tiny:
        images = ImageSet(torch.zeros(64, 3, 64, 64, dtype=torch.uint8))
        count = 1000
    else:
        (place,) = [path for path in Path(folder, "cache").iterdir() if path.is_dir()]
        cached = cache.opened(place)
        images = ImageSet.from_cache(cached, "noise", DataConfig(resolution=64, memory_limit_gb=limit_mb / 1e3))
        count = len(images) // 64
    batches = RealBatches(images, 64, seed=0)
    for _ in range(count):
        next(batches)
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def in_new_process(function, arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (arguments,))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["share", "cache", "memory"])
    parser.add_argument("--steps", type=int, default=12, help="share: training steps to time")
    parser.add_argument("--limit_mb", type=int, default=200, help="memory: the limit, in 10^6 bytes")
    parser.add_argument("--dataset_name", help="cache: as for training; scikit-learn's digits if not given")
    parser.add_argument("--train_data_dir", help="cache: as for training")
    parser.add_argument("--resolution", type=int, default=32, help="cache: in pixels")
    args = parser.parse_args()
    if args.part == "share":
        share(args.steps)
    elif args.part == "cache":
        names = ("dataset_name", "train_data_dir", "resolution")
        cache_times({name: getattr(args, name) for name in names})
    else:
        memory(args.limit_mb)
