"""What the commands share: errors as one line, the option parser, loading a model, and the folder for the outcome.

An error is one line on stderr. Exit code 2: a mistake in the input, or a push that failed. 1: the command failed.
128 plus a signal's number: a signal ended the command.
"""

import inspect
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils import files
from ..utils.commands import shell_command
from ..utils.console import without_controls
from ..utils.errors import (
    BadImageError,
    DeviceMemoryError,
    ExportError,
    InputError,
    ProcessLostError,
    PushError,
    is_out_of_memory,
    one_line,
)
from ..utils.hints import WITHOUT_LAUNCH, called_here
from ..utils.launcher import drop_empty_variables, number_of
from ..utils.options import OptionParser, Options, option
from ..utils.own import is_own_record

if TYPE_CHECKING:
    from ..data import DataConfig, ImageSet
    from ..pipelines import WGANPipeline

Command = Callable[..., int]
"""A function of the arguments (by default those of this process) that returns an exit code."""
MODEL_HELP = "Folder left by training, or name of a model on the Hub."
SAMPLED_MODEL_HELP = f"{MODEL_HELP[:-1]}, or a checkpoint's folder."
IMPORT = "--import"
OF_MODELS = ("resolution", "width", "channels", "streaming", "shuffle_buffer_size", "dataloader_num_workers")
"""Options of images that commands do not need which compare a model's images with others."""
SOURCE = ("dataset_name", "dataset_config_name", "dataset_revision", "train_data_dir")
"""Options that name where images come from, but not which part of them."""
PREPARATION = ("center_crop", "background", "value_range")
"""Options by which other images are prepared as those that a model was trained on, unless they are typed."""
NAME_IMAGES = "name the images with --dataset_name or --train_data_dir"
EXPLAINED = (InputError, PushError, ExportError, FloatingPointError, OSError, ProcessLostError, DeviceMemoryError)
"""Errors whose message is for the person at the command line."""
EXTRAS = {"ot": "train", "scipy": "train", "sklearn": "train", "gradio": "demo"}
"""Optional modules, and the extra of this package that installs each."""


@dataclass(frozen=True)
class ModelOptions(Options):
    """Model"""

    revision: str | None = option(None, "Branch, tag or commit of a model on the Hub.")
    variant: str | None = option(
        None, "Variant of the weights, such as fp16; raw names those without averaging, also in a checkpoint."
    )


def command(function: Command) -> Command:
    """Turn errors that a person can correct into one line and an exit code; one process of several prints the line."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> int:
        _open_missing_streams()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError):  # other objects; a descriptor that has become a pipe meanwhile
                # A console of Windows lacks characters that texts and file names have.
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        drop_empty_variables()
        try:
            import_modules(sys.argv[1:] if not args or args[0] is None else args[0])
            return function(*args, **kwargs)
        except EXPLAINED as error:
            _print_error(str(error))
            mistake = isinstance(error, (InputError, PushError)) and not isinstance(error, BadImageError)
            return 2 if mistake else 1
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            cause = one_line(error) or "out of memory"
            _print_error(f"{cause}: use smaller batches, or a device with more memory")
            return 1
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            print(f'error: {error}; pip install "hf_wgan[{EXTRAS[error.name]}]" installs it', file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Stopped at once.", file=sys.stderr)
            return 128 + signal.SIGINT

    return run


def _open_missing_streams() -> None:
    """Give the null device to a process that was started without input or outputs, in the order of their descriptors.

    Otherwise whatever is opened next would get such a descriptor, and what libraries print would go there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _print_error(message: str) -> None:
    """Print an error in one line, in one of several processes."""
    if number_of("local rank", 0) == 0:
        print(f"error: {without_controls(message)}", file=sys.stderr)


