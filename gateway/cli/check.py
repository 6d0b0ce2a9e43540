"""`gateway check`: say everything that is wrong with a configuration, without running it."""

from __future__ import annotations

import argparse
import os
from typing import Any

from gateway.app import tenant_policies
from gateway.cli.options import add_settings, settings_from
from gateway.operations import OperationTable
from gateway.settings import Problem, SettingsInvalid, resolve_secret


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
    problems: list[Problem] = []
    try:
        tenant_policies(settings, OperationTable.load())
    except SettingsInvalid as invalid:
        problems += invalid.problems
    for key, reference in (
        ("upstream.api_key", settings.upstream.api_key),
        ("upstream.admin_api_key", settings.upstream.admin_api_key),
        ("redis_url", settings.redis_url),
    ):
        try:
            resolve_secret(reference, os.environ)
        except SettingsInvalid as invalid:
            problems += [Problem(key, str(problem)) for problem in invalid.problems]
    if problems:
        raise SettingsInvalid(problems)
    tenants = ", ".join(sorted(settings.tenants))
    print(
        f"The configuration is valid. Upstream: {settings.upstream.resolved_base_url(os.environ)}. Tenants: {tenants}."
    )
    return 0
