"""How much memory this process may use: the machine's, or less where a container or a limit says so."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """The least of the machine's memory, the limits of the process's control groups, and its address space.

    `root` is where /proc and /sys are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = [machine, *_of_control_groups(root)]
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def _of_control_groups(root: Path) -> list[int]:
    """What the process's groups, and those that they are in, may use: version 2 and version 1."""
    mounted = root / "sys/fs/cgroup"
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            top, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be the host's: then the container's own group is what is mounted.
        for folder in (group, *group.parents):
            text = _text(folder / name).strip()
            if text.isdigit():  # else "max": no limit
                limits.append(int(text))
            if folder == top:
                break
    return limits


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
