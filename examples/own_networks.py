"""Train with a critic, a penalty and a callback of your own on uniform latents, and push the model to the Hub.

python examples/own_networks.py                        # minutes on a CPU
python examples/own_networks.py me/wgan-attention      # the same, and push it; after `hf auth login`
"""

import sys

import torch
from attention import AttentionCritic

from hf_wgan import DCGANGenerator, TrainerCallback, TrainingConfig, WGANTrainer, load_images
from hf_wgan.algorithm.lipschitz import Constraint, gradients
from hf_wgan.data import DataConfig


class HuberPenalty(Constraint):
    """Keep the gradient norm at real images near 1, by the Huber loss of the difference."""

    def penalty(self, score, real_images, fake_images):
        norms = gradients(score, real_images).norm(dim=1)  # (N,)
        return 10 * torch.nn.functional.huber_loss(norms, torch.ones_like(norms))


class StopAtPlateau(TrainerCallback):
    """Stop when an evaluation finds the Fréchet distance less than a tenth lower than the one before."""

    last = float("inf")

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        distance = metrics["frechet_distance"]
        if distance > 0.9 * self.last:
            print(f"Step {state.global_step}: the Fréchet distance hardly falls any more, training stops.")
            control.should_training_stop = True
        self.last = distance


config = TrainingConfig.from_preset(
    "wgan-fast", max_train_steps=3000, evaluation_steps=200, evaluation_features="pixels", output_dir="wgan-attention"
)
trainer = WGANTrainer(
    DCGANGenerator(sample_size=16, out_channels=1, latent_dim=32, width=32, latent_prior="uniform"),
    AttentionCritic(),
    load_images(DataConfig(resolution=16)),
    config,
    constraint=HuberPenalty(),
    callbacks=[StopAtPlateau()],
)
pipeline = trainer.train()
if len(sys.argv) > 1:
    print("Pushed to", pipeline.push_to_hub(sys.argv[1]))
