"""Adaptive augmentation in a run: the images set aside for it, and the scores that it follows."""

from typing import Any

import numpy as np
import torch

from ..algorithm.augment import AdaptiveAugmentation
from ..algorithm.execution import unwrapped
from ..algorithm.step import total_critic_steps
from ..data import ImageSet, ImageStream, RealBatches, in_clusters_of
from ..utils.console import say
from ..utils.errors import InputError
from .callbacks import TrainerCallback, TrainerControl
from .config import TrainingConfig
from .state import TrainingState

HELD_OUT_INTERVAL = 10  # at most; every tenth image is set aside
FEWEST_HELD_OUT = 8
INTERVAL = 8  # steps between two adjustments
CHECK_INTERVAL = 8 * INTERVAL  # steps between two looks at the probability, for which the host waits for the device


def set_aside(
    config: TrainingConfig, dataset: ImageSet | ImageStream, held_out: ImageSet | None
) -> tuple[ImageSet | None, np.ndarray | None]:
    """Return the images whose scores steer the augmentation, and which of the training images are trained on meanwhile.

    These are the held-out images where there are some, and all are trained on (None). Else a tenth of the training
    images, of small sets some more, is set aside; but of each class, or cluster, at least one image is not.

    Raises:
        InputError: There are too few, or the images are a stream.
    """
    if not config.adaptive_augmentation:
        return None, None
    if isinstance(dataset, ImageStream):
        raise InputError(
            "adaptive_augmentation: sets some of the images aside, and this is a stream; use "
            "--no-adaptive_augmentation, or leave streaming out"
        )
    if held_out is not None and dataset.has_clusters:
        held_out = in_clusters_of(held_out, dataset)
    if held_out is None and len(dataset) >= 2 * FEWEST_HELD_OUT:
        interval = min(HELD_OUT_INTERVAL, len(dataset) // FEWEST_HELD_OUT)
        is_held_out = np.arange(len(dataset)) % interval == interval - 1
        if (labels := dataset.label_numbers) is not None:
            is_held_out &= np.isin(labels, labels[~is_held_out])  # no class is left without an image to learn from
        if not is_held_out.any():
            raise InputError(
                f"adaptive_augmentation: the classes of {dataset.name} have too few images to set some of them aside; "
                "use held_out_split, or --no-adaptive_augmentation"
            )
        return dataset.subset(is_held_out, "set-aside"), ~is_held_out
    compared, needed = (dataset, 2 * FEWEST_HELD_OUT) if held_out is None else (held_out, FEWEST_HELD_OUT)
    if len(compared) < needed:
        raise InputError(
            f"adaptive_augmentation: {compared.name} has {len(compared)} images, and it needs {needed}; use more, or "
            "--no-adaptive_augmentation"
        )
    return held_out, None


class AdaptiveAugmentationCallback(TrainerCallback):
    """Lets the augmentation follow the critic's scores, in every process alike, and reports it.

    Training images that were set aside are trained on as soon as the augmentation is at its limit: of a small set they
    are missed, and r_v, which such a critic keeps high, has nothing more to steer.

    Args:
        trainer: The run, whose augmentation is adaptive.
        held_out: Images that are not trained on.
        trained_on: Mask of the training images without those, if they are some of them.
    """

    augmentation: AdaptiveAugmentation
    _real_batches: RealBatches

    def __init__(self, trainer: Any, held_out: ImageSet, trained_on: np.ndarray | None = None):
        self.trainer, self.augmentation, self._real_batches = trainer, trainer.algorithm.augment, trainer.real_batches
        self._held_out, self._trained_on = held_out, trained_on
        self._settle(False)
        if trained_on is not None:
            trainer.state.add("images set aside", self)
        accelerator, config = trainer.accelerator, trainer.config
        processes, self._num_parts = accelerator.num_processes, trainer.algorithm.execution.num_parts
        batch_size = max(1, min(config.train_batch_size, len(held_out) // (processes * self._num_parts)))
        self._batches = RealBatches(
            held_out, batch_size, config.seed, accelerator.device, processes, accelerator.process_index
        )

    def state_dict(self) -> dict[str, Any]:
        return {"is_settled": self._is_settled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._settle(state["is_settled"])

    def _settle(self, is_settled: bool) -> None:
        """Decide whether the images set aside are trained on too, and no scores followed any more."""
        self._is_settled = is_settled
        self._real_batches.draw_from(None if is_settled else self._trained_on)

    def on_step_end(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % INTERVAL == 0 and not self._is_settled:
            advantages = self.advantages(state.global_step // INTERVAL)
            before, now = (
                total_critic_steps(step, args.n_critic, args.critic_warmup)
                for step in (state.global_step - INTERVAL, state.global_step)
            )
            num_images = (now - before) * self.trainer.global_batch_size
            self.augmentation.adjust(self.trainer.accelerator.reduce(advantages, "mean"), num_images)
            if state.global_step % CHECK_INTERVAL == 0 and self._trained_on is not None and self.augmentation.at_limit:
                self._settle(True)
                if state.is_world_process_zero:
                    say(
                        f"At step {state.global_step:,} the augmentation is at its limit: the {len(self._held_out):,} "
                        "images set aside are trained on too from here, and r_v is not measured any more."
                    )

    def on_log(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        logs.update(self.augmentation.read())

    def advantages(self, position: int) -> torch.Tensor:
        """Compute `(2,)`: the critic's advantage over the next training images and over held-out images.

        In as many parts as a batch of the training has.

        Both are compared with samples of their own classes: a score may have an offset for each class, about which the
        loss says nothing, and by which batches of different classes differ more than by what the critic has memorised.

        Args:
            position: Number of the held-out batch.
        """
        return torch.stack([self._of_part(part, position) for part in range(self._num_parts)]).mean(dim=0)

    @torch.no_grad()
    def _of_part(self, part: int, position: int) -> torch.Tensor:
        trainer, algorithm = self.trainer, self.trainer.algorithm
        critic, generator = unwrapped(algorithm.critic), unwrapped(algorithm.generator)
        algorithm.execution.begin_part(part)
        train = self._real_batches.batch(self._real_batches.position + part)  # the ones seen least recently
        latents = algorithm.sample_latents(len(train.images))
        advantages = []
        for images, labels in (train, self._batches.batch(position * self._num_parts + part)):
            own = (labels,) if trainer.config.class_conditional else ()
            samples = generator(latents[: len(images)], *own)
            real, generated = (
                critic(self.augmentation(part), *own).float().mean() for part in (images.to(samples.dtype), samples)
            )
            advantages.append(real - generated)
        return torch.stack(advantages)  # (2,)
