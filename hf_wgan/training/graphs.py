"""An iteration as one CUDA graph: captured once, then launched as a whole.

Five critic steps and a generator step of a DCGAN are some thousand kernels. A GPU works on each for a few microseconds,
and a CPU takes about as long to launch it. A graph of all of them costs one launch.
"""

from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

from ..algorithm.records import StepRecord
from ..algorithm.step import RealBatch, WGANStep
from ..utils.errors import InputError
from .config import TrainingConfig

WARM_UP_STEPS = 3  # optimizers create their states in them, and libraries choose their kernels
Capture = Callable[[Callable[[], StepRecord]], tuple[Callable[[], None], StepRecord]]
"""Capture a function without running it; return a function that replays it, and the tensor with its result."""


class GraphedStep:
    """Runs a `WGANStep` as a graph. It is called like the step and returns the same numbers.

    The first steps, and those with another number of critic steps, run without a graph.

    Args:
        step: The step to capture. Its optimizers must be capturable, and its random numbers must come from `rng` or
            from the device's own generator.
        n_critic: Critic steps of the captured iterations.
        rng: Source of its random numbers, seeded between iterations.
        capture: How to capture it; by default as a CUDA graph.
    """

    def __init__(self, step: WGANStep, n_critic: int, rng: torch.Generator, capture: Capture | None = None):
        self.step, self.n_critic = step, n_critic
        self.capture = capture or (lambda function: capture_on_device(function, rng))
        self.calls = 0
        self._batches: list[RealBatch] = []  # where the graph reads
        self._replay: Callable[[], None] | None = None
        self._record: StepRecord

    def __call__(self, real_batches: Iterator[RealBatch], n_critic: int) -> StepRecord:
        if n_critic != self.n_critic or self.calls < WARM_UP_STEPS:
            self.calls += 1
            return self.step(real_batches, n_critic)
        new = [next(real_batches) for _ in range(n_critic)]
        num_critic_steps = self.step.num_critic_steps
        if self._replay is None:
            self._batches = [
                RealBatch(images.clone(), None if labels is None else labels.clone()) for images, labels in new
            ]
            self._replay, self._record = self.capture(lambda: self.step(iter(self._batches), n_critic))
        for batch, (images, labels) in zip(self._batches, new):
            batch.images.copy_(images, non_blocking=True)
            if batch.class_labels is not None and labels is not None:
                batch.class_labels.copy_(labels, non_blocking=True)
        self._replay()
        self.step.num_critic_steps = num_critic_steps + n_critic
        return StepRecord._make(value.clone() for value in self._record)


def capture_on_device(
    function: Callable[[], StepRecord], rng: torch.Generator
) -> tuple[Callable[[], None], StepRecord]:
    """Capture a function as a CUDA graph.

    Args:
        function: The function.
        rng: Its source of random numbers.

    Returns:
        A function that replays the graph, and the record that each replay overwrites.
    """
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(rng)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        record = function()
    return graph.replay, record


def check_graphs(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Check that the iterations of a run can be captured.

    Raises:
        InputError: They cannot.
    """
    obstacles = {
        f"needs a CUDA GPU, and this is {accelerator.device.type}": accelerator.device.type != "cuda",
        f"is for one process, and there are {accelerator.num_processes}": accelerator.num_processes > 1,
        "cannot skip an update, as the loss scaling of fp16 must; use --mixed_precision bf16": (
            accelerator.mixed_precision == "fp16"
        ),
        f"has a fixed learning rate; use --lr_scheduler constant, not {config.lr_scheduler}": (
            config.lr_scheduler != "constant"
        ),
        f"contains {config.n_critic} critic steps; penalty_interval={config.penalty_interval} must divide that": (
            config.n_critic % config.penalty_interval != 0
        ),
        f"takes a batch in one part, not in {config.gradient_accumulation_steps}": config.gradient_accumulation_steps
        > 1,
        "cannot be combined with --compile; leave one of them out": config.compile,
    }
    for obstacle, applies in obstacles.items():
        if applies:
            raise InputError(f"cuda_graphs: a graph {obstacle}, or leave --cuda_graphs out")
