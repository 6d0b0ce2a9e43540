"""Who is connected, who of them waits for a request of its own making, and who makes way when it gets full.

Nothing in here is searched for: whoever has waited longest stands first.
"""

from __future__ import annotations

from typing import Protocol

from gateway.wire.addresses import NO_PROXIES, Proxies, peer_of, written

NARROW = 0.8
"""The part of all connections up to which nobody asks whose they are."""

GRACE_SECONDS = 0.25
"""How long a connection is left to say something before it may have to make way for another.

A client that has something to ask sends it with the end of its handshake. Longer, and whoever can connect as
often as there is room in that time keeps everybody out.
"""


class Peer:
    """One address, or one network, that connects; with its connections that serve no request now."""

    __slots__ = ("count", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.waiting: dict[ClientConnection, None] = {}


class ClientConnection(Protocol):
    """What is counted here; these fields are written here alone."""

    peer: Peer | None
    waits_since: float
    client: str | None
    """Its address, as it is written everywhere; None where nobody knows it."""

    is_proxy: bool
    """Whether what it says of whom it asks for is believed."""

    def make_way(self) -> None:
        """Close this connection, which serves no request."""


class NoRoom(Exception):
    """A newcomer is not let in; `reason` is `full` or `peer_share`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class ClientConnections:
    """At most `most` connections; when it gets narrow, a share of them per peer, but for trusted proxies.

    A newcomer for whom there is no room takes the place of the one that has waited longest, of all or of its own
    peer's; only where none has waited for a moment is the newcomer refused. Times are seconds of one clock.
    """

    def __init__(self, most: int, *, peer_share: float, proxies: Proxies = NO_PROXIES) -> None:
        self.most = most
        self.open = 0
        self._wide = int(most * NARROW)
        self._most_of_peer = max(1, int(most * peer_share))
        self._proxies = proxies
        self._peers: dict[str, Peer] = {}
        self._waiting: dict[ClientConnection, None] = {}

    def enter(self, connection: ClientConnection, host: str, now: float) -> None:
        """Count a newcomer, which waits from now on. Raises NoRoom; then it is not counted."""
        connection.client, connection.is_proxy = written(host), self._proxies.trusts(host)
        name = peer_of(host)
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = Peer(name)
        peer.count += 1  # before anybody makes way: it may be the last one of the same peer
        try:
            if self.open >= self._wide:
                self._make_room(peer, connection.is_proxy, now)
        except NoRoom:
            self._uncount(peer)
            raise
        self.open += 1
        connection.peer = peer
        self.waits(connection, now)

    def leave(self, connection: ClientConnection) -> None:
        """Count a connection no more; nothing for one that is not counted."""
        peer = connection.peer
        if peer is None:
            return
        self.asks(connection)
        connection.peer = None
        self.open -= 1
        self._uncount(peer)

    def _uncount(self, peer: Peer) -> None:
        peer.count -= 1
        if not peer.count:
            del self._peers[peer.name]

    def waits(self, connection: ClientConnection, now: float) -> None:
        """It waits for a request, or for the rest of one's head, from now on."""
        peer = connection.peer
        if peer is not None:
            waiting, all_waiting = peer.waiting, self._waiting
            if connection in waiting:
                del waiting[connection], all_waiting[connection]  # it goes to the end
            connection.waits_since = now
            waiting[connection] = all_waiting[connection] = None

    def asks(self, connection: ClientConnection) -> None:
        """A request of it is being served."""
        peer = connection.peer
        if peer is not None:
            peer.waiting.pop(connection, None)
            self._waiting.pop(connection, None)

    def _make_room(self, peer: Peer, is_proxy: bool, now: float) -> None:
        """Let whoever has to make way do so. Raises NoRoom when nobody has to."""
        if peer.count > self._most_of_peer < self.most and not is_proxy:
            waiting, reason = peer.waiting, "peer_share"
            detail = f"{peer.name} has {peer.count - 1} of {self.most} connections"
        elif self.open >= self.most:
            waiting, reason = self._waiting, "full"
            detail = f"{self.open} of {self.most} connections in use"
        else:
            return
        longest = next(iter(waiting), None)
        if longest is None or now - longest.waits_since < GRACE_SECONDS:
            raise NoRoom(reason, detail)
        self.leave(longest)
        longest.make_way()
