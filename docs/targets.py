"""What performance must be, and should be, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from docs.measured import ENVOY, GATEWAY, HAPROXY, UNLIMITED, Measured, Spread, Values, divided, paired
from docs.performance import NOTHING, table, told

Figure = Callable[[Measured], Values]


@dataclass(frozen=True)
class Bound:
    """A figure and the most that it may be."""

    of: Figure
    most: float
    unit: str

    def spread(self, measured: Measured) -> Spread | None:
        """What it is; None: it was not measured."""
        return Spread.of(self.of(measured).values())

    def holds(self, measured: Measured) -> bool | None:
        """Whether its median is no more; None: it was not measured."""
        found = self.spread(measured)
        return None if found is None else found.median <= self.most


@dataclass(frozen=True)
class Target:
    """What one figure of the gateway must be, and what it should be."""

    name: str
    must: Bound
    goal: Bound | None = None


# Figures of the gateway, round by round


def _own(work: str, figure: str) -> Figure:
    return lambda measured: measured.values(work, figure, GATEWAY)


def _cpu_beside(peer: str, work: str, variant: str = "") -> Figure:
    return lambda measured: divided(
        measured.values(work, "cpu_us", GATEWAY, variant), measured.values(work, "cpu_us", peer, variant)
    )


def _cpu_with_many_callers(work: str) -> Figure:
    return lambda measured: divided(
        measured.values(work, "cpu_us", GATEWAY, "callers"), measured.values(work, "cpu_us", GATEWAY)
    )


def _added(work: str, figure: str) -> Figure:
    return lambda measured: measured.over_direct(work, figure, GATEWAY)


def _added_beside_envoy(work: str, figure: str) -> Figure:
    return lambda measured: divided(
        measured.over_direct(work, figure, GATEWAY), measured.over_direct(work, figure, ENVOY)
    )


def _share_of_limits(measured: Measured) -> Values:
    """The part of a JSON request's CPU that goes when nothing is limited, read for usage or counted, in percent."""
    return paired(
        measured.values("json", "cpu_us", UNLIMITED),
        measured.values("json", "cpu_us", GATEWAY),
        lambda without, whole: 100 * max(0.0, 1 - without / whole),
    )


# What they must be


def _target(name: str, of: Figure, must: float, goal: float, unit: str) -> Target:
    return Target(name, Bound(of, must, unit), Bound(of, goal, unit))


def _delay(work: str, streams: str, figure: str, name: str, most_ms: float) -> Target:
    return Target(
        f"event delay, {streams}, {name}",
        Bound(_added(work, figure), most_ms, "ms"),
        Bound(_added_beside_envoy(work, figure), 1.0, "× Envoy"),
    )


CPU = (
    ("json", "small JSON", 1.8, 1.0),
    ("embeddings", "embeddings", 2.0, 1.2),
    ("events-200", "event, 200 × 20/s", 1.25, 0.9),
    ("events-1000", "event, 1,000 × 20/s", 1.2, 1.0),
    ("audio", "audio", 1.1, 0.75),
    ("upload", "upload", 1.1, 0.8),
)
"""Work, name, and what its CPU must and should be, as multiples of Envoy's."""

WITH_MANY_CALLERS = CPU[:4]

TARGETS = (
    *(_target(name, _cpu_beside(ENVOY, work), must, goal, "× Envoy") for work, name, must, goal in CPU),
    _target("silent stream", _own("fresh", "stream_kib"), 32, 24, "KiB"),
    _delay("events-200", "200 × 20/s", "delay_p50_ms", "median", 0.3),
    _delay("events-200", "200 × 20/s", "delay_p99_ms", "p99", 5),
    _delay("events-1000", "1,000 × 20/s", "delay_p50_ms", "median", 0.3),
    _delay("events-1000", "1,000 × 20/s", "delay_p99_ms", "p99", 5),
    Target("slip, 200 × 20/s", Bound(_own("events-200", "slip_percent"), 1, "%")),
    Target("slip, 1,000 × 20/s", Bound(_own("events-1000", "slip_percent"), 1, "%")),
    _target("first event of newcomers, p99", _added("newcomers", "first_p99_ms"), 100, 20, "ms"),
    _target("JSON latency, median", _added_beside_envoy("latency", "p50_ms"), 1.3, 1.0, "× Envoy"),
    _target("JSON latency, p99", _added_beside_envoy("latency", "p99_ms"), 1.3, 1.0, "× Envoy"),
    _target("fairness, p99", _own("fairness", "times_idle"), 5, 3, "× idle"),
    _target("WebSocket message", _cpu_beside(HAPROXY, "sockets"), 3, 2, "× HAProxy"),
    _target("limits and metering", _share_of_limits, 25, 15, "%"),
    _target("memory at rest", _own("fresh", "rest_mib"), 75, 60, "MiB"),
    _target("idle connection", _own("fresh", "connection_kib"), 24, 12, "KiB"),
    _target("start", _own("fresh", "start_seconds"), 0.8, 0.4, "s"),
    *(
        _target(f"{name}, TLS upstream", _cpu_beside(ENVOY, work, "tls"), must, goal, "× Envoy")
        for work, name, must, goal in CPU
    ),
    *(
        Target(f"{name}, many credentials", Bound(_cpu_with_many_callers(work), 1.15, "× one credential"))
        for work, name, _, _ in WITH_MANY_CALLERS
    ),
)


def standings(measured: Measured, *, measured_alone: bool = False) -> Iterator[str]:
    """Where every must and every goal stands, or those of them that were measured."""
    yield from table(
        ("figure", "must be", "should be", "is", "must", "goal"),
        (
            _standing(measured, target)
            for target in TARGETS
            if not measured_alone or target.must.holds(measured) is not None
        ),
    )


def missed(measured: Measured) -> list[str]:
    """The names of the targets whose must or goal is missed."""
    return [
        target.name
        for target in TARGETS
        if any(bound and bound.holds(measured) is False for bound in (target.must, target.goal))
    ]


def _standing(measured: Measured, target: Target) -> list[str]:
    must, goal = target.must, target.goal
    found = [told(must.spread(measured), f" {must.unit}")]
    if goal is not None and goal.of is not must.of:
        found.append(told(goal.spread(measured), f" {goal.unit}"))
    return [
        target.name,
        f"≤ {must.most:g} {must.unit}",
        NOTHING if goal is None else f"≤ {goal.most:g} {goal.unit}",
        "; ".join(found),
        _verdict(must.holds(measured)),
        NOTHING if goal is None else _verdict(goal.holds(measured)),
    ]


def _verdict(holds: bool | None) -> str:
    match holds:
        case True:
            return "holds"
        case False:
            return "**missed**"
        case None:
            return "not measured"
