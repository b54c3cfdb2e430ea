"""Show that an optimal discriminator saturates and a critic does not, as in figure 2 of Arjovsky et al. 2017.

There are two separated Gaussians on the line, and the gradient that a generator gets whose samples are the second of
them (arXiv 1701.07875).

    python benchmarks/claims/saturation.py
    python benchmarks/claims/saturation.py --seed 1

The same perceptron is trained as the discriminator of a standard GAN, as a WGAN critic with weight clipping (the
paper's), and as one with a gradient penalty, on fresh points. The table has the gradient by a sample of what the
generator minimises, over the samples: log(1 - p(x)) for the discriminator, as the game was first stated, and -D(x) for
a critic; at some steps, and for the exactly optimal discriminator, whose logit is the log of the ratio of the
densities. `spread` is the standard deviation of the absolute gradients over their mean. The other loss of a standard
generator, -log p(x), is reported too: it does not vanish, and has no bound as the discriminator gets better.

Prints the settings and figures as JSON and draws the functions and their gradients over the two densities.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from pictures import save_picture
from standard_gan import StandardGANStep
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from hf_wgan import MLPCritic
from hf_wgan.algorithm.lipschitz import build_constraint
from hf_wgan.algorithm.step import RealBatch, WGANStep

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SETTINGS = {
    "real_mean": -2.0,
    "fake_mean": 2.0,
    "std": 0.5,
    "train_batch_size": 256,
    "width": 64,
    "num_layers": 3,
    "learning_rate": 1e-3,  # of the discriminator and the critic with a penalty, by Adam
    "adam_betas": (0.5, 0.9),
    "clip_value": 0.1,
    "clip_learning_rate": 1e-3,  # by RMSprop
    "gradient_penalty_weight": 10.0,
    "table_steps": [100, 300, 1000, 3000],
}
NUM_SAMPLES = 10_000
PLAYERS = {"discriminator": None, "critic_clip": "clip", "critic_gp": "gp"}
LABELS = {
    "discriminator": "discriminator p(x)",
    "critic_clip": "critic, weight clipping",
    "critic_gp": "critic, gradient penalty",
}
COLOURS = {"discriminator": "tab:red", "critic_clip": "tab:cyan", "critic_gp": "tab:purple"}

Score = Callable[[Tensor], Tensor]


def draw(mean: float, count: int) -> Tensor:
    """Return new points, as images `(count, 1, 1, 1)`."""
    return mean + SETTINGS["std"] * torch.randn(count, 1, 1, 1)


def optimal_logit(points: Tensor) -> Tensor:
    """Return the log of the ratio of the densities, real over generated, which is linear."""
    real, fake, variance = SETTINGS["real_mean"], SETTINGS["fake_mean"], SETTINGS["std"] ** 2
    return ((real - fake) * points + (fake**2 - real**2) / 2).flatten() / variance


def saturating(logits: Tensor) -> Tensor:
    return logsigmoid(-logits)  # log(1 - p)


def non_saturating(logits: Tensor) -> Tensor:
    return -logsigmoid(logits)  # -log p


def wasserstein(scores: Tensor) -> Tensor:
    return -scores


def gradients(score: Score, loss: Callable[[Tensor], Tensor], points: Tensor) -> np.ndarray:
    """Return the absolute derivative of what the generator minimises by each sample, `(N,)`, in float64."""
    points = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(score(points).double()).sum(), points)
    return gradient.flatten().abs().double().numpy()


def figures(gradient: np.ndarray) -> dict[str, float]:
    mean = gradient.mean()
    return {
        "mean": float(f"{mean:.3g}"),
        "median": float(f"{np.median(gradient):.3g}"),
        "smallest": float(f"{gradient.min():.3g}"),
        "spread": float(f"{gradient.std() / mean:.3g}"),
    }


def train(lipschitz: str | None, seed: int, after: Callable[[int, MLPCritic], None]) -> MLPCritic:
    """Train a discriminator, or a critic with a constraint; `after` is called with the number of steps so far."""
    torch.manual_seed(seed)
    critic = MLPCritic(sample_size=1, in_channels=1, width=SETTINGS["width"], num_layers=SETTINGS["num_layers"])
    if lipschitz == "clip":
        optimizer = torch.optim.RMSprop(critic.parameters(), SETTINGS["clip_learning_rate"])
    else:
        optimizer = torch.optim.Adam(critic.parameters(), SETTINGS["learning_rate"], SETTINGS["adam_betas"], fused=True)
    # There is no generator: the latents are the samples, and only the critic's half of a step is taken.
    if lipschitz is None:
        standard = StandardGANStep(
            nn.Identity(), critic, optimizer, optimizer, lambda count: draw(SETTINGS["fake_mean"], count)
        )
        step = standard.discriminator_step
    else:
        constraint = build_constraint(lipschitz, SETTINGS["clip_value"], SETTINGS["gradient_penalty_weight"])
        wgan = WGANStep(
            nn.Identity(),
            critic,
            generator_optimizer=optimizer,
            critic_optimizer=optimizer,
            constraint=constraint,
            sample_latents=lambda count: draw(SETTINGS["fake_mean"], count),
        )
        step = lambda images: wgan.critic_step([RealBatch(images)])  # noqa: E731
    for number in range(1, max(SETTINGS["table_steps"]) + 1):
        step(draw(SETTINGS["real_mean"], SETTINGS["train_batch_size"]))
        after(number, critic)
    return critic


def draw_picture(critics: dict[str, MLPCritic], picture: Path) -> None:
    real, fake, std = (SETTINGS[name] for name in ("real_mean", "fake_mean", "std"))
    ticks = np.linspace(real - 4 * std, fake + 4 * std, 500)
    points = torch.from_numpy(ticks).float().reshape(-1, 1, 1, 1)
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7.2, 6.4), sharex=True, height_ratios=(3, 2))
    for mean, colour, name in ((real, "tab:blue", "density of real data"), (fake, "tab:green", "density of samples")):
        density = np.exp(-(((ticks - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
        for axes in (upper, lower):
            height = density if axes is upper else density / density.max()
            shade = {"color": colour, "alpha": 0.2, "linewidth": 0}
            transform = axes.transData if axes is upper else axes.get_xaxis_transform()
            axes.fill_between(ticks, height, transform=transform, label=name if axes is upper else None, **shade)
    for name, critic in critics.items():
        with torch.no_grad():
            values = critic(points).double()
        if name == "discriminator":
            values, loss = values.sigmoid(), saturating
        else:
            values, loss = (values - values.min()) / (values.max() - values.min()), wasserstein
        style = {"color": COLOURS[name], "linewidth": 1.8, "linestyle": "--" if name == "critic_gp" else "-"}
        upper.plot(
            ticks, values, label=LABELS[name] + ("" if name == "discriminator" else ", scaled to [0, 1]"), **style
        )
        gradient = gradients(critic, loss, points)
        lower.plot(ticks, np.where(gradient > 0, gradient, np.nan), label=LABELS[name], **style)
    upper.set(ylabel="value", ylim=(-0.03, 1.03))
    upper.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    lower.set(yscale="log", xlabel="x", ylabel="|gradient| for the generator", xlim=(ticks[0], ticks[-1]))
    lower.set(ylim=(1e-30, 1e3))
    lower.text(0.01, 0.06, f"after {max(SETTINGS['table_steps']):,} steps", transform=lower.transAxes, fontsize=9)
    figure.tight_layout()
    save_picture(figure, picture)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed + 1)
    samples = draw(SETTINGS["fake_mean"], NUM_SAMPLES)
    exact = samples.double()
    results = {
        "optimal_discriminator": {
            "saturating": figures(gradients(optimal_logit, saturating, exact)),
            "non_saturating": figures(gradients(optimal_logit, non_saturating, exact)),
        }
    }
    seconds, critics = {}, {}
    for name, lipschitz in PLAYERS.items():
        began, rows = time.perf_counter(), {}

        def measure(number: int, critic: MLPCritic, standard: bool = lipschitz is None, rows: dict = rows) -> None:
            if number not in SETTINGS["table_steps"]:
                return
            losses = (saturating, non_saturating) if standard else (wasserstein,)
            rows[f"step_{number}"] = {loss.__name__: figures(gradients(critic, loss, samples)) for loss in losses}

        critics[name] = train(lipschitz, args.seed, measure)
        seconds[name], results[name] = round(time.perf_counter() - began, 1), rows
        print(f"{name}: {rows}", file=sys.stderr, flush=True)

    folder = Path(args.output_dir)
    picture = folder / "saturation.png"
    draw_picture(critics, picture)
    run = {"seed": args.seed, "threads": args.threads, "picture": str(picture), "seconds": seconds}
    print(json.dumps({**run, "settings": SETTINGS, "absolute_gradients": results}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the points and the samples measured")
    parser.add_argument("--threads", type=int, default=1, help="networks so small gain nothing from more")
    parser.add_argument("--output_dir", default="model_cards/claims", help="for the picture")
    main(parser.parse_args())
