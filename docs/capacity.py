"""The tables of docs/operations/capacity.md, made of what was measured: what a core carries, what takes how much."""

from __future__ import annotations

from collections.abc import Iterator

from docs.measured import GATEWAY, Measured, Spread
from docs.performance import COSTS, NOTHING, number, table

EVENTS_PER_SECOND = 20
"""Of a stream that is quick to write; models write 20 to 100."""

MESSAGES_PER_SECOND = 50


def carried(measured: Measured) -> Iterator[str]:
    """What a core of this gateway does in a second when it does nothing else."""
    yield from table(
        ("work", "a core carries", "that is"),
        (
            (
                row.label.partition(",")[0],
                _of_a_second(measured, row.work, row.per),
                _that_is(measured, row.work, row.per),
            )
            for row in COSTS
            if row.work != "events-200"
        ),
    )


def _of_a_second(measured: Measured, work: str, per: str) -> str:
    rate = _rate(measured, work)
    return NOTHING if rate is None else f"{_rounded(rate):,} {'MB' if per == 'MB' else f'{per}s'}/s"


def _that_is(measured: Measured, work: str, per: str) -> str:
    rate = _rate(measured, work)
    if rate is None:
        return ""
    match per:
        case "event":
            return f"{_rounded(rate / EVENTS_PER_SECOND):,} streams of {EVENTS_PER_SECOND} events a second"
        case "message":
            sockets = _rounded(rate / (2 * MESSAGES_PER_SECOND))
            return f"{sockets:,} sockets with {MESSAGES_PER_SECOND} a second each way"
        case "MB":
            return f"{number(rate * 8 / 1000)} Gbit/s"
        case _:
            return ""


def held(measured: Measured) -> Iterator[str]:
    """What a worker and what it serves take of memory and of Redis."""
    figures = (
        ("a worker at rest", "fresh", "rest_mib", " MiB"),
        ("a connection that waits for its next request", "fresh", "connection_kib", " KiB"),
        ("a stream, both its connections included", "fresh", "stream_kib", " KiB"),
        ("a worker's start, to its first answer", "fresh", "start_seconds", " s"),
        ("Redis' own processor, a request with limits and usage", "json", "redis_us", " µs"),
    )
    yield from table(
        ("of what", "how much"),
        ((label, _median(measured, work, figure, unit)) for label, work, figure, unit in figures),
    )


def _median(measured: Measured, work: str, figure: str, unit: str) -> str:
    spread = Spread.of(measured.values(work, figure, GATEWAY).values())
    return NOTHING if spread is None else f"{number(spread.median)}{unit}"


def _rate(measured: Measured, work: str) -> float | None:
    spread = Spread.of(measured.values(work, "cpu_us", GATEWAY).values())
    return None if spread is None else 1e6 / spread.median


def _rounded(value: float) -> int:
    """Two digits: more would promise what another machine does not keep."""
    digits: int = 10 ** max(0, len(str(int(value))) - 2)
    return round(value / digits) * digits
