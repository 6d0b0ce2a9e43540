"""The exchanges that took longest of those that ended in the last minutes: a few, kept for who asks."""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heappush, heapreplace, nlargest
from operator import attrgetter
from typing import NamedTuple

from gateway.exchange.exchange import Exchange

_MINUTE_SECONDS = 60.0
_MOST_LETTERS = 200
"""Of a model's name, which is the client's choice."""

_MINUTES = 6
"""That are kept apart; the one that runs is among them."""


class Slow(NamedTuple):
    """One that has ended, and how. It begins with how long it took, in seconds, for it is ordered by that."""

    seconds: float
    id: str
    tenant: str
    operation: str
    model: str | None
    upstream: str | None
    bytes_out: int
    status: int
    """0: nothing was answered."""

    ending: str
    ended: float
    """In unix seconds."""


class Slowest:
    """Keeps so many of each minute. Sessions are not among them: how long one lasts says nothing."""

    def __init__(self, most: int) -> None:
        self.least_seconds = 0.0
        """What took no longer is not among them; whoever ends an exchange looks here before it calls."""

        self._most = most
        self._minutes: deque[list[Slow]] = deque([[]], maxlen=_MINUTES)
        self._timer: asyncio.TimerHandle | None = None

    def note(self, exchange: Exchange, seconds: float) -> None:
        """This one took so long, and more than `least_seconds`."""
        if exchange.is_socket:
            return
        slow = Slow(
            seconds,
            exchange.id,
            exchange.caller.tenant.id,
            exchange.operation.id,
            None if exchange.model is None else exchange.model[:_MOST_LETTERS],
            exchange.upstream,
            exchange.bytes_out,
            exchange.status or 0,
            str(exchange.ending),
            exchange.started_time + seconds,
        )
        minute = self._minutes[-1]
        if len(minute) < self._most:
            heappush(minute, slow)
        else:
            heapreplace(minute, slow)
        if len(minute) == self._most:
            self.least_seconds = minute[0].seconds

    def since(self, moment: float) -> list[Slow]:
        """Those that have ended since then, in unix seconds; slowest first."""
        found = (slow for minute in self._minutes for slow in minute if slow.ended >= moment)
        return nlargest(self._most, found, key=attrgetter("seconds"))

    async def start(self) -> None:
        """Begin a new minute every minute."""
        self._timer = asyncio.get_running_loop().call_later(_MINUTE_SECONDS, self._turn)

    async def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        self.minute_over()
        self._timer = asyncio.get_running_loop().call_later(_MINUTE_SECONDS, self._turn)

    def minute_over(self) -> None:
        """Begin another one."""
        self._minutes.append([])
        self.least_seconds = 0.0
