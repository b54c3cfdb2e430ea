"""Test whether the loss follows the quality of the samples, as in figures 3 and 4 of Arjovsky et al. 2017.

The Wasserstein estimate of the critic's loss is plotted beside the Fréchet distance to held-out images, over a run
(arXiv 1701.07875).

    python benchmarks/claims/loss_follows_quality.py --dataset_name path/to/fashion-mnist
    python benchmarks/claims/loss_follows_quality.py --dataset_name path/to/fashion-mnist --runs wgan --seed 1

A DCGAN pair is trained by weight clipping, by a gradient penalty and, to compare with, as a standard GAN, whose
discriminator estimates the Jensen-Shannon divergence; the first and the last also with a perceptron for a generator. At
even distances the estimate is the mean over all steps since the moment before, and the Fréchet distance that of samples
to test images, by the features of a small classifier. Spearman's correlation is over all of these moments: no first
ones need be left out, as the critic of a WGAN is trained by then, with the authors' 100 steps for each of the
generator's first 25. It is given over the second half too, where less is left to learn. Prints the settings and figures
as JSON and draws the curves with samples of three moments. The dataset needs labels and a test split.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import matplotlib
import numpy as np
import torch
from pictures import save_picture
from scipy.stats import spearmanr
from standard_gan import StandardGANStep, jensen_shannon_estimate
from torch import nn

from hf_wgan import DCGANCritic, DCGANGenerator, ImageSet, MLPGenerator, load_images
from hf_wgan.algorithm.lipschitz import build_constraint
from hf_wgan.algorithm.step import RealBatch, WGANStep, critic_steps
from hf_wgan.data import DataConfig, RealBatches
from hf_wgan.data.batches import normalised
from hf_wgan.metrics.classifier import SmallClassifier, extract, load_or_train_classifier
from hf_wgan.metrics.distances import frechet_distance

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SETTINGS = {
    "resolution": 16,
    "width": 16,
    "mlp_width": 512,
    "latent_dim": 64,
    "train_batch_size": 64,
    "num_moments": 40,
    "num_images": 2000,  # samples, and test images, of a Fréchet distance
    "runs": {
        # The paper's, at a rate that suits small networks and thousands of steps where it has 5e-5 and 10^5 of them.
        "wgan": {
            "max_train_steps": 2400,
            "generator": "dcgan",
            "lipschitz": "clip",
            "critic_norm_type": "batch",
            "n_critic": 5,
            "critic_warmup": True,  # 100 critic steps for each of the generator's first 25, and for every 500th
            "optimizer": "RMSprop",
            "optimizer_options": {"lr": 2e-4},
        },
        "wgan-gp": {
            "max_train_steps": 1200,
            "generator": "dcgan",
            "lipschitz": "gp",
            "critic_norm_type": "layer",
            "n_critic": 5,
            "critic_warmup": True,
            "optimizer": "Adam",
            "optimizer_options": {"lr": 5e-4, "betas": (0.0, 0.9)},
        },
        "wgan-mlp": {
            "max_train_steps": 1000,
            "generator": "mlp",
            "lipschitz": "clip",
            "critic_norm_type": "batch",
            "n_critic": 5,
            "critic_warmup": True,
            "optimizer": "RMSprop",
            "optimizer_options": {"lr": 5e-4},  # a perceptron is slower
        },
        # One step of the discriminator to one of the generator, and the optimizer of Radford et al. 2015.
        "standard": {
            "max_train_steps": 4000,
            "generator": "dcgan",
            "critic_norm_type": "batch",
            "n_critic": 1,
            "optimizer": "Adam",
            "optimizer_options": {"lr": 2e-4, "betas": (0.5, 0.999)},
        },
        "standard-mlp": {
            "max_train_steps": 1600,
            "generator": "mlp",
            "critic_norm_type": "batch",
            "n_critic": 1,
            "optimizer": "Adam",
            "optimizer_options": {"lr": 2e-4, "betas": (0.5, 0.999)},
        },
    },
}
TITLES = {
    "wgan": "WGAN, weight clipping",
    "wgan-gp": "WGAN, gradient penalty",
    "wgan-mlp": "WGAN, weight clipping, MLP",
    "standard": "standard GAN",
    "standard-mlp": "standard GAN, MLP",
}
COLUMNS = 3  # of the picture
TILES = 25  # samples in a grid


def train(name: str, args: argparse.Namespace) -> dict:
    """Train one run; return the steps, estimates, Fréchet distances and samples at its moments."""
    torch.set_num_threads(args.threads)
    images, held_out, network, _ = data_and_classifier(args, SETTINGS["resolution"])
    real, _ = extract(network, normalised(held_out.images[: SETTINGS["num_images"]]))
    run, began = SETTINGS["runs"][name], time.perf_counter()
    torch.manual_seed(args.seed)
    shape = {"sample_size": SETTINGS["resolution"], "out_channels": images.shape[0]}
    if run["generator"] == "mlp":
        generator = MLPGenerator(latent_dim=SETTINGS["latent_dim"], width=SETTINGS["mlp_width"], num_layers=4, **shape)
    else:
        generator = DCGANGenerator(latent_dim=SETTINGS["latent_dim"], width=SETTINGS["width"], **shape)
    critic = DCGANCritic(SETTINGS["resolution"], images.shape[0], SETTINGS["width"], norm_type=run["critic_norm_type"])
    step = one_step(run, generator, critic, SETTINGS["latent_dim"])
    real_batches = (RealBatch(batch.images) for batch in RealBatches(images, SETTINGS["train_batch_size"], args.seed))

    every, estimates, moments = run["max_train_steps"] // SETTINGS["num_moments"], [], []
    for number in range(run["max_train_steps"]):
        estimates.append(step(real_batches, number))
        if (number + 1) % every == 0:
            samples = draw_samples(generator, SETTINGS["num_images"], SETTINGS["latent_dim"], args.seed)
            distance = frechet_distance(real, extract(network, samples)[0])
            moments.append((number + 1, float(np.mean(estimates)), distance, tiles(samples, TILES)))
            estimates.clear()
            say(f"{name}: step {number + 1}, estimate {moments[-1][1]:.4f}, Fréchet distance {distance:.1f}")
    steps, estimates, distances, grids = zip(*moments)
    return {
        "curve": {"step": steps, "estimate": estimates, "frechet_distance": distances},
        "grids": grids,
        "seconds": round(time.perf_counter() - began, 1),
    }


def one_step(
    run: dict, generator: nn.Module, critic: nn.Module, latent_dim: int
) -> Callable[[Iterator[RealBatch], int], float]:
    """Return the iteration of a game: from real batches and the number of the generator step to the estimate."""
    optimizers = [
        getattr(torch.optim, run["optimizer"])(player.parameters(), **run["optimizer_options"])
        for player in (generator, critic)
    ]

    def latents(count: int) -> torch.Tensor:
        return torch.randn(count, latent_dim)

    if "lipschitz" not in run:
        standard = StandardGANStep(generator, critic, *optimizers, latents)
        return lambda batches, _: jensen_shannon_estimate(standard(batches, run["n_critic"]).discriminator_loss.item())
    wgan = WGANStep(
        generator,
        critic,
        generator_optimizer=optimizers[0],
        critic_optimizer=optimizers[1],
        constraint=build_constraint(run["lipschitz"]),
        sample_latents=latents,
    )
    return lambda batches, number: (
        -wgan(batches, critic_steps(number, run["n_critic"], run["critic_warmup"])).critic_loss.item()
    )


def data_and_classifier(args: argparse.Namespace, resolution: int) -> tuple[ImageSet, ImageSet, SmallClassifier, float]:
    """Return training and test images, the feature extractor, and its accuracy on the test images."""
    data = {"dataset_name": args.dataset_name, "resolution": resolution}
    images, held_out = (load_images(DataConfig(**data, dataset_split=split)) for split in ("train", "test"))
    return images, held_out, *load_or_train_classifier(Path(args.output_dir, "classifier"), images, held_out)


@torch.no_grad()
def draw_samples(generator: nn.Module, count: int, latent_dim: int, seed: int) -> torch.Tensor:
    """Generate `(count, C, H, W)` images in [-1, 1] from the same latents at every call, in eval mode."""
    latents = torch.randn(count, latent_dim, generator=torch.Generator().manual_seed(seed))
    samples = torch.cat([generator.eval()(chunk) for chunk in latents.split(500)]).clamp(-1, 1)
    generator.train()
    return samples


def tiles(samples: torch.Tensor, count: int) -> np.ndarray:
    """Return the first images as one square picture, `(H, W)` or `(H, W, 3)` in [0, 1]."""
    side = round(count**0.5)
    rows = [torch.cat(list(row), dim=2) for row in samples[:count].split(side)]  # (C, H, side·W) each
    return (torch.cat(rows, dim=1).permute(1, 2, 0).squeeze(2).numpy() + 1) / 2


def correlations(curve: dict[str, tuple[float, ...]]) -> dict[str, float]:
    """Compute Spearman's rank correlation of estimates and distances."""
    pairs = np.array([curve["estimate"], curve["frechet_distance"]])
    halves = {"spearman": pairs, "spearman_second_half": pairs[:, pairs.shape[1] // 2 :]}
    return {name: round(float(spearmanr(*part).statistic), 3) for name, part in halves.items()}


def draw(results: dict[str, dict], picture: Path) -> None:
    """Draw the two curves of each run and, below, samples of three moments."""
    rows = -(-len(results) // COLUMNS)
    figure = plt.figure(figsize=(4.4 * COLUMNS, 5 * rows), layout="constrained")
    panels = figure.add_gridspec(2 * rows, 3 * COLUMNS, height_ratios=(2, 1) * rows)
    for number, (name, result) in enumerate(results.items()):
        curve, last = result["curve"], len(result["grids"]) - 1
        row, column = 2 * (number // COLUMNS), 3 * (number % COLUMNS)
        axes = figure.add_subplot(panels[row, column : column + 3])
        axes.set_title(f"{TITLES[name]}: Spearman {result['spearman']:.2f}", fontsize=11)
        estimate = "Wasserstein estimate" if "lipschitz" in SETTINGS["runs"][name] else "Jensen–Shannon estimate"
        for axis, key, label, colour in (
            (axes, "estimate", estimate, "tab:blue"),
            (axes.twinx(), "frechet_distance", "Fréchet distance", "tab:orange"),
        ):
            axis.plot(curve["step"], curve[key], ".-", color=colour, linewidth=1)
            axis.set_ylabel(label, color=colour)
            axis.tick_params(labelsize=8)
        axes.set_xlabel("generator steps", fontsize=9)
        for place, moment in enumerate((0, last // 2, last)):
            below = figure.add_subplot(panels[row + 1, column + place])
            below.imshow(result["grids"][moment], cmap="gray", vmin=0, vmax=1)
            below.set_title(f"step {curve['step'][moment]:,}", fontsize=9)
            below.axis("off")
    save_picture(figure, picture)


def in_processes(args: argparse.Namespace) -> ProcessPoolExecutor:
    """Return a pool of `jobs` processes with `threads` threads, a number that libraries read when they are loaded."""
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    return ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"))


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(args: argparse.Namespace) -> None:
    began, names = time.perf_counter(), args.runs.split(",")
    if unknown := [name for name in names if name not in SETTINGS["runs"]]:
        raise SystemExit(f"--runs: there is no {', '.join(unknown)}, only {', '.join(SETTINGS['runs'])}")
    accuracy = data_and_classifier(args, SETTINGS["resolution"])[-1]  # made before the runs, which share them
    with in_processes(args) as pool:
        results = dict(zip(names, pool.map(train, names, [args] * len(names))))
    for result in results.values():
        result.update(correlations(result["curve"]))
    draw(results, Path(args.picture))

    curves = Path(args.output_dir, "loss_follows_quality.json")
    curves.write_text(json.dumps({name: result["curve"] for name, result in results.items()}) + "\n")
    run = {"seed": args.seed, "threads": args.threads, "jobs": args.jobs, "picture": args.picture}
    figures = {name: summary(result) for name, result in results.items()}
    seconds = round(time.perf_counter() - began, 1)
    run |= {"curves": str(curves), "classifier_accuracy": round(accuracy, 4), "seconds": seconds}
    print(json.dumps({**run, "settings": SETTINGS, "results": figures}, indent=2))


def summary(result: dict) -> dict[str, float | str]:
    curve = result["curve"]
    figures = {name: result[name] for name in ("spearman", "spearman_second_half", "seconds")}
    for key in ("estimate", "frechet_distance"):
        figures |= {f"first_{key}": round(curve[key][0], 4), f"last_{key}": round(curve[key][-1], 4)}
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="as for training")
    parser.add_argument("--runs", default=",".join(SETTINGS["runs"]), help="some of them, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the samples measured")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--output_dir", default="claims", help="for the classifier and the curves")
    parser.add_argument("--picture", default="model_cards/claims/loss_follows_quality.png")
    main(parser.parse_args())
