"""Tenants made ready for the hot path, and the book that holds them.

The book is replaced whole when the configuration changes: an exchange that is under way keeps the
policy it began with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import assert_never

from gateway.credentials.principal import Principal
from gateway.limits.terms import Dimension, OnStoreFailure, Quota
from gateway.objects.store import Scope
from gateway.operations.scopes import ScopeProblem, expand
from gateway.operations.table import OperationTable
from gateway.policy import metering
from gateway.policy.accounts import (
    MOST_OTHERS,
    NOTHING_REMEMBERED,
    Account,
    Closed,
    History,
    Reason,
    Uses,
    account_of,
    judge,
    listed,
    said,
    storage_of,
    surely_one,
)
from gateway.policy.identities import identity_of, identity_problems
from gateway.policy.tenant_limits import TenantLimits
from gateway.settings.limits import Limits
from gateway.settings.section import OTHER_TENANT, Problem, SettingsInvalid, revealed
from gateway.settings.settings import Settings
from gateway.settings.tenant import Tenant
from gateway.settings.workload_identity import WorkloadIdentity

SECRET_BYTES = 8
"""Servers that want no key get one all the same, such as EMPTY or none, and say such words in their errors."""


@dataclass(frozen=True, slots=True)
class UpstreamAccess:
    """Where a tenant's requests go, and as whom."""

    name: str = field(compare=False)
    """What metrics and the log call it: a name of the configuration."""

    base_url: str
    api_key: str | None = field(repr=False)
    organization: str | None = None
    project: str | None = None
    identity: WorkloadIdentity | None = None
    """What is exchanged for the key; there is none before."""

    secrets: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    """What is sent up that no client may see; a key too short to be one is none."""

    def __post_init__(self) -> None:
        key = (self.api_key or "").encode("ascii")
        object.__setattr__(self, "secrets", (key,) if len(key) >= SECRET_BYTES else ())

    @property
    def account(self) -> Account:
        """What is known of the account behind it."""
        return account_of(self.base_url, self.opener, self.project)

    @property
    def opener(self) -> str | None:
        """The key, or what an identity is in its place; None where nothing opens it."""
        return self.api_key if self.identity is None else self.identity.account

    @property
    def authorization(self) -> bytes | None:
        """The Authorization that opens the upstream."""
        assert self.api_key is not None or self.identity is None, "what an identity opens is opened first"
        return None if self.api_key is None else b"Bearer " + self.api_key.encode("ascii")

    @property
    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header fields that pick the account, where the operator has mapped one."""
        named = ((b"OpenAI-Organization", self.organization), (b"OpenAI-Project", self.project))
        return tuple((name, value.encode("ascii")) for name, value in named if value is not None)


class StoredObjects(Enum):
    """What a tenant may do with what the upstream stores."""

    OPEN = "open"
    """Anything: nobody else is on its account, by all that is known or by the operator's word."""

    RECORDED = "recorded"
    """The same, and what it makes is recorded, for the day on which somebody else comes."""

    REGISTRY = "registry"
    """It may use what the registry says is its own."""

    REFUSED = "refused"
    """Nothing."""


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """A tenant's settings, resolved."""

    id: str
    settings: Tenant
    scopes: frozenset[str]
    """The most that a credential may use here, patterns expanded."""

    limits: TenantLimits
    access: UpstreamAccess
    account: Account
    apart: bool
    """Whether no other tenant can have, or have had, its upstream account, as far as anybody has said."""

    refuses_unmetered: bool
    """Whether it may do only what some limit counts, and what costs nothing."""

    closed: Closed | None
    """Why not all that the upstream stores may be open to it; None when it is."""

    objects: StoredObjects = StoredObjects.REFUSED
    scope: Scope | None = None
    """Where the registry has what it makes; None where nothing is recorded."""

    asks_for_usage: bool = False
    """Whether streams are asked what they used also where no limit needs to know it."""

    metered: bool = field(init=False)
    """Whether usage has to be known of every answer: there is a limit on it, or the operator wants it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "metered", self.asks_for_usage or self.limits.counts_usage)

    @property
    def shared(self) -> bool:
        """Whether all of what the upstream stores is closed to it, for others could reach it."""
        return self.objects is StoredObjects.REFUSED

    @property
    def registered(self) -> bool:
        """Whether the registry says what of it the tenant may use."""
        return self.objects is StoredObjects.REGISTRY

    @property
    def objects_in_words(self) -> str:
        """What it may do with what the upstream stores, as the tenant may know it."""
        match self.objects:
            case StoredObjects.OPEN | StoredObjects.RECORDED:
                return "open"
            case StoredObjects.REGISTRY:
                return "own objects only (registry)"
            case StoredObjects.REFUSED:
                assert self.closed is not None, "nobody is kept from what is open"
                return f"closed: {self.closed.words}"
            case never:
                assert_never(never)

    @property
    def models(self) -> tuple[str, ...] | None:
        """The models that the tenant may use, names and globs; None: all."""
        return self.settings.models

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """The limits of all that the tenant does."""
        return self.limits.tenant

    def meters(self, principal: Principal) -> bool:
        """Whether usage has to be known of every answer to this caller."""
        if self.metered or not principal.limits:
            return self.metered
        return any(Dimension(name).is_reported for name in principal.limits)


UNKNOWN_TENANT = TenantPolicy(
    id=OTHER_TENANT,
    settings=Tenant(enabled=False),
    scopes=frozenset(),
    limits=TenantLimits(OTHER_TENANT, Limits(), OnStoreFailure.LOCAL),
    access=UpstreamAccess(OTHER_TENANT, "", None),
    account=Account("", "", None),
    apart=False,
    closed=Closed(Reason.SHARED),
    refuses_unmetered=False,
)
"""Stands for a tenant that is not configured: it may do nothing, and counts as `other`."""


class TenantBook:
    """The tenants in force."""

    def __init__(self, policies: Mapping[str, TenantPolicy]) -> None:
        self.policies = policies

    def get(self, tenant_id: str) -> TenantPolicy:
        """A tenant's policy; UNKNOWN_TENANT for one that is not configured."""
        return self.policies.get(tenant_id, UNKNOWN_TENANT)