def parser_for(
    function: Command,
    name: str,
    *option_classes: Any,
    hints: Mapping[str, str] | None = None,
    **options: Any,
) -> OptionParser:
    """Return the parser of a command; the help opens with the docstring of its function.

    Args:
        function: The command.
        name: Its name after `hf-wgan`.
        option_classes: Dataclasses of its options.
        hints: What to answer to options of other programs, besides `called_here`; for a command that starts processes.
        options: Further arguments of `OptionParser`.
    """
    # The help names the command as it can be typed here.
    description = (inspect.getdoc(function) or "").replace("hf-wgan ", f"{shell_command()} ")
    known = {field.name for option_class in option_classes for field in fields(option_class)}
    parser = OptionParser(
        *option_classes,
        hints={**called_here(known), **(WITHOUT_LAUNCH if hints is None else hints)},
        **options,
        prog=shell_command(name),
        description=description,
    )
    parser.add_argument(
        IMPORT,
        metavar="MODULE",
        action="append",
        help="Module or .py file to import first, which defines networks or registers constraints; may be repeated.",
    )
    return parser


def import_modules(words: Sequence[str]) -> None:
    """Import the modules that a command line names with `--import`, before its other options are looked at.

    Raises:
        InputError: There is no such module.
    """
    for word, following in zip(words, [*words[1:], ""]):
        option, has_value, value = word.partition("=")
        if option != IMPORT:
            continue
        name = value if has_value else following
        if not name or name.startswith("-"):
            raise InputError(f"{IMPORT}: names no module; name one, or a .py file")
        _import_module(name)


def _import_module(name: str) -> None:
    folder, module = os.getcwd(), name
    if name.endswith(".py"):
        folder, module = str(Path(name).resolve().parent), Path(name).stem
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed_import(name, error) from error  # the module is there, but something that it imports is not
        raise InputError(
            f"import={name!r}: there is no such module in {folder} or among the installed packages"
        ) from error
    except Exception as error:
        raise _failed_import(name, error) from error
    file = getattr(imported, "__file__", None) or ""
    if name.endswith(".py") and Path(file).resolve() != Path(name).resolve():
        raise InputError(f"import={name!r}: another module of this name is there already ({file}); rename the file")


def _failed_import(name: str, error: Exception) -> InputError:
    """Return the error for a module that fails while it is imported, with the place in it."""
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    else:
        *_, last = traceback.extract_tb(error.__traceback__)
        file, line = last.filename, last.lineno
    reason = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else one_line(error)}"
    return InputError(f"import={name!r}: fails in {file}, line {line} ({reason})")


def empty_folder(output_dir: str, overwrite: bool | None = None) -> Path:
    """Return the folder if it may be written to.

    Args:
        output_dir: The folder.
        overwrite: Whether it need not be empty; None if the command has no `--overwrite_output_dir`.

    Raises:
        InputError: The folder is not empty, or behind a link that leads nowhere.
    """
    folder = Path(output_dir)
    files.check_links(folder)
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not overwrite):
        remedy = "" if overwrite is None or folder.is_file() else ", or add --overwrite_output_dir"
        raise InputError(f"output_dir={output_dir!r}: is not an empty folder; name another{remedy}")
    return folder


def load_pipeline(model: str, options: ModelOptions | None = None, **others: Any) -> "WGANPipeline":
    """Load a pipeline as `hf_wgan.pipelines.loading.load_pipeline` does, or that of a checkpoint; it imports late.

    Raises:
        InputError: The model cannot be loaded, or an option has no effect on it.
    """
    options = options or ModelOptions()
    if not model.strip():
        raise InputError(f"model={model!r}: must not be empty; name a folder, or a model on the Hub")
    if files.is_checkpoint(Path(model)):
        from ..training.checkpoint import load_model

        return load_model(model, options.revision, options.variant)
    from ..pipelines import loading

    return loading.load_pipeline(model, revision=options.revision, variant=options.variant, **others)


def check_unused(options: Options, names: Iterable[str], where: str, typed: Collection[str] = ()) -> None:
    """Check that options keep their defaults where they have no effect, and that nobody typed one.

    Raises:
        InputError: One does not, or is in `typed`.
    """
    for name in names:
        if name in typed or getattr(options, name) != getattr(type(options), name):
            raise InputError(f"{name}={getattr(options, name)!r}: has no effect with {where}; leave it out")


def record_of(model: str, revision: str | None = None) -> str:
    """Return the text of a model's record; empty if it has none, or the Hub cannot be reached for it.

    Args:
        model: The folder or the name of the model.
        revision: Which one of its repository.
    """
    if Path(model).exists():
        return files.read_text(Path(model) / files.CONFIG, Path(model))
    from huggingface_hub import hf_hub_download

    with suppress(OSError, ValueError):
        path = hf_hub_download(model, files.CONFIG, revision=revision)
        return Path(path).read_text(encoding="utf-8")
    return ""


