"""Evaluation during training: the metrics of the generator as it would be saved now, and the best model so far."""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from .best import BestModel, keep_best, read_best
from .config import TrainingConfig
from .curves import EVALUATION_SETTINGS, read_metrics


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
        self.settings = self._settings()
        """What the scale of the metrics depends on: the features, and the images that samples are compared with."""

    def _settings(self) -> str:
        name, compared = ("training", self.images) if self.held_out is None else ("held-out", self.held_out)
        count = min(self.config.num_evaluation_images, len(compared))
        key = [self.features.fingerprint, self.features.preprocessing, compared.fingerprint, compared.shape]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
        return f"{self.features.name}; {count} {name} images of {Path(compared.name).name}; {digest}"

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
        candidate, best = self._candidate(step, result), read_best(self.folder / files.BEST)
        if best is None or not best.is_comparable(candidate) or best.is_beaten_by(candidate.value):
            keep_best(self.folder, candidate, pipeline, result.rows(step=step))
        self._seconds = round(time.monotonic() - began, 3)
        return {**result.metrics, "evaluation_seconds": self._seconds}

    def _candidate(self, step: int, result: Evaluation) -> BestModel:
        """Return what an evaluated model would be as the best one."""
        name = self.config.metric_for_best_model
        if name not in result.metrics:
            raise InputError(f"metric_for_best_model={name!r}: is not among the metrics: {', '.join(result.metrics)}")
        return BestModel(step, name, float(result.metrics[name]), self.settings)

    def record(self, step: int) -> None:
        """Put the metrics of this step, if it was evaluated, into the card of the run's own pipeline."""
        if self._last and self._last[0] == step:
            record_evaluation(self.folder, self._last[1].rows(step=step))

    def summary(self) -> str:
        """Return a line about the best model of the run, as its folder has it, and what its evaluations cost."""
        reported = read_metrics(self.folder)
        rows = [row for row in reported if "evaluation_seconds" in row]
        if self._last and self._last[0] not in {row["step"] for row in rows}:  # by `trainer.evaluate()`
            evaluated = {"evaluation_seconds": self._seconds, EVALUATION_SETTINGS: self.settings}
            rows.append({"step": self._last[0], **evaluated, **self._last[1].metrics})
        if not rows:
            return "Nothing has been evaluated yet."
        seconds = sum(row["evaluation_seconds"] for row in rows)
        share = seconds / max(seconds, *(row["seconds"] for row in reported[-1:]), 1e-3)
        return f"{self._best(rows)} Evaluation took {share:.1%} of the time."

    def _best(self, rows: list[dict[str, Any]]) -> str:
        """Return a sentence about the model in `best`, and about a better one that is there no longer."""
        folder = self.folder / files.BEST
        best = read_best(folder)
        if best is None:
            return f"There is no best model in {folder}."
        label = METRICS[best.metric].label
        comparable = [row for row in rows if row.get(EVALUATION_SETTINGS) == best.settings and best.metric in row]
        lost = None
        for row in comparable:
            if (lost or best).is_beaten_by(row[best.metric]):
                lost = replace(best, step=row["step"], value=row[best.metric])
        if lost is None:
            return f"Best {label}: {best.value:.4g}, at step {best.step}, kept in {folder}."
        return (
            f"{label}: {best.value:.4g}, at step {best.step}, kept in {folder}; the model of step {lost.step} had "
            f"{lost.value:.4g} and is not kept."
        )
