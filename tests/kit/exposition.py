"""What the instruments of one process show, without a listener and at once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.app.counted import Counted
from gateway.app.exposition import texts
from gateway.app.snapshots import Snapshots
from gateway.exchange.instruments import Registry

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
