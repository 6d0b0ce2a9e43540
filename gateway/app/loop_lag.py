"""How late the event loop is: everybody's requests wait while one thing is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

BEAT_SECONDS = 0.05
REMEMBERED_SECONDS = 60.0


class LoopLag:
    """Notes by how much each of its beats comes too late: as long as the loop was blocked, less one beat at most."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
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
        self._arm()

    async def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._due = monotonic() + BEAT_SECONDS
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        now = self._turned_at = monotonic()
        lag = max(0.0, now - self._due)
        self._observe(lag)
        if now - self._since > REMEMBERED_SECONDS:
            self._since, self._longest_before, self._longest = now, self._longest, 0.0
        self._longest = max(self._longest, lag)
        self._arm()
