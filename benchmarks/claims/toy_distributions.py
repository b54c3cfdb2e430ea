"""Train on points in the plane, as in figure 1 of Gulrajani et al. 2017 (arXiv 1704.00028).

Measured are how many modes of a distribution a generator covers, and how many of its samples lie on them.

    python benchmarks/claims/toy_distributions.py
    python benchmarks/claims/toy_distributions.py --distribution swissroll --seed 1

Our perceptrons are trained by our step with a gradient penalty; a point is an image of one row and two columns. Prints
the settings and figures as JSON and draws real points, samples and the critic's level sets. The distributions are those
of the paper's code, new points for each batch, and so is their scale: coordinates of about 1.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from diffusers.optimization import get_scheduler
from pictures import save_picture
from scipy.spatial import cKDTree
from sklearn.datasets import make_swiss_roll

from hf_wgan import MLPCritic, MLPGenerator
from hf_wgan.algorithm.lipschitz import LipschitzPenalty
from hf_wgan.algorithm.step import RealBatch, WGANStep

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SETTINGS = {
    "max_train_steps": {"25gaussians": 8000, "8gaussians": 4000, "swissroll": 4000},
    "train_batch_size": 256,
    "n_critic": 2,  # more generator steps in the same time did better than a better critic, for which the paper has 5
    "lipschitz": "lp",
    "gradient_penalty_weight": 0.1,  # as in the paper's code for these distributions
    "learning_rate": 1e-3,  # of both
    "lr_scheduler": "cosine",  # to 0
    "adam_betas": (0.5, 0.9),
    "latent_dim": 2,
    "width": 128,
    "num_layers": 5,  # with 4 fewer samples lie on the modes after as many steps
}
NUM_SAMPLES = 10_000
FOUND = 20  # samples within three standard deviations make a mode found
DEVIATIONS = 3
COLOURS, SIZES = {"real": "tab:orange", "samples": "tab:green"}, {"real": 9, "samples": 2}


@dataclass(frozen=True)
class Distribution:
    draw: Callable[[int, np.random.RandomState], np.ndarray]  # a number n to points (n, 2)
    centres: np.ndarray  # (K, 2): the modes, or points along the noiseless curve
    mode_of: np.ndarray  # (K,): the mode that a centre belongs to, counted from 0
    std: float  # of the noise

    def figures(self, points: np.ndarray) -> dict[str, float]:
        """Return how many modes points `(N, 2)` cover, and the share of points on any mode."""
        distances, nearest = cKDTree(self.centres).query(points)
        near = distances <= DEVIATIONS * self.std
        counts = np.bincount(self.mode_of[nearest[near]], minlength=self.mode_of.max() + 1)
        return {
            "modes_found": int((counts >= FOUND).sum()),
            "share_within_3_std": round(float(near.mean()), 4),
            "samples_on_rarest_mode": int(counts.min()),
            "samples_on_commonest_mode": int(counts.max()),
        }


def gaussians(centres: np.ndarray, std: float, scale: float) -> Distribution:
    centres, std = centres / scale, std / scale

    def draw(count: int, rng: np.random.RandomState) -> np.ndarray:
        return centres[rng.randint(len(centres), size=count)] + std * rng.standard_normal((count, 2))

    return Distribution(draw, centres, np.arange(len(centres)), std)


def grid() -> Distribution:
    """Return 25 modes of standard deviation 0.05 on {-4, -2, 0, 2, 4}², all divided by 2√2."""
    steps = np.linspace(-4, 4, 5)
    return gaussians(np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2), 0.05, 2.828)


def ring() -> Distribution:
    """Return 8 modes of standard deviation 0.02 on a circle of radius 2, all divided by √2."""
    angles = np.arange(8) * math.pi / 4
    return gaussians(2 * np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.02, 1.414)


def roll() -> Distribution:
    """Return scikit-learn's Swiss roll: its first and third coordinate, noise 0.25, all divided by 7.5.

    Its modes are 25 pieces of the curve, which hold the same number of points.
    """
    noise, scale, pieces, num_centres = 0.25, 7.5, 25, 10_000

    def draw(count: int, rng: np.random.RandomState) -> np.ndarray:
        return make_swiss_roll(count, noise=noise, random_state=rng)[0][:, [0, 2]] / scale

    place = (np.arange(num_centres) + 0.5) / num_centres
    angles = 1.5 * math.pi * (1 + 2 * place)  # as make_swiss_roll has them
    curve = angles[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1) / scale
    return Distribution(draw, curve, (place * pieces).astype(int), noise / scale)


DISTRIBUTIONS = {"25gaussians": grid, "8gaussians": ring, "swissroll": roll}


def train(distribution: Distribution, num_steps: int, seed: int) -> tuple[MLPGenerator, MLPCritic]:
    torch.manual_seed(seed)
    size, networks = (1, 2), {name: SETTINGS[name] for name in ("width", "num_layers")}
    latent_dim = SETTINGS["latent_dim"]
    generator = MLPGenerator(sample_size=size, out_channels=1, latent_dim=latent_dim, **networks)
    critic = MLPCritic(sample_size=size, in_channels=1, **networks)
    optimizers = [
        torch.optim.Adam(network.parameters(), SETTINGS["learning_rate"], SETTINGS["adam_betas"], fused=True)
        for network in (generator, critic)
    ]
    schedulers = [
        get_scheduler(SETTINGS["lr_scheduler"], optimizer, num_warmup_steps=0, num_training_steps=num_steps)
        for optimizer in optimizers
    ]
    step = WGANStep(
        generator,
        critic,
        generator_optimizer=optimizers[0],
        critic_optimizer=optimizers[1],
        constraint=LipschitzPenalty(SETTINGS["gradient_penalty_weight"]),
        sample_latents=lambda count: torch.randn(count, latent_dim),
    )
    real_batches = batches(distribution, np.random.RandomState(seed))
    for _ in range(num_steps):
        step(real_batches, SETTINGS["n_critic"])
        for scheduler in schedulers:
            scheduler.step()
    return generator, critic


def batches(distribution: Distribution, rng: np.random.RandomState) -> Iterator[RealBatch]:
    while True:
        yield RealBatch(as_images(distribution.draw(SETTINGS["train_batch_size"], rng)))


def as_images(points: np.ndarray) -> torch.Tensor:
    """Convert points `(N, 2)` to images `(N, 1, 1, 2)`."""
    return torch.from_numpy(points).float()[:, None, None]


def draw_panel(axes: plt.Axes, real: np.ndarray, samples: np.ndarray, critic: MLPCritic) -> None:
    edge = 1.15 * np.abs(real).max()
    ticks = np.linspace(-edge, edge, 200)
    places = np.stack(np.meshgrid(ticks, ticks), axis=-1)  # (200, 200, 2)
    with torch.no_grad():
        scores = critic(as_images(places.reshape(-1, 2))).reshape(places.shape[:2])
    axes.contour(ticks, ticks, scores, levels=25, colors="0.75", linewidths=0.6, linestyles="solid")
    for name, points in {"real": real, "samples": samples}.items():
        axes.scatter(*points.T, s=SIZES[name], color=COLOURS[name], linewidths=0, label=name, zorder=2)
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), xticks=[], yticks=[], aspect="equal")


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    names = list(DISTRIBUTIONS) if args.distribution == "all" else [args.distribution]
    figure, panels = plt.subplots(1, len(names), figsize=(4 * len(names), 4.6), squeeze=False)
    results = {}
    for name, axes in zip(names, panels[0]):
        distribution = DISTRIBUTIONS[name]()
        began = time.perf_counter()
        generator, critic = train(distribution, SETTINGS["max_train_steps"][name], args.seed)
        seconds = time.perf_counter() - began

        latents = torch.randn(NUM_SAMPLES, SETTINGS["latent_dim"], generator=torch.Generator().manual_seed(args.seed))
        with torch.no_grad():
            samples = generator(latents).flatten(1).numpy()
        real = distribution.draw(NUM_SAMPLES, np.random.RandomState(args.seed + 1))
        results[name] = {
            "num_modes": int(distribution.mode_of.max()) + 1,
            **distribution.figures(samples),
            "share_of_real_points": distribution.figures(real)["share_within_3_std"],
            "seconds": round(seconds, 1),
        }
        print(f"{name}: {results[name]}", file=sys.stderr, flush=True)
        draw_panel(axes, real[:1000], samples[:1000], critic)
        axes.set_title(f"{name}: {results[name]['share_within_3_std']:.0%} on the modes", fontsize=10)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=2, markerscale=4, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))

    folder = Path(args.output_dir)
    picture = folder / ("samples.png" if args.distribution == "all" else f"{args.distribution}.png")
    save_picture(figure, picture)
    rule = f"a mode is found by {FOUND} of {NUM_SAMPLES} samples within {DEVIATIONS} standard deviations"
    run = {"rule": rule, "seed": args.seed, "threads": args.threads, "picture": str(picture)}
    print(json.dumps({**run, "settings": SETTINGS, "results": results}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distribution", choices=[*DISTRIBUTIONS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the points and the samples measured")
    parser.add_argument("--threads", type=int, default=1, help="networks so small gain nothing from more")
    parser.add_argument("--output_dir", default="model_cards/toy-distributions", help="for the picture")
    main(parser.parse_args())
