"""How the limits fare: what is in use of them, and what is decided while their store is away."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import nan

from gateway.exchange.instruments import Counts, Gauges, Registry, Rule
from gateway.limits.levels import Used
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
        self._in_use: Mapping[Used, float] = {}
        self._shown: set[Used] = set()
        self._used_ratio = Gauges(
            "gateway_limit_used_ratio",
            "The part of a limit that is in use, above 1 in debt, of the hundred that have least left; of several "
            "that a tenant has of one kind the fullest.",
            ["tenant", "dimension"],
            rule=Rule.MAX,
            registry=registry,
        )
        self.stores = Gauges(
            "gateway_limit_store_servers",
            "Servers that count limits, by whether they answer (up, down); none where limits are in memory.",
            ["state"],
            rule=Rule.MAX,
            registry=registry,
        )
        self.workers = Gauges(
            "gateway_limit_workers",
            "Workers that share the limits, as last heard.",
            rule=Rule.MAX,
            registry=registry,
        )
        self.held = Gauges(
            "gateway_limit_held_exchanges",
            "Exchanges that hold slots or reservations now.",
            rule=Rule.SUM,
            registry=registry,
        )
        self.late = Gauges(
            "gateway_limit_late_settlements",
            "Settlements that wait for the limit store to come back.",
            rule=Rule.SUM,
            registry=registry,
        )

    def levelled(self, in_use: Mapping[Used, float]) -> None:
        """Show that so much of these limits is in use, and of no others."""
        self._in_use = in_use
        for used in in_use.keys() - self._shown:
            self._shown.add(used)
            tenant, dimension = used
            self._used_ratio.watch(partial(self._ratio, used), tenant, dimension.value)

    def _ratio(self, used: Used) -> float:
        return self._in_use.get(used, nan)

    def decided(self, quota: Quota, by: OnStoreFailure, granted: bool) -> None:
        """Count one step of an admission that was decided while the store did not answer."""
        otherwise = "unavailable" if by is OnStoreFailure.CLOSED else "refused"
        self._decisions.labels(tenant_of(quota), by.value, "granted" if granted else otherwise).inc()

    def capped(self, quota: Quota) -> None:
        """Count one report of usage that was not taken at its word."""
        self._capped.labels(tenant_of(quota), quota.dimension.value).inc()
