"""Usage as it is counted: what is counted, of whom, and in which hours and days. Pure.

An entry is a subject, a model and an operation of one tenant; every entry has the same counters.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gateway.usage.reported import COUNTED, Known, Usage

COUNTERS = ("requests", *(known.value for known in Known), *COUNTED, "bytes_in", "bytes_out", "lost")
"""What is counted, in this order: requests, those of which something is known, LLM tokens from `input` to
`output_audio`, milliseconds of audio; `lost` are requests that a store may never have been told of."""

(
    REQUESTS, _REPORTED, _ESTIMATED, _UNREPORTED, _SENT, _CACHED, _STORED, _SAID, _REASONING, _HEARD, _SPOKEN, _IMAGES,
    _MILLISECONDS, _CHARACTERS, _WEB_SEARCHES, _FILE_SEARCHES, _CODE_SESSIONS, _LONG_CONTEXT, _VIDEO_SECONDS,
    BYTES_IN, BYTES_OUT, LOST,
) = range(len(COUNTERS))  # fmt: skip
"""Where they stand."""

_RARE = Usage._fields.index("input_audio")
_NUMBERS = Usage._fields.index("tier")
"""Where a usage begins to tell of what most answers do not use, and where its numbers end."""

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
    """Add what was used.

    One by one: every exchange comes by here, and most kinds are not used. A test holds that none is forgotten.
    """
    (
        sent, cached, stored, said, reasoning, _, heard, spoken, images, seconds, characters, web_searches,
        file_searches, code_sessions, long_context, video_seconds, _, _,
    ) = usage  # fmt: skip
    if sent:
        counts[_SENT] += sent
    if cached:
        counts[_CACHED] += cached
    if stored:
        counts[_STORED] += stored
    if said:
        counts[_SAID] += said
    if reasoning:
        counts[_REASONING] += reasoning
    if not any(usage[_RARE:_NUMBERS]):
        return
    if heard:
        counts[_HEARD] += heard
    if spoken:
        counts[_SPOKEN] += spoken
    if images:
        counts[_IMAGES] += images
    if seconds:
        counts[_MILLISECONDS] += round(seconds * 1000)
    if characters:
        counts[_CHARACTERS] += characters
    if web_searches:
        counts[_WEB_SEARCHES] += web_searches
    if file_searches:
        counts[_FILE_SEARCHES] += file_searches
    if code_sessions:
        counts[_CODE_SESSIONS] += code_sessions
    if long_context:
        counts[_LONG_CONTEXT] += long_context
    if video_seconds:
        counts[_VIDEO_SECONDS] += video_seconds


def add_counts(entries: dict[Entry, Counts], entry: Entry, counts: Counts) -> None:
    """Add to the counters of an entry."""
    kept = counts_of(entries, entry)
    for position, amount in enumerate(counts):
        kept[position] += amount
