"""Count the modes that a generator covers and those that it drops.

WGANs and a standard GAN have the same networks and take the same number of steps.

    python benchmarks/claims/modes.py
    python benchmarks/claims/modes.py --part stacked --seed 1
    python benchmarks/claims/modes.py --dataset_name path/to/fashion-mnist  # its 10 classes instead of digits

`grid`: the 25 Gaussians of toy_distributions.py, by its rule for a mode found, with its perceptrons, but fewer steps.
`stacked`: as in Metz et al. 2016 (arXiv 1611.02163), images of three channels, each a random digit (scikit-learn's, at
16 pixels), so 1,000 classes, by a small DCGAN pair without normalisation in the critic. A classifier of single digits,
trained on three quarters of the images, says which class each of 26,000 samples is of. Told are the classes covered by
any sample; those covered by one whose three digits the classifier is sure of, for it names a class even for noise; and
the Kullback-Leibler divergence, in nats, of the samples' classes from the real ones. `real` is the same for as many
real images.

A generator step follows as many critic steps whatever the objective, so the runs differ in time by what a penalty
costs. The discriminator's generator minimises -log p. Prints the settings and figures as JSON and draws samples.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import matplotlib
import numpy as np
import torch
from diffusers.optimization import get_scheduler
from pictures import save_picture
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from standard_gan import StandardGANStep
from torch import Tensor, nn
from toy_distributions import DEVIATIONS, FOUND, NUM_SAMPLES, batches, grid

from hf_wgan import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator
from hf_wgan.algorithm.lipschitz import build_constraint
from hf_wgan.algorithm.step import RealBatch, WGANStep
from hf_wgan.data import DataConfig, load_images

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SETTINGS = {
    "lr_scheduler": "cosine",  # to 0
    "adam_betas": (0.5, 0.9),  # for all but clipping, which has RMSprop
    "grid": {
        "variants": ["standard", "clip", "gp", "lp"],
        "max_train_steps": 2500,
        "n_critic": 2,
        "learning_rate": 1e-3,
        "clip_learning_rate": 1e-3,
        "clip_value": 0.1,
        "gradient_penalty_weight": 0.1,
        "latent_dim": 2,
        "width": 128,
        "num_layers": 5,
    },
    "stacked": {
        "variants": ["standard", "clip", "lp"],
        "max_train_steps": 1200,
        "n_critic": 2,
        "train_batch_size": 64,
        "learning_rate": 2e-3,  # after 500 steps the best of 5e-4, 1e-3 and 2e-3 for the standard GAN
        "clip_learning_rate": 2e-3,
        "clip_value": 0.1,  # with 0.03 and 0.05 fewer classes
        "gradient_penalty_weight": 10.0,
        "resolution": 16,
        "latent_dim": 64,
        "width": 16,
    },
}
NUM_STACKED = 26_000
SURE = 0.9
TITLES = {"standard": "standard GAN", "clip": "WGAN, clipping", "gp": "WGAN-GP", "lp": "WGAN-LP", "real": "real"}


def train(variant: str, own: dict, generator: nn.Module, critic: nn.Module, real_batches: Iterator[RealBatch]) -> float:
    """Train the pair; return the seconds that it took."""
    if variant == "clip":
        optimizers = [
            torch.optim.RMSprop(player.parameters(), own["clip_learning_rate"]) for player in (generator, critic)
        ]
    else:
        optimizers = [
            torch.optim.Adam(player.parameters(), own["learning_rate"], SETTINGS["adam_betas"], fused=True)
            for player in (generator, critic)
        ]
    num_steps = own["max_train_steps"]
    schedulers = [
        get_scheduler(SETTINGS["lr_scheduler"], optimizer, num_warmup_steps=0, num_training_steps=num_steps)
        for optimizer in optimizers
    ]

    def sample_latents(count: int) -> Tensor:
        return torch.randn(count, own["latent_dim"])

    if variant == "standard":
        step = StandardGANStep(generator, critic, *optimizers, sample_latents)
    else:
        constraint = build_constraint(variant, own["clip_value"], own["gradient_penalty_weight"])
        step = WGANStep(
            generator,
            critic,
            generator_optimizer=optimizers[0],
            critic_optimizer=optimizers[1],
            constraint=constraint,
            sample_latents=sample_latents,
        )
    began = time.perf_counter()
    for _ in range(num_steps):
        step(real_batches, own["n_critic"])
        for scheduler in schedulers:
            scheduler.step()
    return round(time.perf_counter() - began, 1)


def samples_of(generator: nn.Module, count: int, latent_dim: int, seed: int) -> Tensor:
    latents = torch.randn(count, latent_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():  # as it was trained, by batches: a running mean of batch norms is another generator
        return torch.cat([generator(part) for part in latents.split(500)])


def on_grid(seed: int) -> tuple[dict, dict]:
    """Return figures and points `(N, 2)` of each variant and of real points."""
    own, distribution = SETTINGS["grid"], grid()
    shape, networks = (1, 2), {name: own[name] for name in ("width", "num_layers")}
    points = {"real": distribution.draw(NUM_SAMPLES, np.random.RandomState(seed + 1))}
    results = {"real": distribution.figures(points["real"])}
    for variant in own["variants"]:
        torch.manual_seed(seed)
        generator = MLPGenerator(sample_size=shape, out_channels=1, latent_dim=own["latent_dim"], **networks)
        critic = MLPCritic(sample_size=shape, in_channels=1, **networks)
        seconds = train(variant, own, generator, critic, batches(distribution, np.random.RandomState(seed)))
        points[variant] = samples_of(generator, NUM_SAMPLES, own["latent_dim"], seed).flatten(1).numpy()
        results[variant] = {**distribution.figures(points[variant]), "seconds": seconds}
        print(f"grid, {variant}: {results[variant]}", file=sys.stderr, flush=True)
    return results, points


def on_stacked(args: argparse.Namespace) -> tuple[dict, dict]:
    """Return figures of the classifier, and figures and images `(N, 3, H, W)` of each variant and of real images."""
    own = SETTINGS["stacked"]
    data = load_images(DataConfig(dataset_name=args.dataset_name, resolution=own["resolution"], channels=1))
    singles = data.images.squeeze(1).float() / 127.5 - 1  # (M, H, W)
    labels = data.labels.numpy()
    flat = singles.flatten(1).numpy()
    known, unknown, known_labels, unknown_labels = train_test_split(flat, labels, random_state=args.seed)
    classifier = MLPClassifier((256,), random_state=args.seed).fit(known, known_labels)
    shares = np.bincount(labels) / len(labels)
    real_shares = np.einsum("a,b,c->abc", shares, shares, shares).flatten()

    def stacks(count: int, rng: np.random.RandomState) -> Tensor:
        return singles[torch.from_numpy(rng.randint(len(singles), size=(count, 3)))]  # (count, 3, H, W)

    def figures(images: Tensor) -> dict[str, float]:
        sureness = classifier.predict_proba(images.flatten(2).flatten(0, 1).numpy())  # (3N, 10)
        digits = sureness.argmax(axis=1).reshape(-1, 3)
        classes = np.ravel_multi_index(digits.T, [len(shares)] * 3)
        sure = sureness.max(axis=1).reshape(-1, 3).min(axis=1) >= SURE
        generated = np.bincount(classes, minlength=len(real_shares)) / len(classes)
        there = generated > 0
        return {
            "classes_covered": int(there.sum()),
            "covered_by_sure_samples": len(np.unique(classes[sure])),
            "share_of_sure_samples": round(float(sure.mean()), 4),
            "kl_divergence": round(float((generated[there] * np.log(generated[there] / real_shares[there])).sum()), 4),
        }

    images = {"real": stacks(NUM_STACKED, np.random.RandomState(args.seed + 1))}
    results = {
        "data": data.name,
        "num_classes": len(real_shares),
        "classifier_accuracy": round(classifier.score(unknown, unknown_labels), 4),
        "real": figures(images["real"]),
    }
    size = {"sample_size": own["resolution"], "width": own["width"]}
    for variant in own["variants"]:
        torch.manual_seed(args.seed)
        generator = DCGANGenerator(out_channels=3, latent_dim=own["latent_dim"], **size)
        critic = DCGANCritic(in_channels=3, norm_type="none", **size)
        rng = np.random.RandomState(args.seed)
        real_batches = (RealBatch(stacks(count, rng)) for count in repeat(own["train_batch_size"]))
        seconds = train(variant, own, generator, critic, real_batches)
        images[variant] = samples_of(generator, NUM_STACKED, own["latent_dim"], args.seed)
        results[variant] = {**figures(images[variant]), "seconds": seconds}
        print(f"stacked, {variant}: {results[variant]}", file=sys.stderr, flush=True)
    return results, images


def draw_picture(results: dict, samples: dict, picture: Path) -> None:
    figure, axes = plt.subplots(len(samples), 4, figsize=(10, 2.8 * len(samples)), squeeze=False)
    for row, (part, points) in zip(axes, samples.items()):
        for panel, name in zip(row, [name for name in ("standard", "clip", "gp", "lp", "real") if name in points][:4]):
            own = results[part][name]
            if part == "grid":
                panel.scatter(*points["real"][:1000].T, s=9, color="tab:orange", linewidths=0)
                panel.scatter(*points[name][:2000].T, s=2, color="tab:green", linewidths=0)
                edge = 1.2 * np.abs(points["real"]).max()
                panel.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")
                caption = f"{own['modes_found']} modes, {own['share_within_3_std']:.0%} on them"
            else:
                tiles = torch.nn.functional.pad(points[name][:48], (1, 1, 1, 1), value=1).unflatten(0, (6, 8))
                page = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (6H, 8W, 3)
                panel.imshow((page.numpy() + 1) / 2, interpolation="nearest")
                caption = (
                    f"{results[part][name]['classes_covered']} classes, KL {results[part][name]['kl_divergence']:.2f}"
                )
            panel.set(xticks=[], yticks=[])
            panel.set_title(f"{TITLES[name]}\n{caption}", fontsize=10)
    figure.tight_layout()
    save_picture(figure, picture, 128)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    results, samples = {}, {}
    if args.part in ("grid", "all"):
        results["grid"], samples["grid"] = on_grid(args.seed)
    if args.part in ("stacked", "all"):
        results["stacked"], samples["stacked"] = on_stacked(args)

    folder = Path(args.output_dir)
    picture = folder / ("modes.png" if args.part == "all" else f"modes-{args.part}.png")
    draw_picture(results, samples, picture)
    rules = {
        "grid": f"a mode is found by {FOUND} of {NUM_SAMPLES} samples within {DEVIATIONS} standard deviations",
        "stacked": f"{NUM_STACKED} samples; sure is a probability of {SURE} or more for each of the three digits",
    }
    run = {"rules": rules, "seed": args.seed, "threads": args.threads, "picture": str(picture)}
    print(json.dumps({**run, "settings": SETTINGS, "results": results}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["grid", "stacked", "all"], default="all")
    parser.add_argument("--dataset_name", help="of grey images with labels, for stacked; by default the digits")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the data and the samples measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output_dir", default="model_cards/claims", help="for the picture")
    main(parser.parse_args())
