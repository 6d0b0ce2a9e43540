"""The sockets of all slots, open for as long as the gateway runs: who waits in one's queue outlives its worker."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.proxy.acceptor import BACKLOG, listening_sockets
from gateway.settings.section import split_address


@dataclass(frozen=True, slots=True)
class Listeners:
    """By slot, what listens; the kernel gives each its part of the newcomers."""

    slots: tuple[tuple[socket.socket, ...], ...]

    @property
    def address(self) -> tuple[str, int]:
        """Where clients come."""
        host, port = self.slots[0][0].getsockname()[:2]
        return host, port

    def __iter__(self) -> Iterator[socket.socket]:
        for sockets in self.slots:
            yield from sockets

    def close(self) -> None:
        """Leave them to the workers."""
        for one in self:
            one.close()


def listen(address: str, slots: int) -> Listeners:
    """Listen on an address once for each slot. Raises OSError, also where another gateway of this user listens there:
    it would have its part of the newcomers.
    """
    host, port = split_address(address)
    _refuse_company(host, port)
    opened: list[tuple[socket.socket, ...]] = []
    try:
        for _ in range(slots):
            sockets = listening_sockets(host, port, backlog=BACKLOG, shared=True)
            opened.append(tuple(sockets))
            port = sockets[0].getsockname()[1]
    except OSError:
        Listeners(tuple(opened)).close()
        raise
    return Listeners(tuple(opened))


def _refuse_company(host: str, port: int) -> None:
    """Raise OSError where somebody listens already: a socket that shares with nobody cannot be bound there."""
    if not port:
        return
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                alone.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            alone.bind(address)
