"""The tables of the view, as data: their rows, and their columns with what they are sorted by. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.cli.drawing import shown
from gateway.cli.top import wording
from gateway.cli.top.rows import (
    ExchangeRow,
    GatewayRow,
    Sum,
    TenantRow,
    UpstreamRow,
)
from gateway.cli.top.tables import Tables

PLAIN, GOOD, DOUBTFUL, BAD, DIM = "", "green", "yellow", "bold red", "dim"
"""Styles: nothing is told by a colour alone."""

_BAR = 10
_NARROW = 0.9


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what stands in it, and in which order rows stand that are sorted by it."""

    head: str
    text: Callable[[Any], str]
    by: Callable[[Any], Any]
    style: Callable[[Any], str] = lambda _: PLAIN
    is_name: bool = False
    """Whether it is text, flush left, in which a filter looks."""

    takes: int = 0
    """The room in characters that names may have at least; they get what is left."""

    least: int = 0
    """It is left out of tables that are narrower than that."""

    is_up: bool = False
    """Whether the smallest comes first."""


@dataclass(frozen=True, slots=True)
class Section:
    """One table."""

    name: str
    columns: tuple[Column, ...]
    rows: Callable[[Tables, Sequence[GatewayRow]], Sequence[Any]]
    empty: str
    """What is said where there is no row."""

    def shows(self, width: int) -> list[Column]:
        """Its columns on so many characters."""
        return [column for column in self.columns if column.least <= width]

    def has(self, row: Any, text: str) -> bool:
        """Whether a filter lets the row stand."""
        return any(text in column.text(row).casefold() for column in self.columns if column.is_name)


def _name(head: str, of: Callable[[Any], str | None], takes: int, *, least: int = 0) -> Column:
    def text(row: Any) -> str:
        value = of(row)
        return wording.UNKNOWN if value is None else shown(value)

    return Column(head, text, text, is_name=True, takes=takes, least=least, is_up=True)


def _rate(head: str, of: Callable[[Any], Sum], style: str = PLAIN, *, least: int = 0) -> Column:
    def styled(row: Any) -> str:
        return style if of(row).per_second else DIM

    return Column(
        head,
        lambda row: wording.rate(of(row).per_second),
        lambda row: of(row).per_second or 0.0,
        styled if style else lambda _: PLAIN,
        least=least,
    )


def _number(
    head: str,
    of: Callable[[Any], float | None],
    text: Callable[[float | None], str] = wording.count,
    style: Callable[[Any], str] = lambda _: PLAIN,
    *,
    least: int = 0,
) -> Column:
    return Column(head, lambda row: text(of(row)), lambda row: of(row) or 0.0, style, least=least)


def _fullest(row: TenantRow) -> str:
    dimension, used = row.fullest
    return f"{used:.0%} {wording.dimension(dimension)}" if dimension else wording.UNKNOWN


def _how_full(used: float) -> str:
    return BAD if used >= 1 else DOUBTFUL if used >= _NARROW else PLAIN


def _tenant(row: TenantRow) -> str:
    return f"{row.tenant} (disabled)" if row.enabled is False else row.tenant


def _client_errors(row: UpstreamRow) -> Sum:
    found, throttled = row.answered("4"), row.answered("429")
    if found.per_second is not None:
        found.per_second = max(0.0, found.per_second - (throttled.per_second or 0.0))
    return found


def _left(row: UpstreamRow) -> str:
    return wording.UNKNOWN if row.left is None else f"{row.left[1]:.0%} {row.left[0]}"


def _outcome(row: ExchangeRow) -> str:
    return f"{row.status or wording.UNKNOWN} {row.ending}"


def _gateway_state(row: GatewayRow) -> str:
    return row.problem or ("ready" if row.ready else "not ready")


TENANTS = Section(
    "tenants",
    (
        _name("TENANT", _tenant, 12),
        _rate("REQ/S", lambda row: row.exchanges),
        _rate("FAIL/S", lambda row: row.failed, BAD),
        _rate("429/S", lambda row: row.throttled, DOUBTFUL),
        _number("RUN", lambda row: row.in_flight),
        _rate("LLM IN/S", lambda row: row.input, least=90),
        _rate("LLM OUT/S", lambda row: row.output, least=60),
        Column(
            "FULLEST LIMIT",
            _fullest,
            lambda row: row.fullest[1],
            lambda row: _how_full(row.fullest[1]),
            takes=14,
            least=50,
        ),
    ),
    lambda tables, _: tables.tenants,
    "no tenant has asked for anything",
)
UPSTREAMS = Section(
    "upstreams",
    (
        _name("UPSTREAM", lambda row: row.upstream, 12),
        _rate("ANS/S", lambda row: row.answered()),
        _rate("4XX/S", _client_errors, least=50),
        _rate("429/S", lambda row: row.answered("429"), DOUBTFUL),
        _rate("5XX/S", lambda row: row.answered("5"), BAD),
        _rate("NOCONN/S", lambda row: row.unconnected, BAD, least=90),
        _number("HEAD", lambda row: row.answer_seconds, wording.time),
        _number("BUSY", lambda row: row.busy, least=60),
        _number("WAIT", lambda row: row.waiting, style=lambda row: DOUBTFUL if row.waiting else DIM),
        Column(
            "LEAST LEFT",
            _left,
            lambda row: 1.0 if row.left is None else row.left[1],
            lambda row: DOUBTFUL if row.left is not None and row.left[1] <= 1 - _NARROW else PLAIN,
            takes=12,
            least=70,
            is_up=True,
        ),
    ),
    lambda tables, _: tables.upstreams,
    "no upstream has been asked",
)
ERRORS = Section(
    "errors",
    (
        _name("ERROR", lambda row: row.code, 20),
        _rate("A SECOND", lambda row: row.count, DOUBTFUL),
        _number("SINCE START", lambda row: row.count.total),
    ),
    lambda tables, _: tables.errors,
    "the gateway has answered no error of its own",
)


