"""Agreement of all processes on what comes next, without waiting for their devices."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from ..utils.processes import PATIENCE
from .callbacks import FLAGS, TrainerControl

SECONDS_TO_FINISH = 5.0


class Agreement:
    """Lets all processes have the same signal and the same control.

    The options make the same due in all processes at the same step; only signals differ. Where nothing else sets the
    control, they are therefore exchanged while the next step is made ready, and take effect one step later.

    Args:
        accelerator: Knows the processes.
    """

    def __init__(self, accelerator: Accelerator):
        several = accelerator.num_processes > 1
        self._group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if several else None
        self._pending: tuple[Any, torch.Tensor] | None = None  # a pending all-reduce, and its output
        self._may_lag = False

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """Let signals take effect one step later, in a loop that leaves the control alone.

        However the loop ends, the last exchange is then over, unless the others are lost or far behind: Python aborts
        a process that exits while gloo's thread still holds one of its tensors.
        """
        self._may_lag = True
        try:
            yield
        finally:
            self._may_lag = False
            if self._pending is not None:
                with suppress(RuntimeError):
                    self._pending[0].wait(timedelta(seconds=SECONDS_TO_FINISH))

    def settle(self, control: TrainerControl, signal: int, lags: bool) -> int:
        """Set what any process has set in the control, and return the signal that any process has received, or 0.

        Args:
            control: This process's control.
            signal: The number of the signal that this process has received, or 0.
            lags: Whether the signal may be that of the step before; without effect where something is due.
        """
        flags = [int(bool(getattr(control, name))) for name in FLAGS]
        signal, *flags = self.largest([signal, *flags], lags and self._may_lag and not any(flags))
        for name, flag in zip(FLAGS, flags):
            setattr(control, name, flag > 0)
        return signal

    def largest(self, values: Sequence[int], lags: bool = False) -> list[int]:
        """Return the largest of each value over the processes, those of a call that lagged before included.

        Args:
            values: Of this process.
            lags: Whether to leave these values to the next call and not to wait; the same in all processes.
        """
        if self._group is None:
            return list(values)
        pending, self._pending = self._pending, None
        numbers = torch.tensor(values)
        work = torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True)
        earlier = [0] * len(values)
        if pending is not None:
            pending[0].wait()
            earlier = pending[1].tolist()
        if lags:
            self._pending = work, numbers
            return earlier
        work.wait()
        return list(map(max, earlier, numbers.tolist()))


def choose_interface(address: str) -> None:
    """Let gloo use the network interface by which this machine reaches others, unless a person has chosen one.

    By itself it takes that of the machine's own name, which is often one that no other machine reaches: 127.0.1.1 on
    Debian. Besides a run on CPUs it carries the agreement of a run on GPUs.

    Args:
        address: Address or name of the main process's machine.
    """
    own = own_address_towards(address)
    if own is None or own.startswith("127."):  # the address is one of this machine
        own = own_address_towards("192.0.2.1")  # which is nobody's (RFC 5737), so by the default route
    interfaces = psutil.net_if_addrs().items()
    name = next((name for name, addresses in interfaces for entry in addresses if entry.address == own), None)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def own_address_towards(address: str) -> str | None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # which sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return None
