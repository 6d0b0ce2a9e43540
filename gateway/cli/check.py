"""`gateway check`: say everything that is wrong with a configuration, without running it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.app.own_upstream import refuse_itself
from gateway.app.workers import described, narrow, workers_of
from gateway.cli.live_accounts import ask_all, mistaken, separable
from gateway.cli.live_redis import look_at_redis
from gateway.cli.options import add_settings, add_workers, keyless, settings_from
from gateway.cli.stores import account_history
from gateway.credentials.configured_issuers import other_issuers
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.revocation_file import RevocationFile
from gateway.credentials.revocations import RevocationsUnavailable
from gateway.credentials.trust import unreadable
from gateway.operations.table import OperationTable
from gateway.policy.gaps import gaps_in_words
from gateway.policy.tenants import TenantPolicy, account_uses, closed_to, tenant_policies, usage_known_of
from gateway.settings.certificates import trusted_certificates
from gateway.settings.section import SettingsInvalid, revealed
from gateway.settings.seen import Seen
from gateway.settings.served_certificate import served_certificate
from gateway.settings.settings import Settings


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("check", help="validate a configuration and print every problem")
    add_settings(command)
    add_workers(command)
    command.add_argument(
        "--live",
        action="store_true",
        help="also ask Redis how it is set up, and the upstream once for each tenant from whose account it answers",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the problems (exit code 1), or that there are none."""
    seen = Seen()
    settings = settings_from(options, seen)
    problems = keyless(settings)
    if problems:
        raise SettingsInvalid(problems)
    other_issuers(
        settings.issuers,
        own_name=settings.credentials.issuer,
        vocabulary=OperationTable.load().vocabulary,
        keys_from_url=lambda _name, _issuer: KeyRing([]),
    )
    refuse_itself(settings)
    trusted_certificates(settings.upstream.ca_file)
    served_certificate(settings, now=time.time())
    if settings.keys_dir.exists():
        KeyRing.load(settings.keys_dir)
    if settings.redis_url is None:
        asyncio.run(_read_revocations(settings.keys_dir))
    for warning in seen.warnings:
        print(f"gateway: {warning}", file=sys.stderr)
    table = OperationTable.load()
    history, trouble = account_history(settings, account_uses(tenant_policies(settings, table)))
    policies = tenant_policies(settings, table, history)
    if trouble is not None:
        print(f"What is remembered of upstream accounts cannot be read or kept: {trouble}")
    for sentence in (*closed_to(policies.values()), *usage_known_of(policies.values())):
        print(sentence)
    for line in gaps_in_words(policies.values(), table, uncontained=settings.allow_uncontained):
        print(line)
    if options.live and not _live(settings, policies):
        return 1
    workers = workers_of(settings)
    narrowness = narrow(settings, workers.count)
    if narrowness is not None:
        print(f"gateway: {narrowness}", file=sys.stderr)
    print(described(settings, workers))
    tenants = ", ".join(sorted(settings.tenants))
    print(f"The configuration is valid. Upstream: {settings.upstream.base_url}. Tenants: {tenants}.")
    return 0


async def _read_revocations(keys_dir: Path) -> None:
    """Raise SettingsInvalid where a start would, for not knowing what is revoked."""
    try:
        await RevocationFile(keys_dir).changed()
    except RevocationsUnavailable as unavailable:
        raise SettingsInvalid([unreadable(str(unavailable))]) from None


def _live(settings: Settings, policies: Mapping[str, TenantPolicy]) -> bool:
    """Print what Redis and the upstream say; whether nothing of it is wrong."""
    return all([_redis_is_fit(settings), _upstream_is_fit(settings, policies)])


def _redis_is_fit(settings: Settings) -> bool:
    url = revealed(settings.redis_url)
    if url is None:
        return True
    found = asyncio.run(look_at_redis(url, settings.redis_prefix))
    for line in found.lines:
        print(line)
    for words in (*found.warnings, *found.problems):
        print(f"gateway: {words}", file=sys.stderr)
    return not found.problems


def _upstream_is_fit(settings: Settings, policies: Mapping[str, TenantPolicy]) -> bool:
    answers = asyncio.run(ask_all(settings.upstream, policies))
    for answer in answers:
        print(answer.words)
    for hint in separable(answers):
        print(hint)
    wrong = list(mistaken(answers))
    for problem in wrong:
        print(f"gateway: {problem}", file=sys.stderr)
    return not wrong and not any(answer.refused for answer in answers)
