"""What tenants have used, counted off the hot path and told to a store.

Exchanges are counted in this process and told to the store in batches, once a second. A batch is told again
until the store has confirmed it, and counts once however often it is told: every exchange is counted once,
or not at all if it is lost with its process or with the store.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from operator import itemgetter

from gateway.limits.store import StoreUnavailable
from gateway.usage.counters import (
    BYTES_IN,
    BYTES_OUT,
    HOUR_SECONDS,
    KNOWN_AT,
    LOST,
    REQUESTS,
    Batch,
    Counted,
    Counts,
    Entry,
    Period,
    Row,
    UsageStore,
    add_usage,
    counts_of,
)
from gateway.usage.reported import Known, Usage

_ENTRIES_PER_BATCH = 150
_TOLD_PER_TURN = 16
"""Batches that are told of in one turn of the loop: about a millisecond's work."""

_FLUSH_SECONDS = 1.0
_GIVE_UP_SECONDS = 100.0
"""A store remembers batches a little longer than this."""

_MOST_PLACES = 1000
"""Tenants times hours that wait while the store does not listen."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Untold:
    batch: Batch
    told: bool = False
    maybe_told_at: float | None = None
    """When the first attempt was made whose outcome is unknown."""


class UsageLedger:
    """What the gateway writes usage into. `lost` is told how many requests will never be counted."""

    def __init__(
        self,
        store: UsageStore,
        *,
        lost: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._lost = lost
        self._clock = clock
        self._pending: dict[tuple[str, int], dict[Entry, Counts]] = {}
        self._page = object()
        """Stands for the counters that are open: another one with each hour, and whenever some are taken away."""

        self._page_begins = self._page_ends = 0
        self._untold: list[_Untold] = []
        self._telling = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def count(
        self,
        counted: Counted,
        usage: Usage | None,
        known: Known | None,
        *,
        requests: int = 1,
        bytes_in: int = 0,
        bytes_out: int = 0,
    ) -> None:
        """Add one exchange, and what is known of what it used; or a part of what one used (`requests=0`).

        Never waits and never raises.
        """
        now = self._clock()
        if counted.page is not self._page or not self._page_begins <= now < self._page_ends:
            self._open(counted, now)
        counts = counted.counts
        counts[REQUESTS] += requests
        counts[BYTES_IN] += bytes_in
        counts[BYTES_OUT] += bytes_out
        if known is not None:
            counts[KNOWN_AT[known]] += requests
        if usage is not None:
            add_usage(counts, usage)

    def recount(self, counted: Counted, was: Known, now: Known) -> None:
        """Say that of the usage of a request something else is known than when it was counted."""
        self.count(counted, None, was, requests=-1)
        self.count(counted, None, now, requests=1)

    async def start(self) -> None:
        """Begin to tell the store, once a second."""
        self._task = asyncio.create_task(self._tell_for_ever())

    async def flush(self) -> None:
        """Tell the store everything that has been counted so far, if it listens."""
        async with self._telling:
            self._untold = [untold for untold in self._untold if not untold.told]
            if not self._untold:
                # While a batch waits to be told again, what comes meanwhile adds up entry by entry.
                self._untold = [_Untold(batch) for batch in self._batches()]
            await self._tell_all()
            self._untold = [untold for untold in self._untold if not untold.told]

    async def read(
        self, tenant: str, periods: Sequence[Period], *, subject: str | None = None
    ) -> AsyncGenerator[Sequence[Row], None]:
        """What a tenant, or one subject of it, used in these periods, up to now: some rows at a time.

        Raises StoreUnavailable.
        """
        await self.flush()
        async with aclosing(self._store.read(tenant, periods, subject=subject)) as reading:
            async for rows in reading:
                yield rows

    async def close(self) -> None:
        """Tell the store what is left, as far as it listens now, and close it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for _ in range(2):  # what waits to be told again, then what came meanwhile
            await self.flush()
        self._lose(self._waiting())
        await self._store.close()

    @property
    def counts_since(self) -> float | None:
        """When the store began to count, where it knows of nothing before; in unix seconds."""
        return self._store.counts_since

    @property
    def waiting(self) -> int:
        """Requests that the store has not confirmed yet."""
        return sum(counts[REQUESTS] for counts in self._waiting())

    def _waiting(self) -> Iterator[Counts]:
        for untold in tuple(self._untold):
            for _, counts in () if untold.told else untold.batch.entries:
                yield counts
        for entries in tuple(self._pending.values()):
            yield from tuple(entries.values())

    def _open(self, counted: Counted, now: float) -> None:
        """Have an entry know its counters of this hour."""
        hour = int(now) // HOUR_SECONDS
        if not self._page_begins <= now < self._page_ends:
            self._page_begins, self._page_ends = hour * HOUR_SECONDS, (hour + 1) * HOUR_SECONDS
            self._page = object()
        place = (counted.tenant, hour)
        entries = self._pending.get(place)
        if entries is None:
            if len(self._pending) >= _MOST_PLACES:
                oldest = min(self._pending, key=itemgetter(1))
                lost = self._pending.pop(oldest)
                self._page = object()
                self._lose(lost.values())
                self._note_lost((oldest[0], hour), lost.items())
            entries = self._pending[place] = {}
        counted.counts, counted.page = counts_of(entries, counted.entry), self._page

    async def _tell_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 (what is counted must not stop being told for a defect in one batch)
                _log.exception("telling the store what was used failed")

    def _batches(self) -> list[Batch]:
        pending, self._pending = self._pending, {}
        self._page = object()
        batches: list[Batch] = []
        for (tenant, hour), entries in pending.items():
            period = Period(hour * HOUR_SECONDS, HOUR_SECONDS)
            items = list(entries.items())
            batches += (
                Batch(secrets.token_hex(8), tenant, period, items[at : at + _ENTRIES_PER_BATCH])
                for at in range(0, len(items), _ENTRIES_PER_BATCH)
            )
        return batches

    async def _tell_all(self) -> None:
        telling: list[asyncio.Task[None]] = []
        try:
            for untold in self._untold:
                telling.append(asyncio.create_task(self._tell(untold)))
                if len(telling) % _TOLD_PER_TURN == 0:
                    await asyncio.sleep(0)
            await asyncio.gather(*telling)
        except asyncio.CancelledError:
            for task in telling:
                task.cancel()
            raise

    async def _tell(self, untold: _Untold) -> None:
        now, first = time.monotonic(), untold.maybe_told_at
        if first is not None and now - first > _GIVE_UP_SECONDS:
            # The store may have it, and has forgotten the id: telling it again could count it twice.
            batch = untold.batch
            self._lose(counts for _, counts in batch.entries)
            self._note_lost((batch.tenant, batch.hour.start // HOUR_SECONDS), batch.entries)
            untold.told = True
            return
        untold.maybe_told_at = now if first is None else first
        try:
            await self._store.add(untold.batch)
            untold.told = True
        except StoreUnavailable as unavailable:
            if first is None and not unavailable.sent:
                untold.maybe_told_at = None

    def _note_lost(self, place: tuple[str, int], lost: Iterable[tuple[Entry, Counts]]) -> None:
        """Have reports say that these are missing, once the store listens."""
        entries = self._pending.get(place)
        if entries is None:
            if len(self._pending) >= _MOST_PLACES - 1:
                return  # who makes room must not take it
            entries = self._pending[place] = {}
        for entry, counts in lost:
            if missing := _requests(counts) + counts[LOST]:
                counts_of(entries, entry)[LOST] += missing

    def _lose(self, counts: Iterable[Counts]) -> None:
        requests = sum(map(_requests, counts))
        if requests:
            self._lost(requests)


def _requests(counts: Counts) -> int:
    """How many are in them; what was said of some that were counted before is one."""
    return counts[REQUESTS] or any(counts[:LOST])
