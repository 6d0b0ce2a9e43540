"""Usage counters in Redis, shared by all gateways: one hash per tenant and hour, and one per tenant and day.

A field is an entry, whatever the tier, and a counter, `["alice","gpt-4o","createChatCompletion"]:input`; what a tier
other than the default one has of that stands beside it, `…:input@flex`, and the field `entries` says how many there
are. A batch is one script, so it is counted whole or not at all, and its id is kept for two minutes so that it is
counted once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import sub

import orjson

from gateway.limits.terms import account_key
from gateway.redis.line import Argument
from gateway.redis.script import Script
from gateway.usage.counters import (
    COUNTERS,
    HOUR_SECONDS,
    MOST_ENTRIES,
    OTHER,
    REQUESTS,
    ROWS_AT_ONCE,
    Batch,
    Counts,
    Entry,
    Period,
    Row,
    is_of,
    kept_seconds,
)
from gateway.usage.redis_wire import UsageWire

_BATCH_KEPT_SECONDS = 120
_KEYS_PER_CALL = 32
_FIELDS_PER_CALL = 500
"""Looked at in one step: Redis serves everybody, and does nothing else meanwhile."""

_PAUSE_SECONDS = 0.002
"""Between two steps through one hash, so that reading takes a small part of Redis's time."""

_SCRIPTS = ("add", "read")
_AT = {counter: at for at, counter in enumerate(COUNTERS)}


class RedisUsage:
    """A UsageStore that all gateways share."""

    def __init__(self, wire: UsageWire) -> None:
        self.counts_since: float | None = None
        self._wire = wire.for_store()
        self._scripts = {name: Script.load(__package__, name) for name in _SCRIPTS}

    async def add(self, batch: Batch) -> None:
        place = self._place(batch.tenant)
        keys = [f"{place}:batch:{batch.id}", _key(place, batch.hour), _key(place, batch.day)]
        arguments: list[Argument] = [
            _BATCH_KEPT_SECONDS,
            kept_seconds(batch.hour),
            kept_seconds(batch.day),
            MOST_ENTRIES,
        ]
        for entry, counts in batch.entries:
            # `requests` always: it marks the entry as known.
            named = [(COUNTERS[at], amount) for at, amount in enumerate(counts) if amount or at == REQUESTS]
            if entry.tier:
                named += [
                    (name, amount) for name, amount in zip(_parts(entry.tier), counts, strict=True) if amount
                ]
            arguments += (_written(entry), _written(Entry(OTHER, OTHER, entry.operation)), len(named))
            arguments += chain.from_iterable(named)
        await self._wire.run(self._scripts["add"], keys, arguments)

    async def read(
        self, tenant: str, periods: Sequence[Period], *, subject: str | None = None
    ) -> AsyncGenerator[Sequence[Row], None]:
        begins = b"" if subject is None else orjson.dumps([subject])[:-1] + b","
        place, at, cursor = self._place(tenant), 0, b"0"
        entries: dict[Entry, Counts] = {}
        while at < len(periods):
            some = periods[at : at + _KEYS_PER_CALL]
            keys = [_key(place, period) for period in some]
            arguments: list[Argument] = [cursor, _FIELDS_PER_CALL, begins]
            cursor, found = await self._wire.run(self._scripts["read"], keys, arguments)
            goes_on = cursor != b"0"
            for period, fields in zip(some[: len(found) - goes_on], found, strict=False):
                _note(entries, fields)
                for rows in _rows(period, entries, subject):
                    yield rows
                entries = {}
            if goes_on:
                _note(entries, found[-1])
                await asyncio.sleep(_PAUSE_SECONDS)
            at += len(found) - goes_on

    async def close(self) -> None:
        await self._wire.close()

    def _place(self, tenant: str) -> str:
        # All keys of a tenant share a slot of a cluster.
        return f"{self._wire.prefix}{account_key(tenant)}:usage"


def _key(place: str, period: Period) -> str:
    unit = "hour" if period.seconds == HOUR_SECONDS else "day"
    return f"{place}:{unit}:{period.start}"


@lru_cache(maxsize=4096)
def _written(entry: Entry) -> bytes:
    return orjson.dumps(list(entry[:3]))


@lru_cache
def _parts(tier: str) -> list[str]:
    """What the counters are called in which a tier's part stands."""
    return [f"{counter}@{tier}" for counter in COUNTERS]


def _note(entries: dict[Entry, Counts], fields: Sequence[bytes]) -> None:
    """Take fields of a hash, of which some may be told twice."""
    for field, amount in zip(fields[::2], fields[1::2], strict=True):
        name, _, whole = field.rpartition(b":")
        counter, _, tier = whole.decode().partition("@")
        at = _AT.get(counter)
        if at is None:
            continue  # of another version
        subject, model, operation = orjson.loads(name)
        counts = entries.setdefault(Entry(subject, model, operation, tier), [0] * len(COUNTERS))
        counts[at] = int(amount)


def _take_apart(entries: Mapping[Entry, Counts]) -> None:
    """Take what tiers have out of what all have together, where both stand now."""
    for entry, part in entries.items():
        if not entry.tier:
            continue
        rest = entries.get(entry._replace(tier=""))
        if rest is not None:
            rest[:] = map(sub, rest, part)


def _rows(period: Period, entries: Mapping[Entry, Counts], subject: str | None) -> Iterator[list[Row]]:
    _take_apart(entries)
    rows = [Row(period, entry, counts) for entry, counts in entries.items() if is_of(entry, subject)]
    for at in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[at : at + ROWS_AT_ONCE]
