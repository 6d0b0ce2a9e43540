"""Usage as people ask for it: since when, by what, in rows that add up. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.usage.counters import COUNTERS, DAY_SECONDS, HOUR_SECONDS, Period, Row, periods_since

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


def report(rows: Iterable[Row], by: Sequence[str]) -> list[dict[str, object]]:
    """Add up the rows that are alike, the busiest first; periods come in their order, with their start in UTC."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        counts = sums.setdefault(tuple(_group(row, group) for group in by), [0] * len(COUNTERS))
        for position, amount in enumerate(row.counts):
            counts[position] += amount
    periods = [position for position, group in enumerate(by) if group in ("hour", "day")]

    def order(item: tuple[tuple[str, ...], list[int]]) -> tuple[object, ...]:
        groups, counts = item
        return (*(groups[position] for position in periods), *(-count for count in counts), groups)

    return [
        {**dict(zip(by, groups, strict=True)), **figures(counts)}
        for groups, counts in sorted(sums.items(), key=order)
    ]


def figures(counts: Sequence[int]) -> dict[str, int | float]:
    """The counters by name; audio in seconds."""
    named: dict[str, int | float] = dict(zip(COUNTERS, counts, strict=True))
    milliseconds = named.pop("milliseconds")
    return {**named, "audio_seconds": milliseconds / 1000}


def total(rows: Iterable[Row]) -> dict[str, int | float]:
    """Everything together."""
    counts = [0] * len(COUNTERS)
    for row in rows:
        for position, amount in enumerate(row.counts):
            counts[position] += amount
    return figures(counts)


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