def _exchanges(age: str, *more: Column) -> tuple[Column, ...]:
    return (
        _number(age, lambda row: row.age_seconds, wording.time),
        _name("TENANT", lambda row: row.tenant, 8),
        _name("OPERATION", lambda row: row.operation, 12, least=100),
        _name("MODEL", lambda row: row.model, 8),
        _name("UPSTREAM", lambda row: row.upstream, 8),
        _number("SENT", lambda row: row.bytes_out, wording.amount, least=70),
        *more,
        Column(
            "REQUEST ID",
            lambda row: shown(row.request_id),
            lambda row: row.request_id,
            is_name=True,
            takes=31,
        ),
    )


OLDEST = Section(
    "oldest running",
    _exchanges("AGE", _name("OVER", lambda row: row.transport, 9, least=120)),
    lambda tables, _: tables.oldest,
    "nothing runs",
)
SLOWEST = Section(
    "slowest of five minutes",
    _exchanges("TOOK", _name("OUTCOME", _outcome, 12, least=90)),
    lambda tables, _: tables.slowest,
    "nothing has ended",
)
LIMITS = Section(
    "limits in use",
    (
        _name("TENANT", lambda row: row.tenant, 12),
        _name("LIMIT", lambda row: wording.dimension(row.dimension), 16),
        _number("IN USE", lambda row: row.used_ratio, wording.part, lambda row: _how_full(row.used_ratio)),
        Column(
            "",
            lambda row: wording.bar(row.used_ratio, _BAR),
            lambda row: row.used_ratio,
            lambda row: _how_full(row.used_ratio),
            least=60,
        ),
    ),
    lambda tables, _: tables.limits,
    "no limit is in use",
)
WORKERS = Section(
    "workers",
    (
        _name("GATEWAY", lambda row: row.instance, 12),
        _number("WORKER", lambda row: row.worker),
        _number("PROCESS", lambda row: row.pid, lambda pid: f"{pid:.0f}", least=70),
        Column(
            "STATE",
            lambda row: shown(row.state),
            lambda row: row.state,
            lambda row: GOOD if row.state == "ready" else BAD if row.state == "hung" else DOUBTFUL,
            is_name=True,
            takes=8,
        ),
        _number("CPU", lambda row: row.cpus, wording.part),
        _number("MEMORY", lambda row: row.memory_bytes, wording.amount),
        _number("LAG", lambda row: row.loop_lag_max_seconds, wording.time),
        _number("RUN", lambda row: row.in_flight),
        _number("CLIENTS", lambda row: row.connections),
    ),
    lambda tables, _: tables.workers,
    "no worker is known",
)
GATEWAYS = Section(
    "gateways",
    (
        _name("GATEWAY", lambda row: row.instance, 12),
        Column(
            "STATE",
            lambda row: shown(_gateway_state(row)),
            _gateway_state,
            lambda row: BAD if row.problem else GOOD if row.ready else DOUBTFUL,
            is_name=True,
            takes=10,
        ),
        Column("WORKERS", lambda row: f"{row.workers_ready}/{row.workers}", lambda row: row.workers_ready),
        _rate("REQ/S", lambda row: row.requests),
        _number("RUN", lambda row: row.in_flight),
        _number("CPU", lambda row: row.cpus, wording.part),
        _number("MEMORY", lambda row: row.memory_bytes, wording.amount),
        _number("UP", lambda row: row.up_seconds, wording.time, least=70),
        _name("VERSION", lambda row: row.version, 7, least=90),
    ),
    lambda _, gateways: gateways,
    "no gateway was named",
)

SECTIONS = (TENANTS, UPSTREAMS, OLDEST, ERRORS, LIMITS, SLOWEST, WORKERS, GATEWAYS)
"""In the order of the keys that show one alone."""
