"""The folder that a run leaves: what may be in it before, the record of the run, and the saved pipeline."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import ModelMixin

from ..data import ImageSet, ImageStream
from ..hub.card import clear_card, write_card
from ..pipelines import WGANPipeline
from ..pipelines.published import pipeline_files
from ..utils import files
from ..utils.console import say
from ..utils.errors import InputError
from ..utils.options import depends_on, has_effect, option_fields
from ..utils.own import remember_record
from ..version import __version__
from .best import best_files, set_best_aside_after
from .checkpoint import checkpoints_for, set_aside_after
from .components import INSTEAD_OF
from .config import NO_LIMIT, OF_EVALUATIONS, TrainingConfig
from .snapshot import settings_of
from .state import TrainingState
from .trackers import LOGS, PROJECT

LIBRARIES = ("torch", "accelerate", "diffusers", "datasets", "huggingface_hub", "safetensors")


def check_output_dir(config: TrainingConfig) -> None:
    """Check that a run may write to its folder, before anything is made.

    Raises:
        InputError: The folder holds something else, or nothing to resume.
    """
    folder = Path(config.output_dir)
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # safetensors writes such a file, and cannot read it again
        raise InputError(
            f"output_dir={config.output_dir!r}: has bytes that are no UTF-8, and no model can be read from such a "
            "folder; name another"
        ) from None
    files.check_links(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir={config.output_dir!r}: is a file; name a folder")
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"output_dir={config.output_dir!r}: {existing} cannot be written to; name another folder")
    if config.resume_from_checkpoint:
        checkpoints_for(folder, config.resume_from_checkpoint)
    if _continues(config) or files.is_unused(folder):
        return
    if not is_run(folder):
        raise InputError(
            f"output_dir={config.output_dir!r}: is not empty and holds no run ({files.CONFIG} is missing or is none of "
            "hf_wgan's), so nothing in it is replaced; name another folder"
        )
    if config.resume_from_checkpoint == "latest":
        raise InputError(
            f"resume_from_checkpoint='latest': there is no checkpoint in {folder}, and its model is not replaced by a "
            "run that begins; name another folder, or leave resume_from_checkpoint out and set overwrite_output_dir"
        )
    if not config.overwrite_output_dir:
        raise InputError(
            f"output_dir={config.output_dir!r}: is not empty; name another folder, resume the run in it with "
            "--resume_from_checkpoint latest, or replace that run with --overwrite_output_dir"
        )


def _continues(config: TrainingConfig) -> bool:
    """Return whether a run continues the run in its folder."""
    choice, folder = config.resume_from_checkpoint, Path(config.output_dir)
    if choice == "latest":  # also a run that ended before its first checkpoint
        return bool(files.checkpoints(folder)) or (is_run(folder) and not (folder / files.INDEX).exists())
    return choice is not None and Path(choice).resolve().is_relative_to(folder.resolve())


def is_run(folder: Path) -> bool:
    """Return whether a folder has the record of a run of this package."""
    try:
        return "hf_wgan" in _record(folder)["versions"]
    except (OSError, InputError):
        return False


def _record(folder: Path) -> dict[str, Any]:
    return files.read_mapping(folder / files.CONFIG, sections=("training", "dataset", "versions"))


def replaced_files(config: TrainingConfig) -> list[Path]:
    """Return the files of the run that a new run replaces, which an index, a manifest or a rule of names assigns to it.

    The record is not among them: the new one takes its place. Neither is the card, as a person may have written in it.
    """
    folder = Path(config.output_dir)
    if not config.overwrite_output_dir or _continues(config) or not is_run(folder):
        return []
    record = _record(folder)
    paths = [*pipeline_files(folder), folder / files.METRICS, folder / files.EVALUATION, folder / files.CURVES]
    paths += [*files.sample_grids(folder), folder / files.SAMPLES / files.REAL, folder / files.VIDEO]
    for best in filter(is_run, (folder / files.BEST, *folder.glob(f"{files.SET_ASIDE}{files.BEST}*"))):
        paths += best_files(best)
    for checkpoint in (*folder.glob(files.CHECKPOINTS), *folder.glob(files.SET_ASIDE + files.CHECKPOINTS)):
        if checkpoint.name.rpartition("-")[2].isdecimal():
            paths += files.manifest_files(checkpoint)
    if record["training"].get("report_to", "none") != "none":
        paths += (folder / LOGS / PROJECT).rglob("*")
    inside = [path for path in paths if path.parent.resolve().is_relative_to(folder.resolve())]  # not behind a link
    return [path for path in inside if path.is_file() or path.is_symlink()]


class RunFolder:
    """The folder of a run that trains: locked by the main process, and taken over once from the run before.

    Args:
        config: The options of the run.
        accelerator: Knows the processes. All of them make the same calls.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator
        self._lock = ExitStack()
        self._replaced: list[Path] = []  # files of the run that was there
        self._is_locked = self._is_begun = False
        self._starting = Path(config.output_dir, files.STARTING)
        """Says that whatever is in the folder was left by a run that has not begun, such as files of its trackers."""

    def lock(self, is_begun: bool) -> None:
        """Lock the folder unless this run has locked it, and check it once more; all processes raise the same error.

        Args:
            is_begun: Whether the run has begun, so that the folder is its own.

        Raises:
            InputError: Another process works in the folder, or has left a run there meanwhile.
        """
        if self._is_locked:
            return
        self.accelerator.wait_for_everyone()
        problem: Exception | None = None
        if self.accelerator.is_main_process:
            try:
                folder = Path(self.config.output_dir)
                folder.mkdir(parents=True, exist_ok=True)
                self._lock.enter_context(files.locked(folder))
                if not is_begun:
                    check_output_dir(self.config)
                    if files.is_unused(folder):
                        (folder / files.STARTING).touch()
            except (InputError, OSError) as error:
                problem = error
        if self.accelerator.num_processes > 1:
            (problem,) = broadcast_object_list([problem])
        if problem is not None:
            self.close()
            raise problem
        self._is_locked = True

    def note_replaced_files(self) -> None:
        """Remember the files of the run that is replaced, before this run writes others."""
        self._replaced = replaced_files(self.config)

    def begin(self, state: TrainingState, describe: Callable[[], dict[str, Any]], metrics: str) -> None:
        """Replace what was in the folder by the record of this run, once, when nothing else can fail at the start.

        Args:
            state: The state at the start.
            describe: Returns the content of `training_config.json`.
            metrics: The lines of `metrics.jsonl` so far.
        """
        if not self._is_begun and self.accelerator.is_main_process:
            begin_folder(self.config, state, describe(), metrics, self._replaced)
            self._starting.unlink(missing_ok=True)
        self._is_begun = True

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()
        if self._starting.is_file() and set(os.listdir(self._starting.parent)) <= {files.STARTING, files.LOCK}:
            self._starting.unlink(missing_ok=True)
        self._is_locked = False


