"""How the passes of Algorithm 1 are run: precision, parts of a batch, processes, skipped updates, fast paths."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from .branches import Branches, branches_of_capture
from .derivatives import FastDerivatives
from .lipschitz import Score, has_batch_norm, is_parametrised

MAX_SKIPPED_UPDATES = 100  # by then a float16 loss scale of 2^16 has reached 2^-84: no scale will help
Part = TypeVar("Part", bound=tuple)


class Execution:
    """Runs the passes of a step. Every argument has a default for plain training in one process.

    Args:
        backward: Differentiates a loss. Accelerate's `backward` also scales the loss and divides it by `num_parts`.
        num_parts: Number of parts of a batch, over which gradients are accumulated.
        begin_part: Called before each part with its number, from 0.
        no_sync: A context for a network whose gradients are not averaged over the processes yet.
        penalty_dtype: Precision of the critic's passes for a penalty: float32, or bfloat16 by autocast. The penalty
            itself is computed in float32.
        fast_paths: Whether to use numerically equivalent fast paths.
    """

    def __init__(
        self,
        *,
        backward: Callable[[Tensor], None] = Tensor.backward,
        num_parts: int = 1,
        begin_part: Callable[[int], None] = lambda part: None,
        no_sync: Callable[[nn.Module], AbstractContextManager] = nullcontext,
        penalty_dtype: torch.dtype = torch.float32,
        fast_paths: bool = True,
    ):
        self.backward = backward
        self.num_parts, self.begin_part, self.no_sync = num_parts, begin_part, no_sync
        self.penalty_dtype, self.fast_paths = penalty_dtype, fast_paths
        self._branches: Branches | None = None

    def minimize(
        self,
        objective: Callable[..., Generator[Tensor, None, Tensor]],
        network: nn.Module,
        optimizer: Optimizer,
        batch: Sequence[Part],
    ) -> Tensor:
        """Take one optimizer step down the mean of an objective over the parts of a batch.

        A float16 loss scaler skips a step whose gradients overflow and lowers its scale. Such a step does not count: it
        is tried again on the same batch.

        Args:
            objective: Takes the fields of a part; yields scalars, of which the sum is minimised and no two share a
                graph, and returns values `(k,)` to report.
            network: The network that the optimizer updates.
            optimizer: Its optimizer.
            batch: The parts.

        Returns:
            The means of the values over the parts, `(k,)`.

        Raises:
            FloatingPointError: Every try overflowed.
        """
        for _ in range(MAX_SKIPPED_UPDATES):
            optimizer.zero_grad()
            reported = []
            for part in self._parts(batch, network):
                reported.append(self._differentiate(objective(*part), network))
            optimizer.step()
            if not getattr(optimizer, "step_was_skipped", False):
                return torch.stack(reported).mean(dim=0) if len(reported) > 1 else reported[0]
        raise FloatingPointError(
            f"the gradients of {type(unwrapped(network)).__name__} overflowed at {MAX_SKIPPED_UPDATES} loss scales in "
            'a row: lower the learning rate, or train with mixed_precision="bf16" or "no"'
        )

    def _differentiate(self, objective: Generator[Tensor, None, Tensor], network: nn.Module) -> Tensor:
        """Add the gradients of an objective to those of the network, and return the values to report.

        In one process each term is differentiated before the next one is computed, so that the memory is that of one.
        """
        reported: list[Tensor] = []

        def terms() -> Iterator[Tensor]:
            reported.append((yield from objective))

        if unwrapped(network) is not network:  # processes average the gradients of one backward pass
            self.backward(torch.stack([*terms()]).sum())
        else:
            for term in terms():
                self._add_gradients(term, network)
        return reported[0].detach()

    def _add_gradients(self, loss: Tensor, network: nn.Module) -> None:
        """Add the gradients of a loss to those of the network by one kernel, where autograd takes one for each."""
        if not loss.requires_grad:
            return
        sums = {parameter: parameter.grad for parameter in network.parameters() if parameter.grad is not None}
        for parameter in sums:
            parameter.grad = None
        self.backward(loss)
        pairs = [(total, parameter.grad) for parameter, total in sums.items() if parameter.grad is not None]
        if pairs:
            torch._foreach_add_([total for total, _ in pairs], [gradient for _, gradient in pairs])
        for parameter, total in sums.items():
            parameter.grad = total

    def _parts(self, batch: Sequence[Part], network: nn.Module) -> Iterator[Part]:
        """Yield the parts. Processes average their gradients once, with the last part."""
        for number, part in enumerate(batch):
            self.begin_part(number)
            with nullcontext() if number == len(batch) - 1 else self.no_sync(network):
                yield part

    @contextmanager
    def branched(self) -> Iterator[None]:
        """Run independent passes beside each other in this context, where it is captured as a CUDA graph."""
        with branches_of_capture() if self.fast_paths else nullcontext() as self._branches:
            try:
                yield
            finally:
                self._branches = None

    def ahead(self, function: Callable[[], Tensor]) -> Tensor:
        """Run a function that depends on nothing the critic does in this iteration."""
        return self._branches.ahead(function) if self._branches else function()

    def scores(
        self,
        critic: nn.Module,
        real_images: Tensor,
        fake_images: Tensor,
        labels: tuple[Tensor, ...],
        in_one_pass: bool,
    ) -> Sequence[Tensor]:
        """Score real and generated images, `(N,)` each. One pass is faster, where `scores_images_apart(critic)`."""
        if not in_one_pass:
            passes = partial(critic, real_images, *labels), partial(critic, fake_images, *labels)
            return self._branches.beside(critic, *passes) if self._branches else [score() for score in passes]
        doubled = (torch.cat([label, label]) for label in labels)
        return critic(torch.cat([real_images, fake_images]), *doubled).chunk(2)

    def penalty_score(self, critic: nn.Module, labels: tuple[Tensor, ...]) -> Score:
        """Return the critic as a penalty differentiates it: unwrapped, in the penalty's precision."""
        network = unwrapped(critic)
        in_half = self.penalty_dtype != torch.float32

        def score(images: Tensor) -> Tensor:
            # The class's own forward: a mixed precision runtime wraps that of the instance.
            with (
                torch.autocast(images.device.type, self.penalty_dtype if in_half else None, enabled=in_half),
                sdpa_kernel(SDPBackend.MATH),  # the fused kernels of attention have no second derivative
                FastDerivatives() if self.fast_paths else nullcontext(),
            ):
                return type(network).forward(network, images, *labels)

        return score


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of DistributedDataParallel and `torch.compile`.

    A player whose gradients are not taken bypasses its wrapper, which would wait for gradients that never come.
    """
    inner = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    inner = getattr(inner, "_orig_mod", inner)
    return inner if inner is network else unwrapped(inner)


def scores_images_apart(critic: nn.Module) -> bool:
    """Return whether a critic is known to score each image on its own, however many passes its images take.

    A module of one's own may compare the images of a batch, as by their standard deviation (Karras et al. 2018, arXiv
    1710.10196, section 3), and spectral normalisation takes a power iteration per pass.
    """
    return is_of_this_package(critic) and not has_batch_norm(critic) and not is_parametrised(critic)


def is_of_this_package(part: Any) -> bool:
    """Return whether a network, with all that it consists of, or a function is PyTorch's or of this package."""
    members = part.modules() if isinstance(part, nn.Module) else [part, *getattr(part, "operations", ())]
    modules = (getattr(member, "__module__", None) or type(member).__module__ for member in members)
    return all(module.partition(".")[0] in ("hf_wgan", "torch") for module in modules)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Take no gradients by the network's parameters inside this context."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
