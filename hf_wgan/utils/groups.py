"""The control groups of this process, in which Docker, Kubernetes and systemd limit what it may use. Linux only."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


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
