"""How near inversion comes to images that the model was not trained on: to digits that a run leaves out.

    python benchmarks/inversion.py

Trains as the default command does, but without classes and on all of scikit-learn's digits save 16, inverts these, and
compares the mean squared error with that of the nearest of 1,000 random samples.
"""

import argparse
import tempfile

import torch
from PIL import Image

from hf_wgan import DCGANCritic, DCGANGenerator, ImageSet, TrainingConfig, WGANTrainer, load_images
from hf_wgan.data import DataConfig
from hf_wgan.training.resolve import DIGITS_DEFAULTS
from hf_wgan.utils.grids import image_grid

LEFT_OUT, CANDIDATES = 16, 1000


def main(args: argparse.Namespace) -> None:
    digits = load_images(DataConfig(resolution=DIGITS_DEFAULTS["resolution"])).images
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(args.seed))
    held_out, images = digits[order[:LEFT_OUT]], digits[order[LEFT_OUT:]]
    torch.manual_seed(args.seed)
    size = {"sample_size": DIGITS_DEFAULTS["resolution"]}
    generator = DCGANGenerator(
        **size, out_channels=1, width=DIGITS_DEFAULTS["generator_width"], latent_dim=args.latent_dim
    )
    critic = DCGANCritic(**size, in_channels=1, width=DIGITS_DEFAULTS["critic_width"])
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(
            output_dir=folder,
            seed=args.seed,
            max_train_steps=args.steps,
            generator_learning_rate=DIGITS_DEFAULTS["generator_learning_rate"],
            critic_learning_rate=DIGITS_DEFAULTS["critic_learning_rate"],
        )
        pipeline = WGANTrainer(generator, critic, ImageSet(images.contiguous()), config).train()
    target = held_out.float() / 255
    rng = torch.Generator().manual_seed(args.seed)
    samples = pipeline(CANDIDATES, generator=rng, output_type="pt").images
    nearest = (target[:, None] - samples[None]).square().mean(dim=(2, 3, 4)).min(dim=1).values
    latents = pipeline.invert(target, num_candidates=CANDIDATES, generator=rng.manual_seed(args.seed))
    inverted = pipeline(latents=latents, output_type="pt").images
    errors = (inverted - target).square().mean(dim=(1, 2, 3))
    settings = f"{args.steps:,} steps, latents of {args.latent_dim}, seed {args.seed}"
    print(f"{LEFT_OUT} digits left out of training, {settings}")
    print(f"mean squared error of the nearest of {CANDIDATES:,} samples: {nearest.mean():.5f}")
    print(f"of inversion: {errors.mean():.5f}, {nearest.mean() / errors.mean():.1f} times smaller")
    if args.picture:
        pairs = torch.stack([target, inverted], dim=1).flatten(0, 1)[:, 0]
        pictures = [Image.fromarray((pair * 255).round().to(torch.uint8).numpy()) for pair in pairs]
        image_grid(pictures, columns=8).save(args.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=DIGITS_DEFAULTS["max_train_steps"], help="of training")
    parser.add_argument("--latent_dim", type=int, default=DIGITS_DEFAULTS["latent_dim"], help="of the generator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", help="file for the digits and what inversion found, in pairs")
    main(parser.parse_args())
