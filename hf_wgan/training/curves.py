"""The curves of runs, from their `metrics.jsonl`."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..metrics.names import METRICS
from ..utils import files
from ..utils.errors import InputError, one_line
from .config import TrainingConfig

LABELS = {
    "wasserstein_estimate": "Wasserstein estimate",
    "frechet_distance": "Fréchet distance",
    "augmentation_probability": "augmented",
    "r_v": "r_v",
}
LIMITS = {"r_v": (-1.0, 2.0)}
"""The range of an axis, of a quotient that is mostly within it and huge where its divisor is nearly 0."""
ALWAYS_PLOTTED = ("wasserstein_estimate", "generator_loss")
PLOTTED_IF_REPORTED = ("augmentation_probability", "r_v")
OF_THE_CRITIC = (
    "wasserstein_estimate",
    "generator_loss",
    "critic_loss",
    "gradient_penalty",
    "real_score",
    "fake_score",
    "critic_gradient_norm",
    "generator_gradient_norm",
)
"""Metrics whose scale belongs to the critic, and with it to the constraint."""
OF_A_CONSTRAINT = ("lipschitz", "clip_value", "gradient_penalty_weight", "gradient_penalty_weight_end")
MOST_DIFFERENCES = 4  # between runs, in a legend
LONG = ("class_names", "class_frequencies")  # an entry for each class, for which a legend has no space
OUTLIERS = 0.02  # the share of reports, at either end, that an axis need not show
FAR = 3.0  # times the range of the others: where outliers would be so far away, the axis leaves them out
EVALUATION_SETTINGS = "evaluation_settings"  # of a row: what the scale of its metrics depends on
Rows = Sequence[dict[str, Any]]


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's `metrics.jsonl`; none if there is no such file.

    The last line is left out if a killed process wrote only a part of it.

    Raises:
        InputError: A line before it is damaged.
    """
    path = output_dir / files.METRICS
    whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            row["step"] + 0  # a number, whatever the others are
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: line {number} is damaged ({one_line(error)}); remove it") from error
        rows.append(row)
    return rows


def can_plot() -> bool:
    """Return whether the plotting libraries are installed."""
    return all(importlib.util.find_spec(name) for name in ("matplotlib", "scipy"))


