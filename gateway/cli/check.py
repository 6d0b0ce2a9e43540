"""`gateway check`: say everything that is wrong with a configuration, without running it."""

from __future__ import annotations

import argparse
import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

from gateway.app.workers import described, narrow, workers_of
from gateway.cli import drawing
from gateway.cli.foreseen import foreseen, foreseen_here
from gateway.cli.live import Answer, ask_everybody
from gateway.cli.options import add_settings, add_workers, examined
from gateway.cli.places import Places
from gateway.cli.stores import account_history, quiet_redis, unkept_objects
from gateway.operations.table import OperationTable
from gateway.policy.gaps import gaps_in_words
from gateway.policy.identities import loudly
from gateway.policy.tenants import (
    account_uses,
    closed_to,
    registered,
    tenant_policies,
    usage_known_of,
    ways_in_use,
)
from gateway.settings.section import Problem
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "check",
        help="validate a configuration and print every problem",
        description="Say everything that a start or the first request would find wrong with a configuration: what, "
        "where it stands, and what would be right. Exit code 0: nothing is wrong; 1: something is, or, with --live, "
        "somebody who was asked refuses or does not answer; 2: the command line is not understood.",
    )
    add_settings(command)
    add_workers(command)
    command.add_argument(
        "--live",
        action="store_true",
        help="also ask Redis how it is set up, the upstream once for each tenant from whose account it answers, and "
        "other issuers for their keys, each for some seconds at most",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


@dataclass
class Findings:
    """All that there is to say."""

    problems: list[Problem]
    warnings: list[str]
    notes: list[str] = field(default_factory=list)
    answers: list[Answer] | None = None

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and all(answer.is_well for answer in self.answers or ())


def run(options: argparse.Namespace) -> int:
    """Print the problems (exit code 1), or that there are none."""
    seen = Seen()
    settings, problems = examined(options, seen)
    if settings is not None:
        problems += foreseen(settings, problems)
    found = Findings(problems, seen.warnings)
    if settings is not None and not problems:
        _look_closer(settings, found, live=options.live)
    places = Places(options, os.environ)
    if options.json:
        drawing.document(_document(found, places))
    else:
        _print(found, places)
    return 0 if found.is_well else 1


def _look_closer(settings: Settings, found: Findings, *, live: bool) -> None:
    """What is good to know of a configuration that is valid, and what is said by whoever it names."""
    found.warnings += foreseen_here(settings)
    table = OperationTable.load()
    history, trouble = account_history(settings, account_uses(tenant_policies(settings, table)))
    policies = tenant_policies(settings, table, history)
    if trouble is not None:
        found.notes.append(f"What is remembered of upstream accounts cannot be read or kept: {trouble}")
    found.warnings += loudly(
        (way.base_url, way.identity) for way in ways_in_use(policies) if way.identity is not None
    )
    if any(policy.scope is not None for policy in policies.values()):
        found.warnings += unkept_objects(settings)
    found.notes += closed_to(policies.values())
    found.notes += registered(policies.values())
    found.notes += usage_known_of(policies.values())
    found.notes += gaps_in_words(policies.values(), table, uncontained=settings.allow_uncontained)
    if live:
        with quiet_redis():
            found.answers = asyncio.run(ask_everybody(settings, policies))
    workers = workers_of(settings)
    narrowness = narrow(settings, workers.count)
    if narrowness is not None:
        found.warnings.append(narrowness)
    found.notes.append(described(settings, workers))
    tenants = ", ".join(sorted(settings.tenants))
    found.notes.append(
        f"The configuration is valid. Upstream: {settings.upstream.base_url}. Tenants: {tenants}."
    )


def _print(found: Findings, places: Places) -> None:
    if found.problems:  # until they are put right nothing else is of interest
        drawing.complain(*map(places.said, found.problems))
        return
    drawing.remark(*found.warnings)
    *notes, verdict = found.notes
    for note in notes:
        drawing.say(note)
    for answer in found.answers or ():
        for line in (*answer.lines, *answer.hints):
            drawing.say(line)
        drawing.remark(*answer.warnings)
        drawing.complain(*answer.problems)
    if found.is_well:
        drawing.say(verdict)


def _document(found: Findings, places: Places) -> dict[str, object]:
    return {
        "valid": not found.problems,
        "ok": found.is_well,
        "problems": [
            {"key": problem.key, "message": problem.message, "place": places.of(problem.key)}
            for problem in found.problems
        ],
        "warnings": found.warnings,
        "notes": found.notes,
        "live": None if found.answers is None else [answer.document() for answer in found.answers],
    }
