"""What tenants have used: counters per tenant, subject, model and operation, for every hour and every day.

Exchanges are counted in this process and told to a store in batches, once a second, off the hot path. A batch
is told again until the store has confirmed it, and counts once however often it is told: every exchange is
counted once, or not at all if it is lost with its process or with the store.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple, Protocol

from gateway.usage import Usage

COUNTERS = (
    "requests",
    "input",
    "cached_input",
    "output",
    "input_audio",
    "output_audio",
    "images",
    "milliseconds",
    "characters",
    "bytes_in",
    "bytes_out",
    "estimated",
)
"""What is counted, in this order: LLM tokens from `input` to `output_audio`, milliseconds of audio; `estimated`
is the number of requests whose usage nobody reported."""

HOUR_SECONDS = 3600
DAY_SECONDS = 86_400
HOURS_KEPT_SECONDS = 8 * DAY_SECONDS
DAYS_KEPT_SECONDS = 400 * DAY_SECONDS

OTHER = "other"
"""Stands for subjects and models once there are too many to tell apart."""

MOST_ENTRIES = 10_000
"""Of one tenant and hour, or day, that are told apart."""

_ENTRIES_PER_BATCH = 250
_FLUSH_SECONDS = 1.0
_GIVE_UP_SECONDS = 100.0
"""A store remembers batches a little longer than this."""

_MOST_PLACES = 1000
"""Tenants times hours that wait while the store does not listen."""

_NAME_LENGTH = 128

_log = logging.getLogger(__name__)

Counts = list[int]


class Entry(NamedTuple):
    """Whose usage, and of what."""

    subject: str
    model: str
    """Empty where none was named, or what was named does not exist."""

    operation: str


@dataclass(frozen=True, slots=True)
class Period:
    """An hour or a day of UTC. Times in unix seconds."""

    start: int
    seconds: int

    @classmethod
    def around(cls, moment: float, seconds: int) -> Period:
        return cls(int(moment) // seconds * seconds, seconds)


@dataclass(frozen=True, slots=True)
class Batch:
    """Usage of one tenant in one hour, with an id by which a store knows it again."""

    id: str
    tenant: str
    hour: Period
    entries: Sequence[tuple[Entry, Counts]]

    @property
    def day(self) -> Period:
        return Period.around(self.hour.start, DAY_SECONDS)


@dataclass(frozen=True, slots=True)
class Row:
    """What one entry used in one period."""

    period: Period
    entry: Entry
    counts: Counts


class UsageUnavailable(Exception):
    """The store did not do what it was asked, or did not say so in time."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent
        """Whether it may have been done all the same."""


class UsageStore(Protocol):
    """Where the counters are. Raises UsageUnavailable and nothing else."""

    async def add(self, batch: Batch) -> None:
        """Add to the hour and to its day; nothing if this batch has been added in the last two minutes."""

    async def read(self, tenant: str, periods: Sequence[Period]) -> list[Row]:
        """What a tenant used in these periods."""

    async def close(self) -> None:
        """Let go of connections; nothing else may be called afterwards."""


