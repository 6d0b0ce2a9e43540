"""The tables of docs/performance.md, and of the terminal, made of what was measured.

Every table is lines of Markdown. A figure stands with its spread over the rounds in brackets; what was not measured
is a dash, and what failed says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from docs.measured import DIRECT, GATEWAY, UNLIMITED, Measured, Spread, Values

NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """One figure of one work."""

    label: str
    work: str
    figure: str
    unit: str
    """Of the figure."""

    per: str = ""
    """What a CPU figure is counted for."""

    variant: str = ""


COSTS = (
    Row("small JSON, 32 connections, saturated", "json", "cpu_us", "µs", "request"),
    Row("30 KB embeddings", "embeddings", "cpu_us", "µs", "request"),
    Row("SSE, 200 streams × 20/s", "events-200", "cpu_us", "µs", "event"),
    Row("SSE, 1,000 streams × 20/s", "events-1000", "cpu_us", "µs", "event"),
    Row("audio, 10 MB answers", "audio", "cpu_us", "µs", "MB"),
    Row("upload, 200 MB form", "upload", "cpu_us", "µs", "MB"),
    Row("WebSockets, 100 × 50/s each way", "sockets", "cpu_us", "µs", "message"),
)
"""CPU time of all processes of a peer, Redis apart."""

TIMES = (
    Row("JSON at 30 % load, median", "latency", "p50_ms", "ms"),
    Row("JSON at 30 % load, p99", "latency", "p99_ms", "ms"),
    Row("SSE 200 × 20/s, delay of an event, median", "events-200", "delay_p50_ms", "ms"),
    Row("SSE 200 × 20/s, delay of an event, p99", "events-200", "delay_p99_ms", "ms"),
    Row("SSE 200 × 20/s, time to first event, p99", "events-200", "first_p99_ms", "ms"),
    Row("SSE 1,000 × 20/s, delay of an event, median", "events-1000", "delay_p50_ms", "ms"),
    Row("SSE 1,000 × 20/s, delay of an event, p99", "events-1000", "delay_p99_ms", "ms"),
    Row("500 new streams/s beside 1,000, time to first event, p99", "newcomers", "first_p99_ms", "ms"),
)
"""What a peer adds to the direct way."""

ABSOLUTES = (
    Row("memory at rest, MiB", "fresh", "rest_mib", "MiB"),
    Row("memory of an idle connection, KiB", "fresh", "connection_kib", "KiB"),
    Row("memory of a silent stream, KiB", "fresh", "stream_kib", "KiB"),
    Row("start to first answer, s", "fresh", "start_seconds", "s"),
    Row("Redis' own CPU for a small JSON request, µs", "json", "redis_us", "µs"),
    Row("beside a tenant that saturates: p99 × idle", "fairness", "times_idle", "×"),
    Row("SSE 200 × 20/s: schedule slipped, %", "events-200", "slip_percent", "%"),
    Row("SSE 1,000 × 20/s: schedule slipped, %", "events-1000", "slip_percent", "%"),
)
"""What stands for itself."""

CHARTED = (*COSTS, ABSOLUTES[2])


def number(value: float) -> str:
    """Three digits, or all before the point."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def told(spread: Spread | None, unit: str = "") -> str:
    """A median with its spread, where there is one."""
    if spread is None:
        return NOTHING
    median, low, high = (number(value) for value in (spread.median, spread.low, spread.high))
    return f"{median}{unit}" if low == high else f"{median}{unit} ({low}–{high})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """The lines of a table of Markdown; a bar in a cell is escaped."""
    head = tuple(head)
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def where(measured: Measured) -> Iterator[str]:
    """Who was compared and on what."""
    about = ", ".join(f"{name} {value}" for name, value in measured.machine.items())
    if about:
        yield f"Measured on: {about}."
        yield ""
    yield from table(
        ("peer", "version", "what it does for each request"),
        ((peer.label, peer.version or NOTHING, peer.does) for peer in measured.peers.values()),
    )


def costs(measured: Measured) -> Iterator[str]:
    """CPU as multiples of the baseline's, for every variant that was measured."""
    peers = [name for name in _compared(measured) if name != measured.baseline]
    baseline = (
        measured.peers[measured.baseline].label if measured.baseline in measured.peers else measured.baseline
    )
    rows = []
    for variant, suffix in VARIANTS.items():
        for row in COSTS:
            of_baseline = Spread.of(
                measured.values(row.work, row.figure, measured.baseline, variant).values()
            )
            ratios = [
                _or_failure(
                    measured, row.work, name, variant, measured.ratio(row.work, row.figure, name, variant)
                )
                for name in peers
            ]
            if of_baseline or any(cell != NOTHING for cell in ratios):
                rows.append([f"{row.label}{suffix}", row.per, told(of_baseline, " µs"), *ratios])
    yield from table(
        ("work", "per", f"{baseline} = 1", *(_label(measured, name) for name in peers)), _bold(rows, peers, 3)
    )


def times(measured: Measured) -> Iterator[str]:
    """Milliseconds on top of the direct way."""
    peers = _compared(measured)
    rows = []
    for variant, suffix in VARIANTS.items():
        for row in TIMES:
            direct = Spread.of(measured.values(row.work, row.figure, DIRECT, variant).values())
            added = [
                _or_failure(
                    measured,
                    row.work,
                    name,
                    variant,
                    measured.over_direct(row.work, row.figure, name, variant),
                )
                for name in peers
            ]
            if any(cell != NOTHING for cell in added):
                rows.append([f"{row.label}{suffix}", told(direct), *added])
    yield from table(
        ("ms on top of the direct way", "direct", *(_label(measured, name) for name in peers)),
        _bold(rows, peers, 2),
    )


def absolutes(measured: Measured) -> Iterator[str]:
    """Memory, start, fairness and slip."""
    peers = _compared(measured)
    rows = []
    for row in ABSOLUTES:
        found = [
            _or_failure(measured, row.work, name, "", measured.values(row.work, row.figure, name))
            for name in peers
        ]
        if any(cell != NOTHING for cell in found):
            rows.append([row.label, *found])
    yield from table(("", *(_label(measured, name) for name in peers)), _bold(rows, peers, 1))


VARIANTS = {"": "", "tls": ", TLS upstream", "callers": ", many credentials in turn"}
"""What is said of a work that was measured in another way."""


def _compared(measured: Measured) -> list[str]:
    return [name for name in measured.names() if name not in (DIRECT, UNLIMITED)]


def _label(measured: Measured, name: str) -> str:
    label = measured.peers[name].label
    return f"**{label}**" if name == GATEWAY else label


def _or_failure(measured: Measured, work: str, peer: str, variant: str, values: Values) -> str:
    if not values and measured.failure(work, peer, variant):
        return "failed"
    return told(Spread.of(values.values()))


def _bold(rows: Iterable[list[str]], peers: list[str], before: int) -> Iterator[list[str]]:
    """The gateway's cells, told from the others."""
    for row in rows:
        if GATEWAY in peers and row[at := before + peers.index(GATEWAY)] != NOTHING:
            row[at] = f"**{row[at]}**"
        yield row
