"""`gateway serve`: run the gateway until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from gateway.app.inherited import inherit, is_worker
from gateway.app.machine import open_all_files
from gateway.app.own_upstream import refuse_itself
from gateway.app.workers import how_many_workers, narrow
from gateway.cli.drawing import complain
from gateway.cli.first_run import give_first_credential, ring_of
from gateway.cli.foreseen import unusable_redis
from gateway.cli.options import (
    add_log_format,
    add_settings,
    add_workers,
    keyless,
    log_format,
    settings_from,
    values_from,
)
from gateway.credentials.key_ring import KeyRing
from gateway.exchange.process_log import Speaker, speak_as, tell
from gateway.settings.judging import judged
from gateway.settings.section import SettingsInvalid
from gateway.settings.seen import Seen
from gateway.settings.served_certificate import served_certificate
from gateway.settings.settings import Settings


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("serve", help="run the gateway")
    add_settings(command)
    add_workers(command)
    add_log_format(command)
    command.add_argument(
        "--no-first-credential",
        dest="first_credential",
        action="store_false",
        help="make no credential at the first start, when there is no key yet",
    )
    command.set_defaults(run=run, complain=_complain)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT: in one process, with several workers, or as one of them."""
    if is_worker(os.environ):
        return _work()
    speak_as(Speaker("gateway", log_format(options, os.environ)))
    seen = Seen()
    values = values_from(options, seen)
    settings = judged(values)
    speak_as(Speaker("gateway", settings.log.format))
    problems = [*keyless(settings), *unusable_redis(settings)]
    if problems:
        raise SettingsInvalid(problems)
    refuse_itself(settings)
    served_certificate(settings, now=time.time())
    ring, made = ring_of(settings)
    for warning in seen.warnings:
        tell(warning, logging.WARNING)
    if made:
        tell(f"made a signing key in {settings.keys_dir}")
        if options.first_credential:
            give_first_credential(settings, ring)
    open_all_files()
    workers = how_many_workers(settings)
    narrowness = narrow(settings, workers)
    if narrowness is not None:
        tell(narrowness, logging.WARNING)
    return _serve(options, settings, ring) if workers == 1 else _supervise(options, settings, values, workers)


def _serve(options: argparse.Namespace, settings: Settings, ring: KeyRing) -> int:
    from gateway.app.build import build_app
    from gateway.app.serving import run_loop, serve

    read = partial(settings_from, options)
    run_loop(serve(build_app(settings, ring=ring, keys_dir=settings.keys_dir, read_settings=read)))
    return 0


def _supervise(
    options: argparse.Namespace, settings: Settings, values: Mapping[str, Any], workers: int
) -> int:
    from gateway.supervisor.supervise import supervise

    speak_as(Speaker("supervisor", settings.log.format))
    return asyncio.run(supervise(settings, values, workers=workers, gather=partial(values_from, options)))


def _work() -> int:
    from gateway.app.serving import run_loop
    from gateway.app.working import work

    inherited = inherit(os.environ)
    speak_as(Speaker("worker", inherited.log_format, inherited.place.index))
    return run_loop(work(inherited))


def _complain(*problems: str) -> None:
    """Say why nothing is served: to a person as every command does, else as everything that is said from here on."""
    if sys.stderr.isatty():
        complain(*problems)
        return
    for problem in problems:
        tell(problem, logging.ERROR)
