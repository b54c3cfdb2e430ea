"""Evaluation during training: the metrics of the generator as it would be saved now, and the best model so far."""

import shutil
import time
from pathlib import Path

import torch
from accelerate import PartialState

from ..data import ImageSet
from ..hub.card import record_evaluation
from ..metrics.evaluate import Evaluation, evaluate
from ..metrics.features import load_feature_extractor
from ..metrics.names import METRICS
from ..pipelines import WGANPipeline
from ..utils import files
from ..utils.errors import InputError, is_out_of_memory, memory_error
from .config import TrainingConfig
from .curves import read_metrics


class Evaluations:
    """Evaluates pipelines and keeps the best in `output_dir/best`.

    Args:
        config: The options of the run.
        images: The training images.
        held_out: Images that are not trained on, if there are any.
        device: Where the feature extractor runs.
        cache_dir: Folder for a classifier and the features of real images; by default in the Hugging Face cache.

    Raises:
        InputError: There is no such feature extractor, or what it needs is missing.
    """

    def __init__(
        self,
        config: TrainingConfig,
        images: ImageSet,
        held_out: ImageSet | None,
        device: torch.device,
        cache_dir: str | None,
    ):
        self.config, self.images, self.held_out, self.cache_dir = config, images, held_out, cache_dir
        self.folder = Path(config.output_dir)
        self._last: tuple[int, Evaluation] | None = None  # the step and its evaluation
        self._seconds = 0.0  # that it took
        with PartialState().main_process_first():  # which may have to train it
            try:
                self.features = load_feature_extractor(config.evaluation_features, images, held_out, device, cache_dir)
            except InputError as error:
                raise InputError(f"evaluation_{error}" if str(error).startswith("features=") else str(error)) from error

    def measure(self, pipeline: WGANPipeline, step: int) -> dict[str, float]:
        """Return the metrics of a pipeline for `metrics.jsonl`; an empty dictionary except in the main process.

        Raises:
            DeviceMemoryError: Memory is used up.
        """
        began, config = time.monotonic(), self.config
        state = PartialState()
        try:
            result = evaluate(
                pipeline,
                self.images,
                self.features,
                self.held_out,
                num_images=config.num_evaluation_images,
                seed=config.seed,
                cache_dir=self.cache_dir,
                with_floor=False,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            remedy = "leave out evaluation_steps, and evaluate checkpoints afterwards"
            raise memory_error("an evaluation beside the training", error, remedy) from error
        if not state.is_main_process:
            return {}
        self._last = step, result
        if self.is_best(result):
            self._keep(pipeline, step, result)
        self._seconds = round(time.monotonic() - began, 3)
        return {**result.metrics, "evaluation_seconds": self._seconds}

    def is_best(self, result: Evaluation) -> bool:
        """Return whether an evaluation is better than all in `metrics.jsonl`."""
        name = self.config.metric_for_best_model
        if name not in result.metrics:
            raise InputError(f"metric_for_best_model={name!r}: is not among the metrics: {', '.join(result.metrics)}")
        earlier = [row[name] for row in read_metrics(self.folder) if name in row]
        sign = 1 if METRICS[name].better == "lower" else -1
        return all(sign * result.metrics[name] < sign * other for other in earlier)

    def _keep(self, pipeline: WGANPipeline, step: int, result: Evaluation) -> None:
        """Write under another name first, so that there is a whole best model at any time."""
        best, old, temporary = (self.folder / name for name in (files.BEST, files.OLD_BEST, files.NEW_BEST))
        shutil.rmtree(temporary, ignore_errors=True)
        pipeline.save_pretrained(temporary)
        files.write_text(temporary / files.CONFIG, (self.folder / files.CONFIG).read_text(encoding="utf-8"))
        record_evaluation(temporary, result.rows(step=step))
        shutil.rmtree(old, ignore_errors=True)
        if best.exists():
            best.rename(old)
        temporary.rename(best)
        shutil.rmtree(old, ignore_errors=True)

    def record(self, step: int) -> None:
        """Put the metrics of this step, if it was evaluated, into the card of the run's own pipeline."""
        if self._last and self._last[0] == step:
            record_evaluation(self.folder, self._last[1].rows(step=step))

    def summary(self) -> str:
        """Return a line about the best model of the run and what its evaluations cost."""
        reported = read_metrics(self.folder)
        rows = [row for row in reported if "evaluation_seconds" in row]
        if self._last and self._last[0] not in {row["step"] for row in rows}:  # by `trainer.evaluate()`
            rows.append({"step": self._last[0], "evaluation_seconds": self._seconds, **self._last[1].metrics})
        if not rows:
            return "Nothing has been evaluated yet."
        name = self.config.metric_for_best_model
        best = (min if METRICS[name].better == "lower" else max)(rows, key=lambda row: row[name])
        seconds = sum(row["evaluation_seconds"] for row in rows)
        share = seconds / max(seconds, *(row["seconds"] for row in reported[-1:]), 1e-3)
        return (
            f"Best {METRICS[name].label}: {best[name]:.4g}, at step {best['step']}, kept in "
            f"{self.folder / files.BEST}. Evaluation took {share:.1%} of the time."
        )
