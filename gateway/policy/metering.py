"""Whose streams are asked what they used where no limit needs it, and what operators should know of that. Pure.

The public API says it when it is asked, so it is by default. Other servers may refuse to be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.policy.accounts import PUBLIC_API, Account, listed
from gateway.settings.settings import Settings
from gateway.settings.tenant import Tenant


def asks_for_usage(settings: Settings, tenant: Tenant, account: Account) -> bool:
    """Whether streams are asked what they used: by the tenant's word, else its upstream's, else at the public API."""
    chosen = tenant.metering
    if chosen is None and tenant.upstream.base_url is None:
        chosen = settings.upstream.metering
    return account.place == PUBLIC_API if chosen is None else chosen


def said(metered: Iterable[tuple[str, Tenant, str, bool]]) -> Iterator[str]:
    """What an operator should know of tenants, places of upstreams, and whether usage has to be known there."""
    groups: dict[tuple[str, bool, str], list[str]] = {}
    for tenant_id, tenant, place, known in metered:
        own = tenant.metering is not None or tenant.upstream.base_url is not None
        groups.setdefault((place, known, "[tenants.ID]" if own else "[upstream]"), []).append(tenant_id)
    for (place, known, table), tenants in groups.items():
        if not known:
            yield (
                f"Usage of {listed(tenants)} is incomplete: streams at {place} are not asked for theirs, and count as "
                f"unreported. If that server takes stream_options.include_usage, set metering = true under {table}."
            )
        elif place != PUBLIC_API:
            yield (
                f"Streams of {listed(tenants)} at {place} are asked for their usage. If that server rejects "
                f"stream_options (400 or 422), set metering = false under {table}, and no limit on LLM tokens."
            )
