"""`gateway top`: the command."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

from gateway.cli import drawing
from gateway.cli.probe import add_address, address_from, connected_to
from gateway.cli.top.asking import Gateways, url_of
from gateway.cli.top.readings import Reading, Readings
from gateway.cli.top.tables import sound

KEY_VARIABLE = "GATEWAY_ADMIN_KEY"
_LEAST_SECONDS = 0.2
_DUMB = ("dumb", "unknown")
"""Terminals on which nothing can be drawn anew."""


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "top",
        help="show live what gateways do, and what is wrong",
        description="Show live what gateways do: tenants, upstreams, streams, limits, errors, and what is wrong first. "
        "From their private listeners, which tell who is on the same machine, or has the operator's key (admin_key). "
        "Press ? for the keys. Where standard output is no terminal it is shown once. Exit code 1: a gateway did not "
        "answer.",
    )
    command.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="URL",
        help="a private listener, such as http://10.0.0.7:9090; may be repeated: all are added up (default: the one "
        "that --admin-listen or the configuration says)",
    )
    add_address(command)
    command.add_argument(
        "--key",
        metavar="REFERENCE",
        help=f"where the operator's key is: env:NAME or file:/path (default: {KEY_VARIABLE}, if it is set)",
    )
    command.add_argument(
        "--interval",
        type=_interval,
        default=2.0,
        metavar="SECONDS",
        help="how often they are asked (default: 2)",
    )
    command.add_argument(
        "--once", action="store_true", help="ask twice, an interval apart, print that, and end"
    )
    command.add_argument("--json", action="store_true", help="for programs; with --once")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show it. Raises OSError and ValueError for what cannot be asked."""
    if options.json and not options.once:
        options.command_line.error("--json goes with --once")
    urls = [url_of(url) for url in options.url or [_listener(address_from(options, guess=False))]]
    key = _key(options.key, os.environ)
    if options.once or not sys.stdout.isatty() or os.environ.get("TERM") in _DUMB:
        return asyncio.run(_once(options, list(dict.fromkeys(urls)), key))
    return asyncio.run(_live(list(dict.fromkeys(urls)), key, options.interval))


def _listener(address: str) -> str:
    """The private listener of this machine's gateway. Raises ValueError."""
    host, port = connected_to(address)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _live(urls: list[str], key: str | None, interval_seconds: float) -> int:
    from gateway.cli.top.live import LiveView

    gateways = Gateways(urls, key=key)
    try:
        return await LiveView(gateways, interval_seconds=interval_seconds).run()
    finally:
        await gateways.close()


async def _once(options: argparse.Namespace, urls: list[str], key: str | None) -> int:
    from gateway.cli.top.once import document, show

    gateways, readings = Gateways(urls, key=key), Readings()
    try:
        readings.add(map(sound, await gateways.ask()))
        await asyncio.sleep(options.interval)
        read: list[Reading] = readings.add(map(sound, await gateways.ask()))
    finally:
        await gateways.close()
    if options.json:
        drawing.document(document(read, time()))
    else:
        show(read)
    for reading in read:
        if reading.state is None:
            drawing.complain(f"{reading.now.name}: {reading.now.problem}")
    return int(any(reading.state is None for reading in read))


def _key(reference: str | None, environ: Mapping[str, str]) -> str | None:
    """The operator's key. Raises ValueError, which does not repeat what may be it."""
    if reference is None:
        reference = environ.get(KEY_VARIABLE, "").strip()
        if not reference.startswith(("env:", "file:")):
            return reference or None
    kind, _, where = reference.partition(":")
    match kind:
        case "env":
            key = environ.get(where, "").strip()
            missing = f"the environment variable {drawing.shown(where)} is not set"
        case "file":
            key = Path(where).expanduser().read_text(encoding="utf-8").strip()
            missing = f"{drawing.shown(where)} is empty"
        case _:
            raise ValueError(
                "a key on the command line can be read in the process list and stays in the shell's history; give "
                "env:NAME or file:/path"
            )
    if not key:
        raise ValueError(f"no operator's key: {missing}")
    if not all("!" <= letter <= "~" for letter in key):
        raise ValueError("the operator's key holds what cannot be sent; was more than the key copied?")
    return key


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_SECONDS <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, from {_LEAST_SECONDS:g} to 3600")
    return seconds
