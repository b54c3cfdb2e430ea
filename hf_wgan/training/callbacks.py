"""Callbacks of a run, in the shape that transformers' users know, and the control object by which they steer it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from ..algorithm.records import StepRecord
from ..pipelines import WGANPipeline
from ..utils.errors import CallbackError, InputError, one_line
from .config import TrainingConfig
from .state import TrainingState

LAST_EARLY_SAMPLE = 512


@dataclass
class TrainerControl:
    """What the trainer does after the current step; callbacks set the fields.

    A field that one process sets counts for all processes.
    """

    should_training_stop: bool = False  # end the run, with a checkpoint and the pipeline
    should_evaluate: bool = False  # measure the generator; the metrics are logged too
    should_log: bool = False  # report the means of the steps since the last report
    should_sample: bool = False  # generate a sample grid
    should_save: bool = False  # write a checkpoint

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FLAGS:
            raise AttributeError(f"control.{name}: must be one of {', '.join(FLAGS)}")
        super().__setattr__(name, value)

    def reset(self) -> None:
        """Unset all fields."""
        self.take(TrainerControl())

    def take(self, other: "TrainerControl") -> None:
        """Take over all fields of another control object."""
        for flag in fields(self):
            setattr(self, flag.name, getattr(other, flag.name))


FLAGS = tuple(field.name for field in fields(TrainerControl))


class TrainerCallback:
    """The base of callbacks. Override the methods for the events that matter.

    Every method gets the arguments of the run (`args`, a `TrainingConfig`), its state (`state`, a `TrainingState`) and
    the control object (`control`); `generator` and `critic`; and what belongs to the event. All processes call the
    methods, except `on_sample`, which the main process alone calls (`state.is_world_process_zero`).

    A method changes `control`, or returns another `TrainerControl`, whose fields replace those of `control`.

    A callback with `state_dict()` and `load_state_dict(state)` keeps its state in checkpoints. If a callback raises an
    error, the run ends after the current step with a checkpoint and the pipeline, and then raises a `CallbackError`.

    Example:
    ```py
    >>> from hf_wgan import TrainerCallback

    >>> class StopEarly(TrainerCallback):
    ...     def on_log(self, args, state, control, logs, **kwargs):
    ...         if state.global_step > 1000 and logs["wasserstein_estimate"] < 0.05:
    ...             control.should_training_stop = True
    ```
    """

    def on_train_begin(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> Any:
        """Handle the beginning of training. The run's folder exists, and a checkpoint has been loaded if there is one.

        Args:
            args: The run's configuration.
            state: Its state.
            control: The control object.
            **kwargs: `generator`, `critic`, and what later versions add.
        """

    def on_step_end(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        record: StepRecord,
        **kwargs: Any,
    ) -> Any:
        """Handle the end of a step. `record` has its losses, scores and norms, on the device."""

    def on_evaluate(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        metrics: dict[str, float],
        pipeline: WGANPipeline,
        **kwargs: Any,
    ) -> Any:
        """Handle an evaluation. `metrics` has its values by name, `pipeline` is what was measured."""

    def on_log(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> Any:
        """Handle a report. `logs` has its values by name, those of an evaluation at this step included."""

    def on_sample(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        images: list[Image.Image],
        **kwargs: Any,
    ) -> Any:
        """Handle the images of a sample grid."""

    def on_save(
        self, args: TrainingConfig, state: TrainingState, control: TrainerControl, *, checkpoint: Path, **kwargs: Any
    ) -> Any:
        """Handle a checkpoint. Its folder is whole when the main process calls this."""

    def on_train_end(
        self,
        args: TrainingConfig,
        state: TrainingState,
        control: TrainerControl,
        *,
        pipeline: WGANPipeline,
        interrupted: bool,
        **kwargs: Any,
    ) -> Any:
        """Handle the end of training.

        `pipeline` is saved in the run's folder. `interrupted` says that a signal or a callback's error ended the run.
        """

    def close(self) -> None:
        """Release what the callback holds. Called once at the end, also after an error."""


class IntervalCallback(TrainerCallback):
    """Set the control flags that are due after a step, by the intervals of the configuration.

    Before the first interval of sample grids, they are due at steps that double: 1, 2, 4, 8 and so on.
    """

    def on_step_end(self, args: TrainingConfig, state: TrainingState, control: TrainerControl, **kwargs: Any) -> None:
        intervals = {
            "should_evaluate": args.evaluation_steps,
            "should_log": args.logging_steps,
            "should_sample": args.validation_steps,
            "should_save": args.checkpointing_steps,
        }
        for flag, steps in intervals.items():
            if steps and (state.global_step % steps == 0 or state.global_step == args.max_train_steps):
                setattr(control, flag, True)
        step = state.global_step
        if step <= min(LAST_EARLY_SAMPLE, args.validation_steps) and step & (step - 1) == 0:
            control.should_sample = True


EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))


class CallbackHandler:
    """Calls the callbacks of a run in their order.

    Args:
        args: The run's configuration.
        state: Its state.
        control: Its control object.
    """

    def __init__(self, args: TrainingConfig, state: TrainingState, control: TrainerControl):
        self.args, self.state, self.control = args, state, control
        self.failure: CallbackError | None = None  # of the first callback that raised an error
        self._failed: list[TrainerCallback] = []  # in this run, in which they are called no more
        self._in_run = False
        self._before: list[TrainerCallback] = []
        self._callbacks: list[TrainerCallback] = []
        self._after: list[TrainerCallback] = []

    def set_built_in(self, before: list[TrainerCallback], after: list[TrainerCallback]) -> None:
        """Set the built-in callbacks that are called before all others, and those that are called after them."""
        self._before, self._after = before, after

    @property
    def has_own(self) -> bool:
        """Return whether there are callbacks beside the built-in ones."""
        return bool(self._callbacks)

    @property
    def record(self) -> dict[str, list[str]]:
        """Return what the record of a run says of the callbacks beside the built-in ones, if there are any."""
        names = [f"{type(callback).__module__}:{type(callback).__qualname__}" for callback in self._callbacks]
        return {"callbacks": names} if names else {}

    def add(self, callback: Any) -> None:
        """Add a callback, an instance or a class that is built without arguments.

        Raises:
            InputError: It is no `TrainerCallback`, or has a method for an event that there is not.
        """
        if isinstance(callback, type) and issubclass(callback, TrainerCallback):
            callback = callback()
        if not isinstance(callback, TrainerCallback):
            raise InputError(f"callbacks: {callback!r} is of type {type(callback).__name__}, not a TrainerCallback")
        if unknown := sorted(name for name in set(dir(callback)) - set(EVENTS) if name.startswith("on_")):
            raise InputError(
                f"callbacks: {type(callback).__name__}.{unknown[0]} would never be called; the events are "
                f"{', '.join(EVENTS)}"
            )
        if any(other is callback for other in self._callbacks):
            raise InputError(f"callbacks: {type(callback).__name__} is there already; add another instance")
        names = [type(other).__name__ for other in self._callbacks]
        self._callbacks.append(callback)
        number = names.count(type(callback).__name__)
        self.state.add(f"callback {type(callback).__name__}{f' {number + 1}' if number else ''}", callback)

    def remove(self, callback: Any) -> None:
        """Remove a callback, or all of a class, with their states.

        Raises:
            InputError: There is none.
        """
        removed = [other for other in self._all() if other is callback or type(other) is callback]
        if not removed:
            there = ", ".join(dict.fromkeys(type(other).__name__ for other in self._all()))
            raise InputError(f"callbacks: {callback!r} is none of this run, which has {there}")
        for callbacks in (self._before, self._callbacks, self._after):
            callbacks[:] = [other for other in callbacks if other not in removed]
        for other in removed:
            self.state.remove(other)

    def listens(self, event: str) -> bool:
        """Return whether any callback handles an event."""
        return any(_handles(callback, event) for callback in self._all())

    def begin(self) -> None:
        """Begin a run, with all callbacks, whatever became of them in an earlier one."""
        self.failure, self._failed, self._in_run = None, [], True

    def call(self, event: str, **values: Any) -> None:
        """Call the method of an event of every callback.

        Raises:
            CallbackError: A callback raised an error at the beginning of training, or outside of a run.
        """
        values |= self.state.networks
        for callback in self._all():
            if callback in self._failed or not _handles(callback, event):
                continue
            try:
                returned = getattr(callback, event)(self.args, self.state, self.control, **values)
                if isinstance(returned, TrainerControl):  # as transformers' callbacks may
                    self.control.take(returned)
            except Exception as error:
                if callback not in self._callbacks:
                    raise
                self._note(callback, event, error)

    def close(self) -> None:
        """Close every callback, and end the run."""
        for callback in self._all():
            if callback in self._failed:
                continue
            try:
                callback.close()
            except Exception as error:
                if callback not in self._callbacks:
                    raise
                self._note(callback, "close", error)
        self._in_run = False

    def _all(self) -> list[TrainerCallback]:
        return [*self._before, *self._callbacks, *self._after]

    def _note(self, callback: TrainerCallback, event: str, error: Exception) -> None:
        """Call a callback no more in this run, and end it."""
        failure = (
            f"{type(callback).__name__}.{event} failed at step {self.state.global_step} "
            f"({type(error).__name__}: {one_line(error)})"
        )
        if event == "on_train_begin" or not self._in_run:
            raise CallbackError(failure) from error
        self._failed.append(callback)
        if self.failure is None:
            self.failure = CallbackError(f"{failure}; the run ended there and is saved in {self.args.output_dir}")
            self.failure.__cause__ = error
        self.control.should_training_stop = True


def _handles(callback: TrainerCallback, event: str) -> bool:
    method = getattr(callback, event)
    return getattr(method, "__func__", method) is not getattr(TrainerCallback, event)
