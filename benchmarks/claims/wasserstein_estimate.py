"""Test whether the critic estimates the Wasserstein distance, as section 3 of Arjovsky et al. 2017 says.

Critics alone are trained, between pairs of fixed distributions in the plane whose distance W is known
(arXiv 1701.07875).

    python benchmarks/claims/wasserstein_estimate.py
    python benchmarks/claims/wasserstein_estimate.py --lipschitz gp --seed 1

The pairs are a Gaussian and its translate (W is the length of the shift), the parallel lines of the paper's example 1
(W = |θ|), and two mixtures of Gaussians, for which W is that of large samples, by linear programming (POT). These
samples are stratified Sobol points, closer to the mixtures than random ones; `exact_spread` is half the difference of
two such values, and `sampling_floor` the distance of two such samples of one mixture.

With a gradient penalty the estimate is to be W itself. What it says of slopes above 1 is biased: a critic of slope s
along the transport gains s·W - λ(s - 1)², most at s = 1 + W / 2λ, so the estimate is too large by a share of about
W / 2λ, and somewhat more where transport is dense and points to take gradients at are rare. So λ has to be large
beside W: here λ = 20 and W is at most about 0.5, a share of 1 %. The penalty is the one-sided one: two mixtures need
slopes below 1 in places, which the two-sided one forbids.

With weight clipping the estimate is to be proportional to W, by a constant that no theory gives: a line through the
origin is fitted. A clipped critic with units max(0, ⟨w, x⟩ + b), |w| and |b| at most c, bends at distances of about 1
from the origin, and a unit that is 0 at all points stays so; proportionality is therefore looked for at distances below
1, with one hidden layer, and reported for two as well (`clip_deeper`), where the constant depends more on which units
the start has left alive. Estimates are means over fresh points. Prints the settings and figures as JSON and draws
estimate against distance.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import ot
import torch
from diffusers.optimization import get_scheduler
from pictures import save_picture
from scipy.special import ndtri
from scipy.stats.qmc import Sobol
from torch import Tensor, nn

from hf_wgan import MLPCritic
from hf_wgan.algorithm.lipschitz import build_constraint
from hf_wgan.algorithm.losses import wasserstein_estimate
from hf_wgan.algorithm.step import RealBatch, WGANStep

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DISTANCES = [round(0.05 * number, 2) for number in range(1, 11)]
CLIP = {
    "clip_value": 0.1,
    "width": 128,
    "num_layers": 2,
    "optimizer": "rmsprop",
    "learning_rate": 1e-3,  # a hundredth of the box a step
    "critic_steps": 500,
}
SETTINGS = {
    "train_batch_size": 256,
    "lr_scheduler": "cosine",  # to 0, for noise in the weights is noise in the estimate
    "penalty": {
        "gradient_penalty_weight": 20.0,
        "width": 128,
        "num_layers": 4,
        "optimizer": "adam",
        "adam_betas": (0.5, 0.9),
        "learning_rate": 2e-3,
        "critic_steps": 700,
    },
    "clip": CLIP,
    "clip_deeper": {**CLIP, "num_layers": 3},
    "std": 0.1,  # of the Gaussians
    "mixture_std": 0.07,
    "mixture_shifts": [0.0, 0.1, 0.2, 0.35, 0.5],
    "num_fresh_points": 200_000,  # of each distribution
    "num_exact_points": 3072,  # of each mixture: 768 or 1024 a mode
}
TOLERANCE = 0.05
DIRECTION = torch.tensor([0.6, 0.8])  # of shifts: no axis
SQUARE = 0.25 * torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
TRIANGLE = 0.3 * torch.tensor([[math.cos(angle), math.sin(angle)] for angle in (0.5, 0.5 + 2.0944, 0.5 + 4.1888)])
COLOURS = ("tab:blue", "tab:orange", "tab:green")
LABELS = {"gaussians": "translated Gaussians", "lines": "parallel lines", "mixtures": "Gaussian mixtures"}

Draw = Callable[[int], Tensor]
"""A number n to fresh points `(n, 1, 1, 2)`, images of one row and two columns."""


class Pair(NamedTuple):
    distance: float
    draw_real: Draw
    draw_fake: Draw
    exact_spread: float = 0.0


def gaussians(shift: float) -> Pair:
    def draw(count: int, shift: float = 0.0) -> Tensor:
        return (shift * DIRECTION + SETTINGS["std"] * torch.randn(count, 2))[:, None, None]

    return Pair(shift, lambda count: draw(count, shift), draw)


def lines(theta: float) -> Pair:
    def draw(count: int, theta: float = 0.0) -> Tensor:
        return torch.stack([torch.full((count,), theta), torch.rand(count)], dim=1)[:, None, None]

    return Pair(abs(theta), lambda count: draw(count, theta), draw)


def mixtures(shift: float) -> Pair:
    """Return four modes on a square, and three on a shifted triangle."""

    def draw_from(centres: Tensor) -> Draw:
        def draw(count: int) -> Tensor:
            which = torch.randint(len(centres), (count,))
            return (centres[which] + SETTINGS["mixture_std"] * torch.randn(count, 2))[:, None, None]

        return draw

    real, fake = TRIANGLE + shift * DIRECTION, SQUARE
    values = [exact_distance(real, fake, seed) for seed in (0, 2)]
    spread = abs(values[1] - values[0]) / 2
    return Pair(sum(values) / 2, draw_from(real), draw_from(fake), spread)


def exact_distance(first: Tensor, second: Tensor, seed: int) -> float:
    """Compute the exact distance between the mixtures around centres `(K, 2)` and `(M, 2)`."""
    costs = ot.dist(sobol_points(first, seed), sobol_points(second, seed + 1), metric="euclidean")
    return float(ot.emd2([], [], costs, numItermax=10_000_000))


def sobol_points(centres: Tensor, seed: int) -> np.ndarray:
    """Draw points of a mixture, equally many around each centre: `(num_exact_points, 2)`."""
    number = SETTINGS["num_exact_points"] // len(centres)
    noise = [
        ndtri(Sobol(2, seed=100 * seed + mode).random_base2(math.ceil(math.log2(number)))[:number])
        for mode in range(len(centres))
    ]
    return np.concatenate(centres.numpy()[:, None] + SETTINGS["mixture_std"] * np.stack(noise))


def estimate(pair: Pair, method: str, lipschitz: str, seed: int) -> float:
    """Estimate the distance with a trained critic on fresh points."""
    own = SETTINGS[method]
    torch.manual_seed(seed)
    critic = MLPCritic(sample_size=(1, 2), in_channels=1, width=own["width"], num_layers=own["num_layers"])
    if own["optimizer"] == "adam":
        optimizer = torch.optim.Adam(critic.parameters(), own["learning_rate"], own["adam_betas"], fused=True)
    else:
        optimizer = torch.optim.RMSprop(critic.parameters(), own["learning_rate"])
    steps = own["critic_steps"]
    scheduler = get_scheduler(SETTINGS["lr_scheduler"], optimizer, num_warmup_steps=0, num_training_steps=steps)
    constraint = build_constraint(lipschitz, own.get("clip_value", 0), own.get("gradient_penalty_weight", 0))
    # The latents are the points already, and no generator step is taken.
    step = WGANStep(
        nn.Identity(),
        critic,
        generator_optimizer=optimizer,
        critic_optimizer=optimizer,
        constraint=constraint,
        sample_latents=pair.draw_fake,
    )
    for _ in range(steps):
        step.critic_step([RealBatch(pair.draw_real(SETTINGS["train_batch_size"]))])
        scheduler.step()
    number = SETTINGS["num_fresh_points"]
    with torch.no_grad():
        return wasserstein_estimate(critic(pair.draw_real(number)), critic(pair.draw_fake(number))).item()


def against_exact(pairs: list[Pair], estimates: list[float]) -> dict:
    errors = [value / pair.distance - 1 for pair, value in zip(pairs, estimates)]
    rows = [
        {"exact": round(pair.distance, 4), "estimate": round(value, 4), "relative_error": round(error, 4)}
        | ({"exact_spread": round(pair.exact_spread, 5)} if pair.exact_spread else {})
        for pair, value, error in zip(pairs, estimates, errors)
    ]
    worst = max(abs(error) for error in errors)
    return {"worst_relative_error": round(worst, 4), "all_within_5_percent": worst <= TOLERANCE, "rows": rows}


def against_line(pairs: list[Pair], estimates: list[float]) -> dict:
    """Fit the least-squares line through the origin; R² is of the variance about the mean."""
    exact, values = np.array([pair.distance for pair in pairs]), np.array(estimates)
    slope = exact @ values / (exact @ exact)
    r_squared = 1 - np.square(values - slope * exact).sum() / np.square(values - values.mean()).sum()
    rows = [
        {"exact": round(pair.distance, 4), "estimate": round(value, 5), "ratio": round(value / pair.distance, 4)}
        for pair, value in zip(pairs, estimates)
    ]
    return {"slope": round(float(slope), 5), "r_squared": round(float(r_squared), 5), "rows": rows}


def draw_picture(results: dict, lipschitz: str, picture: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.6))
    edge = 1.05 * max(row["exact"] for figures in results["penalty"].values() for row in figures["rows"])
    ends = np.array([0, edge])
    left.plot(ends, ends, color="0.4", linewidth=0.8, label="estimate = W")
    left.fill_between(ends, (1 - TOLERANCE) * ends, (1 + TOLERANCE) * ends, color="0.88", label="±5 %")
    for axes, method in ((left, "penalty"), (right, "clip")):
        for (name, figures), marker, colour in zip(results[method].items(), "os^", COLOURS):
            label = LABELS[name]
            if method == "clip":
                axes.plot(ends, figures["slope"] * ends, color=colour, linewidth=0.8)
                label += f": {figures['slope']:.3g} W, R² = {figures['r_squared']:.4f}"
            points = [[row["exact"] for row in figures["rows"]], [row["estimate"] for row in figures["rows"]]]
            axes.plot(*points, marker, color=colour, markersize=5, fillstyle="none", label=label)
        axes.set(xlabel="exact Wasserstein distance W", ylabel="critic's estimate", xlim=(0, None), ylim=(0, None))
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    weight = SETTINGS["penalty"]["gradient_penalty_weight"]
    left.set_title(f"gradient penalty ({lipschitz}, λ = {weight:g})", fontsize=10)
    right.set_title(f"weight clipping (c = {SETTINGS['clip']['clip_value']:g})", fontsize=10)
    figure.tight_layout()
    save_picture(figure, picture)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    families = {
        "gaussians": [gaussians(distance) for distance in DISTANCES],
        "lines": [lines(theta) for theta in DISTANCES],
        "mixtures": [mixtures(shift) for shift in SETTINGS["mixture_shifts"]],
    }
    floor = exact_distance(SQUARE, SQUARE, seed=0)
    seconds = {"exact": round(time.perf_counter() - began, 1)}
    results = {}
    for method in ("penalty", "clip", "clip_deeper"):
        began, results[method] = time.perf_counter(), {}
        lipschitz, judge = (args.lipschitz, against_exact) if method == "penalty" else ("clip", against_line)
        for name in families if method == "penalty" else ("gaussians", "lines"):
            estimates = [estimate(pair, method, lipschitz, args.seed) for pair in families[name]]
            results[method][name] = judge(families[name], estimates)
            print(f"{method}, {name}: {results[method][name]}", file=sys.stderr, flush=True)
        seconds[method] = round(time.perf_counter() - began, 1)

    folder = Path(args.output_dir)
    picture = folder / "wasserstein_estimate.png"
    draw_picture(results, args.lipschitz, picture)
    run = {
        "lipschitz": args.lipschitz,
        "seed": args.seed,
        "threads": args.threads,
        "picture": str(picture),
        "seconds": seconds,
    }
    print(json.dumps({**run, "settings": SETTINGS, "sampling_floor": round(floor, 4), "results": results}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lipschitz", choices=["gp", "lp"], default="lp", help="the penalty, two-sided or one-sided")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the points")
    parser.add_argument("--threads", type=int, default=1, help="networks so small gain nothing from more")
    parser.add_argument("--output_dir", default="model_cards/claims", help="for the picture")
    main(parser.parse_args())