def tenant_policies(
    settings: Settings, table: OperationTable, history: History = NOTHING_REMEMBERED
) -> dict[str, TenantPolicy]:
    """All tenants, resolved, with what is remembered of their accounts. Raises SettingsInvalid with every problem."""
    scopes = table.scopes
    accesses = {
        tenant_id: _access(settings, tenant_id, tenant) for tenant_id, tenant in settings.tenants.items()
    }
    problems = [*identity_problems(settings), *_words_that_cannot_hold(settings, accesses)]
    policies = {
        tenant_id: TenantPolicy(
            tenant_id,
            tenant,
            _expanded(tenant_id, tenant, scopes, problems),
            TenantLimits(tenant_id, settings.limits_of(tenant), settings.on_store_failure),
            accesses[tenant_id],
            accesses[tenant_id].account,
            apart=False,
            closed=Closed(Reason.UNKNOWN),
            refuses_unmetered=(tenant.unmetered or settings.unmetered) == "refuse",
            asks_for_usage=metering.asks_for_usage(settings, tenant, accesses[tenant_id].account),
        )
        for tenant_id, tenant in settings.tenants.items()
    }
    if problems:
        raise SettingsInvalid(problems)
    return judged(policies, history, has_registry=settings.redis_url is not None)


def judged(
    policies: Mapping[str, TenantPolicy], history: History, *, has_registry: bool
) -> dict[str, TenantPolicy]:
    """The same tenants by what is remembered of accounts now."""
    found = judge(account_uses(policies), history)
    return {
        tenant_id: _with_objects(policy, found[tenant_id], has_registry=has_registry)
        for tenant_id, policy in policies.items()
    }


def _with_objects(policy: TenantPolicy, closed: Closed | None, *, has_registry: bool) -> TenantPolicy:
    word = policy.settings.stored_objects
    objects, scope = StoredObjects.OPEN, None
    if word == "refuse":
        objects, closed = StoredObjects.REFUSED, Closed(Reason.REFUSED)
    elif word == "own" or not has_registry:
        objects = StoredObjects.OPEN if closed is None else StoredObjects.REFUSED
    else:
        registered = closed is not None or word == "registry"
        objects = StoredObjects.REGISTRY if registered else StoredObjects.RECORDED
        scope = Scope(storage_of(policy.access.base_url), policy.id, _others(closed))
    return replace(policy, apart=closed is None, closed=closed, objects=objects, scope=scope)


