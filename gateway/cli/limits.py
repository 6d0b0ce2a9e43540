"""`gateway limits`: what is left of a tenant's limits, and how to fill them again."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.cli import drawing, guesses
from gateway.cli.drawing import shown
from gateway.cli.options import add_settings, check_tenant, settings_from
from gateway.cli.stores import PATIENCE_SECONDS, counting_redis
from gateway.limits.arithmetic import debt, format_milliseconds, format_reset, level
from gateway.limits.redis_buckets import Holding, RedisBuckets
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Dimension, Quota, account_key, binds, bound_by
from gateway.operations.table import OperationTable
from gateway.policy.tenant_limits import TenantLimits
from gateway.policy.tenants import tenant_policies
from gateway.settings.settings import Settings

_MOST_SHOWN = 100
"""Exchanges that hold something, of each account."""

_OTHERWISE = "GET /gateway/me of each says what is left, and a restart fills its limits"


def register(verbs: Any) -> None:
    """Add the commands."""
    group = verbs.add_parser("limits", help="show or refill a tenant's limits, show guesses (needs Redis)")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser(
        "show", help="print every limit, what is left of it or owed, and who holds what"
    )
    reset = actions.add_parser(
        "reset", help="fill the limits, forgive what is owed and forget what is under way"
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
            missing, held, more = asyncio.run(_look(url, settings.redis_prefix, quotas))
        except StoreUnavailable as unavailable:
            return _failed(unavailable)
    found = list(zip(quotas, missing, strict=True))
    if options.json:
        report = {
            "limits": [_entry(*each) for each in found],
            "held": [_holding(*each) for each in held],
            "held_more": more,
        }
        drawing.document(report)
        return 0
    if not found:
        drawing.say(f"The tenant {options.tenant} has no limits.")
        return 0
    drawing.listing(_HEAD, [_row(*each) for each in found], left=2)
    if held:
        print()
        rows = [
            [holding.exchange_id, _bound_to(key), _amounts(holding), f"{holding.lease_seconds:.1f} s"]
            for key, holding in held
        ]
        drawing.listing(("held by", "for", "what", "lease ends in"), rows)
    if more:
        drawing.say(f"… and {more:,} more")
    return 0


def _reset(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    tenant = options.tenant
    limits = _limits(settings, tenant)
    single = {"subject": options.subject, "credential": options.credential}
    single = {what: name for what, name in single.items() if name is not None}
    if single:
        keys = [account_key(tenant, **{what: name}) for what, name in single.items()]
    else:
        keys = [account_key(tenant), *(account_key(tenant, model=pattern) for pattern in limits.models)]
    with counting_redis(settings, otherwise=_OTHERWISE) as url:
        try:
            asyncio.run(_fill(url, settings.redis_prefix, keys))
        except StoreUnavailable as unavailable:
            return _failed(unavailable)
    whose = " and ".join(f"the {what} {shown(name)}" for what, name in single.items())
    drawing.say(f"The limits of {whose or tenant} are full again, and nothing is owed.")
    if not single and settings.tenants[tenant].limits.subjects:
        drawing.say("Those of its subjects are as they were: --subject fills them, one by one.")
    return 0


def _limits(settings: Settings, tenant: str) -> TenantLimits:
    check_tenant(settings, tenant)
    return tenant_policies(settings, OperationTable.load())[tenant].limits


async def _look(
    url: str, prefix: str, quotas: Sequence[Quota]
) -> tuple[Sequence[int], list[tuple[str, Holding]], int]:
    """What is missing of each, what exchanges hold of their accounts, and how many more there are."""
    store = RedisBuckets(url, deadline_seconds=PATIENCE_SECONDS, prefix=prefix)
    try:
        if not quotas:
            return (), [], 0
        missing = await store.missing(quotas)
        held, more = [], 0
        for key in dict.fromkeys(quota.key for quota in quotas):
            found, beyond = await store.held(key, _MOST_SHOWN)
            held += [(key, holding) for holding in found]
            more += beyond
        return missing, held, more
    finally:
        await store.close()


async def _fill(url: str, prefix: str, keys: Iterable[str]) -> None:
    store = RedisBuckets(url, deadline_seconds=PATIENCE_SECONDS, prefix=prefix)
    try:
        await store.reset(keys)
    finally:
        await store.close()


def _failed(unavailable: StoreUnavailable) -> int:
    drawing.complain(f"Redis does not answer: {unavailable}")
    return 1


_HEAD = ("limit", "for", "capacity", "remaining", "full in", "owed", "paid off in")


def _row(quota: Quota, missing: int) -> list[str]:
    seen, (owed, milliseconds) = level(quota, missing), debt(quota, missing)
    return [
        quota.dimension.value,
        _bound_to(quota.key),
        f"{quota.capacity:,}",
        f"{seen.remaining:,}",
        format_reset(seen.reset_seconds),
        f"{owed:,}" if owed else "",
        format_milliseconds(milliseconds) if owed else "",
    ]


def _bound_to(key: str) -> str:
    return ", ".join(f"{what} {shown(name)}" for what, name in bound_by(key).items()) or "all"


def _amounts(holding: Holding) -> str:
    return ", ".join(
        f"{_units(dimension, permits):,} of {dimension.value}"
        for dimension, permits in holding.permits.items()
    )


def _units(dimension: Dimension, permits: int) -> float:
    """In those of the limit."""
    return permits if dimension.permits_per_unit == 1 else round(permits / dimension.permits_per_unit, 3)


def _entry(quota: Quota, missing: int) -> dict[str, object]:
    seen, (owed, milliseconds) = level(quota, missing), debt(quota, missing)
    return {
        "limit": quota.dimension.value,
        **binds(quota),
        "capacity": quota.capacity,
        "remaining": seen.remaining,
        "reset_seconds": round(seen.reset_seconds, 3),
        "owed": owed,
        "paid_off_seconds": milliseconds / 1000,
    }


def _holding(key: str, holding: Holding) -> dict[str, object]:
    return {
        "exchange": holding.exchange_id,
        **bound_by(key),
        "lease_seconds": round(holding.lease_seconds, 3),
        "holds": {dimension.value: _units(dimension, n) for dimension, n in holding.permits.items()},
    }
