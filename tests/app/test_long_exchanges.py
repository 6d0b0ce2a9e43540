"""Exchanges that become long together are told of in bites, so that the loop turns in between."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

from gateway.app.long_exchanges import LongExchanges
from gateway.proxy.lifecycle import Lifecycle
from gateway.proxy.wheel import Wheel


def test_however_many_become_long_at_once_few_are_told_of_in_one_turn_and_each_once() -> None:
    lifecycle, told = Lifecycle(), list[str]()
    began = monotonic() - 61
    for number in range(1000):
        lifecycle.running[f"r{number}"] = cast(
            Any, SimpleNamespace(exchange=SimpleNamespace(id=f"r{number}", started_at=began))
        )
    long = LongExchanges(
        lifecycle, Wheel(), after_seconds=60, runs=lambda exchange, _: told.append(exchange.id)
    )
    turns = 0
    while len(told) < 1000:
        before = len(told)
        again = long.due(0.0)
        assert len(told) - before <= 200
        assert again - monotonic() < 0.1 or len(told) == 1000
        turns += 1
        assert turns < 50

    assert sorted(told) == sorted(lifecycle.running)
