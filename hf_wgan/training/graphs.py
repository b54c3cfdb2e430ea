"""An iteration as one CUDA graph: captured once, then launched as a whole.

Five critic steps and a generator step of a DCGAN are some thousand kernels. A GPU works on each for a few microseconds,
and a CPU takes about as long to launch it. A graph of all of them costs one launch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..algorithm.records import StepRecord
from ..algorithm.step import RealBatch, WGANStep
from ..utils.console import say
from ..utils.errors import InputError, one_line
from .config import TrainingConfig

WARM_UP_STEPS = 3  # optimizers create their states in them, and libraries choose their kernels
MAX_CHANGES = 32
"""Changes of settings in a run. Where they change again and again, plain steps take less time than captures."""
Capture = Callable[[Callable[[], StepRecord]], tuple[Callable[[], None], StepRecord]]
"""Capture a function without running it; return a function that replays it, and the record that each replay overwrites.

It raises a RuntimeError if the function cannot be captured, and then leaves everything as it was but earlier graphs,
which can draw no numbers of a new seed any more.
"""


class Graph(NamedTuple):
    """A captured iteration."""

    batches: list[RealBatch]  # where it reads
    replay: Callable[[], None]
    record: StepRecord  # where it writes


class GraphedStep:
    """Runs a `WGANStep` as a graph. It is called like the step and returns the same numbers.

    A graph repeats what Python decided while it was captured. Iterations that differ therefore have graphs of their
    own: with a lazy penalty, one for each phase in which an iteration can begin. Where a setting of the optimizers, the
    constraint, the augmentation or a layer has changed, or a parameter is frozen, an iteration is captured anew. Before
    it is captured, every kind of iteration runs without a graph, also with changed settings: it may create a state of
    an optimizer, which every replay would otherwise fill with zeros again. So do iterations with another number of
    critic steps, and all while a network or an optimizer has hooks. Where an iteration waits for the device, its
    capture fails or its settings never rest, a line says so, and the run goes on without graphs.

    A graph also keeps to the memory it was captured with: whatever the step reads or writes is changed in place between
    two iterations, as `TrainingState.load_state_dict` does.

    Args:
        step: The step to capture. Its optimizers must be capturable, and its random numbers must come from `rng` or
            from the device's own generator.
        n_critic: Critic steps of the captured iterations.
        rng: Source of its random numbers, seeded between iterations.
        capture: How to capture it; by default as a CUDA graph.
    """

    def __init__(self, step: WGANStep, n_critic: int, rng: torch.Generator, capture: Capture | None = None):
        self.step, self.n_critic = step, n_critic
        self.capture = capture or DeviceCapture(rng)
        self._graphs: dict[int, Graph] = {}  # by phase
        self._settings: dict[int, list[Any]] = {}  # likewise: those of the last iteration that ran without a graph
        self._num_changes = self._num_warm_ups = 0
        self._is_off = False
        self.failure = ""
        """Why a capture failed, if one did: with branches, where iterations are recorded without them since."""

    def __call__(self, real_batches: Iterator[RealBatch], n_critic: int) -> StepRecord:
        if n_critic != self.n_critic or self._is_off or self._has_hooks(modules := _modules(self.step)):
            return self.step(real_batches, n_critic)
        # Outside of the graph, as they may be copied to the device.
        batches = [next(real_batches) for _ in range(n_critic)]
        settings = self._settings_of(modules)
        if self._num_warm_ups < WARM_UP_STEPS or self._settings.get(self._phase) != settings:
            return self._warm_up(batches, settings)
        graph = self._graphs.get(self._phase) or self._captured(batches)
        return self._replayed(graph, batches) if graph else self.step(iter(batches), n_critic)

    @property
    def is_recorded(self) -> bool:
        """Return whether iterations run as graphs."""
        return bool(self._graphs)

    @property
    def _phase(self) -> int:
        step = self.step
        return step.num_critic_steps % step.penalty_interval if step.constraint.has_penalty else 0

    def _has_hooks(self, modules: list[nn.Module]) -> bool:
        step = self.step
        return (
            any(module._forward_hooks or module._forward_pre_hooks for module in modules)
            or any(module._backward_hooks or module._backward_pre_hooks for module in modules)
            or any(weight._backward_hooks or weight._post_accumulate_grad_hooks for weight in _parameters(modules))
            or any(
                optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
                for optimizer in (step.generator_optimizer, step.critic_optimizer)
            )
        )

    def _settings_of(self, modules: list[nn.Module]) -> list[Any]:
        """Return the values that Python reads in an iteration, and a graph does not."""
        step = self.step
        parts = [step.constraint, step.augment, step.sample_latents]
        settings: list[Any] = [id(part) for part in parts]
        groups = step.generator_optimizer.param_groups + step.critic_optimizer.param_groups
        for values in (*groups, *(getattr(part, "__dict__", {}) for part in (*parts, *modules))):
            settings += [value for value in values.values() if isinstance(value, (bool, int, float, str, tuple))]
        settings += [step.penalty_interval, step.generator_batch_ratio]
        for parameter in _parameters(modules):
            settings += [parameter.requires_grad, parameter.data_ptr()]
        return settings

    def _warm_up(self, batches: Sequence[RealBatch], settings: list[Any]) -> StepRecord:
        """Run an iteration without a graph, and see whether the first of its kind could be captured."""
        known = self._settings.get(self._phase)
        if is_first := known != settings:
            self._settings[self._phase] = settings
            self._graphs.pop(self._phase, None)
            self._num_changes += known is not None
        self._num_warm_ups += 1
        with HostWaits() if is_first else nullcontext() as waits:  # under which nothing is compiled
            record = self.step(iter(batches), self.n_critic)
        if waits and waits.operators:
            self._stop(f"{', '.join(sorted(waits.operators))} makes the host wait for the device")
        elif self._num_changes > MAX_CHANGES:
            self._stop("its settings change again and again")
        return record

    def _captured(self, batches: Sequence[RealBatch]) -> Graph | None:
        """Capture an iteration, or return None if that fails."""
        num_critic_steps, phase = self.step.num_critic_steps, self._phase
        own = [RealBatch(images.clone(), None if labels is None else labels.clone()) for images, labels in batches]

        def branched() -> StepRecord:
            with self.step.execution.branched():
                return self.step(iter(own), self.n_critic)

        def plain() -> StepRecord:
            return self.step(iter(own), self.n_critic)

        for iteration in (plain,) if self.failure else (branched, plain):
            try:
                self._graphs[phase] = Graph(own, *self.capture(iteration))
                break
            except RuntimeError as error:
                self.failure = self.failure or one_line(error)
                self._graphs.clear()  # as they draw from the states of generators that a failure replaces
            finally:
                self.step.num_critic_steps = num_critic_steps
        else:
            self._stop(self.failure)
        return self._graphs.get(phase)

    def _replayed(self, graph: Graph, batches: Sequence[RealBatch]) -> StepRecord:
        torch._foreach_copy_(_tensors(graph.batches), _tensors(batches), non_blocking=True)
        graph.replay()
        self.step.num_critic_steps += self.n_critic
        return StepRecord._make(torch.stack(graph.record).unbind())

    def _stop(self, reason: str) -> None:
        self._is_off = True
        self._graphs.clear()
        say(f"cuda_graphs: an iteration cannot be recorded ({reason}); the run goes on without --cuda_graphs.")


def _modules(step: WGANStep) -> list[nn.Module]:
    """Return all modules of both networks, at every step, in a fraction of the time that `modules()` takes."""
    modules: list[nn.Module | None] = [step.generator, step.critic]
    for module in modules:
        if module is not None:
            modules += module._modules.values()
    return [module for module in modules if module is not None]


def _parameters(modules: list[nn.Module]) -> list[nn.Parameter]:
    parameters = (parameter for module in modules for parameter in module._parameters.values())
    return [parameter for parameter in parameters if parameter is not None]


class HostWaits(TorchDispatchMode):
    """Collects the names of the operators inside a context that make the host wait for the device.

    They invalidate the capture of a CUDA graph, after which some versions of PyTorch cannot draw random numbers any
    more: it is better to know before.
    """

    WAITING = frozenset({"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2"})

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._overloadpacket.__name__
        devices = {tensor.device.type for tensor in _tensors((args, kwargs, result))}
        by_mask = name == "index" and any(index.dtype == torch.bool for index in _tensors(args[1]))
        is_copy = name in ("_to_copy", "copy_") and len(devices) > 1
        if name in self.WAITING or by_mask or is_copy:
            self.operators.add(name)
        return result


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class DeviceCapture:
    """Captures functions as CUDA graphs, which share their memory, as only one of them runs at a time.

    Args:
        rng: The functions' source of random numbers, beside the device's own.
    """

    def __init__(self, rng: torch.Generator):
        self.rng = rng
        self._pool: Any = None
        self._graphs = WeakSet[torch.cuda.CUDAGraph]()  # of that pool
        self._failed: list[torch.cuda.CUDAGraph] = []

    def __call__(self, function: Callable[[], StepRecord]) -> tuple[Callable[[], None], StepRecord]:
        if not self._graphs:  # PyTorch takes no pool that all its graphs have left
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        if hasattr(graph, "register_generator_state"):  # later versions of PyTorch notice which are used
            graph.register_generator_state(self.rng)
        torch.cuda.synchronize()
        failure: BaseException | None = None
        try:
            # Meanwhile other threads may read and pin batches. The outer context returns to the current stream where
            # the capture fails, which the inner one then does not.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"),
            ):
                try:
                    record = function()
                except BaseException as error:
                    failure = error
                    raise
            self._graphs.add(graph)
            return graph.replay, record
        except BaseException as error:
            self._abandon(graph)
            failure = failure or error  # the end of a capture reports only that it failed
        try:
            raise failure
        finally:
            del failure  # by which the error would keep itself, and all memory of the iteration

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """Undo what a capture that failed leaves behind in PyTorch: an open pool, and generators that are captured."""
        graph.reset()
        device = torch.cuda.current_device()
        with suppress(RuntimeError):  # its pool is closed already where only its end failed
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)
        self._graphs.clear()  # pinned memory has its own pool of that name, which stays open
        self._failed.append(graph)  # and asks the graph for its streams
        for rng in (self.rng, torch.cuda.default_generators[device]):  # pytorch/pytorch#171263
            rng.graphsafe_set_state(rng.clone_state())


def obstacle_to_graphs(config: TrainingConfig, accelerator: Accelerator) -> str:
    """Return why the iterations of a run cannot be captured, or nothing."""
    obstacles = {
        f"needs a CUDA GPU, and this is {accelerator.device.type}": accelerator.device.type != "cuda",
        f"is for one process, and there are {accelerator.num_processes}": accelerator.num_processes > 1,
        "cannot skip an update, as the loss scaling of fp16 must; use --mixed_precision bf16": (
            accelerator.mixed_precision == "fp16"
        ),
        f"takes a batch in one part, not in {accelerator.gradient_accumulation_steps}": (
            accelerator.gradient_accumulation_steps > 1  # which an environment variable can set too
        ),
    }
    return next((obstacle for obstacle, applies in obstacles.items() if applies), "")


def check_graphs(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Check that the iterations of a run can be captured.

    Raises:
        InputError: They cannot.
    """
    if obstacle := obstacle_to_graphs(config, accelerator):
        raise InputError(f"cuda_graphs=True: a graph {obstacle}; leave it out")
