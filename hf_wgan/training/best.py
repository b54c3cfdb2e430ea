"""The best model of a run so far, in `output_dir/best`, with a record of its step and of what it was chosen by.

A model of a later step than the run returned to, or one chosen by other values, is renamed as checkpoints are.
"""

import filecmp
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..hub.card import is_generated, record_evaluation
from ..metrics.names import METRICS
from ..pipelines import WGANPipeline
from ..pipelines.published import pipeline_files
from ..utils import files
from ..utils.console import say


@dataclass(frozen=True)
class BestModel:
    """The content of `best/best.json`."""

    step: int
    metric: str  # by which it was chosen
    value: float  # of that metric, not rounded
    settings: str  # of the evaluation; values of others have another scale

    def is_beaten_by(self, value: float) -> bool:
        """Return whether a value of the same metric and settings is better."""
        return value < self.value if METRICS[self.metric].better == "lower" else value > self.value

    def is_comparable(self, other: "BestModel") -> bool:
        """Return whether another model was chosen by the same metric and settings."""
        return (self.metric, self.settings) == (other.metric, other.settings)


def read_best(folder: Path) -> BestModel | None:
    """Return the record of a best model; None where there is no model or no record of it.

    Args:
        folder: `output_dir/best`.
    """
    try:
        best = BestModel(**json.loads((folder / files.BEST_RECORD).read_text(encoding="utf-8")))
        is_valid = METRICS[best.metric].better and isinstance(best.step, int) and math.isfinite(best.value)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return best if is_valid and (folder / files.INDEX).is_file() else None


def keep_best(output_dir: Path, best: BestModel, pipeline: WGANPipeline, rows: Sequence[dict[str, Any]]) -> None:
    """Save a pipeline as the best model, under another name first, so that there is a whole one at any time.

    The former one is removed; it is set aside if its values are others, or if a person put something into it.

    Args:
        output_dir: The run's folder.
        best: What the pipeline is.
        pipeline: The pipeline.
        rows: The metrics of the pipeline, as `record_evaluation` takes them.
    """
    current, old, temporary = (output_dir / name for name in (files.BEST, files.OLD_BEST, files.NEW_BEST))
    _put_back(output_dir)
    former = read_best(current)
    for left_over in (old, temporary):
        shutil.rmtree(left_over, ignore_errors=True)
    new = temporary / files.BEST  # the card says the folder's name
    pipeline.save_pretrained(new)
    files.write_text(new / files.CONFIG, (output_dir / files.CONFIG).read_text(encoding="utf-8"))
    record_evaluation(new, list(rows))
    files.write_text(new / files.BEST_RECORD, json.dumps(asdict(best), indent=2) + "\n")
    if os.path.lexists(current):
        if reason := _reason_to_keep(current, former, best):
            say(f"Renamed, as {reason}: {_set_aside(current)}")
        else:
            current.rename(old)
    new.rename(current)
    for left_over in (old, temporary):
        shutil.rmtree(left_over, ignore_errors=True)
    for aside in output_dir.glob(f"{_name_aside(best)}*"):
        if _is_copy(aside, current):  # from before the run was resumed
            shutil.rmtree(aside, ignore_errors=True)


def set_best_aside_after(output_dir: Path, step: int) -> list[Path]:
    """Rename the best model if it is of a later step than `step`. Return the new names.

    One that replaced another when the process was killed is put in its place first.
    """
    _put_back(output_dir)
    best = read_best(output_dir / files.BEST)
    return [_set_aside(output_dir / files.BEST)] if best is not None and best.step > step else []


def best_files(folder: Path) -> list[Path]:
    """Return the files of a best model, the index first; without the card if a person wrote into it."""
    names = [files.EVALUATION, files.CONFIG, files.BEST_RECORD, *([files.CARD] if is_generated(folder) else [])]
    return [*pipeline_files(folder), *(folder / name for name in names)]


def _put_back(output_dir: Path) -> None:
    """Undo the first half of a replacement that was cut off, as where the process was killed."""
    current, old = output_dir / files.BEST, output_dir / files.OLD_BEST
    if old.exists() and not os.path.lexists(current):
        old.rename(current)


def _reason_to_keep(current: Path, former: BestModel | None, best: BestModel) -> str:
    """Return why what is in `best` is not removed when another model takes its place; empty if it is removed."""
    if former is None:
        return "it has no record of what it is"
    if not former.is_comparable(best):
        return "it was chosen by another metric or by other settings"
    return "" if _is_only_best(current) else "it holds more than the run wrote"


def _is_only_best(folder: Path) -> bool:
    """Return whether a folder holds a best model as a run saved it, and nothing else."""
    inside = {path for path in folder.rglob("*") if not path.is_dir()}
    return not folder.is_symlink() and inside <= set(best_files(folder))


def _is_copy(folder: Path, other: Path) -> bool:
    """Return whether a folder holds the same best model as another, and nothing else."""
    if read_best(folder) != read_best(other) or not _is_only_best(folder):
        return False
    weights = [path.relative_to(folder) for path in folder.rglob("*.safetensors")]
    return bool(weights) and all(_is_same_file(folder / path, other / path) for path in weights)


def _is_same_file(path: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(path, other, shallow=False)


def _set_aside(folder: Path) -> Path:
    best = read_best(folder)
    name = _name_aside(best) if best else files.SET_ASIDE + files.BEST
    return files.set_aside(folder, name, lambda earlier: _is_copy(earlier, folder))


def _name_aside(best: BestModel) -> str:
    return f"{files.SET_ASIDE}{files.BEST}-{best.step:06d}"
