"""The limits of one tenant made ready for the hot path: which quotas a request is charged to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from gateway.credentials.principal import Principal
from gateway.limits.terms import Dimension, OnStoreFailure, Quota, account_key
from gateway.operations.model_patterns import allows, closest
from gateway.settings.limits import Capacities, Limits

_REMEMBERED = 1024
"""Subjects, credentials and models per tenant whose quotas are kept made; what they name is the client's choice."""


class TenantLimits:
    """Every quota of a tenant, by whom it binds. Made once per configuration."""

    def __init__(self, tenant_id: str, limits: Limits, on_store_failure: OnStoreFailure) -> None:
        self._id = tenant_id
        self._limits = limits
        self._on_store_failure = on_store_failure
        self.tenant = self._quotas(limits, account_key(tenant_id))
        """Of all that the tenant does."""

        self.models: Mapping[str, tuple[Quota, ...]] = {
            pattern: self._quotas(capacities, account_key(tenant_id, model=pattern))
            for pattern, capacities in limits.models.items()
        }
        """By pattern; all that match a model count."""

        tables = [frozenset(table.capacities()) for table in limits.subjects.values()]
        self.of_every_subject: frozenset[Dimension] = (
            frozenset.intersection(*tables) if "*" in limits.subjects else frozenset()
        )
        """What is limited for each subject, whichever table applies to it."""

        self.dimensions = frozenset[Dimension]().union(
            *(
                capacities.capacities()
                for capacities in (limits, *limits.models.values(), *limits.subjects.values())
            )
        )
        """What is limited at all, if only for some models or subjects."""

        self.counts_usage = any(dimension.is_reported for dimension in self.dimensions)
        """Whether some limit of the tenant is on LLM tokens, so that usage has to be known."""

        self._of_model = lru_cache(maxsize=_REMEMBERED)(self._find_models)
        self._of_subject = lru_cache(maxsize=_REMEMBERED)(self._find_subject)
        self._of_credential = lru_cache(maxsize=_REMEMBERED)(self._make_credential)

    def of_caller(self, principal: Principal) -> tuple[Quota, ...]:
        """What every request of this caller is charged to, whatever model it names."""
        quotas = self.tenant
        if self._limits.subjects:
            quotas += self._of_subject(principal.subject)
        if principal.limits:
            quotas += self._of_credential(principal.credential_id, tuple(principal.limits.items()))
        return quotas

    def of_model(self, model: str | None) -> tuple[Quota, ...]:
        """What a request that names this model is charged to beside that."""
        return self._of_model(model) if self.models and model is not None else ()

    def of_subject(self, subject: str) -> tuple[Quota, ...]:
        """What this subject is charged to for itself."""
        return self._of_subject(subject)

    def _find_models(self, model: str) -> tuple[Quota, ...]:
        return tuple(
            quota for pattern, quotas in self.models.items() if allows((pattern,), model) for quota in quotas
        )

    def _find_subject(self, subject: str) -> tuple[Quota, ...]:
        pattern = closest(self._limits.subjects, subject)
        if pattern is None:
            return ()
        return self._quotas(self._limits.subjects[pattern], account_key(self._id, subject=subject))

    def _make_credential(self, credential_id: str, limits: tuple[tuple[str, int], ...]) -> tuple[Quota, ...]:
        key = account_key(self._id, credential=credential_id)
        return tuple(
            Quota(Dimension(name), capacity, key, self._on_store_failure) for name, capacity in limits
        )

    def _quotas(self, capacities: Capacities, key: str) -> tuple[Quota, ...]:
        return tuple(
            Quota(
                dimension, capacity, key, capacities.on_store_failure.get(dimension, self._on_store_failure)
            )
            for dimension, capacity in capacities.capacities().items()
        )
