"""What is wrong, and whose fault it is, in words: what whoever is woken reads first. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.cli.top.readings import Reading
from gateway.cli.top.rows import Sum, TenantRow, UpstreamRow
from gateway.cli.top.tables import Tables

_LAG_SECONDS = 0.25
_LEAST_PER_SECOND = 0.05
"""Below that, a part of it says nothing."""

_CREDENTIALS = frozenset({"missing_api_key", "invalid_api_key", "expired_api_key", "revoked_api_key"})
_SURGE_PER_SECOND = 1.0
_FAILING = 0.05
_THROTTLED = 0.01
_NARROW = 0.9


class Concern(NamedTuple):
    """One thing that is wrong."""

    is_bad: bool
    """Somebody is being failed now; else it is about to be so."""

    who: str
    what: str


def concerns(readings: Sequence[Reading], tables: Tables) -> list[Concern]:
    """Everything that is wrong, the worst first."""
    found = [*_gateways(readings), *_redis(tables), *_workers(tables), *_clients(tables)]
    for upstream in tables.upstreams:
        found += _upstream(upstream)
    for tenant in tables.tenants:
        found += _tenant(tenant)
    return sorted(found, key=lambda concern: not concern.is_bad)


def _gateways(readings: Sequence[Reading]) -> Iterator[Concern]:
    for reading in readings:
        name, state = f"gateway {reading.now.name}", reading.state
        if state is None:
            yield Concern(True, name, reading.now.problem or "does not answer")
            continue
        if not state["ready"]:
            said = " ".join(str(reason["message"]) for reason in state["reasons"])
            yield Concern(True, name, f"not ready: {said}")
        if not state["configuration"]["valid"]:
            yield Concern(False, name, "configuration is invalid; what was read before is in force")


def _redis(tables: Tables) -> Iterator[Concern]:
    for server in tables.redis:
        if not server.up:
            yield Concern(True, f"Redis {server.server}", "does not answer")


def _workers(tables: Tables) -> Iterator[Concern]:
    for worker in tables.workers:
        name = f"worker {worker.worker} of {worker.instance}"
        if worker.state == "hung":
            yield Concern(True, name, f"hangs (process {worker.pid})")
        elif (lag := worker.loop_lag_max_seconds) is not None and lag >= _LAG_SECONDS:
            yield Concern(False, name, f"served nobody for {lag:.2f} s")


def _clients(tables: Tables) -> Iterator[Concern]:
    refused = Sum()
    for row in tables.errors:
        if row.code in _CREDENTIALS:
            refused.add_sum(row.count)
    if (per_second := refused.per_second or 0.0) >= _SURGE_PER_SECOND:
        yield Concern(False, "clients", f"send credentials that are not accepted, {per_second:.1f} a second")


def _upstream(row: UpstreamRow) -> Iterator[Concern]:
    name, answers = f"upstream {row.upstream}", row.answered()
    refused = row.answered("401", "403")
    if _matters(refused):
        yield Concern(
            True, name, f"answers 401 or 403, {refused.per_second:.1f} a second: is our key refused?"
        )
    if (part := _part(row.answered("5"), answers)) >= _FAILING:
        yield Concern(True, name, f"fails: {part:.0%} of its answers are 5xx")
    if _matters(row.unconnected):
        yield Concern(True, name, "cannot be connected to")
    if (part := _part(row.answered("429"), answers)) >= _THROTTLED:
        yield Concern(True, name, f"throttles us: {part:.0%} of its answers are 429")
    if row.waiting:
        yield Concern(False, name, f"no connection is free, {row.waiting} wait for one")
    if row.left is not None and row.left[1] <= 1 - _NARROW:
        yield Concern(False, name, f"{row.left[1]:.0%} left of its limit on {row.left[0]}")


def _tenant(row: TenantRow) -> Iterator[Concern]:
    name = f"tenant {row.tenant}"
    if (part := _part(row.failed, row.exchanges)) >= _FAILING:
        yield Concern(True, name, f"fails: {part:.0%} of its requests")
    dimension, used = row.fullest
    if _matters(row.throttled):
        said = f", {dimension} is used up" if used >= 1.0 else ""
        yield Concern(False, name, f"throttled by its limits, {row.throttled.per_second:.1f} a second{said}")
    elif used >= _NARROW:
        yield Concern(False, name, f"{used:.0%} of {dimension} in use")


def _matters(counted: Sum) -> bool:
    return (counted.per_second or 0.0) >= _LEAST_PER_SECOND


def _part(some: Sum, whole: Sum) -> float:
    return (some.per_second or 0.0) / whole.per_second if whole.per_second and _matters(some) else 0.0
