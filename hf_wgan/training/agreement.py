"""Agreement of all processes on what comes next, without waiting for their devices."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator


class Agreement:
    """Reduce values over all processes, in a separate group.

    Args:
        accelerator: Knows the processes.
    """

    def __init__(self, accelerator: Accelerator):
        several = accelerator.num_processes > 1
        self._group = torch.distributed.new_group(backend="gloo") if several else None

    def largest(self, values: Sequence[int]) -> list[int]:
        """Return the largest of each value over the processes."""
        if self._group is None:
            return list(values)
        numbers = torch.tensor(values)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX, group=self._group)
        return numbers.tolist()
