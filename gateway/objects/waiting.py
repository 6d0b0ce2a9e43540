"""What the store could not be told yet: on disk, else in memory. It is told again until that is confirmed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final

from gateway.objects.spool import Spool
from gateway.objects.steps import Step
from gateway.objects.telling import Fate, SpoolTelling, Tell, told

MOST_IN_MEMORY: Final = 10_000
_AT_ONCE: Final = 64
_DISK_SECONDS: Final = 2.0
"""So long an answer waits for a disk, and a stop for whatever is slow."""

_TELLING_SECONDS: Final = 30.0
"""So long other things wait for what is on disk to be told."""

_log = logging.getLogger("gateway.objects")


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
        self._on_disk = SpoolTelling(spool, tell) if spool is not None else None
        self._telling: asyncio.Task[bool] | None = None
        self._writes = True

    @property
    def size(self) -> int:
        """Steps that wait, on disk as of the last look at it."""
        on_disk = 0 if self._on_disk is None else self._on_disk.waiting
        return on_disk + len(self._memory) + len(self._unwritten)

    async def keep(self, step: Step) -> None:
        """Return when the step is kept as well as can be: on disk, where that takes it, and soon."""
        if self._spool is None:
            self._remember(step)
            return
        written = asyncio.get_running_loop().create_future()
        self._unwritten.append((step, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(self._spool))
        await asyncio.wait({written}, timeout=_DISK_SECONDS)

    async def tell_all(self) -> bool:
        """Tell the store what waits; whether it took all."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing}, timeout=_DISK_SECONDS)
        took = await self._tell_memory()
        if self._on_disk is None:
            return took
        # A disk that hangs keeps one thread, however often this is tried.
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._on_disk.tell())
        await asyncio.wait({self._telling}, timeout=_TELLING_SECONDS)
        return took and self._telling.done() and self._telling.result()

    async def close(self) -> None:
        """The process ends, and waits for nobody long: what is in memory is told, or goes to disk, or is said."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait({self._telling})
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_DISK_SECONDS)
        self._memory.extend(step for step, _ in self._unwritten)
        if not self._memory:
            return
        try:
            async with asyncio.timeout(_DISK_SECONDS):
                await self._tell_memory()
        except TimeoutError:
            pass  # it is too much, or the store is too slow
        left = list(self._memory)
        if left and self._spool is not None:
            try:
                async with asyncio.timeout(_DISK_SECONDS):
                    await asyncio.to_thread(self._spool.put, left)
                return
            except OSError as error:  # a timeout is one
                _log.error(
                    "what waits for the registry of stored objects cannot be kept on disk: %s",
                    str(error) or "it does not answer",
                )
        for step in left:
            self._lose(step)

    async def _write(self, spool: Spool) -> None:
        """Whatever comes while the disk is busy goes with the next file."""
        while self._unwritten:
            batch = list(self._unwritten)
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
                if self._on_disk is not None:
                    self._on_disk.wrote(len(batch))
            del self._unwritten[: len(batch)]
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
            fates = await told(self._tell, steps)
            for _ in steps:
                self._memory.popleft()
            of_each = list(zip(steps, fates, strict=True))
            self._memory.extendleft(step for step, fate in reversed(of_each) if fate is Fate.LEFT)
            if Fate.LEFT in fates:
                return False
        return True


def spool_beside(keys_dir: Path | None) -> Spool | None:
    """Where a process with these keys keeps what waits."""
    return None if keys_dir is None else Spool(keys_dir)
