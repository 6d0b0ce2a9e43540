"""Everybody who is connected, and the terms on which they are."""

from __future__ import annotations

import asyncio
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
Unseen = Callable[[GatewayError], bytes]
"""Records an exchange that never became a request; returns the header fields that its answer shall carry."""


@dataclass(frozen=True, slots=True)
class EdgeEvents:
    """Who is told what becomes of connections."""

    unseen: Unseen

    refused: Callable[[str], None]
    """A newcomer was not let in: `full` or `peer_share`."""

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
        self.draining = False
        self.requests = 0
        """How many have come."""

        self.heads = RequestHeads()

        self._most_lingering = most_lingering
        self._lingering: dict[EdgeConnection, None] = {}
        self.connections: dict[EdgeConnection, None] = {}
        """All connections that are open, or whose last request is still being ended."""

    def came(self, connection: EdgeConnection) -> None:
        """A connection begins."""
        self.connections[connection] = None

    def left(self, connection: EdgeConnection) -> None:
        """A connection is gone, and what it was asked too."""
        self.connections.pop(connection, None)

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
