"""`hf-wgan plot`: the curves of runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..utils.errors import InputError
from ..utils.options import Options, option, words_of
from .common import command, parser_for


@dataclass(frozen=True)
class PlotConfig(Options):
    """Picture"""

    output: str = option("runs.png", "File for the picture: .png, .svg or .pdf.")
    metrics: str | None = option(
        None,
        "Names in metrics.jsonl, separated by commas; by default wasserstein_estimate, generator_loss, and "
        "frechet_distance where it was measured.",
    )
    against: Literal["step", "seconds"] = option("step", "Horizontal axis: steps, or seconds of training.")

    def check(self) -> None:
        if Path(self.output).suffix not in (".png", ".svg", ".pdf"):
            raise InputError(f"output={self.output!r}: must end in .png, .svg or .pdf")


@command
def plot(args: Sequence[str] | None = None) -> int:
    """Plot the curves of one or several runs in one picture.

    hf-wgan plot wgan-digits wgan-photos --output runs.png
    """
    from ..training.curves import can_plot, compare_runs

    parser = parser_for(plot, "plot", PlotConfig)
    parser.add_argument("runs", nargs="+", help="Folders of runs, finished or still training.")
    parsed = parser.parse(args)
    (config,), runs = parsed.configs, parsed.others["runs"]
    if not can_plot():
        raise InputError('a picture needs matplotlib and scipy; pip install "hf_wgan[train]" installs them')
    metrics = config.metrics and words_of("metrics", config.metrics)
    compare_runs([Path(run) for run in runs], Path(config.output), metrics, config.against)
    print(f"Saved {config.output}.")
    return 0
