"""Usage as people ask for it: since when, by what, in rows that add up. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from heapq import nlargest
from operator import itemgetter

from gateway.usage.counters import COUNTERS, DAY_SECONDS, HOUR_SECONDS, Counts, Period, Row, periods_since

GROUPS = ("hour", "day", "subject", "model", "operation")
"""By what usage can be told apart; hours go back for eight days, days for four hundred."""

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": HOUR_SECONDS, "d": DAY_SECONDS, "w": 7 * DAY_SECONDS}


@dataclass(frozen=True, slots=True)
class Question:
    """Which usage, and by what it is told apart. Times in unix seconds."""

    since_seconds: int
    by: tuple[str, ...]

    @classmethod
    def read(cls, since: str, by: str) -> Question:
        """Read `7d` and `model,operation`. ValueError says what would be right."""
        try:
            since_seconds = duration_seconds(since)
        except ValueError as error:
            raise ValueError(f"since: {error}") from None
        groups = tuple(dict.fromkeys(group for group in by.split(",") if group))
        for group in groups:
            if group not in GROUPS:
                raise ValueError(f"by: {group[:32]!r} is none of {', '.join(GROUPS)}")
        return cls(since_seconds, groups)

    def periods(self, now: float) -> list[Period]:
        """The hours and days to look at."""
        return periods_since(now - self.since_seconds, now, hourly="hour" in self.by)


def duration_seconds(text: str) -> int:
    """`45s`, `15m`, `12h`, `30d` or `2w` in seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:32]!r} is not a duration such as 45s, 15m, 12h, 30d or 2w")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


class TooManyRows(ValueError):
    """More rows than anybody shall add up."""


class Report:
    """Rows that are alike, added up as they come; more than `most` different ones are TooManyRows."""

    def __init__(self, by: Sequence[str], *, most: int | None = None) -> None:
        self._by = by
        self._most = most
        self._sums: dict[tuple[str, ...], Counts] = {}
        self._total = [0] * len(COUNTERS)

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, rows: Iterable[Row]) -> None:
        """Add these. Raises TooManyRows."""
        for row in rows:
            group = tuple(_group(row, name) for name in self._by)
            counts = self._sums.get(group)
            if counts is None:
                if self._most is not None and len(self._sums) >= self._most:
                    raise TooManyRows(f"more than {self._most} rows")
                counts = self._sums[group] = [0] * len(COUNTERS)
            for position, amount in enumerate(row.counts):
                if amount:  # most are none
                    counts[position] += amount
                    self._total[position] += amount

    def rows(self, largest: int | None = None) -> list[dict[str, object]]:
        """The busiest first; periods come in their order, with their start in UTC. `largest`: no more than so many."""
        items = list(self._sums.items())
        if largest is not None and len(items) > largest:
            items = nlargest(largest, items, key=itemgetter(1))
        periods = [position for position, name in enumerate(self._by) if name in ("hour", "day")]

        def order(item: tuple[tuple[str, ...], Counts]) -> tuple[object, ...]:
            groups, counts = item
            return (*(groups[position] for position in periods), *(-count for count in counts), groups)

        return [
            {**dict(zip(self._by, groups, strict=True)), **figures(counts)}
            for groups, counts in sorted(items, key=order)
        ]

    def total(self) -> dict[str, int | float]:
        """Everything together, whether it is among the rows that are shown or not."""
        return figures(self._total)


def figures(counts: Sequence[int]) -> dict[str, int | float]:
    """The counters by name; audio in seconds."""
    named: dict[str, int | float] = dict(zip(COUNTERS, counts, strict=True))
    milliseconds = named.pop("milliseconds")
    return {**named, "audio_seconds": milliseconds / 1000}


@lru_cache(maxsize=1024)
def moment(seconds: float) -> str:
    """A time as reports write it: 2026-11-22T17:00:00Z."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def _group(row: Row, group: str) -> str:
    match group:
        case "hour":
            return moment(row.period.start)
        case "day":
            return moment(Period.around(row.period.start, DAY_SECONDS).start)
        case _:
            return str(getattr(row.entry, group))
