"""How soon a worker that ended is replaced: at once, and ever later where that does not help."""

from __future__ import annotations

from collections import deque

RECENT_SECONDS = 60.0
AT_ONCE = 10
"""Ends within that time after which a successor starts at once."""

FIRST_DELAY_SECONDS, MOST_DELAY_SECONDS = 0.5, 30.0

HOPELESS_STARTS = 5
"""Starts in a row that came to nothing, after which a slot hopes no more."""


class Patience:
    """What is remembered of the ends of one slot's workers."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque()
        self._failed_starts = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether none has come up for so long that somebody should look."""
        return self._failed_starts >= HOPELESS_STARTS

    def came_up(self) -> None:
        """A worker is ready."""
        self._failed_starts = 0

    def ended(self, now: float, *, came_up: bool) -> float:
        """A worker ended, at this moment in seconds; returns after how many its successor may start."""
        if not came_up:
            self._failed_starts += 1
        ends = self._ends
        ends.append(now)
        while ends[0] <= now - RECENT_SECONDS:
            ends.popleft()
        late = max(len(ends) - AT_ONCE, self._failed_starts)
        if late <= 0:
            return 0.0
        return min(FIRST_DELAY_SECONDS * 2.0 ** (late - 1), MOST_DELAY_SECONDS)
