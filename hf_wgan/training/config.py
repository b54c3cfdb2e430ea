"""Every option of a training run, once. The defaults are those of Arjovsky et al. 2017 (arXiv 1701.07875)."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..algorithm.augment import Augmentation
from ..algorithm.lipschitz import CONSTRAINTS, constraints_taking, constraints_with_penalty
from ..data.config import DataConfig
from ..hub.publish import Push
from ..metrics.features import describe_features, extractor_kind
from ..metrics.names import MIN_IMAGES, MODEL_SELECTION_METRICS
from ..models.factory import NetworkConfig
from ..utils.errors import InputError
from ..utils.hints import HINTS, OTHER_NAMES
from ..utils.options import MAX_SEED, Needs, Options, checked, option
from ..utils.registry import describe
from .optimizers import OPTIMIZERS, SCHEDULES, WITH_WEIGHT_DECAY, optimizers_taking, schedules_with
from .presets import preset_options
from .trackers import requested_trackers

ADAPTIVE: Needs = {"optimizer": partial(optimizers_taking, "betas")}
OF_EVALUATIONS = ("evaluation_features", "num_evaluation_images", "metric_for_best_model")
"""Options of evaluations during training; from Python they also serve `WGANTrainer.evaluate`."""
NO_LIMIT = 10**9
"""The number of steps of a run that only its time limits."""
OF_PENALTIES: Needs = {"lipschitz": constraints_with_penalty}


@dataclass(frozen=True)
class TrainingConfig(Options):
    """Training.

    A step is one generator update, with the critic steps before it. The help text of each field is in its metadata, and
    in `hf-wgan train --help-all`.

    Raises:
        InputError: A value has the wrong type, is out of its range, or contradicts another one.
    """

    # The run.
    output_dir: str = option(
        "wgan-model", "Folder for everything the run leaves.", group="Run", common=True, matters=False
    )
    overwrite_output_dir: bool = option(
        False, "Replace the run that an earlier command left in the output folder.", matters=False
    )
    resume_from_checkpoint: str | None = option(
        None,
        "Checkpoint to resume from: latest, which begins the run where there is none yet, or the path of one.",
        matters=False,
    )
    allow_config_change: bool = option(
        False,
        "Allow a resumed run to continue with options that make it another experiment.",
        matters=False,
        needs={"resume_from_checkpoint": True},
    )
    max_train_steps: int = option(
        10_000,
        "Number of generator updates.",
        minimum=1,
        common=True,
    )
    max_train_minutes: float | None = option(
        None,
        "Time limit in minutes; the run ends at the first report after it, and its schedules with it. Where no number "
        "of steps is given, it alone ends the run (but with TrainingConfig from Python, whose max_train_steps stays).",
        above=0,
        matters=False,
    )
    train_batch_size: int = option(
        64,
        "Batch size per process.",
        minimum=1,
        common=True,
        matters=False,
    )
    gradient_accumulation_steps: int = option(
        1, "Number of batches whose gradients are averaged for one update of either network.", minimum=1, matters=False
    )
    on_nan: Literal["stop", "restore"] = option(
        "stop",
        "What to do when a score, loss, gradient or weight is not finite. stop: end the run; restore: reload the "
        "newest checkpoint and continue with other random numbers.",
        matters=False,
    )
    max_restores: int = option(
        3,
        "Maximum number of restores in a run with --on_nan restore.",
        minimum=0,
        matters=False,
        needs={"on_nan": ["restore"]},
    )
    seed: int = option(
        0,
        "Seed for the initial weights, the latents and the order of the images.",
        minimum=0,
        maximum=MAX_SEED,
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        None,
        "Precision of the forward and backward passes (default: Accelerate's own configuration).",
        common=True,
        matters=False,
    )

    sync_batch_norm: bool = option(
        True,
        "On several GPUs, let batch norm use the statistics of all processes, as one process with all images does; "
        "--no-sync_batch_norm uses those of each process alone, without an exchange between the GPUs in every layer.",
    )

    # Speed. None of these changes what is computed but for rounding.
    fast_paths: bool = option(
        True,
        "Use numerically equivalent fast paths, listed in the log at start-up; without them the step is the plain one.",
        group="Speed",
        matters=False,
    )
    penalty_in_float32: bool = option(
        False,
        "Run the critic's passes for a penalty in float32 in a bf16 run too; fp16 runs always do.",
        matters=False,
        needs=OF_PENALTIES,
        late=True,
    )
    allow_tf32: bool = option(
        True, "Use TF32 (10 bits) for float32 convolutions and products on Ampere GPUs and later.", matters=False
    )
    compile: bool = option(
        False,
        "Compile the networks with torch.compile, for GPUs; the first step then takes minutes, and CUDA graphs, which "
        "gain more, are off by default.",
        matters=False,
    )
    cuda_graphs: bool | None = option(
        None,
        "Record an iteration as one CUDA graph and replay it, on one GPU. By default on where it can be and the "
        "networks, the constraint and the augmentation are of this package.",
        matters=False,
    )

    # Algorithm 1.
    n_critic: int = option(
        5,
        "Critic steps before each generator update.",
        minimum=1,
        group="Algorithm 1",
    )
    generator_batch_ratio: int = option(
        1, "Images of a generator update, as a multiple of those of a critic step.", minimum=1
    )
    # Off by default: at the same number of updates it brought nothing on the digits (docs/recipes.md has the figures).
    critic_warmup: bool = option(
        False,
        "Take 100 critic steps before each of the first 25 generator updates and every 500th, as in the authors' code.",
    )
    lipschitz: str = option(
        "clip",
        f"Constraint that keeps the critic Lipschitz. {describe(CONSTRAINTS)}.",
        choices=CONSTRAINTS,
    )
    clip_value: float = option(
        0.01,
        "Bound of the critic's parameters with clip: each is clamped to [-clip_value, clip_value] after a critic step.",
        above=0,
        needs={"lipschitz": partial(constraints_taking, "clip_value")},
    )
    gradient_penalty_weight: float = option(
        10.0,
        "Weight of the penalty (lambda; gamma for r1 and r1r2).",
        above=0,
        needs={"lipschitz": partial(constraints_taking, "weight")},
    )
    gradient_penalty_weight_end: float | None = option(
        None,
        "Weight of the penalty at the end of the run, which it approaches by half a cosine (default: it is constant).",
        above=0,
        needs={"lipschitz": partial(constraints_taking, "weight")},
    )
    penalty_interval: int = option(
        1,
        "Compute the penalty every penalty_interval critic steps, scaled by that factor (lazy regularisation).",
        minimum=1,
        needs=OF_PENALTIES,
        late=True,
    )
    class_conditional: bool = option(False, "Train on the labels too, so that the model generates images of a class.")
    augmentation: str = option(
        "",
        "Differentiable augmentation of real and generated images, for small datasets: color, translation, cutout, or "
        "several of them separated by commas.",
    )
    augmentation_probability: float = option(
        1.0,
        "Probability with which each operation of augmentation is applied to an image.",
        minimum=0,
        maximum=1,
        needs={"augmentation": True},
        unless=["adaptive_augmentation"],
    )
    adaptive_augmentation: bool = option(
        False,
        "Let the probability follow, from 0 on, how far the critic prefers the training images to others: those of "
        "held_out_split, else every tenth image, which is not trained on until the probability is at its limit. For "
        "small datasets.",
    )
    adaptive_augmentation_target: float = option(
        0.5,
        "Share of the critic's advantage that training images may have over others (r_v); above it, the probability "
        "rises.",
        above=0,
        below=1,
        needs={"adaptive_augmentation": True},
    )
    adaptive_augmentation_images: int = option(
        20_000,
        "Real images that the critic sees while the probability can change by 1.",
        minimum=1,
        needs={"adaptive_augmentation": True},
    )
    adaptive_augmentation_limit: float = option(
        0.3,
        "Highest probability. A critic of few images may know them in spite of any, and a high one slows learning; "
        "from about 0.8 on the generator learns to make augmented images.",
        above=0,
        maximum=1,
        needs={"adaptive_augmentation": True},
    )

    # The optimizers.
    optimizer: str = option(
        "rmsprop",
        "Optimizer of both networks. RMSProp has no momentum; the paper warns of momentum in the critic.",
        choices=OPTIMIZERS,
        group="Optimizers",
    )
    generator_learning_rate: float = option(
        5e-5,
        "Learning rate of the generator.",
        above=0,
    )
    critic_learning_rate: float = option(
        5e-5,
        "Learning rate of the critic.",
        above=0,
    )
    adam_beta1: float = option(
        0.5,
        "Decay rate of Adam's mean of the gradients.",
        minimum=0,
        below=1,
        needs=ADAPTIVE,
    )
    adam_beta2: float = option(
        0.999,
        "Decay rate of Adam's mean of the squared gradients.",
        minimum=0,
        below=1,
        needs=ADAPTIVE,
    )
    adam_beta2_end: float | None = option(
        None,
        "Value of adam_beta2 at the end of the run, which it approaches by half a cosine (default: it is constant).",
        minimum=0,
        below=1,
        needs=ADAPTIVE,
    )
    adam_weight_decay: float = option(
        0.01,
        "Weight decay of AdamW.",
        minimum=0,
        needs={"optimizer": WITH_WEIGHT_DECAY},
    )
    adam_epsilon: float = option(
        1e-8,
        "Term added to the denominator of Adam's and RMSProp's updates.",
        above=0,
    )
    lr_scheduler: str = option("constant", "Schedule of both learning rates, by diffusers' names.", choices=SCHEDULES)
    lr_warmup_steps: int = option(
        0,
        "Steps over which the learning rates rise from 0, for every schedule but constant.",
        minimum=0,
        needs={"lr_scheduler": partial(schedules_with, "has_warmup")},
    )
    lr_num_cycles: int = option(
        1,
        "Number of cosine cycles with cosine_with_restarts; each starts at the full learning rate.",
        minimum=1,
        needs={"lr_scheduler": partial(schedules_with, "has_cycles")},
    )
    lr_end_ratio: float = option(
        0.0,
        "Lowest learning rate of a schedule that decays, as a share of the initial one.",
        minimum=0,
        below=1,
        needs={"lr_scheduler": partial(schedules_with, "decays")},
    )
    lr_power: float = option(
        1.0,
        "Power of the polynomial schedule; 1 is linear.",
        above=0,
        needs={"lr_scheduler": partial(schedules_with, "has_power")},
    )

    # The generator that is saved.
    use_ema: bool = option(
        False,
        "Save an exponential moving average of the generator's weights; the raw ones become a variant.",
        group="Averaged generator",
    )
    ema_max_decay: float = option(
        0.9999,
        "Largest decay of the average per step.",
        minimum=0,
        below=1,
        needs={"use_ema": True},
    )
    ema_rampup_ratio: float = option(
        0.05,
        "Longest half-life of the average, as a share of the steps so far.",
        above=0,
        maximum=1,
        needs={"use_ema": True},
    )

    # What a person sees.
    logging_steps: int = option(
        10, "Steps between two lines of metrics.jsonl; each is their mean.", minimum=1, group="Reports", matters=False
    )
    validation_steps: int = option(
        500,
        "Steps between two sample grids; before the first, they come at the steps 0, 1, 2, 4 and so on up to 512.",
        minimum=1,
        matters=False,
    )
    num_validation_images: int = option(
        64,
        "Images in a sample grid.",
        minimum=1,
        matters=False,
    )
    checkpointing_steps: int = option(
        500,
        "Steps between two checkpoints.",
        minimum=1,
        matters=False,
    )
    checkpoints_total_limit: int | None = option(
        2, "Maximum number of checkpoints to keep; the oldest are removed.", minimum=1, matters=False
    )
    report_to: str = option(
        "none",
        "Trackers to report to besides the output folder: tensorboard, trackio, wandb or another of Accelerate's, "
        "several separated by commas, or all that are installed.",
        matters=False,
    )

    # What is measured during training.
    evaluation_steps: int | None = option(
        None,
        "Steps between two evaluations of the generator that would be saved then; a multiple of logging_steps. Without "
        "it nothing is evaluated.",
        minimum=1,
        group="Evaluation",
        matters=False,
    )
    evaluation_features: str = option(
        "auto",
        f"Feature extractor for the metrics: {describe_features()}.",
        matters=False,
    )
    num_evaluation_images: int = option(
        2000,
        "Samples and real images in an evaluation.",
        minimum=MIN_IMAGES,
        matters=False,
    )
    metric_for_best_model: str = option(
        "frechet_distance",
        "Metric by which the best model is chosen; it is kept in OUTPUT_DIR/best.",
        choices=MODEL_SELECTION_METRICS,
        matters=False,
    )

    # The Hub.
    push_to_hub: bool = option(
        False, "Push the pipeline, its card, samples and curves to the Hub.", group="Hub", common=True, matters=False
    )
    hub_model_id: str | None = option(
        None,
        "Repository on the Hub, as user/model (default: the name of the output folder).",
        matters=False,
        needs={"push_to_hub": True},
    )
    hub_token: str | None = option(
        None,
        "Token with write access (default: that of `hf auth login`, or HF_TOKEN).",
        secret=True,
        matters=False,
        needs={"push_to_hub": True},
    )
    hub_private_repo: bool = option(
        False,
        "Make the repository private, if it does not exist yet.",
        matters=False,
        needs={"push_to_hub": True},
    )
    hub_strategy: Literal["end", "checkpoint"] = option(
        "end",
        "When to push. end: once the run has ended; checkpoint: also at every checkpoint, while training continues.",
        matters=False,
        needs={"push_to_hub": True},
    )
    license: str = option(
        "unknown", "Licence of the model for its card, such as apache-2.0 or cc-by-4.0.", matters=False
    )

    @classmethod
    def from_preset(cls, preset: str, *, resolution: int = 64, **options: Any) -> TrainingConfig:
        """Return the training options of a preset; explicit options override it.

        A preset also says something of the networks: `RunConfig.resolve(preset=...)` has both.

        Args:
            preset: A name in `hf_wgan.training.presets.PRESETS`.
            resolution: Height of the images in pixels, on which some presets depend.
            options: Fields of this class, and `learning_rate` for both networks.

        Raises:
            InputError: There is no such preset or option, or a value is wrong.
        """
        from .resolve import FIELDS, effective, with_learning_rate

        preset, resolution = checked(FIELDS["preset"], preset), checked(FIELDS["resolution"], resolution)
        explicit = with_learning_rate(options)
        cls.check_names(explicit)
        names = {field.name for field in fields(cls)}
        ours = {name: value for name, value in preset_options(preset, resolution).items() if name in names}
        ranks = dict.fromkeys(ours, (0, False)) | dict.fromkeys(explicit, (0, True))
        return cls(**effective({**ours, **explicit}, ranks))

    @classmethod
    def hints(cls) -> dict[str, str]:
        """Return what to answer to options of other programs and of the other parts of a run."""
        others = {
            field.name: f"it is an option of {part.__name__}; RunConfig.resolve takes the options of both"
            for part in (DataConfig, NetworkConfig)
            for field in fields(part)
        }
        hints = {**super().hints(), **HINTS, **others}
        both = "it sets both networks' rates in RunConfig.resolve and TrainingConfig.from_preset; here they are "
        hints["learning_rate"] = f"{both}generator_learning_rate and critic_learning_rate"
        hints["lr"] = hints["learning_rate"]
        hints["preset"] = (
            "TrainingConfig.from_preset has the training options of a preset, RunConfig.resolve all of them"
        )
        return hints | {name: others[here] for here, names in OTHER_NAMES.items() if here in others for name in names}

    def check(self) -> None:
        """Check combinations of options."""
        if SCHEDULES[self.lr_scheduler].decays and self.lr_warmup_steps >= self.max_train_steps:
            raise InputError(
                f"lr_warmup_steps={self.lr_warmup_steps}: must be below max_train_steps={self.max_train_steps} with "
                f"lr_scheduler={self.lr_scheduler!r}"
            )
        requested_trackers(self.report_to)
        if not re.fullmatch("[a-z0-9][a-z0-9.-]*", self.license):  # which the Hub would refuse after the training
            raise InputError(
                f"license={self.license!r}: must be one of the Hub's identifiers, such as mit, cc-by-4.0 or other"
            )
        try:
            extractor_kind(self.evaluation_features)
        except InputError as error:
            raise InputError(f"evaluation_{error}") from error
        if self.evaluation_steps and self.evaluation_steps % self.logging_steps:
            raise InputError(
                f"evaluation_steps={self.evaluation_steps}: must be a multiple of logging_steps={self.logging_steps}, "
                "because the metrics go into the rows of metrics.jsonl"
            )
        operations = Augmentation(self.augmentation).operations
        if self.augmentation and not operations:
            raise InputError(f"augmentation={self.augmentation!r}: names no operation")
        if self.adaptive_augmentation and not operations:
            raise InputError("adaptive_augmentation: needs operations; set augmentation='translation'")
        if self.push_to_hub:
            _ = self.push

    @property
    def push(self) -> Push:
        """Return the push that the options describe.

        Raises:
            InputError: No repository can have this name.
        """
        repo_id = self.hub_model_id or Path(self.output_dir).resolve().name
        return Push(repo_id, self.hub_token, self.hub_private_repo)
