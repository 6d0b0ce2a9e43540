"""`gateway check`: say everything that is wrong with a configuration, without running it."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.cli.options import add_settings, keyless, settings_from
from gateway.cli.stores import account_history
from gateway.credentials.configured_issuers import other_issuers
from gateway.credentials.key_ring import KeyRing
from gateway.operations.table import OperationTable
from gateway.policy.tenants import closed_to, tenant_policies
from gateway.settings.section import SettingsInvalid


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "check", help="validate a configuration and print every problem", allow_abbrev=False
    )
    add_settings(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the problems (exit code 1), or that there are none."""
    settings = settings_from(options)
    problems = keyless(settings)
    if problems:
        raise SettingsInvalid(problems)
    other_issuers(
        settings.issuers,
        own_name=settings.credentials.issuer,
        known_scopes=OperationTable.load().scopes,
        keys_from_url=lambda _name, _issuer: KeyRing([]),
    )
    history, trouble = account_history(settings)
    policies = tenant_policies(settings, OperationTable.load(), history)
    if trouble is not None:
        print(f"What is remembered of upstream accounts cannot be read: {trouble}")
    for sentence in closed_to(policies.values()):
        print(sentence)
    tenants = ", ".join(sorted(settings.tenants))
    print(f"The configuration is valid. Upstream: {settings.upstream.base_url}. Tenants: {tenants}.")
    return 0
