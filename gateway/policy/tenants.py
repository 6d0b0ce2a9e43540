"""Tenants made ready for the hot path, and the book that holds them.

The book is replaced whole when the configuration changes: an exchange that is under way keeps the
policy it began with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gateway.credentials.principal import Principal
from gateway.limits.terms import Dimension, OnStoreFailure, Quota
from gateway.operations.scopes import ScopeProblem, expand
from gateway.operations.table import OperationTable
from gateway.policy.tenant_limits import TenantLimits
from gateway.settings.limits import Limits
from gateway.settings.section import OTHER_TENANT, Problem, SettingsInvalid, revealed
from gateway.settings.settings import Settings
from gateway.settings.tenant import Tenant


@dataclass(frozen=True, slots=True)
class UpstreamAccess:
    """Where a tenant's requests go, and as whom. Two tenants with equal access share stored objects."""

    base_url: str
    api_key: str | None = field(repr=False)
    organization: str | None = None
    project: str | None = None

    @property
    def authorization(self) -> bytes | None:
        """The Authorization that opens the upstream."""
        return None if self.api_key is None else b"Bearer " + self.api_key.encode("ascii")

    @property
    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header fields that pick the account, where the operator has mapped one."""
        named = ((b"OpenAI-Organization", self.organization), (b"OpenAI-Project", self.project))
        return tuple((name, value.encode("ascii")) for name, value in named if value is not None)


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """A tenant's settings, resolved."""

    id: str
    settings: Tenant
    scopes: frozenset[str]
    """The most that a credential may use here, patterns expanded."""

    limits: TenantLimits
    access: UpstreamAccess
    has_neighbours: bool
    """Another enabled tenant has the same access."""

    shared: bool
    """It has neighbours, and the operator has not allowed them to reach each other's stored objects."""

    @property
    def models(self) -> tuple[str, ...] | None:
        """The models that the tenant may use, names and globs; None: all."""
        return self.settings.models

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """The limits of all that the tenant does."""
        return self.limits.tenant

    @property
    def metered(self) -> bool:
        """Whether usage has to be known of every answer: there is a limit on it, or the operator wants it."""
        return self.settings.metering or self.limits.counts_usage

    def meters(self, principal: Principal) -> bool:
        """Whether usage has to be known of every answer to this caller."""
        return self.metered or any(Dimension(name).is_reported for name in principal.limits or ())


UNKNOWN_TENANT = TenantPolicy(
    id=OTHER_TENANT,
    settings=Tenant(enabled=False),
    scopes=frozenset(),
    limits=TenantLimits(OTHER_TENANT, Limits(), OnStoreFailure.LOCAL),
    access=UpstreamAccess("", None),
    has_neighbours=True,
    shared=True,
)
"""Stands for a tenant that is not configured: it may do nothing, and counts as `other`."""


class TenantBook:
    """The tenants in force."""

    def __init__(self, policies: Mapping[str, TenantPolicy]) -> None:
        self.policies = policies

    def get(self, tenant_id: str) -> TenantPolicy:
        """A tenant's policy; UNKNOWN_TENANT for one that is not configured."""
        return self.policies.get(tenant_id, UNKNOWN_TENANT)


def tenant_policies(settings: Settings, table: OperationTable) -> dict[str, TenantPolicy]:
    """All tenants, resolved. Raises SettingsInvalid with every problem."""
    scopes = table.scopes
    problems: list[Problem] = []
    accesses = {tenant_id: _access(settings, tenant) for tenant_id, tenant in settings.tenants.items()}
    users = Counter(
        _account(accesses[tenant_id]) for tenant_id, tenant in settings.tenants.items() if tenant.enabled
    )
    policies = {}
    for tenant_id, tenant in settings.tenants.items():
        access = accesses[tenant_id]
        has_neighbours = users[_account(access)] > 1
        policies[tenant_id] = TenantPolicy(
            tenant_id,
            tenant,
            _expanded(tenant_id, tenant, scopes, problems),
            TenantLimits(tenant_id, settings.limits_of(tenant), settings.on_store_failure),
            access,
            has_neighbours=has_neighbours,
            shared=has_neighbours and settings.shared_objects == "refuse",
        )
    if problems:
        raise SettingsInvalid(problems)
    return policies


def _account(access: UpstreamAccess) -> tuple[str | None, ...]:
    """What makes two accesses one account: the same key is, by whatever name its API is called."""
    where = access.base_url if access.api_key is None else None
    return where, access.api_key, access.organization, access.project


def _expanded(
    tenant_id: str, tenant: Tenant, known: Collection[str], problems: list[Problem]
) -> frozenset[str]:
    try:
        return expand(tenant.scopes, known)
    except ScopeProblem as problem:
        problems += [Problem(f"tenants.{tenant_id}.scopes", text) for text in problem.problems]
        return frozenset()


def _access(settings: Settings, tenant: Tenant) -> UpstreamAccess:
    common, own = settings.upstream, tenant.upstream
    return UpstreamAccess(
        own.base_url or common.base_url,
        revealed(own.api_key) or revealed(common.api_key) or None,
        own.organization or common.organization,
        own.project or common.project,
    )
