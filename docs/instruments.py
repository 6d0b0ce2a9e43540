"""Every instrument of the gateway as Prometheus shows it: what tables, dashboards and rules are held to."""

from __future__ import annotations

from typing import NamedTuple

from gateway.app.supervisor_metrics import SupervisorMetrics
from gateway.exchange.instruments import Description, Kind, Rule
from gateway.exchange.metrics import Metrics


class Shown(NamedTuple):
    """One instrument on the page of metrics."""

    name: str
    """Without a histogram's suffixes."""

    kind: str
    labels: tuple[str, ...]
    together: str
    """What several workers' values are together."""

    documentation: str


def instruments() -> list[Shown]:
    """All of them, in the order in which they are declared."""
    registries = Metrics().registry, SupervisorMetrics(tuple).registry
    shown = [_shown(instrument.description) for registry in registries for instrument in registry.instruments]
    return list(
        {one.name: one for one in shown}.values()
    )  # some are counted by workers and by who looks after them


def _shown(described: Description) -> Shown:
    suffix = "_total" if described.kind is Kind.COUNTER else ""
    labels = (*described.labels, "worker") if described.rule is Rule.EACH else described.labels
    return Shown(
        f"{described.name}{suffix}",
        described.kind.value,
        labels,
        described.rule.value,
        described.documentation,
    )
