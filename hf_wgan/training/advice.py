"""Advice when it counts: a line at the start where other settings fit the images, and one for each way not to learn."""

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..algorithm.step import total_critic_steps
from ..data import ImageSet, in_clusters_of
from ..data.batches import normalised
from ..pipelines import WGANPipeline
from ..utils.console import say
from ..utils.cores import WAIT_POLICY, OtherPrograms, all_cores, is_crowded, spins
from .adaptive import FEWEST_HELD_OUT
from .callbacks import TrainerCallback, TrainerControl
from .config import TrainingConfig
from .fast import bf16_slowdown, has_bf16_arithmetic
from .presets import FOR_COLOUR
from .state import TrainingState

if TYPE_CHECKING:
    from .trainer import WGANTrainer

LARGEST_SIZE_OF_SMALL_IMAGES = 32
SMALLEST_SIZE_FOR_BF16 = 32  # pixels; below it a step gains little (docs/speed.md)
WORTH_A_LINE = 1.3  # the speed of products in bf16, over that in float32
IMAGES_OF_A_CLASS = 50  # in the mean, at least; with fewer the classes are hardly learnt
FEW_IMAGES = 1000
TIMES_SEEN = 200  # by the critic, each image; before it augmentation has brought nothing
FIRST_STEP = 64  # before it, samples may be alike
ALIKE = 1.0  # grey levels: the mean over pixels of the standard deviation over samples
REPORTS = 20  # over which the estimate is looked at
EXPLODED = 1000.0
FLAT = 1e-3  # the range of the estimate, as a share of its size
COMPARED_IMAGES = 256
SECONDS_OF_CORES = 10  # over which it is looked at whether other programs keep the cores busy
FAR_AHEAD = 0.5  # r_v: 0 for a critic that knows no single image, 1 for one that knows the training images only


def advice_at_the_start(trainer: "WGANTrainer") -> list[str]:
    """Return a line for each option that would make better samples of these images, or the run faster.

    These are another preset where the settings are those of the paper of 2017 and the images are in colour or larger,
    and the classes where the images have some and the networks could be trained on them; augmentation where they are
    few; and on CPUs bf16, where it is faster.
    """
    channels, height, width = trainer.dataset.shape
    is_small_and_grey = channels == 1 and max(height, width) <= LARGEST_SIZE_OF_SMALL_IMAGES
    lines = []
    if trainer.config.lipschitz == "clip" and "constraint" not in trainer.describe() and not is_small_and_grey:
        lines = [
            f"The constraint is that of the first paper; for images like these, --preset {FOR_COLOUR} fits better: on "
            "emoji its Fréchet distance after 15 minutes on a CPU core was a tenth."  # docs/presets.md#wgan-color
        ]
    if (classes := num_unused_classes(trainer)) > 1:
        lines.append(f"The images have {classes} classes: with --class_conditional samples are better, of any class.")
    if isinstance(images := trainer.dataset, ImageSet) and will_be_known_by_heart(images, trainer):
        lines.append(
            f"A critic soon knows {len(images)} images by heart: with --augmentation translation "
            "--adaptive_augmentation the recall of 300 emoji rose by a quarter."  # docs/constraints.md#small-datasets
        )
    if trainer.accelerator.device.type == "cpu":
        lines += advice_on_precision(trainer, max(height, width))
    return lines


def advice_on_precision(trainer: "WGANTrainer", size: int) -> list[str]:
    """Return a line on a CPU that is faster in bf16, for images of this size."""
    is_chosen = trainer.config.mixed_precision is not None or trainer.critic.dtype != torch.float32
    if trainer.accelerator.mixed_precision != "no" or is_chosen or size < SMALLEST_SIZE_FOR_BF16:
        return []
    if not has_bf16_arithmetic(trainer.accelerator.device) or (gain := 1 / bf16_slowdown()) < WORTH_A_LINE:
        return []
    return [f"This CPU multiplies {gain:.1f} times as fast in bf16: --mixed_precision bf16 makes most runs faster."]


def num_unused_classes(trainer: "WGANTrainer") -> int:
    """Return the number of classes of the images; 0 where the run uses them, cannot, or the classes are very small."""
    images = trainer.dataset
    options = trainer.record.get("networks")  # the networks were built from these, unless they were passed in
    built = isinstance(options, dict) and options.get("pretrained_model_name_or_path", "") is None
    if not built or trainer.config.class_conditional or not isinstance(images, ImageSet):
        return 0
    number = images.num_classes
    return number if len(images) >= IMAGES_OF_A_CLASS * number else 0


def will_be_known_by_heart(images: ImageSet, trainer: "WGANTrainer") -> bool:
    """Return whether the images are few, and the critic of a run sees them often and as they are."""
    config = trainer.config
    if config.lipschitz == "clip" or not 2 * FEWEST_HELD_OUT <= len(images) <= FEW_IMAGES:
        return False
    num_steps = total_critic_steps(config.max_train_steps, config.n_critic, config.critic_warmup)
    is_often = num_steps * trainer.global_batch_size >= TIMES_SEEN * len(images)
    return is_often and not config.augmentation and "augmentation" not in trainer.describe()


