"""The curves of runs, from their `metrics.jsonl`."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from ..utils import files
from ..utils.errors import InputError
from .config import TrainingConfig

LABELS = {"wasserstein_estimate": "Wasserstein estimate", "frechet_distance": "Fréchet distance"}
SEEN = ("wasserstein_estimate", "generator_loss")  # of every run
MOST_DIFFERENCES = 4  # between runs, that a legend names
Rows = Sequence[dict[str, Any]]


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; none if there is no such file. A process that was killed may have left the
    last one half written."""
    path = output_dir / files.METRICS
    whole = path.read_text().rpartition("\n")[0] if path.is_file() else ""
    return [json.loads(line) for line in whole.splitlines()]


def can_plot() -> bool:
    return all(importlib.util.find_spec(name) for name in ("matplotlib", "scipy"))


def plot_runs(
    runs: dict[str, Rows],
    path: Path,
    metrics: Sequence[str] = SEEN,
    against: Literal["step", "seconds"] = "step",
) -> None:
    """A panel for each metric, a colour for each run: raw, and median-filtered where there is enough (as in figure 3
    of the paper).

    Args:
        runs: The lines of `metrics.jsonl` by the run's name in the legend.
        path: Of the picture.
        metrics: Names in these lines. The first gets twice the room of the others.
        against: What runs to the right: steps, or seconds of training.

    Raises:
        InputError: no run has a metric.
    """
    from matplotlib.figure import Figure
    from scipy.ndimage import median_filter

    known = sorted({name for rows in runs.values() for row in rows for name in row} - {"step", "seconds"})
    figure = Figure(figsize=(8, 3 + 1.5 * len(metrics)), layout="constrained")
    heights = [2, *[1] * (len(metrics) - 1)]
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (axes, metric) in enumerate(zip(panels, metrics)):
        if metric not in known:
            raise InputError(f"metrics={metric!r}: no run has it; they have {', '.join(known)}")
        for number, (name, rows) in enumerate(runs.items()):
            points = [(row[against], row[metric]) for row in rows if row.get(metric) is not None]
            if not points:
                continue
            places, values = zip(*points)
            # A single run has a colour for each metric instead.
            colour = f"C{panel if len(runs) == 1 else number}"
            if len(points) < len(rows) / 2:  # measured now and then
                axes.plot(places, values, color=colour, marker="o", markersize=4, label=name)
                continue
            window = max(3, len(points) // 20) | 1
            raw = "raw" if len(runs) == 1 else None
            axes.plot(places, values, color=colour, alpha=0.3, linewidth=0.8, label=raw)
            smooth = median_filter(values, size=window, mode="reflect")
            label = f"median of {window} reports" if len(runs) == 1 else name
            axes.plot(places, smooth, color=colour, linewidth=1.8, label=label)
        if metric == "wasserstein_estimate":
            axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(LABELS.get(metric, metric.replace("_", " ")))
        axes.grid(alpha=0.3)
    if len(runs) == 1:
        panels[0].legend(fontsize="small")
    else:  # above, as long names would cover the curves
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", fontsize="small")
    panels[-1].set_xlabel("step (generator updates)" if against == "step" else "seconds of training")
    figure.savefig(path, dpi=120)


def compare_runs(
    folders: Sequence[Path],
    path: Path,
    metrics: Sequence[str] | None = None,
    against: Literal["step", "seconds"] = "step",
) -> None:
    """The curves of several runs in one picture, whose legend says in which settings they differ.

    A Wasserstein estimate is in units of its critic's: those of runs with another constraint cannot be compared, but
    for whether they fall.

    Args:
        folders: Each a run's.
        path: Of the picture.
        metrics: Names in `metrics.jsonl`; by default the Wasserstein estimate, the generator's loss, and the Fréchet
            distance where one was measured.
        against: What runs to the right: steps, or seconds of training.

    Raises:
        InputError: a folder holds no run's metrics, or no run has a metric.
    """
    runs = [read_metrics(folder) for folder in folders]
    for folder, rows in zip(folders, runs):
        if not rows:
            raise InputError(f"{str(folder)!r}: there is no {files.METRICS} in it with a report; name a run's folder")
    if metrics is None:
        measured = any("frechet_distance" in row for rows in runs for row in rows)
        metrics = [*SEEN, "frechet_distance"] if measured else SEEN
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    legends = [
        f"{name} ({', '.join(differences)})" if differences else name
        for name, differences in zip(names, _differences([_settings(folder) for folder in folders]))
    ]
    plot_runs(dict(zip(legends, runs)), path, metrics, against)


def _settings(folder: Path) -> dict[str, Any]:
    """What made a run what it is; nothing if its folder does not say."""
    path = folder / files.CONFIG
    if not path.is_file():
        return {}
    config = json.loads(path.read_text())
    matters = {field.name for field in fields(TrainingConfig) if field.metadata["matters"]}
    settings = {name: value for name, value in config["training"].items() if name in matters}
    for player in ("generator", "critic"):
        settings |= {f"{player} {name}": value for name, value in config[player].items()}
    return settings | {"data": config["dataset"]["name"], "mixed_precision": config["machine"]["mixed_precision"]}


def _differences(settings: list[dict[str, Any]]) -> list[list[str]]:
    """Of each run, the settings that are not the same in all of them."""
    names = dict.fromkeys(name for each in settings for name in each)
    differ = [name for name in names if len({repr(each.get(name)) for each in settings if each}) > 1]
    more = ["…"] if len(differ) > MOST_DIFFERENCES else []
    return [
        [f"{name} {each[name]}" for name in differ[:MOST_DIFFERENCES] if each.get(name) is not None] + more
        if each
        else []
        for each in settings
    ]
