"""`gateway bench`: measure this configuration for about a minute, and print what it costs."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import Any

from gateway.bench.processes import can_measure
from gateway.cli.bench.configuration import chosen_tenant
from gateway.cli.bench.phases import measure
from gateway.cli.bench.report import show
from gateway.cli.drawing import complain, document, remark
from gateway.cli.options import add_settings, settings_from

_LEAST_SECONDS, _MOST_SECONDS = 5, 3600


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "bench",
        help="measure what the gateway costs with this configuration; no real upstream is asked",
    )
    add_settings(command)
    command.add_argument(
        "--tenant", metavar="ID", help="whose requests; without it `default`, else the first"
    )
    command.add_argument(
        "--seconds", type=_seconds, default=60.0, metavar="60", help="how long it may take, about"
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what was measured; exit code 1 where something went wrong on the way."""
    if not can_measure():
        raise OSError("this needs Linux: what a process spent is read in /proc")
    settings = settings_from(options)
    tenant = chosen_tenant(settings, options.tenant)
    if sys.stderr.isatty():
        remark(f"this takes about {options.seconds:.0f} seconds; Ctrl-C ends it")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        found = asyncio.run(measure(settings, tenant, options.seconds))
    except KeyboardInterrupt:
        complain("ended before it was measured")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    if options.json:
        document(found)
    else:
        show(found)
    return 1 if found["problems"] else 0


def _interrupt(_number: int, _frame: object) -> None:
    """Whoever ends it means the same as Ctrl-C: that nothing is left behind."""
    signal.raise_signal(signal.SIGINT)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_SECONDS <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"expected {_LEAST_SECONDS} to {_MOST_SECONDS} seconds")
    return seconds
