"""What is known of workers from outside: how many there are, how they fare, and what they take of the machine."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from math import inf, nan
from pathlib import Path

from gateway.app.health import State, WorkerState
from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Tallies
from gateway.exchange.process_metrics import FOLDED
from gateway.proxy.acceptor import listen_queue

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Cause(StrEnum):
    """Why a worker was replaced."""

    DIED = "died"
    HUNG = "hung"
    ASKED = "asked"
    NOT_STARTED = "not_started"


class SupervisorMetrics:
    """The instruments of whoever looks after workers; where there is one process it is its own only worker."""

    def __init__(
        self,
        workers: Callable[[], Iterable[WorkerState]],
        *,
        sockets: Callable[[], Iterable[Iterable[socket.socket]]] = tuple,
        supervises: bool = True,
    ) -> None:
        """`workers` are all that run, and `sockets` what listens in the place of each, asked from any thread;
        `supervises`: from a process of its own.
        """
        registry = self.registry = Registry()
        self._workers = workers
        self._sockets = sockets
        self._supervises = supervises
        self._states = Gauges(
            "gateway_workers", "Workers, by state.", ["state"], rule=Rule.SUM, registry=registry
        )
        self._served = Gauges(
            "gateway_worker_places",
            "Places of workers, by whether newcomers are served there (served, empty).",
            ["state"],
            rule=Rule.SUM,
            registry=registry,
        )
        self._restarts = Counts(
            "gateway_worker_restarts",
            "Workers that were replaced, by why: it had died or hung, it was asked for, or one did not start.",
            ["cause"],
            registry=registry,
        )
        for cause in Cause:
            self._restarts.labels(cause.value)
        self._refused = Counts(
            "gateway_worker_metrics_refused",
            "What workers say they have counted and is not shown: unreadable, or unknown to this version.",
            ["reason"],
            registry=registry,
        )
        self._processor_seconds = Tallies(
            "process_cpu_seconds",
            "Processor time of the processes in a worker's place, the dead ones' as last seen.",
            ["worker"],
            registry=registry,
        )
        self._gauges = {
            name: Gauges(f"process_{name}", text, ["worker"], rule=Rule.SUM, registry=registry)
            for name, text in (
                ("resident_memory_bytes", "Memory that a worker has."),
                ("virtual_memory_bytes", "Addresses that a worker has."),
                ("open_fds", "Files that a worker has open."),
                ("max_fds", "Files that a worker may have open."),
            )
        }
        self.series = Gauges(
            "gateway_series",
            "Series that there are, as Prometheus counts them: at most 20,000.",
            rule=Rule.MAX,
            registry=registry,
        )
        self._series_folded = Counts("gateway_series_folded", FOLDED, registry=registry).labels()
        registry.room.folded = self.folded
        self._queue = Gauges(
            "gateway_listen_queue",
            "Connections that wait to be accepted in the place of a worker, whether it has one or not.",
            ["worker"],
            rule=Rule.MAX,
            registry=registry,
        )
        self._queue_most = Gauges(
            "gateway_listen_queue_most",
            "How many may wait; more are turned away by the system.",
            ["worker"],
            rule=Rule.MAX,
            registry=registry,
        )
        started = Gauges(
            "process_start_time_seconds",
            "When the gateway was started, in seconds since 1970.",
            rule=Rule.MIN,
            registry=registry,
        )
        started.set(_boot_seconds() + _figures(os.getpid()).get("started_seconds", nan))
        self._indexes: set[int] = set()
        """Of all workers that have ever been seen: there is to be one at each."""

        self._seen: dict[tuple[str, int], float] = {}
        """Processor time of the processes that were there when they were last looked at, by place and id."""

        self._places: Iterable[str] = ()
        """Whose gauges are shown."""

    def restarted(self, cause: Cause) -> None:
        """Count one worker that was replaced."""
        self._restarts.labels(cause.value).inc()

    def refused(self, reason: str) -> None:
        """Count what does not count."""
        self._refused.labels(reason).inc()

    def folded(self) -> None:
        """Count a series for which there is no room."""
        self._series_folded.inc()

    def look(self) -> None:
        """See how the workers are now."""
        workers = tuple(self._workers())
        for state in State:
            self._states.set(sum(worker.state is state for worker in workers), state.value)
        self._indexes.update(worker.index for worker in workers)
        served = {worker.index for worker in workers if worker.state is State.READY}
        self._served.set(len(served), "served")
        self._served.set(len(self._indexes - served), "empty")
        self._look_at_processes(workers)
        for place, sockets in enumerate(self._sockets()):
            # Of those in several address families the one in which most wait.
            waiting, most = max(map(listen_queue, sockets), default=(nan, nan))
            self._queue.set(waiting, str(place))
            self._queue_most.set(most, str(place))

    def _look_at_processes(self, workers: Iterable[WorkerState]) -> None:
        found: dict[str, dict[str, float]] = {place: {} for place in self._places}
        seen: dict[tuple[str, int], float] = {}
        for place, pid in self._processes(workers):
            figures = _figures(pid)
            before = self._seen.get((place, pid), 0.0)
            spent = figures.get("cpu_seconds", before)
            # Less than before: it is another process, which has got the same id.
            self._processor_seconds.labels(place).value += spent - before if spent >= before else spent
            seen[place, pid] = spent
            sums = found.setdefault(place, {})
            for name in self._gauges.keys() & figures.keys():
                sums[name] = sums.get(name, 0.0) + figures[name]
        self._seen = seen
        self._places = [place for place, sums in found.items() if sums]
        for place, sums in found.items():
            for name, gauge in self._gauges.items():
                gauge.set(sums.get(name, nan), place)

    def _processes(self, workers: Iterable[WorkerState]) -> Iterator[tuple[str, int]]:
        if self._supervises:
            yield "supervisor", os.getpid()
        for worker in workers:
            yield str(worker.index), worker.pid


def _figures(pid: int) -> dict[str, float]:
    """What a process takes of the machine, as far as that can be seen: it may be gone, or we out of files."""
    found: dict[str, float] = {}
    directory = Path("/proc", str(pid))
    if not directory.is_dir():
        return found  # it is gone, or the system has none of this
    files = directory / "fd"
    with suppress(OSError):
        most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
        found["max_fds"] = inf if most == resource.RLIM_INFINITY else most
        # Kernels from 6.2 on say how many there are, and it takes no file to ask; before they have to be counted.
        found["open_fds"] = files.stat().st_size or sum(1 for _ in files.iterdir())
    with suppress(OSError):
        # The name of the program may have blanks and parentheses.
        stat = (directory / "stat").read_text().rpartition(")")[2].split()
        found["cpu_seconds"] = (int(stat[11]) + int(stat[12])) / _TICKS
        found["started_seconds"] = int(stat[19]) / _TICKS
        found["virtual_memory_bytes"] = int(stat[20])
        found["resident_memory_bytes"] = int(stat[21]) * _PAGE_BYTES
    return found


def _boot_seconds() -> float:
    """When the machine was started, in seconds since 1970; NaN where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                return float(line.split()[1])
    return nan