def _others(closed: Closed | None) -> tuple[str, ...] | None:
    """Who once had the account of a tenant that now has it alone; None: there are, or may be, others."""
    if closed is None:
        return ()
    if closed.reason is not Reason.ONCE_SHARED or len(closed.others) >= MOST_OTHERS:
        return None
    return closed.others


def closed_to(policies: Iterable[TenantPolicy]) -> list[str]:
    """What an operator should know of tenants whose stored objects are closed, and what opens them."""
    return said(
        {
            (policy.id, policy.account): policy.closed
            for policy in policies
            if policy.closed is not None and policy.shared
        }
    )


def registered(policies: Iterable[TenantPolicy]) -> list[str]:
    """Which tenants work by the registry, for operators; nothing where none does."""
    tenants = [policy.id for policy in policies if policy.registered]
    if not tenants:
        return []
    words = "Of all that the upstream stores, these have what they make themselves, as the registry knows"
    return [f"{words}: {listed(tenants)}."]


def usage_known_of(policies: Iterable[TenantPolicy]) -> Iterator[str]:
    """What an operator should know of how complete the usage of tenants is."""
    return metering.said(
        (policy.id, policy.settings, policy.account.place, policy.metered)
        for policy in policies
        if policy.settings.enabled
    )


def ways_of(settings: Settings) -> list[UpstreamAccess]:
    """The ways upstream of enabled tenants, before there are policies."""
    return [
        _access(settings, tenant_id, tenant)
        for tenant_id, tenant in settings.tenants.items()
        if tenant.enabled
    ]


def ways_in_use(policies: Mapping[str, TenantPolicy]) -> list[UpstreamAccess]:
    """The ways upstream of enabled tenants."""
    return [policy.access for policy in policies.values() if policy.settings.enabled]


def account_uses(policies: Mapping[str, TenantPolicy]) -> Uses:
    """Which account each tenant has, disabled ones included."""
    return {
        (policy.id, policy.account): policy.settings.stored_objects == "own" for policy in policies.values()
    }


def _words_that_cannot_hold(settings: Settings, accesses: Mapping[str, UpstreamAccess]) -> Iterator[Problem]:
    """One key, or one project that is named, cannot be one tenant's own and in use by another, or the own of two."""
    claims: dict[object, list[str]] = {}
    for tenant_id, access in accesses.items():
        tenant = settings.tenants[tenant_id]
        if tenant.enabled or tenant.stored_objects == "own":
            for one in surely_one(access.base_url, access.opener, access.organization, access.project):
                claims.setdefault(one, []).append(tenant_id)
    for tenant_ids in claims.values():
        for tenant_id in tenant_ids:
            if len(tenant_ids) > 1 and settings.tenants[tenant_id].stored_objects == "own":
                others = ", ".join(other for other in tenant_ids if other != tenant_id)
                yield Problem(
                    f"tenants.{tenant_id}.stored_objects",
                    f'"own" cannot be: {others} goes to the same upstream with the same key or project; give each '
                    "an account or project of its own, or take this line away",
                )


def _expanded(
    tenant_id: str, tenant: Tenant, known: Collection[str], problems: list[Problem]
) -> frozenset[str]:
    try:
        return expand(tenant.scopes, known)
    except ScopeProblem as problem:
        problems += [Problem(f"tenants.{tenant_id}.scopes", text) for text in problem.problems]
        return frozenset()


def _access(settings: Settings, tenant_id: str, tenant: Tenant) -> UpstreamAccess:
    common, own = settings.upstream, tenant.upstream
    identity = identity_of(settings, tenant)
    opens = own.api_key is not None or own.workload_identity is not None
    has_own = own.base_url is not None or opens
    api_key = None if identity is not None else revealed(own.api_key) or revealed(common.api_key) or None
    return UpstreamAccess(
        own.name or (tenant_id if has_own else common.name),
        own.base_url or common.base_url,
        api_key,
        own.organization or common.organization,
        own.project or common.project,
        identity,
    )
