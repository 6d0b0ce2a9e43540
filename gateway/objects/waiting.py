"""What the store could not be told yet: on disk, else in memory. It is told again until that is confirmed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Final

from gateway.limits.store import StoreUnavailable
from gateway.objects.spool import Spool
from gateway.objects.steps import Step

MOST_IN_MEMORY: Final = 10_000
_AT_ONCE: Final = 64
_TRIES: Final = 3
"""Files that cannot be told, one after another, before it is the store's fault."""

_log = logging.getLogger("gateway.objects")
Tell = Callable[[Step], Awaitable[None]]
"""Tells the store; raises StoreUnavailable."""


class Waiting:
    """The queue of one process. `tell` tells the store, `lose` is told of a step that nothing will come of."""

    def __init__(
        self, spool: Spool | None, *, tell: Tell, lose: Callable[[Step], None], most: int = MOST_IN_MEMORY
    ) -> None:
        self._spool = spool
        self._tell = tell
        self._lose = lose
        self._most = most
        self._unwritten: list[tuple[Step, asyncio.Future[None]]] = []
        self._memory = deque[Step]()
        self._writing: asyncio.Task[None] | None = None
        self._on_disk = 0
        self._writes = True

    @property
    def size(self) -> int:
        """Steps that wait, on disk as of the last look at it."""
        return self._on_disk + len(self._memory) + len(self._unwritten)

    async def keep(self, step: Step) -> None:
        """Return when the step is kept as well as can be: on disk, where that takes it."""
        if self._spool is None:
            self._remember(step)
            return
        written = asyncio.get_running_loop().create_future()
        self._unwritten.append((step, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(self._spool))
        await written

    async def tell_all(self) -> bool:
        """Tell the store what waits; whether it took all."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})
        took = await self._tell_memory()
        if self._spool is not None:
            took = await self._tell_disk(self._spool) and took
            self._on_disk = await asyncio.to_thread(self._spool.waiting)
        return took

    async def close(self) -> None:
        """The process ends: what is in memory goes to disk, or is said."""
        left, self._memory = self._memory, deque()
        if left and self._spool is not None:
            try:
                await asyncio.to_thread(self._spool.put, list(left))
                return
            except OSError as error:
                _log.error("what waits for the registry of stored objects cannot be kept on disk: %s", error)
        for step in left:
            self._lose(step)

    async def _write(self, spool: Spool) -> None:
        """Whatever comes while the disk is busy goes with the next file."""
        while self._unwritten:
            batch, self._unwritten = self._unwritten, []
            try:
                await asyncio.to_thread(spool.put, [step for step, _ in batch])
            except Exception as error:  # noqa: BLE001 (whoever waits for it must hear, whatever the fault)
                if self._writes:
                    _log.error(
                        "what the registry of stored objects could not be told is kept in memory alone, and would be "
                        "lost with this process: %s",
                        error,
                    )
                self._writes = False
                for step, _ in batch:
                    self._remember(step)
            else:
                self._writes = True
                self._on_disk += len(batch)
            for _, written in batch:
                if not written.done():
                    written.set_result(None)

    def _remember(self, step: Step) -> None:
        if len(self._memory) >= self._most:
            self._lose(step)
        else:
            self._memory.append(step)

    async def _tell_memory(self) -> bool:
        while self._memory:
            steps = list(islice(self._memory, _AT_ONCE))
            left = await self._told(steps)
            for _ in steps:
                self._memory.popleft()
            self._memory.extendleft(reversed(left))
            if left:
                return False
        return True

    async def _tell_disk(self, spool: Spool) -> bool:
        lock = await self._locked(spool)
        if lock is None:
            return True
        failed = 0
        try:
            await asyncio.to_thread(spool.sweep)
            for path in await asyncio.to_thread(spool.files):
                steps = await asyncio.to_thread(spool.read, path)
                if await self._told(steps):
                    failed += 1
                    if failed == _TRIES:
                        return False
                    continue
                await asyncio.to_thread(spool.done, path)
        except OSError as error:
            _log.error(
                "what waits for the registry of stored objects cannot be read or taken away: %s", error
            )
            return False
        finally:
            spool.unlock(lock)
        return not failed

    async def _locked(self, spool: Spool) -> int | None:
        """Be the one who tells; what a thread has locked for who is cancelled is unlocked."""
        locking = asyncio.ensure_future(asyncio.to_thread(spool.lock))

        def unlock(_: object) -> None:
            lock = locking.result()
            if lock is not None:
                spool.unlock(lock)

        try:
            return await asyncio.shield(locking)
        except asyncio.CancelledError:
            locking.add_done_callback(unlock)
            raise

    async def _told(self, steps: list[Step]) -> list[Step]:
        """Tell the store some; returns those that it did not take."""
        left: list[Step] = []
        for at in range(0, len(steps), _AT_ONCE):
            some = steps[at : at + _AT_ONCE]
            took = await asyncio.gather(*map(self._took, some))
            left += [step for step, one in zip(some, took, strict=True) if not one]
        return left

    async def _took(self, step: Step) -> bool:
        try:
            await self._tell(step)
        except StoreUnavailable:
            return False
        return True


def spool_beside(keys_dir: Path | None) -> Spool | None:
    """Where a process with these keys keeps what waits."""
    return None if keys_dir is None else Spool(keys_dir)
