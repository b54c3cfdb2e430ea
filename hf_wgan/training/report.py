"""What a person sees of a run: the progress bar, `metrics.jsonl`, the sample grids and `curves.png`."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from .. import files
from ..grid import image_grid


class Report:
    """Writes to a run's folder.

    Args:
        output_dir: The folder.
        total_steps: Where the progress bar ends.
        first_step: Steps made already, when a run is resumed; later lines of `metrics.jsonl` are cut off.
    """

    def __init__(self, output_dir: Path, total_steps: int, first_step: int = 0):
        self.output_dir = output_dir
        self.rows = [row for row in read_metrics(output_dir) if row["step"] <= first_step]
        lines = [json.dumps(row) + "\n" for row in self.rows]
        (output_dir / files.METRICS).write_text("".join(lines))
        self.bar = tqdm(total=total_steps, initial=first_step, unit=" steps", dynamic_ncols=True)

    def metrics(self, step: int, **values: float) -> None:
        """One line of `metrics.jsonl`, also shown behind the bar."""
        row = {"step": step, **values}
        self.rows.append(row)
        with open(self.output_dir / files.METRICS, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.bar.set_postfix_str(
            f"critic {row['critic_loss']:.4f}, generator {row['generator_loss']:.4f}, "
            f"Wasserstein {row['wasserstein_estimate']:.4f}, {row['images_per_second']:.0f} images/s",
            refresh=False,
        )
        self.bar.update(step - self.bar.n)

    def samples(self, step: int, images: Sequence[Image.Image]) -> None:
        """A grid of images, as `samples/step-000500.png`."""
        path = self.output_dir / files.SAMPLES / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        image_grid(images).save(path)

    def close(self) -> None:
        self.bar.close()

    def curves(self) -> None:
        if self.rows and can_plot():
            plot_curves(self.rows, self.output_dir / files.CURVES)


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; none if there is no such file."""
    path = output_dir / files.METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def can_plot() -> bool:
    return all(importlib.util.find_spec(name) for name in ("matplotlib", "scipy"))


def plot_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """The Wasserstein estimate, raw and median-filtered (as in figure 3 of the paper), above the generator's loss."""
    from matplotlib.figure import Figure
    from scipy.ndimage import median_filter

    steps = [row["step"] for row in rows]
    window = max(3, len(rows) // 20) | 1
    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1]})

    def draw(axes: Any, name: str, colour: str, label: str) -> None:
        values = [row[name] for row in rows]
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8, label="raw")
        smooth = median_filter(values, size=window, mode="reflect")
        axes.plot(steps, smooth, color=colour, linewidth=1.8, label=f"median of {window} reports")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)

    draw(top, "wasserstein_estimate", "tab:blue", "Wasserstein estimate")
    top.axhline(0, color="black", linewidth=0.8)
    top.legend()
    draw(bottom, "generator_loss", "tab:orange", "generator loss")
    bottom.set_xlabel("step (generator updates)")
    figure.savefig(path, dpi=120)
