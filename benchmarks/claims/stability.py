"""Test whether training succeeds with unsuitable generators, as in figures 5 to 7 of Arjovsky et al. 2017.

A DCGAN, one without batch normalisation and with as many filters in every layer, and a perceptron are each trained by
weight clipping and as a standard GAN (arXiv 1701.07875).

    python benchmarks/claims/stability.py --dataset_name path/to/fashion-mnist
    python benchmarks/claims/stability.py --dataset_name path/to/fashion-mnist --seeds 0,1,2,3,4 --jobs 4

The critic, or discriminator, is a DCGAN's. Each game has the optimizer that it was published with, and as many steps
that both take about the same time: a WGAN makes five steps of the critic for one of the generator, a standard GAN one.
Samples are compared with as many test images by the features of a small classifier; their spread is the mean standard
deviation of a pixel over that of test images. Prints the settings and figures as JSON, and to stderr as a table in
Markdown, and draws samples of the first seed. The dataset needs labels and a test split.
"""

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path

import torch
from loss_follows_quality import (
    data_and_classifier,
    draw_samples,
    in_processes,
    one_step,
    plt,
    say,
    tiles,
)
from pictures import save_picture
from torch import nn

from hf_wgan import DCGANCritic, DCGANGenerator, MLPGenerator
from hf_wgan.algorithm.step import RealBatch
from hf_wgan.data import RealBatches
from hf_wgan.data.batches import normalised
from hf_wgan.metrics.classifier import class_shares, extract
from hf_wgan.metrics.distances import frechet_distance
from hf_wgan.metrics.neighbours import coverage

SETTINGS = {
    "resolution": 16,
    "width": 16,
    "mlp_width": 512,
    "latent_dim": 64,
    "train_batch_size": 64,
    "num_images": 2000,  # samples measured, and test images
    "games": {
        # The paper's, at a rate that suits small networks and a thousand steps where it has 5e-5 and 10^5 of them.
        "wgan": {
            "max_train_steps": 900,
            "lipschitz": "clip",
            "n_critic": 5,
            "critic_warmup": False,  # in so short a run the time is better spent on the generator
            "optimizer": "RMSprop",
            "optimizer_options": {"lr": 5e-4},
        },
        # That of Radford et al. 2015.
        "standard": {
            "max_train_steps": 2500,
            "n_critic": 1,
            "optimizer": "Adam",
            "optimizer_options": {"lr": 2e-4, "betas": (0.5, 0.999)},
        },
    },
}
GENERATORS = {
    "dcgan": "DCGAN",
    "constant": "no batch norm,\nconstant number of filters",
    "mlp": "MLP, 4 layers of ReLU units",
}
GAMES = {"wgan": "WGAN", "standard": "standard GAN"}
COLLAPSED_RECALL = 0.01
TILES = 64  # samples in a grid
FIGURES = {"frechet_distance": 1, "recall": 3, "rarest_class": 3, "spread": 2}  # digits in the table


