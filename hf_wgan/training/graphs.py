"""An iteration as one CUDA graph: recorded once, launched as a whole ever after.

Five critic steps and a generator step of a DCGAN are some thousand kernels, each of which a GPU works on for a few
microseconds and a CPU launches for about as long. A graph of them costs one launch.
"""

from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

from ..algorithm.records import StepRecord
from ..algorithm.step import RealBatch, WGANStep
from ..utils.errors import InputError
from .config import TrainingConfig

WARM_UP_STEPS = 3  # in which optimizers make their states and libraries choose their kernels
Capture = Callable[[Callable[[], StepRecord]], tuple[Callable[[], None], StepRecord]]
"""Records a function that is not run thereby: what runs it, and where its outcome then lies."""


class GraphedStep:
    """A `WGANStep` to be called like one, with the same outcome, number for number.

    The first steps, and those with another number of critic steps, are taken one kernel at a time.

    Args:
        step: What is recorded. Its optimizers must be capturable, and its random numbers come from `rng` or from the
            device's own generator.
        n_critic: Critic steps of the iterations that are recorded.
        rng: Source of its random numbers, seeded between iterations.
        capture: How it is recorded.
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
        made = self.step.num_critic_steps
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
        self.step.num_critic_steps = made + n_critic
        return StepRecord._make(value.clone() for value in self._record)


def capture_on_device(
    function: Callable[[], StepRecord], rng: torch.Generator
) -> tuple[Callable[[], None], StepRecord]:
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(rng)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        record = function()
    return graph.replay, record


def check_graphs(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Whether the iterations of a run can be recorded.

    Raises:
        InputError: they cannot.
    """
    mends = {
        f"needs a CUDA GPU, and this is {accelerator.device.type}": accelerator.device.type != "cuda",
        f"is for one process, and there are {accelerator.num_processes}": accelerator.num_processes > 1,
        "cannot skip an update, as fp16's loss scaling must; use --mixed_precision bf16": (
            accelerator.mixed_precision == "fp16"
        ),
        f"holds its learning rate fast; use --lr_scheduler constant, not {config.lr_scheduler}": (
            config.lr_scheduler != "constant"
        ),
        f"records {config.n_critic} critic steps; penalty_interval={config.penalty_interval} must divide that": (
            config.n_critic % config.penalty_interval != 0
        ),
        f"takes a batch in one part, not in {config.gradient_accumulation_steps}": config.gradient_accumulation_steps
        > 1,
        "is in the way of --compile; leave one of them out": config.compile,
    }
    for mend, wrong in mends.items():
        if wrong:
            raise InputError(f"cuda_graphs: a graph {mend}, or leave --cuda_graphs out")
