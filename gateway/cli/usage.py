"""`gateway usage`: what a tenant has used."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.cli.options import add_settings, settings_from
from gateway.cli.stores import PATIENCE_SECONDS, counting_redis
from gateway.cli.tables import shown, table
from gateway.limits.store import StoreUnavailable
from gateway.usage.counters import Period
from gateway.usage.redis_usage import RedisUsage
from gateway.usage.report import GROUPS, Question, Report, moment

_ALWAYS = ("requests", "input", "output")
"""Counters that are shown even where nothing was counted."""


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("usage", help="print what a tenant has used (needs Redis)", allow_abbrev=False)
    add_settings(command)
    command.add_argument("--tenant", required=True, help="whose usage")
    command.add_argument(
        "--since",
        default="7d",
        metavar="7d",
        help="how far back; hours are told apart for 8 days, days for 400",
    )
    command.add_argument(
        "--by",
        default="model",
        metavar="GROUP,…",
        help=f"told apart by: {', '.join(GROUPS)} (default: model)",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the usage; ValueError for a question that cannot be answered."""
    question = Question.read(options.since, options.by)
    settings = settings_from(options)
    now = time.time()
    periods = question.periods(now)
    with counting_redis(settings, otherwise="GET /gateway/usage of each says what it has counted") as url:
        try:
            report = asyncio.run(_read(url, settings.redis_prefix, options.tenant, periods, question.by))
        except StoreUnavailable as unavailable:
            print(f"gateway: the usage cannot be read: {unavailable}", file=sys.stderr)
            return 1
    since = moment(periods[0].start)
    found, sums = report.rows(), report.total()
    if options.json:
        document = {
            "tenant": options.tenant,
            "since": since,
            "until": moment(now),
            "data": found,
            "total": sums,
        }
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
        return 0
    print(f"{shown(options.tenant)} from {since} until {moment(now)}")
    for line in _lines(question.by, found, sums):
        print(line)
    return 0


async def _read(url: str, prefix: str, tenant: str, periods: Sequence[Period], by: Sequence[str]) -> Report:
    store = RedisUsage(url, deadline_seconds=PATIENCE_SECONDS, prefix=prefix)
    report = Report(by)
    try:
        async for rows in store.read(tenant, periods):
            report.add(rows)
        return report
    finally:
        await store.close()


def _lines(
    by: Sequence[str], found: Sequence[Mapping[str, object]], sums: Mapping[str, int | float]
) -> list[str]:
    counters = [name for name, amount in sums.items() if amount or name in _ALWAYS]
    rows = [
        [*(shown(str(row[group])) or "-" for group in by), *(f"{row[name]:,}" for name in counters)]
        for row in found
    ]
    if by:
        rows.append(["total", *("" for _ in by[1:]), *(f"{sums[name]:,}" for name in counters)])
    return list(table([*by, *counters], rows, left=len(by)))
