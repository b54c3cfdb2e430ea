"""Every option of a training run, once. The defaults are those of Arjovsky et al. 2017 (arXiv 1701.07875)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..algorithm.augment import Augmentation
from ..hub.publish import Push
from ..utils.errors import InputError
from ..utils.options import option
from .presets import PRESETS


@dataclass(frozen=True)
class TrainingConfig:
    """Training

    A step is one generator update, with the critic steps before it. See each field's `help` metadata, or
    `scripts/train_wgan.py --help`.

    Raises:
        InputError: a value is out of its range.
    """

    # The run.
    output_dir: str = option("wgan-model", "Folder for everything the run leaves.", matters=False)
    overwrite_output_dir: bool = option(False, "Replace what an earlier run left in the output folder.", matters=False)
    resume_from_checkpoint: str | None = option(
        None, "latest, or the path of a checkpoint folder, to go on from there.", matters=False
    )
    allow_config_change: bool = option(
        False, "Resume with options that make it another experiment; without, such a change is refused.", matters=False
    )
    preset: str | None = option(
        None,
        f"Settings of a paper, all at once; options that are given go before. One of {', '.join(PRESETS)}.",
        matters=False,
    )
    max_train_steps: int = option(10_000, "Generator updates.")
    max_train_minutes: float | None = option(
        None, "End the run at the first report after so many minutes of training.", matters=False
    )
    train_batch_size: int = option(64, "Images a batch, for each process.", matters=False)
    gradient_accumulation_steps: int = option(
        1, "Batches of each process whose gradients are averaged for one update, of either player.", matters=False
    )
    on_nan: Literal["stop", "restore"] = option(
        "stop",
        "When a score, loss, gradient or weight is not a finite number: stop; or restore the newest checkpoint and go "
        "on with other random numbers.",
        matters=False,
    )
    max_restores: int = option(3, "on_nan restore: how many times in a run.", matters=False)
    seed: int = option(0, "Of the initial weights, the latents and the order of the images.")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        None,
        "Precision of the networks' passes; by default what accelerate was configured or launched with.",
        matters=False,
    )

    # Speed. None of these changes what is computed but for rounding.
    fast_paths: bool = option(
        True,
        "Of several ways to the same numbers take the fastest; which they are is said at the start. Off, the step is "
        "the plain one, to compare with.",
        matters=False,
    )
    penalty_in_float32: bool = option(
        False,
        "Take the critic's passes for a penalty in float32 in a bf16 run too; fp16 runs always do.",
        matters=False,
    )
    allow_tf32: bool = option(
        True, "On Ampere GPUs and later, take float32 convolutions and products in TF32 (10 bits).", matters=False
    )
    compile: bool = option(
        False, "Compile the networks with torch.compile, for GPUs; the first step then takes minutes.", matters=False
    )
    cuda_graphs: bool = option(
        False,
        "On one GPU, record an iteration as one CUDA graph and launch it as a whole. New, and not yet tried on a GPU.",
        matters=False,
    )

    # Algorithm 1.
    n_critic: int = option(5, "Critic steps before each generator update.")
    # Off by default: at the same number of updates it brought nothing on the digits (docs/recipes.md has the figures).
    critic_warmup: bool = option(
        False,
        "100 critic steps before each of the first 25 generator updates and every 500th, as in the paper's own code.",
    )
    lipschitz: Literal["clip", "gp", "lp", "dragan", "r1", "r1r2", "spectral", "none"] = option(
        "clip",
        "What keeps the critic Lipschitz. clip: weight clipping; gp: gradient penalty (WGAN-GP); lp: one-sided; "
        "dragan: around the data; r1, r1r2: zero-centred, at real, at real and generated images; spectral: spectral "
        "normalisation; none: nothing.",
    )
    clip_value: float = option(
        0.01, "clip: every critic parameter is clamped to [-clip_value, clip_value] after each critic step."
    )
    gradient_penalty_weight: float = option(10.0, "Weight of the penalty (lambda; gamma for r1 and r1r2).")
    penalty_interval: int = option(
        1, "Critic steps from one penalty to the next; it is multiplied by as much (lazy regularisation)."
    )
    class_conditional: bool = option(False, "Train on the labels too: images of a class that is asked for.")
    augmentation: str = option(
        "",
        "Differentiable augmentation of real and generated images, for small datasets: color, translation, cutout, or "
        "several of them separated by commas.",
    )

    # The optimizers.
    optimizer: Literal["rmsprop", "adam", "adamw"] = option(
        "rmsprop", "RMSProp without momentum, or Adam; the paper warns of momentum in the critic."
    )
    generator_learning_rate: float = option(5e-5, "Learning rate of the generator.")
    critic_learning_rate: float = option(5e-5, "Learning rate of the critic.")
    adam_beta1: float = option(0.5, "Adam: decay of the mean of the gradients.")
    adam_beta2: float = option(0.999, "Adam: decay of the mean of their squares.")
    adam_weight_decay: float = option(0.01, "AdamW: decay of the weights.")
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = option("constant", "How both learning rates go over the run, by diffusers' names.")
    lr_warmup_steps: int = option(0, "Steps over which the learning rates rise from 0, for all but constant.")

    # The generator that is shipped.
    use_ema: bool = option(False, "Ship an average of the generator's weights over the steps; raw ones are a variant.")
    ema_max_decay: float = option(0.9999, "Decay of the average a step, once it has warmed up.")
    ema_inv_gamma: float = option(1.0, "The decay warms up as 1 - (1 + step / ema_inv_gamma) ** -ema_power.")
    ema_power: float = option(0.75, "See ema_inv_gamma.")

    # What a person sees.
    logging_steps: int = option(10, "Steps between two lines of metrics.jsonl; each is their mean.", matters=False)
    validation_steps: int = option(500, "Steps between two sample grids.", matters=False)
    num_validation_images: int = option(64, "Images in a sample grid.", matters=False)
    checkpointing_steps: int = option(500, "Steps between two checkpoints.", matters=False)
    checkpoints_total_limit: int | None = option(2, "How many checkpoints to keep, the newest.", matters=False)

    report_to: str = option(
        "none",
        "Trackers to report to besides the output folder: tensorboard, trackio, wandb or another of Accelerate's, "
        "several separated by commas, or all that are installed.",
        matters=False,
    )

    # What is measured on the way.
    evaluation_steps: int | None = option(
        None,
        "Steps between two evaluations of the generator that would be shipped then; a multiple of logging_steps. By "
        "default none is made.",
        matters=False,
    )
    evaluation_features: str = option(
        "classifier",
        "By which features: classifier, classifier:FOLDER, pixels, inception:FILE, timm:NAME, transformers:NAME or "
        "module:PACKAGE.MODULE:NAME, as for scripts/evaluate.py.",
        matters=False,
    )
    num_evaluation_images: int = option(2000, "Samples of an evaluation, and real images.", matters=False)
    held_out_split: str | None = option(
        None, "Split to compare samples with; by default the training images.", matters=False
    )
    metric_for_best_model: Literal[
        "frechet_distance",
        "kernel_distance",
        "sliced_wasserstein_distance",
        "wasserstein_1",
        "precision",
        "recall",
        "density",
        "coverage",
    ] = option("frechet_distance", "By which figure the best model is kept, in OUTPUT_DIR/best.", matters=False)

    # The Hub.
    push_to_hub: bool = option(False, "Push the pipeline, its card, samples and curves to the Hub.", matters=False)
    hub_model_id: str | None = option(
        None, "Repository, as user/model; by default the output folder's name.", matters=False
    )
    hub_token: str | None = option(
        None, "Token that may write; by default that of hf auth login, or HF_TOKEN.", secret=True, matters=False
    )
    hub_private_repo: bool = option(False, "Make the repository private, if it is not there yet.", matters=False)
    hub_strategy: Literal["end", "checkpoint"] = option(
        "end",
        "end: push when the run has ended; checkpoint: also at every checkpoint, while training goes on.",
        matters=False,
    )
    license: str = option(
        "unknown", "Licence of the model for its card, such as apache-2.0 or cc-by-4.0.", matters=False
    )

    def __post_init__(self) -> None:
        positive = "max_train_steps train_batch_size n_critic clip_value logging_steps validation_steps"
        positive += " num_validation_images checkpointing_steps checkpoints_total_limit"
        positive += " generator_learning_rate critic_learning_rate gradient_penalty_weight penalty_interval"
        positive += " ema_inv_gamma ema_power max_train_minutes gradient_accumulation_steps"
        positive += " evaluation_steps num_evaluation_images"
        for name in positive.split():
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}={value}: must be positive")
        for name in ("adam_beta1", "adam_beta2", "ema_max_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 0 and below 1")
        for name in ("lr_warmup_steps", "adam_weight_decay", "max_restores"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 0")
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise InputError(
                f"lr_warmup_steps={self.lr_warmup_steps}: lr_scheduler='constant' has none; use constant_with_warmup"
            )
        if self.evaluation_steps and self.evaluation_steps % self.logging_steps:
            raise InputError(
                f"evaluation_steps={self.evaluation_steps}: must be a multiple of logging_steps={self.logging_steps}, "
                "as the figures go into its rows"
            )
        Augmentation(self.augmentation)
        if self.preset not in (None, *PRESETS):
            raise InputError(f"preset={self.preset!r}: must be one of {', '.join(PRESETS)}")
        if self.seed < 0:
            raise InputError(f"seed={self.seed}: must be at least 0")
        if self.push_to_hub:
            _ = self.push

    @property
    def push(self) -> Push:
        """Where the run is pushed to.

        Raises:
            InputError: no repository can have this name.
        """
        repo_id = self.hub_model_id or Path(self.output_dir).resolve().name
        return Push(repo_id, self.hub_token, self.hub_private_repo)


DIGITS_SIZE = {"resolution": 32, "max_train_steps": 3000, "output_dir": "wgan-digits"}
"""The same for a preset, whose other settings stay its own; not every architecture makes images of 16 pixels."""

DIGITS_DEFAULTS = {
    "resolution": 16,
    "generator_width": 32,
    "critic_width": 32,
    "generator_learning_rate": 2e-4,
    "critic_learning_rate": 2e-4,
    "latent_dim": 10,
    "max_train_steps": 3000,
    "output_dir": "wgan-digits",
}
"""What the command line trains scikit-learn's digits with where an option is not given: found by trying, for a result
worth looking at within a few minutes on a CPU. Images so small and so few bear four times the paper's rate."""