def plot_runs(
    runs: dict[str, Rows],
    path: Path,
    metrics: Sequence[str] = ALWAYS_PLOTTED,
    against: Literal["step", "seconds"] = "step",
    constraints: dict[str, str] | None = None,
) -> None:
    """Plot a panel for each metric with a colour for each run.

    Curves are raw, and median-filtered where there are enough points, as in figure 3 of Arjovsky et al. 2017.

    Args:
        runs: The rows of `metrics.jsonl`, by the run's name in the legend.
        path: File of the picture.
        metrics: Names in these rows. The first panel is twice as high as the others.
        against: The horizontal axis: steps, or seconds of training.
        constraints: The constraint of each run, by the run's name. Where they differ, metrics whose scale belongs to
            the critic have a panel for each constraint.

    Raises:
        InputError: No run has a metric.
    """
    from matplotlib.figure import Figure
    from scipy.ndimage import median_filter

    no_metrics = {"step", "seconds", EVALUATION_SETTINGS}
    known = sorted({name for rows in runs.values() for row in rows for name in row} - no_metrics)
    for metric in metrics:
        if metric not in known:
            raise InputError(f"metrics={metric!r}: no run has it; they have {', '.join(known)}")
    constraints = constraints or dict.fromkeys(runs, "")
    several = list(dict.fromkeys(constraints.values()))
    contents = [
        (metric, constraint)
        for metric in metrics
        for constraint in (several if len(several) > 1 and metric in OF_THE_CRITIC else [None])
    ]
    figure = Figure(figsize=(8, 3 + 1.5 * len(contents)), layout="constrained")
    heights = [2 if metric == metrics[0] else 1 for metric, _ in contents]
    panels = figure.subplots(len(contents), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (axes, (metric, constraint)) in enumerate(zip(panels, contents)):
        curves: list[tuple[Sequence[float], Sequence[float]]] = []  # raw and filtered
        for number, (name, rows) in enumerate(runs.items()):
            if constraint not in (None, constraints[name]):
                continue
            lines = _lines(rows, metric, against)
            count = sum(len(values) for _, values in lines)
            # A single run has a colour for each metric instead.
            colour = f"C{panel if len(runs) == 1 else number}"
            window = max(3, count // 20) | 1
            raw, label = ("raw", f"median of {window} reports") if len(runs) == 1 else (None, name)
            for line, (places, values) in enumerate(lines):
                is_named = line == 0  # one entry of the legend for all lines of a curve
                if count < len(rows) / 2:  # evaluated now and then
                    axes.plot(places, values, color=colour, marker="o", markersize=4, label=name if is_named else None)
                    continue
                axes.plot(places, values, color=colour, alpha=0.3, linewidth=0.8, label=raw if is_named else None)
                smooth = median_filter(values, size=window, mode="mirror")
                axes.plot(places, smooth, color=colour, linewidth=1.8, label=label if is_named else None)
                curves.append((values, smooth))
        if limits := _limits(curves):
            axes.set_ylim(limits)
        if metric == "wasserstein_estimate":
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set_ylim(min(0, axes.get_ylim()[0]), max(0, axes.get_ylim()[1]))
        if metric in LIMITS:
            axes.set_ylim(LIMITS[metric])
        axes.set_ylabel(LABELS.get(metric, metric.replace("_", " ")))
        if constraint:
            axes.set_title(constraint, loc="right", fontsize="small")
        axes.grid(alpha=0.3)
    if len(runs) == 1:
        panels[0].legend(fontsize="small")
    else:  # above, as long names would cover the curves
        handles = {label: curve for axes in panels for curve, label in zip(*axes.get_legend_handles_labels())}
        names = [name for name in runs if name in handles]
        figure.legend([handles[name] for name in names], names, loc="outside upper left", fontsize="small")
    panels[-1].set_xlabel("step (generator updates)" if against == "step" else "seconds of training")
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _lines(
    rows: Rows, metric: str, against: Literal["step", "seconds"]
) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Return places and values of a curve; a line ends where evaluations with other settings, and scales, begin."""
    rows = [row for row in rows if row.get(metric) is not None]
    by_settings = groupby(rows, key=lambda row: row.get(EVALUATION_SETTINGS) if metric in METRICS else None)
    groups = [list(group) for _, group in by_settings]
    return [([row[against] for row in group], [row[metric] for row in group]) for group in groups]


def _limits(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[float, float] | None:
    """Return the range of an axis that leaves out the few reports, as of the first steps, that would flatten the rest.

    Args:
        curves: Values and filtered values of each run.

    Returns:
        The lower and the upper end; None where all values can be shown.
    """
    if not curves:
        return None
    lows = [min(np.quantile(raw, OUTLIERS, method="higher"), np.min(smooth)) for raw, smooth in curves]
    highs = [max(np.quantile(raw, 1 - OUTLIERS, method="lower"), np.max(smooth)) for raw, smooth in curves]
    low, high = min(lows), max(highs)
    whole = np.ptp(np.concatenate([raw for raw, _ in curves]))
    margin = 0.05 * (high - low)
    return (low - margin, high + margin) if whole > FAR * (high - low) > 0 else None


def compare_runs(
    folders: Sequence[Path],
    path: Path,
    metrics: Sequence[str] | None = None,
    against: Literal["step", "seconds"] = "step",
) -> None:
    """Plot the curves of several runs in one picture, whose legend names the settings that differ.

    The scale of a Wasserstein estimate belongs to its critic: runs with different constraints have axes of their own.

    Args:
        folders: The folders of the runs.
        path: File of the picture.
        metrics: Names in `metrics.jsonl`; by default the Wasserstein estimate, the generator's loss, and the Fréchet
            distance if a run has it.
        against: The horizontal axis: steps, or seconds of training.

    Raises:
        InputError: A folder holds no metrics or is named twice, or no run has a metric.
    """
    before: dict[Path, Path] = {}
    for folder in folders:
        if other := before.get(folder.resolve()):
            again = "twice" if str(other) == str(folder) else f"as {str(other)!r} too"
            raise InputError(f"runs: {str(folder)!r} is named {again}; name each folder once")
        before[folder.resolve()] = folder
    runs = [read_metrics(folder) for folder in folders]
    for folder, rows in zip(folders, runs):
        if not rows:
            raise InputError(f"{str(folder)!r}: there is no {files.METRICS} in it with a report; name a run's folder")
    if metrics is None:
        measured = any("frechet_distance" in row for rows in runs for row in rows)
        metrics = [*ALWAYS_PLOTTED, "frechet_distance"] if measured else ALWAYS_PLOTTED
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    # Matplotlib leaves labels that begin with _ out of a legend.
    names = [f"./{name}" if name.startswith("_") else name for name in names]
    settings = [_settings(folder) for folder in folders]
    legends = [
        f"{name} ({', '.join(differences)})" if differences else name
        for name, differences in zip(names, _differences(settings))
    ]
    constraints = dict(zip(legends, map(_constraint, settings)))
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_runs(dict(zip(legends, runs)), path, metrics, against, constraints)


def _constraint(settings: dict[str, Any]) -> str:
    """Return the constraint of a run, with what its scale depends on."""
    own = {name: value for name, value in settings.items() if name.startswith("constraint ")}
    if settings.get("lipschitz") is None:  # an object
        return ", ".join(str(value) for value in own.values())
    return " ".join(f"{settings[name]}" for name in OF_A_CONSTRAINT if settings.get(name) is not None)


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings that make a run the experiment that it is, but for those without effect.

    Records of earlier versions do not say which these are. There is nothing to return if the folder has no record.
    """
    path = folder / files.CONFIG
    if not path.is_file():
        return {}
    config = files.read_mapping(path)
    matters = {field.name for field in fields(TrainingConfig) if field.metadata["matters"]}
    try:
        matters -= set(config.get("without_effect", []))
        settings = {name: value for name, value in config["training"].items() if name in matters}
        for part in ("generator", "critic", "constraint", "augmentation"):
            settings |= {f"{part} {name}": value for name, value in config.get(part, {}).items() if name not in LONG}
        return settings | {"data": config["dataset"]["name"], "mixed_precision": config["machine"]["mixed_precision"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is damaged: it is not what a run records") from error


def _differences(settings: list[dict[str, Any]]) -> list[list[str]]:
    """Return, for each run, the settings that are not the same in all that have them."""
    names = dict.fromkeys(name for run in settings for name in run)
    differ = [name for name in names if len({repr(run[name]) for run in settings if name in run}) > 1]
    more = ["…"] if len(differ) > MOST_DIFFERENCES else []
    return [
        [f"{name} {run[name]}" for name in differ[:MOST_DIFFERENCES] if run.get(name) is not None] + more if run else []
        for run in settings
    ]
