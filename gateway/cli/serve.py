"""`gateway serve`: run the gateway until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from typing import Any

from gateway.app.build import build_app
from gateway.app.own_upstream import refuse_itself
from gateway.app.serving import run_loop, serve
from gateway.cli.options import add_settings, add_workers, keyless, settings_from
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing, ensure_ring
from gateway.operations.scopes import expand
from gateway.operations.table import OperationTable
from gateway.settings.section import SettingsInvalid
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings

FIRST_CREDENTIAL_SECONDS = 30 * 86400


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("serve", help="run the gateway", allow_abbrev=False)
    add_settings(command)
    add_workers(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    seen = Seen()
    settings = settings_from(options, seen)
    problems = keyless(settings)
    if problems:
        raise SettingsInvalid(problems)
    refuse_itself(settings)
    ring, made = ensure_ring(settings.keys_dir)
    for warning in seen.warnings:
        print(f"gateway: {warning}", file=sys.stderr)
    if made:
        _print_first_credential(settings, ring)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="gateway: %(message)s")
    app = build_app(
        settings,
        ring=ring,
        keys_dir=settings.keys_dir,
        read_settings=partial(_reread, options),
    )
    run_loop(serve(app))
    return 0


def _reread(options: argparse.Namespace, seen: Seen) -> Settings:
    settings = settings_from(options, seen)
    refuse_itself(settings)
    return settings


def _print_first_credential(settings: Settings, ring: KeyRing) -> None:
    tenant = "default" if "default" in settings.tenants else next(iter(settings.tenants))
    issued = issue(
        ring,
        settings.credentials,
        tenant=tenant,
        subject="first-run",
        scopes=expand(settings.tenants[tenant].scopes, OperationTable.load().scopes),
        ttl_seconds=min(FIRST_CREDENTIAL_SECONDS, int(settings.credentials.max_lifetime_seconds)),
    )
    print(
        f"gateway: made a signing key in {settings.keys_dir}\n"
        f"gateway: a first credential, for the tenant {tenant}, shown this once:\n\n{issued.credential}\n",
        file=sys.stderr,
        flush=True,
    )
