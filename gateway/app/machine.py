"""What this process may use of its machine, memory and processors; and whether that is a container.

`root` is where /proc and /sys are.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

_ROOT = Path("/")

_MARKS = (".dockerenv", "run/.containerenv", "run/host/container-manager", "run/systemd/container")
"""What Docker, Podman and systemd leave in a container for those who want to know."""

_VARIABLES = ("KUBERNETES_SERVICE_HOST", "container")

_GROUP_OF_CONTAINER = re.compile(
    r"/(?:docker/|docker-[0-9a-f]{12}|kubepods|kubelet|lxc/|lxc\.payload|libpod-|crio-|cri-containerd|ecs/)"
)
_FIRST_PROCESS_NAMESPACE = "pid:[4026531836]"
"""That of the machine itself: a constant of the kernel, PROC_PID_INIT_INO."""


def machine_memory_bytes(root: Path = _ROOT) -> int:
    """The least of the machine's memory and the limits of the process's control groups: what all workers share."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine]
    for folder, version in _groups(root, "memory"):
        text = _text(folder / ("memory.limit_in_bytes" if version else "memory.max"))
        if text.isdigit():  # else "max": no limit
            limits.append(int(text))
    return min(limits)


def own_memory_bytes() -> int | None:
    """The address space that each process by itself may have; None: as much as it wants."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def open_all_files() -> None:
    """Let this process, and those that it starts, open as many files as it may allow itself.

    Services and containers begin with 1,024 of many more, for programs that call select().
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # what there is will do
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def usable_cores(root: Path = _ROOT, *, may_run_on: int | None = None) -> int:
    """The processors that the process may run on, or fewer where its control groups have a quota; at least 1.

    Of a quota, whole processors count: who uses more is stopped, each time, until the next period.
    """
    cores = float(may_run_on or len(os.sched_getaffinity(0)))
    for folder, version in _groups(root, "cpu"):
        if version:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        else:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):  # else "max", or -1: no quota
            cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))


def container_seen(root: Path = _ROOT, environ: Mapping[str, str] | None = None) -> str | None:
    """What shows that this process is in a container, as people read it; None: nothing does."""
    environ = os.environ if environ is None else environ
    for variable in _VARIABLES:
        if environ.get(variable):
            return f"the variable {variable}"
    for mark in _MARKS:
        if (root / mark).exists():
            return f"/{mark}"
    for line in _text(root / "proc/self/cgroup").splitlines():
        if _GROUP_OF_CONTAINER.search(line):
            return f"the control group {line.rpartition(':')[2]}"
    try:
        namespace = str((root / "proc/self/ns/pid").readlink())
    except OSError:
        return None
    return None if namespace == _FIRST_PROCESS_NAMESPACE else "process ids of its own"


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    """The folders of the process's groups and of those that they are in, of version 2 ("") and of version 1 (the
    controller)."""
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            top, version = mounted, ""
        elif controller in controllers.split(","):
            top, version = mounted / controller, controller
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be the host's: then the container's own group is what is mounted.
        for folder in (group, *group.parents):
            yield folder, version
            if folder == top:
                break


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