class ConstantGenerator(nn.Module):
    """A DCGAN generator without batch normalisation, whose hidden maps all have `width` channels.

    It maps latents `(N, latent_dim)` to images `(N, out_channels, sample_size, sample_size)` in [-1, 1].
    """

    def __init__(self, sample_size: int, out_channels: int, latent_dim: int, width: int):
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, width, 4, 1, 0, bias=False), nn.ReLU()]
        size = 4
        while size < sample_size // 2:
            layers += [nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False), nn.ReLU()]
            size *= 2
        layers += [nn.ConvTranspose2d(width, out_channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        for layer in self.layers[::2]:
            nn.init.normal_(layer.weight, 0, 0.02)  # as a DCGAN's

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents[:, :, None, None])


def build_generator(name: str, out_channels: int) -> nn.Module:
    width, size = SETTINGS["width"], SETTINGS["resolution"]
    shape = {"sample_size": size, "out_channels": out_channels, "latent_dim": SETTINGS["latent_dim"]}
    if name == "mlp":
        return MLPGenerator(width=SETTINGS["mlp_width"], num_layers=4, **shape)
    return DCGANGenerator(width=width, **shape) if name == "dcgan" else ConstantGenerator(width=width, **shape)


def train(kind: str, game: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one run; return the figures of its samples, and a grid of them."""
    torch.set_num_threads(args.threads)
    images, held_out, network, _ = data_and_classifier(args, SETTINGS["resolution"])
    run, began = SETTINGS["games"][game], time.perf_counter()
    torch.manual_seed(seed)
    generator = build_generator(kind, images.shape[0])
    critic = DCGANCritic(SETTINGS["resolution"], images.shape[0], SETTINGS["width"])
    step = one_step(run, generator, critic, SETTINGS["latent_dim"])
    real_batches = (RealBatch(batch.images) for batch in RealBatches(images, SETTINGS["train_batch_size"], seed))
    for number in range(run["max_train_steps"]):
        step(real_batches, number)
    seconds = time.perf_counter() - began

    samples = draw_samples(generator, SETTINGS["num_images"], SETTINGS["latent_dim"], seed)
    pixels = normalised(held_out.images[: len(samples)])
    real, _ = extract(network, pixels)
    generated, classes = extract(network, samples)
    num_classes = network.config.num_classes
    spread = samples.std(dim=0).mean() / pixels.std(dim=0).mean()  # near 0 where all samples are alike
    recall, rarest = coverage(real, generated).recall, float(class_shares(classes, num_classes).min())
    figures = {
        "frechet_distance": round(frechet_distance(real, generated), 2),
        "recall": round(recall, 4),
        "rarest_class": round(rarest, 4),
        "spread": round(float(spread), 4),
        "collapsed": recall < COLLAPSED_RECALL or rarest < 0.1 / num_classes,
        "seconds": round(seconds, 1),
    }
    say(f"{kind}, {game}, seed {seed}: {figures}")
    return {"figures": figures, "grid": tiles(samples, TILES)}


def table(results: dict[tuple[str, str], list[dict]]) -> str:
    """Return a row of the table: the mean of each figure and, in brackets, its value for each seed."""
    head = ["generator", "game", "Fréchet distance", "recall", "rarest class", "spread", "collapsed"]
    lines = [head, ["---", "---", *["---:"] * 5]]
    for (kind, game), runs in results.items():
        cells = [GENERATORS[kind].replace("\n", " "), GAMES[game]]
        for name, digits in FIGURES.items():
            values = [run["figures"][name] for run in runs]
            by_seed = ", ".join(f"{value:.{digits}f}" for value in values)
            cells.append(f"{statistics.mean(values):.{digits}f} ({by_seed})")
        lines.append([*cells, f"{sum(run['figures']['collapsed'] for run in runs)} of {len(runs)}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw(results: dict[tuple[str, str], list[dict]], picture: Path) -> None:
    figure, panels = plt.subplots(2, 3, figsize=(9, 6.6), layout="constrained")
    for (row, (game, title)), (column, (kind, label)) in product(
        enumerate(GAMES.items()), enumerate(GENERATORS.items())
    ):
        first, axes = results[kind, game][0], panels[row, column]
        axes.imshow(first["grid"], cmap="gray", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(
            (f"{label}\n" if row == 0 else "") + f"Fréchet distance {first['figures']['frechet_distance']:.0f}"
        )
        if column == 0:
            axes.set_ylabel(title, fontsize=12)
    save_picture(figure, picture)


def main(args: argparse.Namespace) -> None:
    began, seeds = time.perf_counter(), [int(seed) for seed in args.seeds.split(",")]
    accuracy = data_and_classifier(args, SETTINGS["resolution"])[-1]  # made before the runs, which share them
    pairs = list(product(GENERATORS, GAMES))
    with in_processes(args) as pool:
        runs = {pair: [pool.submit(train, *pair, seed, args) for seed in seeds] for pair in pairs}
        results = {pair: [run.result() for run in of_seeds] for pair, of_seeds in runs.items()}
    draw(results, Path(args.picture))
    say(table(results))

    figures = {kind: {} for kind in GENERATORS}
    for (kind, game), runs in results.items():
        by_seed = {f"seed {seed}": run["figures"] for seed, run in zip(seeds, runs)}
        means = {name: round(statistics.mean(one[name] for one in by_seed.values()), 4) for name in FIGURES}
        figures[kind][game] = {**means, "collapsed": sum(one["collapsed"] for one in by_seed.values()), **by_seed}
    rule = f"collapsed: recall below {COLLAPSED_RECALL}, or a class rarer than a tenth of its share"
    run = {"rule": rule, "seeds": seeds, "threads": args.threads, "jobs": args.jobs, "picture": args.picture}
    run |= {"classifier_accuracy": round(accuracy, 4), "seconds": round(time.perf_counter() - began, 1)}
    print(json.dumps({**run, "settings": SETTINGS, "results": figures}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="as for training")
    parser.add_argument("--seeds", default="0,1,2", help="of the weights, the batches and the samples measured")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--output_dir", default="claims", help="for the classifier")
    parser.add_argument("--picture", default="model_cards/claims/stability.png")
    main(parser.parse_args())
