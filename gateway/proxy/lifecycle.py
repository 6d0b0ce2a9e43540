"""Whether this process is still meant to get work, what of its work runs, and what of that would outlast a drain."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.errors import Ending, GatewayError
from gateway.exchange.exchange import Exchange


class EndsPolitely(Protocol):
    """Something long-lived that can be told to come to an end."""

    def end_politely(self, code: int, reason: str, ending: Ending) -> None:
        """Close both sides with this WebSocket close code and reason, and end the exchange so."""


class Running:
    """One exchange of a known caller, as long as it is under way; made in the task that serves it."""

    __slots__ = ("_refusal", "_task", "exchange")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._refusal: GatewayError | None = None

    def interrupt(self, refusal: GatewayError) -> None:
        """Have it end with this error, wherever it is."""
        if self._refusal is None:
            self._refusal = refusal
            self._task.cancel()

    def interrupted(self) -> bool:
        """Whether that, and nothing else, is why its task has been cancelled; the task goes on then."""
        return self._refusal is not None and self._task.uncancel() == 0

    def refusal(self) -> GatewayError:
        """The error it ends with; handed out once, so that nothing here leads back to who raises it."""
        refusal, self._refusal = self._refusal, None
        assert refusal is not None
        return refusal


class Lifecycle:
    """What load balancers, the listeners and running sessions go by."""

    def __init__(self) -> None:
        self.ready = False
        """Load balancers may send new connections."""

        self.draining = False
        """No new connections are accepted; what runs may finish."""

        self.in_flight = 0
        self.running: dict[str, Running] = {}
        """Exchanges whose caller is known, by their ids."""

        self.sessions: dict[str, EndsPolitely] = {}
        """Open WebSockets, by the ids of their exchanges."""

    def withdraw(self, exchange_id: str, refusal: GatewayError) -> None:
        """End an exchange, if it still runs, because its caller would now be refused so."""
        running = self.running.get(exchange_id)
        if running is None:
            return
        refusal.ending = Ending.WITHDRAWN
        refusal.__traceback__ = refusal.__context__ = (
            None  # they lead to the exchange, which would keep itself
        )
        session = self.sessions.get(exchange_id)
        if session is None:
            running.interrupt(refusal)
        else:
            session.end_politely(1008, f"{refusal.code}: no longer allowed", Ending.WITHDRAWN)