class AdviceCallback(TrainerCallback):
    """Warn once for each problem when training makes no progress, and name the option that helps.

    Args:
        trainer: Knows the images.
    """

    def __init__(self, trainer: "WGANTrainer"):
        self.trainer = trainer
        self._estimates: deque[float] = deque(maxlen=REPORTS)
        self._others = OtherPrograms()
        self._said: set[str] = set()
        self._in_clusters: ImageSet | None = None  # the held-out images of a run on clusters, once they are needed

    def on_log(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        self._look_at_the_cores(state)
        self._estimates.append(logs["wasserstein_estimate"])
        estimates = np.array(self._estimates)
        if len(estimates) < REPORTS:
            return
        if np.abs(estimates[-1]) > largest_estimate(args) and np.all(np.diff(np.abs(estimates)[-5:]) > 0):
            other = "--lipschitz gp or clip" if args.lipschitz == "none" else "a lower --critic_learning_rate"
            self._say("exploding", state, f"the Wasserstein estimate is {estimates[-1]:,.0f} and growing: try {other}")
        elif np.ptp(estimates) <= FLAT * np.abs(estimates).max():
            self._say(
                "flat",
                state,
                f"the Wasserstein estimate has been {estimates[-1]:.3g} for {REPORTS} reports, so the critic learns "
                f"nothing: try {'a larger --clip_value' if args.lipschitz == 'clip' else 'other learning rates'}",
            )
        limit = args.adaptive_augmentation_limit
        is_highest = logs.get("augmentation_probability", 0) >= limit - 1e-6  # which is kept in float32
        if is_highest and logs.get("r_v", 0) > FAR_AHEAD:
            self._say(
                "by heart",
                state,
                "the critic knows the training images by heart in spite of the highest probability of augmentation "
                f"({limit:g}; r_v = {logs['r_v']:.2f}): more images would help most, else a shorter run",
            )

    def on_sample(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        images: list[Image.Image],
        **kwargs: Any,
    ) -> None:
        if len(images) > 1 and state.global_step >= FIRST_STEP and are_alike(images):
            rates = f"now {args.generator_learning_rate:g} and {args.critic_learning_rate:g}"
            self._say("alike", state, f"all samples are alike: try a lower --learning_rate ({rates})")

    def on_evaluate(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        pipeline: WGANPipeline,
        **kwargs: Any,
    ) -> None:
        trained_on, held_out = self.trainer.dataset, self.trainer.evaluations.held_out
        adapts = args.adaptive_augmentation  # which follows the same ratio, and reports it
        if held_out is None or adapts or not isinstance(trained_on, ImageSet):
            return
        if trained_on.has_clusters:
            self._in_clusters = held_out = self._in_clusters or in_clusters_of(held_out, trained_on)
        elif args.class_conditional and held_out.num_unlabelled:
            return
        ratio = memorisation(pipeline, trained_on, held_out)
        if ratio > FAR_AHEAD:
            self._say(
                "far ahead",
                state,
                f"the critic scores held-out images nearly as low as samples (r_v = {ratio:.2f}), so it knows the "
                f"{len(trained_on):,} training images by heart: try --augmentation translation "
                "--adaptive_augmentation",
            )

    def _look_at_the_cores(self, state: TrainingState) -> None:
        if not spins() or self._others.seconds < SECONDS_OF_CORES:
            return
        accelerator = self.trainer.accelerator
        if accelerator.device.type != "cpu" or accelerator.num_processes > 1:
            return
        others = self._others.cores()
        self._others.restart()
        if is_crowded(others):
            self._say(
                "crowded",
                state,
                f"other programs keep {others:.1f} of {all_cores()} cores busy, where threads that wait for each other "
                f"by spinning make training many times slower: stop, and resume with {WAIT_POLICY}=PASSIVE in the "
                "environment",
            )

    def _say(self, kind: str, state: TrainingState, sentence: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            say(f"Step {state.global_step}: {sentence}.")


def largest_estimate(config: TrainingConfig) -> float:
    """Return the estimate above which it may explode; under a zero-centred penalty scores go with 1 / weight."""
    weight = config.gradient_penalty_weight_end or config.gradient_penalty_weight
    return EXPLODED / min(1.0, weight) if config.lipschitz in ("r1", "r1r2") else EXPLODED


def are_alike(images: list[Image.Image]) -> bool:
    """Return whether a person could not tell the images apart."""
    return bool(np.stack([np.asarray(image, np.float32) for image in images]).std(axis=0).mean() < ALIKE)


@torch.no_grad()
def memorisation(pipeline: WGANPipeline, trained_on: ImageSet, held_out: ImageSet) -> float:
    """Compute how much of a critic's advantage over samples lies in the training images themselves.

    This is `r_v` of Karras et al. 2020 (arXiv 2006.06676, eq. 1) for mean scores D of training images, held-out images
    and samples: `1 − (D(held out) − D(samples)) / (D(train) − D(samples))`. It is 0 if the training images are like
    others. A critic with classes scores samples of the classes of the images that they are compared with.
    """
    critic, has_classes = pipeline.critic, bool(pipeline.generator.config.get("num_classes"))
    number = min(COMPARED_IMAGES, len(trained_on), len(held_out))
    advantages = []
    for images in (trained_on, held_out):
        chosen = np.random.default_rng(0).permutation(len(images))[:number]
        labels = images.labels[chosen] if has_classes and images.labels is not None else None
        rng = torch.Generator().manual_seed(0)
        samples = pipeline(number, generator=rng, output_type="pt", class_labels=labels).images * 2 - 1
        own = () if labels is None else (labels.to(critic.device),)
        real_score, fake_score = (
            critic(batch.to(critic.device, critic.dtype), *own).float().mean().item()
            for batch in (normalised(images.middles(chosen)), samples)
        )
        advantages.append(real_score - fake_score)
    train, validation = advantages
    return (train - validation) / max(train, 1e-12)
