"""What the instruments of one process show, without a listener and at once, and a process that has much to show."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.app.counted import Counted
from gateway.app.exposition import texts
from gateway.app.snapshots import Snapshots
from gateway.endings import Ending
from gateway.exchange.instruments import Registry
from gateway.exchange.metrics import Metrics
from gateway.usage.reported import NUMBERS

_Result = TypeVar("_Result")


def page_of(registry: Registry, *, openmetrics: bool = False) -> str:
    """The page of a process with this registry."""
    counted = Counted()
    counted.hear("", 0, at_once(Snapshots(registry).take()))
    return "".join(texts(counted, openmetrics=openmetrics))


def at_once(taking: Coroutine[Any, Any, _Result]) -> _Result:
    """What comes of something that gives others their turn, and waits for nothing else."""
    while True:
        try:
            taking.send(None)
        except StopIteration as done:
            return done.value


def busy(tenants: int, operations: int) -> Metrics:
    """What a process counts in which every tenant has used every operation, in every way."""
    metrics = Metrics()
    for tenant in range(tenants):
        for operation in range(operations):
            tallies = metrics.of(f"tenant-{tenant}", f"operation{operation}")
            tallies.so_ended(200, Ending.COMPLETE).value += 1
            tallies.so_ended(429, Ending.REFUSED).value += 1
            tallies.was_granted().value += 1
            tallies.seconds.value += 0.123456
            tallies.duration.observe(0.2)
            tallies.overhead.observe(0.002)
            tallies.first_byte_began().observe(0.1)
            for kind in range(2):
                tallies.bytes[kind] += 1000
            for kind in range(NUMBERS):
                tallies.used_by("")[kind] += 5
    return metrics
