"""Usage counters in this process: gone when it ends."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence

from gateway.usage.counters import (
    ROWS_AT_ONCE,
    Batch,
    Counts,
    Entry,
    Period,
    Row,
    add_counts,
    is_of,
    kept_seconds,
)


class MemoryUsage:
    """A UsageStore without I/O: adding never suspends or fails, so no batch is told twice."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.counts_since: float | None = clock()
        self._periods: dict[tuple[str, Period], dict[Entry, Counts]] = {}

    async def add(self, batch: Batch) -> None:
        for period in (batch.hour, batch.day):
            place = (batch.tenant, period)
            if place not in self._periods:
                self._forget_old()
            entries = self._periods.setdefault(place, {})
            for entry, counts in batch.entries:
                add_counts(entries, entry, counts)

    async def read(
        self, tenant: str, periods: Sequence[Period], *, subject: str | None = None
    ) -> AsyncGenerator[Sequence[Row], None]:
        for period in periods:
            entries = tuple(self._periods.get((tenant, period), {}).items())
            for at in range(0, len(entries), ROWS_AT_ONCE):
                some = entries[at : at + ROWS_AT_ONCE]
                yield [Row(period, entry, counts) for entry, counts in some if is_of(entry, subject)]

    async def close(self) -> None:
        self._periods.clear()

    def _forget_old(self) -> None:
        now = self._clock()
        for place in [place for place in self._periods if place[1].start + kept_seconds(place[1]) < now]:
            del self._periods[place]
