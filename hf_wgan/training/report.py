"""What a person sees of a run: the progress bar, `metrics.jsonl`, the sample grids and `curves.png`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..utils import files
from ..utils.console import in_notebook, progress_bar
from ..utils.grids import image_grid
from .curves import can_plot, plot_runs, read_metrics
from .trackers import Trackers


class Report:
    """Writes to a run's folder.

    Args:
        output_dir: The folder.
        total_steps: Where the progress bar ends.
        first_step: Steps made already, when a run is resumed.
        metrics: The lines of `metrics.jsonl` up to there; what else the file has is cut off.
        trackers: Which are told all of it too.
    """

    def __init__(
        self,
        output_dir: Path,
        total_steps: int,
        first_step: int = 0,
        metrics: str = "",
        trackers: Trackers | None = None,
    ):
        self.output_dir, self.trackers = output_dir, trackers
        self.bar = progress_bar(total_steps, " steps", first_step)
        self._shown: Any = None  # where a notebook shows the newest grid
        self.cut_back(first_step, metrics)

    def cut_back(self, step: int, metrics: str) -> None:
        """Goes on from an earlier step, and the lines of `metrics.jsonl` up to there."""
        files.write_text(self.output_dir / files.METRICS, metrics)
        self.bar.update(step - self.bar.n)

    def lines(self) -> str:
        """The content of `metrics.jsonl`: it is kept there and not in memory, for a run may be long."""
        return (self.output_dir / files.METRICS).read_text()

    def metrics(self, step: int, **values: float) -> None:
        """One line of `metrics.jsonl`, also shown behind the bar."""
        row = {"step": step, **values}
        with open(self.output_dir / files.METRICS, "a") as file:
            file.write(json.dumps(row) + "\n")
        if self.trackers:
            self.trackers.scalars(step, values)
        self.bar.set_postfix_str(
            # What matters most comes first: a narrow terminal cuts the end off.
            f"Wasserstein {row['wasserstein_estimate']:.4f}, generator {row['generator_loss']:.4f}, "
            f"{row['images_per_second']:.0f} images/s",
            refresh=False,
        )
        self.bar.update(step - self.bar.n)

    def samples(self, step: int, images: Sequence[Image.Image]) -> None:
        """A grid of images, as `samples/step-000500.png`; a notebook shows the newest."""
        path = self.output_dir / files.SAMPLES / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        image_grid(images).save(path)
        if in_notebook():
            self._show(path)
        if self.trackers:
            self.trackers.samples(step, path)

    def _show(self, path: Path) -> None:
        """In place of the grid before."""
        from IPython.display import Image as Shown
        from IPython.display import display

        if self._shown is None:
            self._shown = display(Shown(path), display_id=True)
        else:
            self._shown.update(Shown(path))

    def close(self) -> None:
        self.bar.close()
        if self.trackers:
            self.trackers.close()

    def curves(self) -> None:
        if (rows := read_metrics(self.output_dir)) and can_plot():
            plot_runs({"": rows}, self.output_dir / files.CURVES)
