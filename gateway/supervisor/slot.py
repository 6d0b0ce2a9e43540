"""One slot: a worker on its sockets, whatever becomes of the one before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic

from gateway.app.supervisor_metrics import Cause
from gateway.exchange.process_log import tell
from gateway.supervisor.patience import Patience
from gateway.supervisor.worker import START_SECONDS, Worker

MOST_OLD = 2
"""Workers of one slot that may finish what they serve beside their successors; then the oldest is cut."""

CUT_SECONDS = 5.0
"""For a worker that was told to end at once; then it is killed."""

Start = Callable[[int], Awaitable[Worker]]
"""Begins the life of a worker for a slot."""


class Slot:
    """Keeps one worker serving from the sockets of one slot, and knows those that are leaving."""

    def __init__(
        self,
        index: int,
        *,
        start: Start,
        changed: Callable[[], None],
        replaced: Callable[[Cause], None],
    ) -> None:
        """`start` begins a worker's life, or raises OSError or RuntimeError. `changed` is told when another one serves
        here, or none; `replaced` why a worker was replaced, or is to be.
        """
        self.index = index
        self.worker: Worker | None = None
        """Who accepts here, once it has come up."""

        self.successor: Worker | None = None
        """Who is coming up."""

        self.old: list[Worker] = []
        """Who finishes what it serves, oldest first."""

        self.problems: list[str] = []
        """Why the last one did not come up, where it said so."""

        self._end = ""
        """What became of it, where it said nothing."""

        self.patience = Patience()
        self._start = start
        self._changed = changed
        self._replaced = replaced
        self._starting = asyncio.Lock()
        self._filling: asyncio.Task[None] | None = None
        self._watched: set[asyncio.Task[None]] = set()
        self._ends = False

    @property
    def why(self) -> str:
        """Why the last worker did not come up."""
        return f"worker {self.index} did not come up: {'; '.join(self.problems) or self._end}"

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All that live."""
        now = (self.worker, self.successor)
        return (*(worker for worker in now if worker is not None), *self.old)

    async def open(self) -> bool:
        """Have the first worker come up; whether it did."""
        async with self._starting:
            return await self._succeed(self._start)

    async def replace(self, cause: Cause, *, of: Worker | None = None, start: Start | None = None) -> bool:
        """Have a successor come up, and then the present worker leave; False where none came up: all is as it was.

        `of` is whom it is to succeed, if that is not whoever is there by then. `start` begins its life, where that is
        not to be like any other's.
        """
        async with self._starting:
            if of is not None and of is not self.worker:
                return True  # it has one already
            if self._ends or not await self._succeed(start or self._start):
                return False
            self._replaced(cause)
            return True

    def end(self) -> None:
        """Replace nobody any more."""
        self._ends = True
        if self._filling is not None:
            self._filling.cancel()

    async def over(self) -> None:
        """Return when no worker lives any more."""
        while workers := self.workers:
            await asyncio.wait({worker.gone for worker in workers})
            await asyncio.sleep(0)  # for `_ended`, which takes them away, to go first

    async def _succeed(self, start: Start) -> bool:
        try:
            successor = await start(self.index)
        except (OSError, RuntimeError) as error:  # also where no thread can be had that awaits its end
            self.problems = [str(error)]
            return False
        self.successor = successor
        self._watch(successor)
        try:
            if not self._ends:
                await asyncio.wait({successor.came_up}, timeout=START_SECONDS)
        finally:
            self.successor = None
            does = self._will_do(successor)
            if not does:
                self._dismiss(successor)
        self.problems = successor.problems
        if not does:
            ended = successor.gone.done()
            self._end = f"it {_how(successor.gone.result())}" if ended else f"not within {START_SECONDS:g} s"
            return False
        before, self.worker = self.worker, successor
        self.patience.came_up()
        if before is not None:
            before.leave()
            self.old.append(before)
            for oldest in self.old[:-MOST_OLD]:
                self._cut(oldest)
        self._changed()
        return True

    def _dismiss(self, successor: Worker) -> None:
        """Have one go that is not to serve; it may have accepted somebody already, once it is up."""
        if successor.gone.done():
            return
        if not successor.is_up:
            successor.kill()
        elif not self._ends:  # else it is told what all are told
            successor.leave()
        self.old.append(successor)

    def _will_do(self, successor: Worker) -> bool:
        """Whether it serves, and as well as who serves now."""
        if not successor.is_up or self._ends:
            return False
        now, then = self.worker, successor.state
        if now is None or then.ready or not now.state.ready:
            return True
        successor.problems = [reason.message for reason in then.reasons]
        return False

    def _watch(self, worker: Worker) -> None:
        task = asyncio.create_task(self._ended(worker))
        self._watched.add(task)
        task.add_done_callback(self._watched.discard)

    async def _ended(self, worker: Worker) -> None:
        code = await worker.gone
        if worker in self.old:
            self.old.remove(worker)
            if code and not worker.was_killed:
                how = _how(code)
                tell(
                    f"worker {self.index} (pid {worker.pid}) {how}; it was finishing what it served",
                    logging.WARNING,
                )
        if worker is not self.worker:
            return
        self.worker = None
        if self._ends:
            return
        self._changed()
        tell(
            f"worker {self.index} (pid {worker.pid}) {_how(code, hung=worker.is_hung)}; it is replaced",
            logging.WARNING,
        )
        self._replaced(Cause.HUNG if worker.is_hung else Cause.DIED)
        self._filling = asyncio.create_task(self._fill(self.patience.ended(monotonic(), came_up=True)))

    async def _fill(self, delay_seconds: float) -> None:
        while True:
            await asyncio.sleep(delay_seconds)
            async with self._starting:
                if self.worker is not None or await self._succeed(self._start):
                    return
            delay_seconds = self.patience.ended(monotonic(), came_up=False)
            self._replaced(Cause.NOT_STARTED)
            tell(f"{self.why}; tried again in {delay_seconds:g} s", logging.ERROR)

    def _cut(self, worker: Worker) -> None:
        worker.say("end")
        asyncio.get_running_loop().call_later(CUT_SECONDS, worker.kill)


def _how(code: int, *, hung: bool = False) -> str:
    if hung:
        return "was ended, for its loop had not turned"
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
