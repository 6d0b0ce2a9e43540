"""Whether this process is still meant to get work, and what of its work would outlast a drain."""

from __future__ import annotations

from typing import Protocol


class EndsPolitely(Protocol):
    """Something long-lived that can be told to come to an end."""

    def end_politely(self, code: int, reason: str) -> None:
        """Close both sides with this WebSocket close code and reason."""


class Lifecycle:
    """What load balancers, the listeners and running sessions go by."""

    def __init__(self) -> None:
        self.ready = False
        """Load balancers may send new connections."""

        self.draining = False
        """No new connections are accepted; what runs may finish."""

        self.in_flight = 0
        self.sessions: set[EndsPolitely] = set()
