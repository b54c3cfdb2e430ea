"""This process among those of a run, and its device, as Accelerate's environment variables say."""

from datetime import timedelta

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other, as while the main process trains the classifier of an evaluation. By itself
NCCL gives up after ten minutes."""


def this_process() -> PartialState:
    """Return Accelerate's state of this process, which joins the others at the first call."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)
