"""Tells the store what waits on disk: whoever runs there, one process at a time, file by file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Final, TypeVar

from gateway.limits.store import StoreUnavailable
from gateway.objects.spool import Kept, Spool
from gateway.objects.steps import Step
from gateway.objects.store import Scope

_STEPS_AT_ONCE: Final = 64
_FILES_AT_ONCE: Final = 64

T = TypeVar("T")
R = TypeVar("R")
_log = logging.getLogger("gateway.objects")
Tell = Callable[[Step], Awaitable[None]]
"""Tells the store; raises StoreUnavailable."""


class Fate(Enum):
    """What became of a step that was to be told."""

    TOLD = auto()
    LEFT = auto()
    """The store did not take it; it will be told again."""

    UNUSABLE = auto()
    """The store will never take it: it is of another version, say, and has been said."""


async def told(tell: Tell, steps: Sequence[Step]) -> list[Fate]:
    """Tell the store some; returns what became of each."""
    fates: list[Fate] = []
    for at in range(0, len(steps), _STEPS_AT_ONCE):
        fates += await asyncio.gather(*(_fate(tell, step) for step in steps[at : at + _STEPS_AT_ONCE]))
    return fates


async def _fate(tell: Tell, step: Step) -> Fate:
    try:
        await tell(step)
    except StoreUnavailable:
        return Fate.LEFT
    except Exception:  # noqa: BLE001 (a defect in telling one thing must not keep all others waiting)
        _log.exception("what waits for the registry of stored objects cannot be told: %s", step)
        return Fate.UNUSABLE
    return Fate.TOLD


class SpoolTelling:
    """What one process has told of the files of its machine."""

    def __init__(self, spool: Spool, tell: Tell) -> None:
        self.waiting = 0
        """Steps on disk, as of the last look at it."""

        self._spool = spool
        self._tell = tell
        self._stays: dict[Path, Kept] = {}
        """Files that have been told, and could not be taken away."""

        self._fails = self._has_said = False

    def wrote(self, steps: int) -> None:
        """So many have been added."""
        self.waiting += steps

    async def tell(self) -> bool:
        """Tell the store what it takes; whether that was all."""
        self._fails = False
        took = await self._told()
        self._has_said = self._fails
        return took

    async def _told(self) -> bool:
        try:
            lock = await self._locked()
            try:
                took = lock is None or await self._tell_files()
            finally:
                if lock is not None:
                    self._spool.unlock(lock)
            self.waiting = await asyncio.to_thread(self._spool.waiting)
        except OSError as error:
            self._say(error)
            return False
        return took

    async def _locked(self) -> int | None:
        """Be the one who tells; what a thread has locked for who is cancelled is unlocked."""
        locking = asyncio.ensure_future(asyncio.to_thread(self._spool.lock))

        def unlock(_: object) -> None:
            lock = None if locking.exception() else locking.result()
            if lock is not None:
                self._spool.unlock(lock)

        try:
            return await asyncio.shield(locking)
        except asyncio.CancelledError:
            locking.add_done_callback(unlock)
            raise

    async def _tell_files(self) -> bool:
        await asyncio.to_thread(self._spool.sweep)
        files = await asyncio.to_thread(self._spool.files)
        self._stays = {path: self._stays[path] for path in files if path in self._stays}
        await self._take_away(list(self._stays.values())[:_FILES_AT_ONCE])
        files = [path for path in files if path not in self._stays]
        away = set[Scope]()
        took = True
        for at in range(0, len(files), _FILES_AT_ONCE):
            took = await self._tell_some(files[at : at + _FILES_AT_ONCE], away) and took
        return took

    async def _tell_some(self, files: Sequence[Path], away: set[Scope]) -> bool:
        """Tell what some files say, but for those that a tenant has part in of whom the store takes nothing."""
        read = await self._each(self._spool.read, files)
        due = [kept for kept in read if away.isdisjoint(step.scope for step in kept.steps)]
        steps = [step for kept in due for step in kept.steps]
        fates = await told(self._tell, steps)
        done, at = [], 0
        for kept in due:
            of_file = fates[at : at + len(kept.steps)]
            at += len(kept.steps)
            if Fate.LEFT not in of_file:
                done.append(kept._replace(is_whole=kept.is_whole and Fate.UNUSABLE not in of_file))
        away |= {step.scope for step, fate in zip(steps, fates, strict=True) if fate is Fate.LEFT}
        await self._take_away(done)
        return len(done) == len(files)

    async def _take_away(self, done: Sequence[Kept]) -> None:
        self._stays |= {kept.path: kept for kept in done}
        for path in await self._each(self._done, done):
            del self._stays[path]

    def _done(self, kept: Kept) -> Path:
        self._spool.done(kept)
        return kept.path

    async def _each(self, do: Callable[[T], R], things: Sequence[T]) -> list[R]:
        """What comes of each, in a thread; without those of which the disk says that it cannot be."""
        results, error = await asyncio.to_thread(_all, do, things)
        if error is not None:
            self._say(error)
        return results

    def _say(self, error: OSError) -> None:
        if not self._has_said:
            _log.error(
                "what waits for the registry of stored objects cannot be read or taken away: %s", error
            )
        self._fails = self._has_said = True


def _all(do: Callable[[T], R], things: Sequence[T]) -> tuple[list[R], OSError | None]:
    results, failed = list[R](), None
    for thing in things:
        try:
            results.append(do(thing))
        except OSError as error:
            failed = error
    return results, failed
