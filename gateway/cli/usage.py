"""`gateway usage`: what a tenant has used."""

from __future__ import annotations

import argparse
import asyncio
import csv
import sys
import time
from collections.abc import Sequence
from typing import Any

from gateway.cli import drawing
from gateway.cli.drawing import shown
from gateway.cli.options import add_settings, check_tenant, settings_from
from gateway.cli.stores import PATIENCE_SECONDS, counting_redis
from gateway.limits.store import StoreUnavailable
from gateway.usage.counters import Period
from gateway.usage.redis_usage import RedisUsage
from gateway.usage.redis_wire import UsageWire
from gateway.usage.report import (
    DEFAULT_BY,
    DEFAULT_SINCE,
    GROUPS,
    UNITS,
    Document,
    Question,
    Report,
    document,
)

_ALWAYS = ("requests", "input", "output")
"""What is shown even where nothing was counted."""

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""With what a cell begins that a spreadsheet would work out."""


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("usage", help="print what a tenant has used (needs Redis)")
    add_settings(command)
    command.add_argument("--tenant", required=True, help="whose usage")
    command.add_argument(
        "--since",
        default=DEFAULT_SINCE,
        metavar=DEFAULT_SINCE,
        help="how far back, from 1s to 400d, from the hour in which that was; what is older than 8 days is kept by the "
        f"day, so further back from the day (default: {DEFAULT_SINCE})",
    )
    command.add_argument(
        "--by",
        default=DEFAULT_BY,
        metavar="GROUP,…",
        help=f"told apart by any of {', '.join(GROUPS)}; hours go back for 8 days (default: {DEFAULT_BY})",
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs, as GET /gateway/usage has it")
    form.add_argument("--csv", action="store_true", help="for spreadsheets: every figure, no total")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the usage; ValueError for a question that cannot be answered."""
    question = Question.read(options.since, options.by)
    settings = settings_from(options)
    tenant: str = options.tenant
    now = time.time()
    with counting_redis(settings, otherwise="GET /gateway/usage of each says what it has counted") as url:
        try:
            report = asyncio.run(
                _read(url, settings.redis_prefix, tenant, question.periods(now), question.by)
            )
        except StoreUnavailable as unavailable:
            drawing.complain(f"the usage cannot be read: {unavailable}")
            return 1
    notes = []
    if tenant not in settings.tenants:
        if not report:
            check_tenant(settings, tenant)
        notes.append(f"The configuration has no tenant {shown(tenant)} any more.")
    found = document(question, report, tenant=tenant, now=now, notes=notes)
    if options.json:
        drawing.document(found)
        return 0
    if options.csv:
        _write_csv(found)
    else:
        drawing.say(f"{shown(tenant)} from {found['since']} until {found['until']}")
        _list(found)
    for note in found["notes"]:
        if options.csv:
            print(f"note: {note}", file=sys.stderr)
        else:
            drawing.say(f"note: {note}")
    return 0


async def _read(url: str, prefix: str, tenant: str, periods: Sequence[Period], by: Sequence[str]) -> Report:
    store = RedisUsage(UsageWire(url, deadline_seconds=PATIENCE_SECONDS, prefix=prefix))
    report = Report(by)
    try:
        async for rows in store.read(tenant, periods):
            report.add(rows)
        return report
    finally:
        await store.close()


def _list(found: Document) -> None:
    """A table; figures that are nowhere more than nothing are left out."""
    by, total = found["by"], found["total"]
    figures = [name for name, amount in total.items() if amount or name in _ALWAYS]
    rows = []
    for row in found["data"]:
        groups = [shown(str(row[group])) or "-" for group in by]
        rows.append([*groups, *(f"{row[name]:,}" for name in figures)])
    if by:
        rows.append(["total", *("" for _ in by[1:]), *(f"{total[name]:,}" for name in figures)])
    heads = [f"{name}\n{_unit(name)}" for name in figures]
    drawing.listing([*by, *heads], rows, left=len(by))


def _write_csv(found: Document) -> None:
    """RFC 4180, with every figure and a unit behind its name, and no row that is the sum of others."""
    by, figures = found["by"], list(found["units"])
    # Quoted, for some spreadsheets divide at semicolons, behind which a formula could begin.
    writer = csv.writer(sys.stdout, quoting=csv.QUOTE_NONNUMERIC)
    units = [(name, _unit(name)) for name in figures]
    writer.writerow([*by, *(f"{name} ({unit})" if unit else name for name, unit in units)])
    for row in found["data"]:
        writer.writerow([*(_cell(str(row[group])) for group in by), *(row[name] for name in figures)])


def _unit(figure: str) -> str:
    """The unit of a figure, where its name does not say it."""
    unit = UNITS[figure]
    return "" if unit in figure else unit


def _cell(name: str) -> str:
    """A name such that neither a terminal nor a spreadsheet does anything with it but show it."""
    name = shown(name)
    return f"'{name}" if name.lstrip().startswith(_FORMULA) else name
