"""How many exchanges each tenant has under way."""

from __future__ import annotations

from collections.abc import Callable

from gateway.exchange.instruments import Gauges, Registry, Rule, Tally
from gateway.settings.section import OTHER_TENANT


class InFlight:
    """Exchanges that are being served now, by tenant; those whose caller is not known count as `other`."""

    def __init__(self, registry: Registry) -> None:
        self._gauges = Gauges(
            "gateway_exchanges_in_flight",
            "Exchanges being served now.",
            ["tenant"],
            rule=Rule.SUM,
            registry=registry,
        )
        self._of: dict[str, Tally] = {}

    def watch(self, in_all: Callable[[], int]) -> None:
        """`in_all` says how many there are, whoever's."""
        self._gauges.watch(lambda: in_all() - sum(self.by_tenant().values()), OTHER_TENANT)

    def of(self, tenant: str) -> Tally:
        """Those of one tenant: who knows the caller of one adds it, and takes it away when it has ended."""
        tally = self._of.get(tenant)
        if tally is None:
            tally = self._of[tenant] = Tally()
            self._gauges.watch(lambda: tally.value, tenant)
        return tally

    def by_tenant(self) -> dict[str, float]:
        """Those whose caller is known."""
        return {tenant: tally.value for tenant, tally in tuple(self._of.items())}
