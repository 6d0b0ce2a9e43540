"""Objects remembered in this process: forgotten when it ends, and the oldest of them when they are too many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.usage.late_work import Claim, Found, Maker, Note, Part, Step

MOST_OBJECTS = 100_000


@dataclass(slots=True)
class _Remembered:
    maker: Maker
    since: float
    parts: dict[str, Part] = field(default_factory=dict)
    counted: str | None = None


class MemoryLateWork:
    """A LateWorkStore without I/O. What may have been forgotten is not counted: it may have been counted before."""

    def __init__(self, *, most: int = MOST_OBJECTS, clock: Callable[[], float] = time.time) -> None:
        self._objects: dict[str, _Remembered] = {}
        self._most = most
        self._clock = clock
        self._forgotten_until = 0.0
        """What was made before that may have been remembered once."""

    async def take(self, steps: Sequence[Step]) -> list[Found | None]:
        return [self._note(step) if isinstance(step, Note) else self._claim(step) for step in steps]

    async def close(self) -> None:
        self._objects.clear()

    def _note(self, note: Note) -> Found | None:
        remembered = self._remember(note)
        if note.exchange_id in remembered.parts:
            return None
        remembered.parts[note.exchange_id] = note.part
        return None if remembered.counted is None else Found(remembered.maker, [])

    def _claim(self, claim: Claim) -> Found | None:
        if claim.key not in self._objects:
            made_at = claim.shown.made_at
            forgotten = made_at is not None and made_at <= self._forgotten_until
            if forgotten or not claim.counts_unknown:
                return None
        remembered = self._remember(claim)
        if remembered.counted is not None:
            return None
        remembered.counted = claim.exchange_id
        return Found(remembered.maker, list(remembered.parts.values()))

    def _remember(self, step: Step) -> _Remembered:
        remembered = self._objects.get(step.key)
        if remembered is None:
            if len(self._objects) >= self._most:
                oldest = next(iter(self._objects))
                self._forgotten_until = self._objects.pop(oldest).since
            remembered = self._objects[step.key] = _Remembered(step.maker, self._clock())
        return remembered
