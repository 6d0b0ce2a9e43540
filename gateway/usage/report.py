"""Usage as people ask for it: since when, by what, in rows that add up, with what is missing from them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from heapq import nlargest
from operator import itemgetter
from typing import Literal, NotRequired, TypedDict

from gateway.usage.counters import (
    COUNTERS,
    DAY_SECONDS,
    DAYS_KEPT_SECONDS,
    DEFAULT_TIER,
    HOUR_SECONDS,
    HOURS_KEPT_SECONDS,
    Counts,
    Period,
    Row,
    periods_since,
)
from gateway.usage.reported import Known

GROUPS = ("hour", "day", "subject", "model", "operation", "tier")
"""By what usage can be told apart; hours go back for eight days, days for four hundred."""

DEFAULT_SINCE = "7d"
DEFAULT_BY = "model"

_LLM_TOKENS = "LLM tokens"
_UNITS = {
    **dict.fromkeys((*(known.value for known in Known), "long_context", "lost"), "requests"),
    **dict.fromkeys(
        ("input", "cached_input", "cache_write", "output", "reasoning", "input_audio", "output_audio"),
        _LLM_TOKENS,
    ),
    **dict.fromkeys(("web_searches", "file_searches"), "calls"),
    "code_sessions": "containers",
    **dict.fromkeys(("audio_seconds", "video_seconds"), "seconds"),
    **dict.fromkeys(("bytes_in", "bytes_out"), "bytes"),
}
FIGURES = tuple("audio_seconds" if counter == "milliseconds" else counter for counter in COUNTERS)
UNITS = {figure: _UNITS.get(figure, figure) for figure in FIGURES}
"""What is shown of each row, in this order, and in which unit; `requests`, `images` and `characters` are their own."""

_AUDIO = FIGURES.index("audio_seconds")
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


class Document(TypedDict):
    """A report as programs read it."""

    object: Literal["gateway.usage"]
    tenant: str
    subject: NotRequired[str]
    """Whose usage alone it is; absent: the whole tenant's."""

    since: str
    """When the first hour or day begins that is in it."""

    until: str
    by: Sequence[str]
    units: Mapping[str, str]
    data: Sequence[Mapping[str, object]]
    total: Mapping[str, int | float]
    notes: Sequence[str]
    """What has to be known of the figures: what is missing, and why."""


def document(
    question: Question,
    report: Report,
    *,
    tenant: str,
    subject: str | None = None,
    now: float,
    largest: int | None = None,
    counts_since: float | None = None,
    notes: Iterable[str] = (),
) -> Document:
    """The same whoever hands it out: `notes` are said before those that its figures need.

    `largest`: no more than so many rows. `counts_since`: when counting began, where nothing is known from before.
    """
    rows, total, periods = report.rows(largest), report.total(), question.periods(now)
    whose: Document = {
        "object": "gateway.usage",
        "tenant": tenant,
        "since": moment(periods[0].start),
        "until": moment(now),
        "by": question.by,
        "units": UNITS,
        "data": rows,
        "total": total,
        "notes": [
            *notes,
            *_beyond_what_is_kept(question, periods[0], now),
            *_not_shown(len(rows), len(report)),
            *_before_this_process(periods[0], counts_since),
            *_not_known(total),
        ],
    }
    if subject is not None:
        whose["subject"] = subject
    return whose


def _beyond_what_is_kept(question: Question, first: Period, now: float) -> Iterator[str]:
    """What was asked for and is no longer there."""
    if first.start <= now - question.since_seconds:
        return
    if "hour" in question.by:
        yield (
            f"Hours are told apart for {HOURS_KEPT_SECONDS // DAY_SECONDS} days: this begins at {moment(first.start)}. "
            "Leave hour out of by to look further back."
        )
    else:
        yield f"Usage is kept for {DAYS_KEPT_SECONDS // DAY_SECONDS} days: this begins at {moment(first.start)}."


def _before_this_process(first: Period, counts_since: float | None) -> Iterator[str]:
    if counts_since is not None and first.start < counts_since:
        yield f"Usage is counted in the memory of this process: since {moment(counts_since)}, and of nothing before."


def _not_shown(shown: int, there: int) -> Iterator[str]:
    if shown < there:
        yield (
            f"These are the largest {shown} of {there} rows; the total has all of them. Ask for a shorter time, or "
            "tell less apart."
        )


def _not_known(total: Mapping[str, int | float]) -> Iterator[str]:
    """In which way the figures are no more than what is known."""
    requests = total["requests"]
    if total["unreported"] > 0:
        yield (
            f"{total['unreported']} of {requests} requests are unreported: they used something, nobody said how much, "
            "and it is in none of these figures. Streams say it when they are asked for it, which metering does; "
            "batches, fine-tuning jobs, videos and evals when somebody asks for them once they are done."
        )
    if total["estimated"] > 0:
        yield (
            f"{total['estimated']} of {requests} requests are estimated: nobody said what they used, and these figures "
            "have what the gateway saw or reserved."
        )
    if total["lost"] > 0:
        yield (
            f"Up to {total['lost']} more requests are missing: the store of these figures did not confirm them in time."
        )


def figures(counts: Sequence[int]) -> dict[str, int | float]:
    """What is shown, by name; audio in seconds."""
    shown: list[int | float] = list(counts)
    shown[_AUDIO] /= 1000
    return dict(zip(FIGURES, shown, strict=True))


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
        case "tier":
            return row.entry.tier or DEFAULT_TIER
        case _:
            return str(getattr(row.entry, group))
