"""Which way upstream is opened by which workload identity, and which of them must not be. Pure.

What the public API's endpoint has granted opens the public API: to any other host it would be a key that was given
away. What another endpoint has granted is for the one place that the operator has written beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from gateway.policy.accounts import is_public
from gateway.settings.section import Problem, revealed
from gateway.settings.settings import Settings
from gateway.settings.tenant import Tenant
from gateway.settings.workload_identity import OFFICIAL_ENDPOINT, WorkloadIdentity, by_tls_or_here


def identity_of(settings: Settings, tenant: Tenant) -> WorkloadIdentity | None:
    """The identity by which a tenant's way upstream is opened; a key in its own table goes before the common one."""
    if tenant.upstream.workload_identity is not None:
        return tenant.upstream.workload_identity
    return None if tenant.upstream.api_key is not None else settings.upstream.workload_identity


def identity_problems(settings: Settings) -> Iterator[Problem]:
    """Identities beside a key, and those that would have what they are granted go where it does not belong."""
    common = settings.upstream
    proxy = revealed(common.http_proxy)
    if common.workload_identity is not None:
        yield from _of_table(
            *("upstream", common.workload_identity, common.base_url, proxy),
            keyed=common.api_key is not None,
        )
    for tenant_id, tenant in settings.tenants.items():
        table, own = f"tenants.{tenant_id}.upstream", tenant.upstream
        base_url = own.base_url or common.base_url
        if own.workload_identity is not None:
            yield from _of_table(table, own.workload_identity, base_url, proxy, keyed=own.api_key is not None)
            if not own.workload_identity.is_official and own.base_url is None:
                yield Problem(
                    f"{table}.workload_identity.token_endpoint",
                    "is not the public API's: write base_url into the same table, which is what it opens",
                )
        elif own.api_key is None and common.workload_identity is not None and own.base_url is not None:
            both_public = common.workload_identity.is_official and _is_official(base_url)
            if base_url != common.base_url and not both_public:
                yield Problem(
                    f"{table}.base_url",
                    f"the common workload identity opens {common.base_url} and nothing else; give this tenant an "
                    "api_key or a workload_identity of its own (a server that wants none takes any key)",
                )


def identities_in(settings: Settings) -> Iterator[tuple[str, WorkloadIdentity]]:
    """Every identity of a configuration, by the key of its table."""
    tables = {"upstream": settings.upstream.workload_identity} | {
        f"tenants.{tenant_id}.upstream": tenant.upstream.workload_identity
        for tenant_id, tenant in settings.tenants.items()
    }
    for table, identity in tables.items():
        if identity is not None:
            yield f"{table}.workload_identity", identity


def loudly(identities: Iterable[tuple[str, WorkloadIdentity]]) -> Iterator[str]:
    """What an operator should know of identities, each with the upstream that it opens."""
    for base_url, identity in dict.fromkeys(identities):
        if not identity.is_official:
            yield (
                f"What {identity.token_file} holds is sent to {identity.token_endpoint}, which is not the public "
                f"API's endpoint, and what that grants to {base_url}."
            )


def _of_table(
    table: str, identity: WorkloadIdentity, base_url: str, proxy: str | None, *, keyed: bool
) -> Iterator[Problem]:
    if keyed:
        yield Problem(
            f"{table}.workload_identity",
            "stands beside an api_key; take one of them out: it is one or the other",
        )
    if identity.is_official != is_public(base_url):
        if identity.is_official:
            why = (
                f"what {OFFICIAL_ENDPOINT} grants opens the public API, and is sent to no other host; base_url is "
                f"{base_url}. A shell that talks to a gateway has OPENAI_BASE_URL set, which counts here too. For "
                "another provider name its token_endpoint, too"
            )
        else:
            why = (
                f"the public API's base_url goes with the public API's endpoint ({OFFICIAL_ENDPOINT}); take "
                "token_endpoint out"
            )
        yield Problem(f"{table}.workload_identity", why)
    elif not by_tls_or_here(base_url):
        yield Problem(
            f"{table}.base_url",
            f"{base_url}: what an identity is granted is sent by https only, or on this machine",
        )
    elif not all(by_tls_or_here(url, proxy) for url in (base_url, identity.token_endpoint)):
        yield Problem(
            "upstream.http_proxy",
            f"is asked in plain text for what has no https, and would read what {table}.workload_identity shows or is "
            "granted; use https, or a proxy on this machine",
        )


def _is_official(base_url: str) -> bool:
    return is_public(base_url) and urlsplit(base_url).scheme == "https"
