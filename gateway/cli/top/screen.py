"""How it is drawn: as much as fits the terminal, what is wrong first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.cli.drawing import shown
from gateway.cli.top import wording
from gateway.cli.top.choices import HELP, Choices
from gateway.cli.top.concerns import Concern
from gateway.cli.top.rows import GatewayRow, Sum
from gateway.cli.top.sections import (
    BAD,
    DIM,
    DOUBTFUL,
    ERRORS,
    GATEWAYS,
    GOOD,
    LIMITS,
    OLDEST,
    SECTIONS,
    SLOWEST,
    TENANTS,
    UPSTREAMS,
    WORKERS,
    Column,
    Section,
)
from gateway.cli.top.tables import Tables

_WORDS = (
    "Rates are those of the last ten seconds; of several gateways there is the sum, of limits the fullest. FAIL: 5xx, "
    "cut off, or not answered. RUN: running now, streams and sessions too. LLM IN and OUT: LLM tokens. HEAD: until an "
    "upstream's answer began. LEAST LEFT: of the upstream's own limits. LAG: the longest in which a worker served "
    "nobody. By its request id an exchange is found in the log."
)
_GAP = 2
_WIDE = 160
"""Characters from which on there are two columns of tables."""

_LEAST_LINES = 5
"""Of a table that is shown at all, if it has so many."""

_MOST_CONCERNS = 6
_STACKED = (GATEWAYS, TENANTS, UPSTREAMS, OLDEST, ERRORS, LIMITS, SLOWEST, WORKERS)
"""In the order in which they get room."""

_BESIDE = ((GATEWAYS, TENANTS, LIMITS, WORKERS), (UPSTREAMS, ERRORS, OLDEST, SLOWEST))


@dataclass(frozen=True, slots=True)
class Picture:
    """What there is to be drawn."""

    tables: Tables
    gateways: Sequence[GatewayRow]
    """All of them, whichever are shown."""

    concerns: Sequence[Concern]
    at: datetime
    of: str | None = None
    """The one gateway whose tables these are; None: all of them."""


def drawn(picture: Picture, choices: Choices, *, width: int, height: int) -> RenderableType:
    """The whole screen."""
    top = [_summary(picture, choices, width), _totals(picture), *_wrong(picture.concerns, height)]
    bottom = _bottom(choices)
    room = height - len(top) - 1
    if choices.helps:
        body: list[RenderableType] = [_help()]
    elif choices.alone is not None:
        body = [_table(choices.alone, picture, choices, width, room, alone=True)]
    elif width >= _WIDE:
        half = (width - _GAP) // 2
        grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        for _ in _BESIDE:
            grid.add_column(width=half)
        grid.add_row(*(Group(*_tables(side, picture, choices, half, room)) for side in _BESIDE))
        body = [grid]
    else:
        body = _tables(_STACKED, picture, choices, width, room)
    return Group(*top, *body, bottom)


def _summary(picture: Picture, choices: Choices, width: int) -> Text:
    ready = sum(row.ready for row in picture.gateways)
    there_are = len(picture.gateways)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(" gateway top ", "reverse")
    if picture.of is not None:
        text.append(f"  {picture.of} alone", "bold")
    of_them = "" if there_are == 1 else f"{ready} of {there_are} gateways "
    text.append(f"  {of_them}{'ready' if ready else 'not ready'}", GOOD if ready == there_are else BAD)
    workers = picture.tables.workers
    text.append(f"  {sum(worker.state == 'ready' for worker in workers)}/{len(workers)} workers")
    servers = picture.tables.redis
    if servers:
        up = sum(server.up for server in servers)
        text.append(f"  Redis {up}/{len(servers)} up", "" if up == len(servers) else BAD)
        trips = Sum()
        seconds = Sum()
        for server in servers:
            trips.add_sum(server.round_trips)
            seconds.add_sum(server.seconds)
        if trips.per_second and seconds.per_second is not None:
            text.append(f", {seconds.per_second / trips.per_second * 1000:.1f} ms")
    right = f"{'HELD  ' if choices.holds else ''}{picture.at:%H:%M:%S}"
    if text.cell_len + len(right) < width:
        text.append(" " * (width - text.cell_len - len(right)))
        text.append(right, DOUBTFUL if choices.holds else DIM)
    return text


def _totals(picture: Picture) -> Text:
    requests, failed, throttled, sent, said = Sum(), Sum(), Sum(), Sum(), Sum()
    in_flight = 0
    for row in picture.tables.tenants:
        for into, counted in (
            (requests, row.exchanges),
            (failed, row.failed),
            (throttled, row.throttled),
            (sent, row.input),
            (said, row.output),
        ):
            into.add_sum(counted)
        in_flight += row.in_flight
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f" {wording.rate(requests.per_second)}", "bold").append(" requests/s  ")
    text.append(wording.rate(failed.per_second), BAD if failed.per_second else "bold").append(" failed  ")
    text.append(wording.rate(throttled.per_second), DOUBTFUL if throttled.per_second else "bold")
    text.append(" throttled  ").append(str(in_flight), "bold").append(" running  LLM/s ")
    text.append(wording.rate(sent.per_second), "bold").append(" in ")
    text.append(wording.rate(said.per_second), "bold").append(" out")
    return text


def _wrong(concerns: Sequence[Concern], height: int) -> list[RenderableType]:
    """What is wrong, in as many lines as it may take."""
    most = max(1, min(_MOST_CONCERNS, height // 5))
    of_one: dict[str, list[Concern]] = {}
    for concern in concerns:
        of_one.setdefault(concern.who, []).append(concern)
    lines: list[RenderableType] = []
    for who, what in list(of_one.items())[:most]:
        style = BAD if what[0].is_bad else DOUBTFUL
        line = Text(" ! " if what[0].is_bad else " - ", style, no_wrap=True, overflow="ellipsis")
        line.append(f"{shown(who)} ", style).append("; ".join(shown(concern.what) for concern in what))
        lines.append(line)
    if len(of_one) > most:
        more = f" ! and {len(of_one) - most + 1} more; a higher terminal has room for them"
        lines[-1] = Text(more, BAD, no_wrap=True, overflow="ellipsis")
    return lines or [Text(" nothing is wrong", GOOD)]


def _tables(
    sections: Sequence[Section], picture: Picture, choices: Choices, width: int, room: int
) -> list[RenderableType]:
    """As many tables as there is room for, each with as many rows as is its share."""
    if len(picture.gateways) == 1:
        sections = [section for section in sections if section is not GATEWAYS]
    needs = [
        2 + len(choices.of(section, section.rows(picture.tables, picture.gateways))) for section in sections
    ]
    return [
        _table(section, picture, choices, width, lines)
        for section, lines in zip(sections, shares(needs, room), strict=False)
        if lines
    ]


def shares(needs: Sequence[int], room: int) -> list[int]:
    """How many lines each gets: what it needs if that is there for all, and none rather than too few."""
    given = [0] * len(needs)
    for at, need in enumerate(needs):
        least = min(need, _LEAST_LINES)
        if sum(given) + least <= room:
            given[at] = least
    left = room - sum(given)
    while left > 0 and (wanting := [at for at, need in enumerate(needs) if 0 < given[at] < need]):
        for at in wanting[:left]:
            given[at] += 1
        left -= len(wanting[:left])
    return given


def _table(
    section: Section, picture: Picture, choices: Choices, width: int, lines: int, *, alone: bool = False
) -> RenderableType:
    """One table of so many lines: one above it, which says what is left out, its head, its rows."""
    rows = choices.of(section, section.rows(picture.tables, picture.gateways))
    room = lines - 2
    first = min(choices.first, max(0, len(rows) - room)) if alone else 0
    shown_rows = rows[first : first + room]
    columns = section.shows(width)
    by, reversed_ = choices.sorted_by(section)
    heads = []
    for column in columns:
        head = column.head
        if column is by:
            head += "^" if column.is_up != reversed_ else "v"
        heads.append(head)
    if not shown_rows:
        nothing = f"nothing with {choices.filter!r} in it" if choices.filter else section.empty
        return Group(
            Text(), Text(f"{section.name.upper()}: {nothing}", DIM, no_wrap=True, overflow="ellipsis")
        )
    above = Text(no_wrap=True, overflow="ellipsis")
    if len(shown_rows) < len(rows):
        above.append(f"{first + 1}-{first + len(shown_rows)} of {len(rows)} {section.name}", DIM)
        above.append("" if alone else f", key {SECTIONS.index(section) + 1} has all", DIM)
    return Group(above, _columns(columns, heads, shown_rows, width))


def _columns(columns: Sequence[Column], heads: Sequence[str], rows: Sequence[Any], width: int) -> Table:
    """Columns as wide as what stands in them; where that is too much, names give way."""
    cells = [[Text(column.text(row), column.style(row)) for column in columns] for row in rows]
    widths = fitted(
        [max(len(head), *(row[at].cell_len for row in cells)) for at, head in enumerate(heads)],
        [column.takes or width for column in columns],
        width - _GAP * (len(heads) - 1),
    )
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column, head, fits in zip(columns, heads, widths, strict=True):
        justify: Literal["left", "right"] = "left" if column.is_name else "right"
        table.add_column(Text(head), justify=justify, no_wrap=True, overflow="ellipsis", width=fits)
    for row in cells:
        table.add_row(*row)
    return table


def fitted(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that together need no more than there is room for: the widest give way, down to what each has to have."""
    fits = list(widths)
    while sum(fits) > room and (may := [at for at, width in enumerate(fits) if width > least[at]]):
        fits[max(may, key=fits.__getitem__)] -= 1
    return fits


def _bottom(choices: Choices) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    if choices.types:
        return text.append(f" only rows with: {shown(choices.filter)}_", "reverse").append("  Enter, Esc")
    if choices.filter:
        text.append(f" only rows with {shown(choices.filter)!r} (Esc: all)", DOUBTFUL)
    return text.append(
        " q quit  s sort  r turn  / filter  1-8 one table  0 all  i gateway  space hold  ? help", DIM
    )


def _help() -> RenderableType:
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column()
    for keys, meaning in HELP:
        grid.add_row(Text(f" {keys}"), Text(meaning))
    return Group(Text(), grid, Text(f"\n {_WORDS}"))
