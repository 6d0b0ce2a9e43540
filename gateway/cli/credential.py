"""`gateway credential`: issue the credentials that tenants call with."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

from gateway.app import known_scopes
from gateway.cli.options import add_settings, duration_seconds, settings_from
from gateway.credentials import issue
from gateway.key_ring import ensure_ring
from gateway.operations import OperationTable
from gateway.scopes import expand


def register(verbs: Any) -> None:
    """Add the commands."""
    group = verbs.add_parser("credential", help="issue credentials", allow_abbrev=False)
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    command = actions.add_parser("issue", help="print a new credential, this once", allow_abbrev=False)
    add_settings(command)
    command.add_argument("--tenant", required=True, help="who pays")
    command.add_argument("--subject", help="who calls (default: the user who issues it)")
    command.add_argument(
        "--scope",
        action="append",
        required=True,
        metavar="SCOPE",
        help="a scope, a pattern such as 'files:*', or a group such as inference; may be repeated",
    )
    command.add_argument("--ttl", type=duration_seconds, default=30 * 86400, metavar="30d", help="lifetime")
    command.set_defaults(run=_issue)


def _issue(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    ring, made = ensure_ring(settings.keys_dir)
    if made:
        print(f"gateway: made a signing key in {settings.keys_dir}", file=sys.stderr)
    if options.tenant not in settings.tenants:
        print(
            f"gateway: the tenant {options.tenant} is not in this configuration; "
            "a gateway that does not know it answers 403",
            file=sys.stderr,
        )
    wanted = [scope for argument in options.scope for scope in argument.replace(",", " ").split()]
    accepted = settings.credentials
    credential = issue(
        ring,
        tenant=options.tenant,
        subject=options.subject or getpass.getuser(),
        scopes=expand(wanted, known_scopes(OperationTable.load())),
        ttl_seconds=options.ttl,
        issuer=accepted.issuer,
        audience=accepted.audience,
        max_lifetime_seconds=accepted.max_lifetime_seconds,
        max_bytes=accepted.max_bytes,
    )
    print(credential)
    return 0
