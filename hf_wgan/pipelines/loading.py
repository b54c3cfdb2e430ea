"""Load a pipeline by the name that a person typed, with every failure in one line."""

from pathlib import Path
from typing import Any

from diffusers.utils import logging

from ..utils import files
from ..utils.errors import InputError, check_is_name, one_line
from .published import WGANPipeline


def load_pipeline(model: str, **options: Any) -> WGANPipeline:
    """Load a pipeline from a folder or from the Hub.

    Args:
        model: A folder, or `"user/model"`.
        options: Those of `WGANPipeline.from_pretrained`.

    Raises:
        InputError: The model cannot be loaded, is a file, or is a folder, of which there are no revisions.
    """
    check_is_name("model", model)
    if Path(model).is_file():
        raise InputError(
            f"{model!r}: is a file; name the folder of a pipeline (an exported file is only for `generate` and "
            "load_exported)"
        )
    if options.get("revision") and Path(model).is_dir():
        raise InputError(f"revision={options['revision']!r}: has no effect with {model!r}, a folder; leave it out")
    logging.disable_progress_bar()  # there are two components, which load in no time
    try:
        return WGANPipeline.from_pretrained(model, **options)
    except InputError:
        raise
    except Exception as error:  # diffusers, huggingface_hub and safetensors raise a dozen types here
        if Path(model).is_dir() and not (Path(model) / files.INDEX).is_file():
            raise InputError(f"{model!r} holds no pipeline: there is no {files.INDEX} in it") from error
        reason = one_line(error.__cause__ if isinstance(error.__cause__, OSError) else error)
        if Path(model).is_dir():
            raise InputError(f"{model!r}: the pipeline in it cannot be loaded ({reason})") from error
        raise InputError(
            f"{model!r} is neither a pipeline folder nor a model that can be loaded from the Hub ({reason})"
        ) from error
    finally:
        logging.enable_progress_bar()
