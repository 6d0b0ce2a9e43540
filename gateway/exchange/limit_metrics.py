"""What is counted where the limits' store could not decide, or a report could not be true."""

from __future__ import annotations

from gateway.exchange.instruments import Counts, Registry
from gateway.limits.terms import OnStoreFailure, Quota, tenant_of


class LimitMetrics:
    """Instruments of the limiter that are moved by nothing else."""

    def __init__(self, registry: Registry) -> None:
        self._decisions = Counts(
            "gateway_limiter_decisions_without_store",
            "Steps of admissions that were decided while the limit store did not answer, by what decided.",
            ["tenant", "by", "decision"],
            registry=registry,
        )
        self._capped = Counts(
            "gateway_limit_reports_capped",
            "Reports of usage above a hundred times the limit, of which a hundred times were charged.",
            ["tenant", "dimension"],
            registry=registry,
        )

    def decided(self, quota: Quota, by: OnStoreFailure, granted: bool) -> None:
        """Count one step of an admission that was decided while the store did not answer."""
        otherwise = "unavailable" if by is OnStoreFailure.CLOSED else "refused"
        self._decisions.labels(tenant_of(quota), by.value, "granted" if granted else otherwise).inc()

    def capped(self, quota: Quota) -> None:
        """Count one report of usage that was not taken at its word."""
        self._capped.labels(tenant_of(quota), quota.dimension.value).inc()
