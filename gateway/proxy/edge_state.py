"""Everybody who is connected, and the terms on which they are."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import GatewayError
from gateway.proxy.bites import Turns
from gateway.proxy.client_connections import ClientConnection, ClientConnections
from gateway.proxy.incoming_body import BodyDeadlines
from gateway.proxy.request_heads import RequestHeads
from gateway.proxy.wheel import Timed, Wheel

LINGER_SECONDS = 2.0

CLOSED_PER_SECOND = 5000
"""How many connections that wait are closed in that time when the process goes: all at once would be one long turn."""

BETWEEN_SECONDS = 1.0
"""How long a connection is kept behind an answer, when the process goes, for a request that follows it at once."""

Unseen = Callable[[GatewayError, str | None], bytes]
"""Records an exchange that never became a request, of a client with this address; returns the header fields that its
answer shall carry."""


@dataclass(frozen=True, slots=True)
class EdgeEvents:
    """Who is told what becomes of connections."""

    unseen: Unseen

    refused: Callable[[str], None]
    """A newcomer was not let in: `full`, `peer_share`, or because of its `handshake`, or `plain_http` where there is
    TLS."""

    closed: Callable[[str], None]
    """One had to make way: it was `idle`, or had sent half a `head`."""


@dataclass(frozen=True, slots=True)
class EdgeDeadlines:
    """How long clients are waited for, in seconds."""

    header_seconds: float
    """For a request's head to be complete."""

    body: BodyDeadlines
    write_idle_seconds: float
    """For a client that leaves its answer unread."""

    keepalive_seconds: float
    """For a next request."""


class EdgeConnection(ClientConnection, Timed, Protocol):
    """A client's connection, as far as the server goes."""

    transport: asyncio.Transport | None
    task: asyncio.Task[None] | None
    """What answers its requests."""

    @property
    def is_served(self) -> bool:
        """Whether a request of it is being answered."""

    @property
    def idle(self) -> bool:
        """Whether no request is being read or answered."""

    def hasten(self, later_seconds: float = 0.0) -> None:
        """The process goes: wait for a request no longer than is said here, and so much."""

    def close(self) -> None:
        """Answer what is being answered, and nothing more."""

    def force_close(self) -> None:
        """Close it behind what has been written."""


class EdgeState:
    """What the connections of one server share."""

    def __init__(
        self,
        *,
        events: EdgeEvents,
        clients: ClientConnections,
        most_lingering: int,
        max_header_bytes: int,
        deadlines: EdgeDeadlines,
        turns: Turns,
        wheel: Wheel,
    ) -> None:
        """`most_lingering` connections that are over are left a moment for their clients to read so."""
        self.events = events
        self.clients = clients
        self.max_header_bytes = max_header_bytes
        self.deadlines = deadlines
        self.turns = turns
        self.wheel = wheel
        self.last_answers = False
        """An answer is the last one of its connection: the client's next request belongs to another process."""

        self.draining = False
        """The process goes, and nobody is waited for as long as usual."""

        self.first_until = math.inf
        """Until when (loop time) those are waited for then who have asked nothing so far."""

        self.next_until = math.inf
        """Until when (loop time) a next request is waited for then at least."""

        self.requests = 0
        """How many have come."""

        self.heads = RequestHeads()

        self._most_lingering = most_lingering
        self._lingering: dict[EdgeConnection, None] = {}
        self.connections: dict[EdgeConnection, None] = {}
        """All connections that are open, or whose last request is still being ended."""

        self._emptied: asyncio.Future[None] | None = None

    def came(self, connection: EdgeConnection) -> None:
        """A connection begins."""
        self.connections[connection] = None

    def left(self, connection: EdgeConnection) -> None:
        """A connection is gone, and what it was asked too."""
        self.connections.pop(connection, None)
        if self._emptied is not None and not self.connections and not self._emptied.done():
            self._emptied.set_result(None)

    def drain(self, *, first_until: float, next_until: float) -> None:
        """The process goes: whoever asks is answered once more, and nobody is waited for any longer than that."""
        self.last_answers = self.draining = True
        self.first_until, self.next_until = first_until, next_until
        for number, connection in enumerate(tuple(self.connections)):
            connection.hasten(number / CLOSED_PER_SECOND)

    async def emptied(self) -> None:
        """Return when nobody is connected any more."""
        if self.connections:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def linger(self, connection: EdgeConnection, now: float) -> None:
        """Have a connection that is over cut when its client has had a moment to read so."""
        if len(self._lingering) >= self._most_lingering:
            first = next(iter(self._lingering))
            del self._lingering[first]
            if first.transport is not None:
                first.transport.close()  # once its answer, which may be of this very turn, is out
        self._lingering[connection] = None
        self.wheel.ask(connection, now + LINGER_SECONDS)

    def cut(self, connection: EdgeConnection) -> None:
        """It has had its moment."""
        self._lingering.pop(connection, None)
        if connection.transport is not None:
            connection.transport.abort()

    def leave(self, connection: EdgeConnection) -> None:
        """A connection is lost: nobody waits for its client any more."""
        self.wheel.forget(connection)
        self.clients.leave(connection)
        self._lingering.pop(connection, None)
