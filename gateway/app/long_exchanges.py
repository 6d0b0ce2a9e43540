"""Tells the log of exchanges that have run for long while they still do: one that is cut is found without its end."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from gateway.exchange.exchange import Exchange
from gateway.proxy.lifecycle import Lifecycle
from gateway.proxy.wheel import Wheel

_LOOK_SECONDS = 1.0
"""How much later than they are due they may be told of; less where little time makes them long."""

_PARTS = 4
_BITE = 100
"""Of how many is told in one turn of the loop, however many become long at once: some 2 ms, as text 4."""


class LongExchanges:
    """Looks through what runs when the first of those that have not been told of is due, and at no request."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        wheel: Wheel,
        *,
        after_seconds: float,
        runs: Callable[[Exchange, float], None],
    ) -> None:
        """`runs` is told of each exchange that has run for so long, once; 0: of none."""
        self.due_step: int | None = None
        self._lifecycle = lifecycle
        self._wheel = wheel
        self._after_seconds = after_seconds
        self._rest_seconds = min(_LOOK_SECONDS, after_seconds / _PARTS)
        self._runs = runs
        self._told: set[str] = set()
        """Those that have been told of and still run, by their ids."""

    async def start(self) -> None:
        """Look from now on."""
        if self._after_seconds:
            self._wheel.ask(self, monotonic() + self._after_seconds)

    async def close(self) -> None:
        """Look no more."""
        self._wheel.forget(self)

    def due(self, now: float) -> float:
        """Tell of those that have become long; returns when the next one may."""
        now = monotonic()
        running, told, earliest = self._lifecycle.running, self._told, now
        told.intersection_update(running)
        most = len(told) + _BITE
        for id_, one in tuple(running.items()):
            if id_ in told:
                continue
            began = one.exchange.started_at
            if now - began >= self._after_seconds:
                if len(told) >= most:
                    return now  # the others in the next turns
                told.add(id_)
                self._runs(one.exchange, now)
            else:
                earliest = min(earliest, began)
        return max(earliest + self._after_seconds, now + self._rest_seconds)
