"""The words for what ends a run before its time: values that are not finite, the disk, and lost processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator

from ..algorithm.records import StepRecord
from ..utils.console import say
from ..utils.errors import (
    DeviceMemoryError,
    DiskError,
    InputError,
    ProcessLostError,
    is_out_of_memory,
    memory_error,
    one_line,
)
from .checkpoint import CheckpointWriter, what_is_left, what_to_resume
from .config import TrainingConfig
from .fast import has_bf16_arithmetic

CONNECTION_ERRORS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "ncclRemoteError",
)
"""What the libraries that connect processes report when one of them has gone."""
REMEDIES = {
    "real_score": "lower critic_learning_rate, and see that the images are what they should be",
    "fake_score": "lower generator_learning_rate and critic_learning_rate",
    "penalty": "lower critic_learning_rate or gradient_penalty_weight",
    "critic": "lower critic_learning_rate",
    "generator": "lower generator_learning_rate",
}
"""The remedy for a quantity that is not finite, by a word in its name."""


def first_not_finite(records: torch.Tensor, steps: range) -> str:
    """Describe the first value that is not finite, and its remedy.

    Args:
        records: `(num_processes, steps, 9)`, in the order of `StepRecord`.
        steps: The number of each step.
    """
    wrong = ~records.isfinite()
    row = int(wrong.any(dim=(0, 2)).int().argmax())
    column = int(wrong[:, row].any(dim=0).int().argmax())
    process = int(wrong[:, row, column].int().argmax())
    name = StepRecord._fields[column]
    remedy = next(remedy for word, remedy in REMEDIES.items() if word in name)
    where = f" in process {process}" if len(records) > 1 else ""
    return f"{name} is {records[process, row, column].item()} at step {steps[row]}{where}: {remedy}"


@contextmanager
def explained_errors(config: TrainingConfig, accelerator: Accelerator, writer: CheckpointWriter) -> Iterator[None]:
    """Complete the checkpoint in progress after an error, and explain the error.

    Errors of the disk name the folder, and every process reports its own error.

    Args:
        config: The options of the run.
        accelerator: Knows the processes.
        writer: Writes the checkpoints.
    """
    try:
        yield
    except Exception as error:
        writer.settle()  # the checkpoint that is being written is one more to resume from
        explanation = explained(error, config, accelerator)
        if isinstance(explanation, (DiskError, InputError, DeviceMemoryError)) and not accelerator.is_main_process:
            say(f"process {accelerator.process_index}: {explanation}")
        if explanation is error:
            raise
        try:
            raise explanation from error
        finally:
            del explanation  # or its traceback would hold it, and the run, in a circle


@contextmanager
def explained_memory(config: TrainingConfig, accelerator: Accelerator) -> Iterator[None]:
    """Explain used-up memory in what comes before the first step.

    Raises:
        DeviceMemoryError: Memory is used up.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _out_of_memory(error, config, accelerator) from error
        raise


def explained(error: Exception, config: TrainingConfig, accelerator: Accelerator) -> Exception:
    """Return the error that tells a person what an error of disk, memory or connection means for the run."""
    output_dir = Path(config.output_dir)
    if is_out_of_memory(error):
        return _out_of_memory(error, config, accelerator)
    if isinstance(error, DeviceMemoryError):
        return DeviceMemoryError(f"{error}; {what_to_resume(output_dir)}")
    if isinstance(error, OSError) and not isinstance(error, DiskError):
        return DiskError(f"{output_dir}: {one_line(error)}; {what_is_left(output_dir)}")
    lost = isinstance(error, RuntimeError) and any(words in str(error) for words in CONNECTION_ERRORS)
    if lost and accelerator.num_processes > 1:
        return ProcessLostError(
            f"process {accelerator.process_index} ends because another process has ended, whose message may say "
            f"why; {what_is_left(output_dir)}"
        )
    return error


def _out_of_memory(error: Exception, config: TrainingConfig, accelerator: Accelerator) -> DeviceMemoryError:
    size, parts, precision = (
        config.train_batch_size,
        accelerator.gradient_accumulation_steps,
        accelerator.mixed_precision,
    )
    remedies = []
    if size > 1:  # which is the same experiment, so that a checkpoint can be resumed with it
        remedies.append(f"--train_batch_size {-(-size // 2)} --gradient_accumulation_steps {2 * parts}")
    has_bf16 = precision == "no" and has_bf16_arithmetic(accelerator.device)
    smaller = "--mixed_precision bf16 or smaller networks" if has_bf16 else "smaller networks"
    remedies.append(f"in a new run, {smaller}")
    return memory_error(
        f"train_batch_size={size} with gradient_accumulation_steps={parts} and mixed_precision={precision!r}",
        error,
        f"use {', or '.join(remedies)}; {what_to_resume(Path(config.output_dir))}",
    )
