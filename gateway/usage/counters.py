"""Usage as it is counted: what is counted, of whom, and in which hours and days. Pure.

An entry is a subject, a model and an operation of one tenant; every entry has the same counters.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple, Protocol

from gateway.usage.reported import COUNTED, KINDS, NUMBERS, Known, Usage

COUNTERS = ("requests", *(known.value for known in Known), *COUNTED, "bytes_in", "bytes_out", "lost")
"""What is counted, in this order: requests, those of which something is known, LLM tokens from `input` to
`output_audio`, milliseconds of audio; `lost` are requests that a store may never have been told of."""

REQUESTS, BYTES_IN, BYTES_OUT, LOST, _MILLISECONDS = map(
    COUNTERS.index, ("requests", "bytes_in", "bytes_out", "lost", "milliseconds")
)
"""Where some of them stand."""

_KINDS = range(NUMBERS)
_COUNTED_AT = tuple(
    COUNTERS.index(COUNTED[KINDS.index(kind)]) if kind in KINDS else None for kind in Usage._fields[:NUMBERS]
)
"""Where each number of a usage is counted; nowhere, what is the sum of others."""

KNOWN_AT = {known: COUNTERS.index(known) for known in Known}
"""Where requests are counted of whose usage so much is known."""

HOUR_SECONDS = 3600
DAY_SECONDS = 86_400
HOURS_KEPT_SECONDS = 8 * DAY_SECONDS
DAYS_KEPT_SECONDS = 400 * DAY_SECONDS

OTHER = "other"
"""Stands for subjects and models once there are too many to tell apart."""

DEFAULT_TIER = "default"
"""What served where an answer names no tier."""

TIERS = (DEFAULT_TIER, "flex", "priority", "scale", "fast", "ultrafast", "batch", OTHER)
"""By which usage is told apart: the upstream's words; `batch` is what batches used, `other` any other word."""

MOST_ENTRIES = 10_000
"""Of one tenant and hour, or day, that are told apart."""

ROWS_AT_ONCE = 250
"""Rows that a store hands out together: about a millisecond's work."""

_NAME_LENGTH = 256
"""No subject is longer, so none is taken for another."""

Counts = list[int]


class Entry(NamedTuple):
    """Whose usage, and of what."""

    subject: str
    model: str
    """Empty where none was named, or what was named does not exist."""

    operation: str
    tier: str = ""
    """What served, one of TIERS; empty for the default one."""


class Counted:
    """An entry of one tenant that is counted again and again: it knows the counters that are open for it."""

    __slots__ = ("counts", "entry", "page", "tenant")

    def __init__(self, tenant: str, entry: Entry) -> None:
        self.tenant = tenant
        self.entry = entry
        self.counts: Counts = []
        self.page: object = None
        """What a ledger had open when it gave the counters; they count as long as it has."""


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


class UsageStore(Protocol):
    """Where the counters are. Raises StoreUnavailable (of limits) and nothing else."""

    counts_since: float | None
    """When it began to count, where it knows of nothing before; in unix seconds."""

    async def add(self, batch: Batch) -> None:
        """Add to the hour and to its day, once: a batch may be told again for two minutes after a call failed."""

    def read(
        self, tenant: str, periods: Sequence[Period], *, subject: str | None = None
    ) -> AsyncGenerator[Sequence[Row], None]:
        """What a tenant, or one subject of it, used in these periods, some rows at a time."""

    async def close(self) -> None:
        """Let go of connections; nothing else may be called afterwards."""


def is_of(entry: Entry, subject: str | None) -> bool:
    """Whether the usage is this subject's; None: anybody's. What was not told apart is nobody's."""
    return subject is None or (entry.subject == subject and entry[:2] != (OTHER, OTHER))


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
    # Half of a surrogate pair could not be written anywhere.
    return text[:_NAME_LENGTH].encode("utf-8", "replace").decode("utf-8")


def tier_of(word: str) -> str:
    """The tier of an entry by what the answer says: empty for the default one."""
    if not word or word == DEFAULT_TIER:
        return ""
    return word if word in TIERS else OTHER


def counts_of(entries: dict[Entry, Counts], entry: Entry) -> Counts:
    """The counters of an entry; of all others together, once there are too many."""
    if len(entries) >= MOST_ENTRIES and entry not in entries:
        entry = Entry(OTHER, OTHER, entry.operation)
    return entries.setdefault(entry, [0] * len(COUNTERS))


def add_usage(counts: Counts, usage: Usage) -> None:
    """Add what was used."""
    for kind in compress(_KINDS, usage):  # most are not used
        at = _COUNTED_AT[kind]
        if at == _MILLISECONDS:
            counts[at] += round(usage.audio_seconds * 1000)
        elif at is not None:
            counts[at] += int(usage[kind])


def add_counts(entries: dict[Entry, Counts], entry: Entry, counts: Counts) -> None:
    """Add to the counters of an entry."""
    kept = counts_of(entries, entry)
    for position, amount in enumerate(counts):
        kept[position] += amount
