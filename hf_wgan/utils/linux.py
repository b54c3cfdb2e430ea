"""What Linux says of this process: its status, and the control groups in which Docker or systemd limit what it may use.

Other systems say nothing.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
STATUS = Path("/proc/self/status")


def status(entry: str) -> str | None:
    """Return an entry of this process's status, such as `Umask` or `VmHWM`; None where there is none."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == entry:
                return value.strip()
    return None


def groups_of(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and those above it that a controller, such as `cpu`, may limit."""
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = GROUPS / controller if controllers else GROUPS  # version 1 or 2
            group = root / path.lstrip("/")  # which a container may not see; then only the root is there
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    yield folder
