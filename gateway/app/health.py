"""What load balancers and whoever restarts the gateway are told: does it live, and may it have new work?

Answers come from what is known in this process and wait for nobody: they are asked from the private listener's
thread, also while a loop is hung.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Protocol

from gateway.proxy.lifecycle import Lifecycle

STILL_SECONDS = 30.0
"""When no loop has turned for so long, nothing is served and nothing will be: `/livez` fails."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is not as it should be."""

    code: str
    """A word or two for machines, such as `stopping`."""

    message: str
    """A sentence for people, which says what to do where there is something to do."""


@dataclass(frozen=True, slots=True)
class Condition:
    """An answer, and everything it rests on."""

    ok: bool
    document: Mapping[str, object]


class Health(Protocol):
    """Whom the private listener and the watchdog ask, from any thread."""

    def live(self) -> Condition:
        """Whether it does anything at all; where not, only starting it anew helps."""

    def ready(self) -> Condition:
        """Whether load balancers should send it new work."""


class State(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    """It serves. Whether it should be sent new work is another question."""

    HUNG = "hung"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What is known of one worker. `reasons` say why it is not ready, unless its `state` alone does."""

    index: int
    pid: int
    state: State
    turned_seconds_ago: float
    """Since its loop was last seen to turn."""

    ready: bool
    reasons: tuple[Reason, ...] = ()


class MachineHealth:
    """The health of all workers together: it lives while a loop turns, and is ready while a worker is."""

    def __init__(
        self,
        workers: Callable[[], Iterable[WorkerState]],
        *,
        more: Callable[[], Mapping[str, object]] = dict,
        still_seconds: float = STILL_SECONDS,
    ) -> None:
        """`workers` are all that run; `more` gives members for both documents. Both are asked from any thread.

        Workers may all be gone for a while: `live` wants to be asked more often than that would be too long.
        """
        self._workers = workers
        self._more = more
        self._still_seconds = still_seconds
        self._turned_at = monotonic()

    def live(self) -> Condition:
        workers = tuple(self._workers())
        now = monotonic()
        # A worker that is gone may have been the last whose loop turned.
        self._turned_at = max((self._turned_at, *(now - worker.turned_seconds_ago for worker in workers)))
        still = now - self._turned_at
        ok = still < self._still_seconds
        reasons = (
            () if ok else (Reason("no_loop_turns", f"No worker's loop has turned for {still:.0f} seconds."),)
        )
        return Condition(ok, self._document("live" if ok else "not live", reasons, workers))

    def ready(self) -> Condition:
        workers = tuple(self._workers())
        # One that leaves takes no newcomers.
        ok = any(worker.ready and worker.state is State.READY for worker in workers)
        reasons: Iterable[Reason] = ()
        if not ok:
            reasons = dict.fromkeys(reason for worker in workers for reason in _why_not(worker))
            reasons = tuple(reasons) or (Reason("no_worker", "No worker is ready."),)
        return Condition(ok, self._document("ready" if ok else "not ready", reasons, workers))

    def _document(
        self, status: str, reasons: Iterable[Reason], workers: Iterable[WorkerState]
    ) -> Mapping[str, object]:
        return {
            "status": status,
            "pid": os.getpid(),
            "reasons": [_told(reason) for reason in reasons],
            "workers": [
                {
                    "index": worker.index,
                    "pid": worker.pid,
                    "state": worker.state.value,
                    "turned_seconds_ago": round(worker.turned_seconds_ago, 3),
                    "ready": worker.ready,
                    "reasons": [_told(reason) for reason in _why_not(worker)],
                }
                for worker in workers
            ],
            **self._more(),
        }


class OwnHealth:
    """The health of this process, which is its own only worker; of a worker, what it tells its supervisor."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        reasons: Callable[[], tuple[Reason, ...]],
        *,
        turned_seconds_ago: Callable[[], float],
        hung_seconds: float,
        still_seconds: float = STILL_SECONDS,
    ) -> None:
        """`reasons` say why it is not ready; what is handed in is asked from any thread.

        When its loop has not turned for `hung_seconds`, it is not ready whatever they say.
        """
        self._lifecycle = lifecycle
        self._reasons = reasons
        self._turned_seconds_ago = turned_seconds_ago
        self._hung_seconds = hung_seconds
        self._machine = MachineHealth(lambda: (self.worker(),), still_seconds=still_seconds)

    def worker(self) -> WorkerState:
        """What is known here of this process."""
        seconds, reasons = self._turned_seconds_ago(), self._reasons()
        hung = seconds >= self._hung_seconds
        return WorkerState(
            index=0,
            pid=os.getpid(),
            state=State.HUNG if hung else self._stage(),
            turned_seconds_ago=seconds,
            ready=not (hung or reasons),
            reasons=reasons,
        )

    def live(self) -> Condition:
        return self._machine.live()

    def ready(self) -> Condition:
        return self._machine.ready()

    def _stage(self) -> State:
        if self._lifecycle.stopping:
            return State.LEAVING
        return State.READY if self._lifecycle.started else State.STARTING


def _why_not(worker: WorkerState) -> Iterable[Reason]:
    """Why a worker is not ready; what it said of itself is as old as the last turn of its loop."""
    if worker.state is State.HUNG:
        seconds = worker.turned_seconds_ago
        yield Reason(
            "loop_hung", f"The loop of worker {worker.index} has not turned for {seconds:.0f} seconds."
        )
    yield from worker.reasons


def _told(reason: Reason) -> Mapping[str, str]:
    return {"code": reason.code, "message": reason.message}