def begin_folder(
    config: TrainingConfig, state: TrainingState, record: dict[str, Any], metrics: str, replaced: Sequence[Path]
) -> None:
    """Clear the folder of a run and write its record.

    Args:
        config: The options of the run.
        state: Its state at the start.
        record: The content of `training_config.json`.
        metrics: The lines of `metrics.jsonl` so far.
        replaced: Files of the run that was there before.
    """
    folder = Path(config.output_dir)
    for path in replaced:
        path.unlink(missing_ok=True)
    for parent in sorted({parent for path in replaced for parent in path.parents}, reverse=True):
        if parent.is_relative_to(folder) and parent != folder:
            with suppress(OSError):  # something else is in it
                parent.rmdir()
    step, renamed = state.global_step, []
    if replaced:
        clear_card(folder)
    else:
        renamed += set_best_aside_after(folder, step)
    for aside in [*renamed, *set_aside_after(folder, step)]:
        say(f"Renamed, as the run resumes from an earlier step: {aside}")
    text = json.dumps(record, indent=2) + "\n"
    remember_record(text)
    files.write_text(folder / files.CONFIG, text)
    files.write_text(folder / files.METRICS, metrics)


def describe_run(
    config: TrainingConfig,
    state: TrainingState,
    dataset: ImageSet | ImageStream,
    accelerator: Accelerator,
    global_batch_size: int,
    components: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return the record of a run, the content of `training_config.json`.

    Args:
        config: The options of the run.
        state: Its state: both networks and the steps so far, which the record counts where the options name fewer.
        dataset: The training images.
        accelerator: Knows the machine.
        global_batch_size: Images of one update, over all processes and accumulation steps.
        components: Descriptions of the objects that were given instead of what options name.
    """
    training = asdict(config)
    del training["hub_token"]
    training["max_train_steps"] = max(config.max_train_steps, state.global_step)
    labels = {}
    if config.class_conditional and isinstance(dataset, ImageSet):  # a stream's own fingerprint is of its labels too
        labels["labels_fingerprint"] = dataset.labels_fingerprint
    replaced = {option for name in components for option in INSTEAD_OF[name]}
    training |= dict.fromkeys(replaced)
    return {
        "training": training,
        **components,
        "without_effect": _without_effect(config, dataset, replaced),
        **{name: {"class": type(network).__name__} | settings_of(network) for name, network in state.networks.items()},
        "dataset": {
            "name": dataset.name,
            "hub_id": dataset.config.hub_id if dataset.config else None,
            "num_images": None if isinstance(dataset, ImageStream) else len(dataset),
            "fingerprint": dataset.fingerprint,
            **labels,
            "config": asdict(dataset.config) if dataset.config else None,
        },
        "machine": {
            "device": accelerator.device.type,
            "num_processes": accelerator.num_processes,
            "global_batch_size": global_batch_size,
            "mixed_precision": accelerator.mixed_precision,
        },
        "versions": {"hf_wgan": __version__, "python": platform.python_version()} | _library_versions(),
    }


def _without_effect(config: TrainingConfig, dataset: ImageSet | ImageStream, replaced: set[str]) -> list[str]:
    """Return the options that did nothing beside the others, which a card does not list.

    Args:
        config: The options of the run.
        dataset: Its images, whose options count if they have any.
        replaced: Options whose place an object has taken, which may use those that depend on them.
    """
    names = [] if config.evaluation_steps else [*OF_EVALUATIONS]
    if config.max_train_steps == NO_LIMIT:
        names.append("max_train_steps")
    data = dataset.config
    if data and data.is_of_python(dataset.name):
        replaced = replaced | {"dataset_name", "train_data_dir", "streaming"}
    for options in filter(None, (config, data)):
        names += [
            field.name
            for field in option_fields(type(options))
            if not has_effect(field, vars(options)) and depends_on(field).isdisjoint(replaced)
        ]
    return names


@cache
def _library_versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def write_pipeline(folder: Path, pipeline: WGANPipeline, raw_generator: ModelMixin | None = None) -> None:
    """Write a run's pipeline and its card.

    Args:
        folder: The run's folder.
        pipeline: The pipeline.
        raw_generator: The generator without averaging, to be saved as the variant `raw`.

    Raises:
        InputError: `pipeline` is none.
    """
    if not isinstance(pipeline, WGANPipeline):
        raise InputError(f"pipeline of type {type(pipeline).__name__}: must be a WGANPipeline")
    if raw_generator is not None:
        with files.replacing_in(folder) as temporary:
            raw_generator.save_pretrained(temporary / "generator", variant="raw")
    pipeline.save_pretrained(folder)
    (folder / files.EVALUATION).unlink(missing_ok=True)  # it measured other weights
    pipeline.register_to_config(_name_or_path=str(folder))
    write_card(folder)


def command_to_resume(record: dict[str, Any]) -> str:
    """Return the command that resumes a run, or what to do where no command started it."""
    if "command" not in record:
        return 'the same, with resume_from_checkpoint="latest"'
    words = record["command"].split(" --")
    words = [word for word in words if word.split()[0] not in ("overwrite_output_dir", "resume_from_checkpoint")]
    return " --".join([*words, "resume_from_checkpoint latest"])
