"""Experiment trackers, through Accelerate: scalars, sample grids and hyperparameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from PIL import Image

from ..utils.console import say
from ..utils.errors import InputError, one_line
from ..utils.options import words_of

PROJECT = "hf_wgan"
LOGS = "logs"
"""The subfolder of a run's folder for trackers that write files."""
RUN_NAME = {"wandb": "name", "trackio": "name", "swanlab": "experiment_name"}
"""The argument for the name of a run, of trackers that have projects of many runs."""


def requested_trackers(report_to: str) -> list[str]:
    """Return the names in `--report_to`, each a tracker of Accelerate's, installed or not, or the word all or none.

    Raises:
        InputError: There is no such tracker.
    """
    names = words_of("report_to", report_to)
    if names not in (["none"], ["all"]) and not set(names) <= set(LOGGER_TYPE_TO_CLASS):
        raise InputError(f"report_to={report_to!r}: must be all, none, or some of {', '.join(LOGGER_TYPE_TO_CLASS)}")
    return names


def tracker_names(report_to: str) -> list[str]:
    """Return the names of the trackers that `--report_to` means.

    Args:
        report_to: Names such as `"tensorboard,trackio"`; `"all"` for those that are installed; or `"none"`.

    Raises:
        InputError: There is no such tracker, or it is not installed.
    """
    names = requested_trackers(report_to)
    installed = [str(name) for name in get_available_trackers()]
    if names == ["none"]:
        return []
    if names == ["all"]:
        return installed
    for name in names:
        if name not in installed:
            raise InputError(f"report_to={report_to!r}: {name} is not installed; pip install {name.replace('_', '-')}")
    return names


class Trackers:
    """Reports to all trackers of a run.

    If a tracker fails, a message says so, the tracker is dropped, and training continues.

    Args:
        accelerator: Built with `log_with` and `project_dir`.
        run_name: Name of this run among others.
        hyperparameters: Numbers, strings and booleans by name.

    Raises:
        InputError: A tracker cannot be started.
    """

    def __init__(self, accelerator: Accelerator, run_name: str, hyperparameters: dict[str, Any]):
        options = {name: {argument: run_name} for name, argument in RUN_NAME.items()}
        plain = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in hyperparameters.items()
        }
        try:
            accelerator.init_trackers(PROJECT, plain, options)
        except Exception as error:
            raise InputError(
                f"report_to: {', '.join(map(str, accelerator.log_with))} cannot be started ({one_line(error)})"
            ) from error
        # The same list, so that nothing else closes them again.
        self._trackers: list[GeneralTracker] = accelerator.trackers

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Report the values of a step."""
        self._call(lambda tracker: tracker.log(values, step=step))

    def samples(self, step: int, path: Path) -> None:
        """Report the picture of a sample grid, as it was saved."""
        self._call(lambda tracker: _log_picture(tracker, step, path))

    def close(self) -> None:
        """Finish all trackers."""
        self._call(lambda tracker: tracker.finish())
        self._trackers.clear()

    def _call(self, function: Callable[[GeneralTracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                function(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                say(f"{tracker.name} failed ({one_line(error)}) and is dropped; training continues.")


def _log_picture(tracker: GeneralTracker, step: int, path: Path) -> None:
    if tracker.name == "trackio":  # Accelerate's tracker has no pictures yet
        import trackio

        tracker.log({"samples": trackio.Image(str(path))}, step=step)
    elif tracker.name == "tensorboard":
        tracker.log_images({"samples": np.asarray(_picture(path))[None]}, step=step, dataformats="NHWC")
    elif hasattr(tracker, "log_images"):
        tracker.log_images({"samples": [_picture(path)]}, step=step)


def _picture(path: Path) -> Image.Image:
    """Return a picture in colour, with its transparency if it has some."""
    picture = Image.open(path)
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