class MemoryUsage:
    """A UsageStore in this process: gone when it ends."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._periods: dict[tuple[str, Period], dict[Entry, Counts]] = {}

    async def add(self, batch: Batch) -> None:
        for period in (batch.hour, batch.day):
            place = (batch.tenant, period)
            if place not in self._periods:
                self._forget_old()
            entries = self._periods.setdefault(place, {})
            for entry, counts in batch.entries:
                _add(entries, entry, counts)

    async def read(self, tenant: str, periods: Sequence[Period]) -> list[Row]:
        return [
            Row(period, entry, counts)
            for period in periods
            for entry, counts in self._periods.get((tenant, period), {}).items()
        ]

    async def close(self) -> None:
        self._periods.clear()

    def _forget_old(self) -> None:
        now = self._clock()
        for place in [place for place in self._periods if place[1].start + kept_seconds(place[1]) < now]:
            del self._periods[place]


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
        self._untold: list[_Untold] = []
        self._telling = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def count(
        self,
        tenant: str,
        entry: Entry,
        usage: Usage | None,
        *,
        requests: int = 1,
        bytes_in: int = 0,
        bytes_out: int = 0,
    ) -> None:
        """Add one exchange, or a part of one (`requests=0`). Never waits and never raises."""
        place = (tenant, int(self._clock()) // HOUR_SECONDS)
        entries = self._pending.get(place)
        if entries is None:
            entries = self._open(place)
        counts = entries.get(entry)
        if counts is None:
            counts = _new(entries, entry)
        counts[0] += requests
        counts[9] += bytes_in
        counts[10] += bytes_out
        if usage is not None:
            counts[1] += usage.input
            counts[2] += usage.cached_input
            counts[3] += usage.output
            counts[4] += usage.input_audio
            counts[5] += usage.output_audio
            counts[6] += usage.images
            counts[7] += round(usage.audio_seconds * 1000)
            counts[8] += usage.characters
            counts[11] += usage.estimated

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
            await asyncio.gather(*map(self._tell, self._untold))
            self._untold = [untold for untold in self._untold if not untold.told]

    async def read(self, tenant: str, periods: Sequence[Period]) -> list[Row]:
        """What a tenant used in these periods, up to now. Raises UsageUnavailable."""
        await self.flush()
        return await self._store.read(tenant, periods)

    async def close(self) -> None:
        """Tell the store what is left, as far as it listens now, and close it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self.flush()
        if self._pending:
            await self.flush()
        self._lose(self._waiting())
        await self._store.close()

    @property
    def waiting(self) -> int:
        """Requests that the store has not confirmed yet."""
        return sum(counts[0] for counts in self._waiting())

    def _waiting(self) -> Iterator[Counts]:
        for untold in tuple(self._untold):
            for _, counts in () if untold.told else untold.batch.entries:
                yield counts
        for entries in tuple(self._pending.values()):
            yield from tuple(entries.values())

    def _open(self, place: tuple[str, int]) -> dict[Entry, Counts]:
        if len(self._pending) >= _MOST_PLACES:
            oldest = min(self._pending, key=itemgetter(1))
            self._lose(self._pending.pop(oldest).values())
        entries = self._pending[place] = {}
        return entries

    async def _tell_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 (what is counted must not stop being told for a defect in one batch)
                _log.exception("telling the store what was used failed")

    def _batches(self) -> list[Batch]:
        pending, self._pending = self._pending, {}
        batches: list[Batch] = []
        for (tenant, hour), entries in pending.items():
            period = Period(hour * HOUR_SECONDS, HOUR_SECONDS)
            items = list(entries.items())
            batches += (
                Batch(secrets.token_hex(8), tenant, period, items[at : at + _ENTRIES_PER_BATCH])
                for at in range(0, len(items), _ENTRIES_PER_BATCH)
            )
        return batches

    async def _tell(self, untold: _Untold) -> None:
        now, first = time.monotonic(), untold.maybe_told_at
        if first is not None and now - first > _GIVE_UP_SECONDS:
            # The store may have it, and has forgotten the id: telling it again could count it twice.
            self._lose(counts for _, counts in untold.batch.entries)
            untold.told = True
            return
        untold.maybe_told_at = now if first is None else first
        try:
            await self._store.add(untold.batch)
            untold.told = True
        except UsageUnavailable as unavailable:
            if first is None and not unavailable.sent:
                untold.maybe_told_at = None

    def _lose(self, counts: Iterable[Counts]) -> None:
        requests = sum(count[0] for count in counts)
        if requests:
            self._lost(requests)


def kept_seconds(period: Period) -> int:
    """How long the counters of an hour or a day are kept after it has begun."""
    return HOURS_KEPT_SECONDS if period.seconds == HOUR_SECONDS else DAYS_KEPT_SECONDS


def periods_since(since: float, now: float, *, hourly: bool = False) -> list[Period]:
    """The hours and days that together cover the time from `since` to `now`.

    Days in the middle, hours at both ends; `hourly`: hours only. What lies further back than hours are kept
    begins with a whole day, or, hourly, where they begin.
    """
    oldest_hour = Period.around(now - HOURS_KEPT_SECONDS, HOUR_SECONDS).start + HOUR_SECONDS
    at = Period.around(max(since, now - DAYS_KEPT_SECONDS), HOUR_SECONDS).start
    if hourly:
        at = max(at, oldest_hour)
    elif at < oldest_hour:
        at = Period.around(at, DAY_SECONDS).start
    periods = []
    while at <= now:
        whole_day = not hourly and at % DAY_SECONDS == 0
        periods.append(Period(at, DAY_SECONDS if whole_day else HOUR_SECONDS))
        at += periods[-1].seconds
    return periods


def named(text: str | None) -> str:
    """A name of the client's choice, short enough to be kept."""
    if text is None or text.isascii():
        return (text or "")[:_NAME_LENGTH]
    return text[:_NAME_LENGTH].encode("utf-8", "replace").decode("utf-8")  # no half of a pair, which nothing can store


def _new(entries: dict[Entry, Counts], entry: Entry) -> Counts:
    if len(entries) >= MOST_ENTRIES and entry not in entries:
        entry = Entry(OTHER, OTHER, entry.operation)
    return entries.setdefault(entry, [0] * len(COUNTERS))


def _add(entries: dict[Entry, Counts], entry: Entry, counts: Counts) -> None:
    kept = _new(entries, entry)
    for position, amount in enumerate(counts):
        kept[position] += amount
