"""A clock to pass in where a gateway would ask the system's."""

from __future__ import annotations


class Clock:
    """Time that moves only when told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds
