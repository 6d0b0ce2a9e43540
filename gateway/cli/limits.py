"""`gateway limits`: what is left of a tenant's limits, and how to fill them again."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from gateway.cli import guesses
from gateway.cli.options import add_settings, settings_from
from gateway.cli.stores import PATIENCE_SECONDS, counting_redis
from gateway.cli.tables import shown, table
from gateway.limits.arithmetic import format_reset
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Level, Quota, account_key, binds
from gateway.operations.table import OperationTable
from gateway.policy.tenant_limits import TenantLimits
from gateway.policy.tenants import tenant_policies
from gateway.settings.settings import Settings

_OTHERWISE = "GET /gateway/me of each says what is left, and a restart fills its limits"


def register(verbs: Any) -> None:
    """Add the commands."""
    group = verbs.add_parser(
        "limits", help="show or refill a tenant's limits, show guesses (needs Redis)", allow_abbrev=False
    )
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print every limit and what is left of it", allow_abbrev=False)
    reset = actions.add_parser(
        "reset", help="fill the limits and forget what is under way", allow_abbrev=False
    )
    for command, what in ((show, "also those of this subject"), (reset, "only those of this subject")):
        add_settings(command)
        command.add_argument("--tenant", required=True, help="whose limits")
        command.add_argument("--subject", help=what)
    reset.add_argument("--credential", metavar="ID", help="only those of this credential (its jti)")
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(run=_show)
    reset.set_defaults(run=_reset)
    guesses.add(actions)


def _show(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    limits = _limits(settings, options.tenant)
    quotas = list(limits.tenant)
    for of_model in limits.models.values():
        quotas += of_model
    if options.subject is not None:
        quotas += limits.of_subject(options.subject)
    with counting_redis(settings, otherwise=_OTHERWISE) as url:
        try:
            levels = asyncio.run(_look(url, settings.redis_prefix, quotas))
        except StoreUnavailable as unavailable:
            return _failed(unavailable)
    found = list(zip(quotas, levels, strict=True))
    if options.json:
        print(orjson.dumps([_entry(*each) for each in found], option=orjson.OPT_INDENT_2).decode())
        return 0
    if not found:
        print(f"The tenant {options.tenant} has no limits.")
        return 0
    rows = [
        [
            quota.dimension.value,
            _bound(quota),
            f"{level.limit:,}",
            f"{level.remaining:,}",
            format_reset(level.reset_seconds),
        ]
        for quota, level in found
    ]
    for line in table(("limit", "for", "capacity", "remaining", "full in"), rows, left=2):
        print(line)
    return 0


def _reset(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    tenant = options.tenant
    limits = _limits(settings, tenant)
    if options.subject is not None or options.credential is not None:
        keys = []
        if options.subject is not None:
            keys.append(account_key(tenant, subject=options.subject))
        if options.credential is not None:
            keys.append(account_key(tenant, credential=options.credential))
    else:
        keys = [account_key(tenant), *(account_key(tenant, model=pattern) for pattern in limits.models)]
    with counting_redis(settings, otherwise=_OTHERWISE) as url:
        try:
            asyncio.run(_fill(url, settings.redis_prefix, keys))
        except StoreUnavailable as unavailable:
            return _failed(unavailable)
    print(f"The limits of {tenant} are full again.")
    return 0


def _limits(settings: Settings, tenant: str) -> TenantLimits:
    policy = tenant_policies(settings, OperationTable.load()).get(tenant)
    if policy is None:
        raise ValueError(f"the configuration has no tenant {tenant!r}")
    return policy.limits


async def _look(url: str, prefix: str, quotas: Sequence[Quota]) -> Sequence[Level]:
    store = RedisBuckets(url, deadline_seconds=PATIENCE_SECONDS, prefix=prefix)
    try:
        return (await store.look([Charge(quota, 0) for quota in quotas])).levels if quotas else ()
    finally:
        await store.close()


async def _fill(url: str, prefix: str, keys: Iterable[str]) -> None:
    store = RedisBuckets(url, deadline_seconds=PATIENCE_SECONDS, prefix=prefix)
    try:
        await store.reset(keys)
    finally:
        await store.close()


def _failed(unavailable: StoreUnavailable) -> int:
    print(f"gateway: Redis does not answer: {unavailable}", file=sys.stderr)
    return 1


def _bound(quota: Quota) -> str:
    return ", ".join(f"{what} {shown(name)}" for what, name in binds(quota).items()) or "all"


def _entry(quota: Quota, level: Level) -> dict[str, object]:
    return {
        "limit": quota.dimension.value,
        **binds(quota),
        "capacity": level.limit,
        "remaining": level.remaining,
        "reset_seconds": round(level.reset_seconds, 3),
    }