def training_data_of(model: str, record: str, pipeline: "WGANPipeline", options: Mapping[str, Any]) -> "DataConfig":
    """Return the data options of a command, or else those that the model was trained with.

    Size, channels and, unless an option names another, the range of values are those of the model.

    Images that the command names are prepared as the record says. The record of a model that was not trained here is
    not followed further: whoever wrote it could name any file.

    Args:
        model: The folder or the name of the model.
        record: The text of its record.
        pipeline: The loaded model.
        options: The options that were typed; those of the data override the recorded ones.

    Raises:
        InputError: Neither the command nor a run of this machine names the images.
    """
    from ..data import DataConfig
    from ..models.factory import shape_of

    explicit = {name: value for name, value in options.items() if name in DataConfig.__dataclass_fields__}
    if explicit.keys() & {"dataset_name", "train_data_dir"}:
        prepared = {}
        with suppress(InputError):  # there is no record
            recorded = _recorded(record, model)
            prepared = {name: getattr(recorded, name) for name in PREPARATION}
        config = DataConfig(**prepared | explicit)
    else:
        config = _recorded(record, model).changed()  # older records have options without effect on the digits
        if config.is_of_python(json.loads(record)["dataset"].get("name")):
            raise InputError(f"dataset_name: {model!r} was trained on a dataset in Python; {NAME_IMAGES}")
        if not is_own_record(record):
            if config.dataset_name is not None or config.train_data_dir is not None:
                raise InputError(
                    f"{model!r} was not trained here, so the images that its record names are not read by themselves; "
                    f"if you want to read them, add: {_words(config)}"
                )
            config = replace(config, cache_dir=None)
        config = replace(config, **explicit)
    config.check_effects()
    channels, height, width = shape_of(pipeline.generator)
    return config.changed(
        resolution=height,
        width=None if width == height else width,
        channels=channels,
        value_range=config.value_range or pipeline.generator.config.get("value_range"),
        streaming=False,
    )


def is_trained_on(record: str, images: "ImageSet") -> bool | None:
    """Return whether a model was trained on images, or a part of them; None if its record does not say."""
    from ..data.splits import is_part_of

    with suppress(ValueError, TypeError, KeyError, AttributeError, InputError):  # whoever wrote it, wrote anything
        dataset = json.loads(record)["dataset"]
        if dataset["fingerprint"].partition("-")[0] == images.fingerprint.partition("-")[0]:
            return True
        if dataset["config"] is None:  # images of Python
            return None
        before, now = _recorded(record, "").__dict__, images.config.__dict__ if images.config else {}
        if any(now[name] != before[name] for name in SOURCE):
            return False
        (limit, split), (old_limit, old_split) = (
            (of["max_train_samples"], of["dataset_split"]) for of in (now, before)
        )
        # All of them again, with another fingerprint, are others, but for a stream, whose fingerprint is of its first.
        if (limit, split) == (old_limit, old_split):
            return dataset["num_images"] is None
        if old_limit is not None:
            return limit is not None and limit <= old_limit and split == old_split
        return is_part_of(split, old_split)
    return None


def _recorded(text: str, model: str) -> "DataConfig":
    """Return the data options in the record of a run.

    Raises:
        InputError: There are none, or not valid ones.
    """
    from ..data import DataConfig

    try:
        options = json.loads(text)["dataset"]["config"] if text else None
        if options is not None:
            known = DataConfig.__dataclass_fields__
            return DataConfig(**{name: value for name, value in options.items() if name in known})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{model!r} has a record that cannot be used ({one_line(error)}); {NAME_IMAGES}") from error
    raise InputError(f"dataset_name: {model!r} does not say what it was trained on; {NAME_IMAGES}")


def _words(config: "DataConfig") -> str:
    """Return data options as words of a command line."""
    words = []
    for name, field in type(config).__dataclass_fields__.items():
        value = getattr(config, name)
        if value == field.default or name in (*OF_MODELS, "cache_dir"):
            continue
        words.append(f"--{f'no-{name}' if value is False else name}")
        words += [] if isinstance(value, bool) else [str(value)]
    return shlex.join(words)
