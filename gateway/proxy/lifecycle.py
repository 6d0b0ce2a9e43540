"""Whether this process is still meant to get work, what of its work runs, and what of that would outlast a drain."""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from gateway.errors import Draining, Ending, GatewayError
from gateway.exchange.kept_errors import forget_origin
from gateway.proxy.request import Request


class EndsPolitely(Protocol):
    """Something long-lived that can be told to come to an end."""

    def end_politely(self, code: int, reason: str, ending: Ending) -> None:
        """Close both sides with this WebSocket close code and reason, and end the exchange so."""


class Interrupted:
    """One that has to end with an error, and the task that serves it."""

    __slots__ = ("_asked", "_refusal", "_task", "exchange")

    def __init__(self, request: Request) -> None:
        task = request.connection.task
        assert task is not None, "nothing is served without one"
        self.exchange = request.exchange
        self._task = task
        self._asked = 0
        self._refusal: GatewayError | None = None

    def interrupt(self, refusal: GatewayError) -> None:
        """Have it end with this error, wherever it is; may be asked again, if it went unheard."""
        self._refusal = refusal
        self._asked += 1
        self._task.cancel()

    def interrupted(self) -> bool:
        """Whether that, and nothing else, is why its task has been cancelled; the task goes on then."""
        for _ in range(self._asked):
            self._task.uncancel()
        return self._refusal is not None and not self._task.cancelling()

    def over(self) -> None:
        """It ended before it could be interrupted; its task serves others, who have not been asked to end."""
        for _ in range(self._asked):
            self._task.uncancel()

    def refusal(self) -> GatewayError:
        """The error it ends with; handed out once, so that nothing here leads back to who raises it."""
        refusal, self._refusal = self._refusal, None
        assert refusal is not None
        return refusal


class Lifecycle:
    """What load balancers, the listeners and running sessions go by."""

    def __init__(self) -> None:
        self.started = False
        """Connections can be served."""

        self.stopping = False
        """The whole gateway goes, and nobody comes in its place: load balancers are to send nobody any more."""

        self.cutting = False
        """What still runs has had its time, and is ended."""

        self.in_flight = 0
        self.running: dict[str, Request | Interrupted] = {}
        """Exchanges whose caller is known, by their ids: from then on they can be interrupted."""

        self.sessions: dict[str, EndsPolitely] = {}
        """Open WebSockets, by the ids of their exchanges."""

    def oldest_seconds(self, *, is_socket: bool) -> float:
        """For how long the oldest of these has been running that came over a WebSocket, or did not; 0: none does."""
        for running in tuple(self.running.values()):  # whoever asks may be on another thread
            if running.exchange.is_socket is is_socket:
                return monotonic() - running.exchange.started_at
        return 0.0

    def interruption(self, exchange_id: str) -> GatewayError | None:
        """What an exchange whose task has been cancelled ends with if that, and nothing else, is why."""
        running = self.running.get(exchange_id)
        return running.refusal() if isinstance(running, Interrupted) and running.interrupted() else None

    def withdraw(self, exchange_id: str, refusal: GatewayError) -> bool:
        """End an exchange because its caller would now be refused so; whether it still ran."""
        running = self.running.get(exchange_id)
        if running is None:
            return False
        refusal.ending = Ending.WITHDRAWN
        forget_origin(refusal)
        session = self.sessions.get(exchange_id)
        if session is None:
            self._interrupt(exchange_id, running, refusal)
        else:
            _told(running, refusal)
            session.end_politely(1008, f"{refusal.code}: no longer allowed", Ending.WITHDRAWN)
        return True

    def cut(self) -> None:
        """End all exchanges, for their time is over; who has no answer yet is told so."""
        self.cutting = True
        for exchange_id, running in tuple(self.running.items()):
            session = self.sessions.get(exchange_id)
            refusal = Draining("This gateway is restarting, and your request was not answered in time.")
            if session is None:
                self._interrupt(exchange_id, running, refusal)
            else:
                _told(running, refusal)
                session.end_politely(1001, "the gateway is restarting", Ending.DRAINED)

    def _interrupt(self, exchange_id: str, running: Request | Interrupted, refusal: GatewayError) -> None:
        if not isinstance(running, Interrupted):
            running = self.running[exchange_id] = Interrupted(running)
        running.interrupt(refusal)


def _told(running: Request | Interrupted, refusal: GatewayError) -> None:
    """Count an error of which no answer tells, but the end of a session; once, however often it is asked to end."""
    standing = running.exchange.standing
    if standing is not None and running.exchange.ending is None:
        standing.tallies.erred(refusal.code)
