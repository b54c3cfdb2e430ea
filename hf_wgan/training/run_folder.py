"""The folder that a run leaves: what may be in it before, the record of the run, and the saved pipeline."""

import json
import os
import platform
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers import ModelMixin

from ..data import ImageSet, ImageStream
from ..hub.card import write_card
from ..pipelines import WGANPipeline
from ..utils import files
from ..utils.console import say
from ..utils.errors import InputError
from ..version import __version__
from .checkpoint import SET_ASIDE, checkpoints_for, set_aside_after
from .components import INSTEAD_OF
from .config import TrainingConfig
from .snapshot import settings_of
from .state import TrainingState
from .trackers import LOGS

RUN_FILES = (
    files.INDEX,
    *files.NETWORKS,
    files.CARD,
    files.CONFIG,
    files.METRICS,
    files.EVALUATION,
    files.SAMPLES,
    files.CURVES,
    files.BEST,
    LOGS,
)
LIBRARIES = ("torch", "accelerate", "diffusers", "datasets", "huggingface_hub", "safetensors")


def check_output_dir(config: TrainingConfig) -> None:
    """Check that a run may write to its folder, before anything is made.

    Raises:
        InputError: The folder holds something else, or nothing to resume.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir={config.output_dir!r}: is a file; name a folder")
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"output_dir={config.output_dir!r}: {existing} cannot be written to; name another folder")
    if config.resume_from_checkpoint:
        checkpoints_for(folder, config.resume_from_checkpoint)
    elif folder.exists() and any(folder.iterdir()) and not config.overwrite_output_dir:
        raise InputError(
            f"output_dir={config.output_dir!r}: is not empty; name another folder, resume the run in it with "
            "--resume_from_checkpoint latest, or replace that run with --overwrite_output_dir"
        )


def remove_run(folder: Path) -> None:
    """Remove the files of a run, and nothing else that may lie beside them."""
    patterns = (*RUN_FILES, files.CHECKPOINTS, SET_ASIDE + files.CHECKPOINTS, files.CARRIED_CODE)
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def begin_folder(config: TrainingConfig, state: TrainingState, record: dict[str, Any], metrics: str) -> None:
    """Make or clear the folder of a run and write its record.

    Args:
        config: The options of the run.
        state: Its state at the start.
        record: The content of `training_config.json`.
        metrics: The lines of `metrics.jsonl` so far.
    """
    folder = Path(config.output_dir)
    if config.overwrite_output_dir and not config.resume_from_checkpoint:
        remove_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for aside in set_aside_after(folder, state.global_step):
        say(f"Renamed, as the run resumes from an earlier step: {aside}")
    files.write_text(folder / files.CONFIG, json.dumps(record, indent=2) + "\n")
    files.write_text(folder / files.METRICS, metrics)


def describe_run(
    config: TrainingConfig,
    networks: dict[str, ModelMixin],
    dataset: ImageSet | ImageStream,
    accelerator: Accelerator,
    global_batch_size: int,
    components: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return the record of a run, the content of `training_config.json`.

    Args:
        config: The options of the run.
        networks: Both networks by name.
        dataset: The training images.
        accelerator: Knows the machine.
        global_batch_size: Images of one update, over all processes and accumulation steps.
        components: Descriptions of the objects that were given instead of what options name.
    """
    training = asdict(config)
    del training["hub_token"]
    for name in components:
        training |= dict.fromkeys(INSTEAD_OF[name])
    return {
        "training": training,
        **components,
        **{name: {"class": type(network).__name__} | settings_of(network) for name, network in networks.items()},
        "dataset": {
            "name": dataset.name,
            "hub_id": dataset.config.hub_id if dataset.config else None,
            "num_images": None if isinstance(dataset, ImageStream) else len(dataset),
            "fingerprint": dataset.fingerprint,
            "config": asdict(dataset.config) if dataset.config else None,
        },
        "machine": {
            "device": accelerator.device.type,
            "num_processes": accelerator.num_processes,
            "global_batch_size": global_batch_size,
            "mixed_precision": accelerator.mixed_precision,
        },
        "versions": {"hf_wgan": __version__, "python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
    }


def write_pipeline(folder: Path, pipeline: WGANPipeline, raw_generator: ModelMixin | None = None) -> None:
    """Write a run's pipeline and its card.

    Args:
        folder: The run's folder.
        pipeline: The pipeline.
        raw_generator: The generator without averaging, to be saved as the variant `raw`.
    """
    (folder / files.EVALUATION).unlink(missing_ok=True)  # it measured other weights
    pipeline.save_pretrained(folder)
    if raw_generator is not None:
        raw_generator.save_pretrained(folder / "generator", variant="raw")
    pipeline.register_to_config(_name_or_path=str(folder))
    write_card(folder)


def command_to_resume(record: dict[str, Any]) -> str:
    """Return the command that resumes a run, or what to do where no command started it."""
    if "command" not in record:
        return 'the same, with resume_from_checkpoint="latest"'
    words = record["command"].split(" --")
    words = [word for word in words if word.split()[0] not in ("overwrite_output_dir", "resume_from_checkpoint")]
    return " --".join([*words, "resume_from_checkpoint latest"])
