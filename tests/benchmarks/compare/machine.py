"""Which core does what, who goes first, and whether others disturb."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.bench.processes import family

PROC = Path("/proc")
KERNEL_THREADS = 2
"""The process from which the kernel's own threads descend, which work for whoever made them work."""


@dataclass(frozen=True)
class Cores:
    """Who runs where."""

    measured: int
    others: int
    """For client, upstream and Redis."""

    @classmethod
    def choose(cls) -> Cores:
        """The last two that this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise SystemExit(
                "two cores are needed: one for what is measured, one for who asks and who answers"
            )
        return cls(usable[-1], usable[-2])


@contextmanager
def first(processes: Iterable[int]) -> Iterator[bool]:
    """Let these processes, and what they start meanwhile, go before all others; whether the system allows it.

    What a machine does for itself takes a hundredth of the time, some milliseconds once a second: of an open loop
    that is the p99, whoever is measured. For works that leave a core much of its time.
    """
    asked = set(processes)
    try:
        yield _schedule(asked, os.SCHED_FIFO, 1)
    finally:
        _schedule(asked, os.SCHED_OTHER, 0)


def _schedule(processes: Iterable[int], policy: int, priority: int) -> bool:
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for thread in (PROC / str(process) / "task").iterdir():
                try:
                    os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))
                except PermissionError:
                    return False
    return True


def processor() -> str:
    """What the machine calls its processor."""
    found = re.search(r"^model name\s*: (.+)$", (PROC / "cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


@dataclass(frozen=True)
class Moment:
    """What had been used of the machine, at one moment."""

    foreign_seconds: float
    """By whoever does not descend from this process."""

    steal_ticks: int
    ticks: int

    @classmethod
    def now(cls) -> Moment:
        roots = [pid for pid in _processes() if _fields(pid)[1] == 0 and pid != KERNEL_THREADS]
        own = set(family(os.getpid()))
        foreign = {pid for root in roots for pid in family(root)} - own
        # Own time, and that of children who have ended: who ends meanwhile is told by who waited for it.
        used = sum(sum(_fields(pid)[11:15]) for pid in foreign) / os.sysconf("SC_CLK_TCK")
        ticks = [int(word) for word in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        return cls(used, ticks[7], sum(ticks))

    def foreign_cpus(self, since: Moment, seconds: float) -> float:
        """How many processors others kept busy, on average."""
        return max(0.0, self.foreign_seconds - since.foreign_seconds) / seconds

    def steal(self, since: Moment) -> float:
        """The share of the time that the machine under this one took away."""
        return (self.steal_ticks - since.steal_ticks) / max(1, self.ticks - since.ticks)


def _processes() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _fields(pid: int) -> list[int]:
    """Those of /proc/PID/stat behind the name, as numbers; zeros for what has just ended."""
    try:
        words = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0] * 50
    return [0, *map(int, words[1:])]  # the first is a letter
