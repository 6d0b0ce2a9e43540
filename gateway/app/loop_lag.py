"""How late the event loop is: everybody's requests wait while one thing is computed."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from math import inf
from time import monotonic

from gateway.exchange.instruments import Spread
from gateway.proxy.bites import Turns
from gateway.proxy.readable import LATE_SECONDS

BEAT_SECONDS = 0.02
"""As long as a turn of the loop may be: what keeps it longer from looking who has sent something is always noticed."""

REMEMBERED_SECONDS = 60.0


class LoopLag:
    """Notes by how much each of its beats comes too late: as long as the loop was blocked, less one beat at most."""

    def __init__(self, lags: Spread, turns: Turns) -> None:
        """`lags` counts each; `turns` is told when the loop is late."""
        self._lags = lags
        self._turns = turns
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._turned_at = monotonic()
        self._longest = self._longest_before = 0.0
        self._since = monotonic()

    @property
    def longest_seconds(self) -> float:
        """The longest lag of the last minute, or two."""
        return max(self._longest, self._longest_before)

    @property
    def turned_seconds_ago(self) -> float:
        """Since the loop was last seen to turn; may be asked from any thread."""
        return monotonic() - self._turned_at

    async def start(self) -> None:
        """Begin to beat."""
        self._loop = asyncio.get_running_loop()
        self._arm(monotonic())

    async def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
        self._turns.late_at = inf

    def _arm(self, now: float) -> None:
        self._due = due = now + BEAT_SECONDS
        self._turns.late_at = due + LATE_SECONDS
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        # Fifty times a second, whatever else there is to do: so it calls little.
        now = self._turned_at = monotonic()
        lag = now - self._due
        if lag < 0.0:
            lag = 0.0
        lags = self._lags
        lags.counts[bisect_left(lags.bounds, lag)] += 1
        lags.sum += lag
        if now - self._since > REMEMBERED_SECONDS:
            self._since, self._longest_before, self._longest = now, self._longest, 0.0
        if lag > self._longest:
            self._longest = lag
        self._arm(now)
        if lag > LATE_SECONDS:
            # What the loop reads when it looks next may have come meanwhile.
            self._turns.late_at = 0.0
            self._loop.call_soon(self._loop.call_soon, self._has_looked)

    def _has_looked(self) -> None:
        self._turns.late_at = self._due + LATE_SECONDS
