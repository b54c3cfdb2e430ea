"""Agreement of all processes on what comes next, without waiting for their devices."""

import os
import socket
from collections.abc import Sequence

import psutil
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


def choose_interface(address: str) -> None:
    """Let gloo use the network interface by which this machine reaches others, unless a person has chosen one.

    By itself it takes that of the machine's own name, which is often one that no other machine reaches: 127.0.1.1 on
    Debian. Besides a run on CPUs it carries the agreement of a run on GPUs.

    Args:
        address: Address or name of the main process's machine.
    """
    own = own_address_towards(address)
    if own is None or own.startswith("127."):  # this is that machine, by a name of its own
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
