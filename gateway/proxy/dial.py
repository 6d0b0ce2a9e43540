"""Connecting to an upstream: aiohttp's connector resolves, dials, verifies and tunnels; the connection is then ours."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from yarl import URL

from gateway.errors import GatewayError, Overloaded, UpstreamTimeout, UpstreamUnreachable
from gateway.exchange.kept_errors import forget_origin
from gateway.exchange.upstream_metrics import CONNECTED
from gateway.proxy.bites import UPSTREAM_UNSENT_BYTES
from gateway.proxy.channel import leave_unsent
from gateway.proxy.upstream_faults import cause

# One refused or reset connect may be a restart in progress; nothing was sent, so trying again is safe.
CONNECT_ATTEMPTS = 3
CONNECT_PAUSE_SECONDS = 0.05

_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the system says when it is this machine that has nothing left."""


class Dialler:
    """Connects to one origin. Needs the running loop."""

    def __init__(
        self,
        url: URL,
        *,
        proxy: URL | None,
        timeout_seconds: float,
        attempted: Callable[[str, float], None],
        make_room: Callable[[], None],
    ) -> None:
        """`attempted` is told of each attempt, by its result, how long it took; `make_room` closes what nobody uses."""
        self._url = url
        self._proxy = proxy
        self._timeout_seconds = timeout_seconds
        self._attempted = attempted
        self._make_room = make_room
        self._connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, socket_factory=_socket)
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=timeout_seconds, sock_connect=timeout_seconds
        )

    def trust(self, trusted: ssl.SSLContext | None) -> None:
        """Believe these certificates from now on; None will do where there is no TLS on the way."""
        # A template: the connector reads from it where to connect, never what to send.
        self._request = ClientRequest(
            "GET", self._url, loop=asyncio.get_running_loop(), ssl=trusted or True, proxy=self._proxy
        )

    async def connect(self) -> asyncio.Transport:
        """A new connection, whose protocol is still to be set.

        Raises UpstreamUnreachable, UpstreamTimeout, or Overloaded when it is this machine that cannot connect. A
        failed attempt is made again, because nothing was sent.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_seconds
        attempt = 1
        while True:
            began = monotonic()
            try:
                transport = await self._attempt()
                self._attempted(CONNECTED, monotonic() - began)
                return transport
            except (aiohttp.ClientError, OSError) as error:
                forget_origin(error)  # what dials keeps it
                failure = _failure(error)
                self._attempted(failure.result, monotonic() - began)
                if (
                    failure.is_final
                    or attempt >= CONNECT_ATTEMPTS
                    or loop.time() + CONNECT_PAUSE_SECONDS > deadline
                ):
                    raise failure.error from error
                if failure.result == "no_files":
                    self._make_room()
                await asyncio.sleep(CONNECT_PAUSE_SECONDS * attempt)
                attempt += 1

    async def _attempt(self) -> asyncio.Transport:
        connection = await self._connector.connect(self._request, traces=[], timeout=self._timeout)
        protocol = connection.protocol
        assert protocol is not None
        transport = protocol.transport
        if transport is None or transport.is_closing() or protocol.should_close:
            connection.close()
            raise ConnectionError("the connection was lost, or spoken on, before it was used")
        protocol.transport = None  # it is ours: the connector has nothing to close, or to keep
        connection.close()
        return transport

    async def close(self) -> None:
        """Connect no more."""
        await self._connector.close()


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """What a connection is made of."""
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    leave_unsent(sock, UPSTREAM_UNSENT_BYTES)
    return sock


class _Failure(NamedTuple):
    """A failed attempt to connect: what it is counted as, how it is told, and whether trying again is in vain."""

    result: str
    error: GatewayError
    is_final: bool = False


def _failure(error: aiohttp.ClientError | OSError) -> _Failure:
    if isinstance(error, TimeoutError):  # aiohttp's are among these
        return _Failure(
            "timeout",
            UpstreamTimeout(
                "The upstream could not be reached in time. Try again later.", detail=cause(error)
            ),
            is_final=True,
        )
    by_name = isinstance(error, aiohttp.ClientConnectorDNSError)
    if (isinstance(error, OSError) and error.errno in _NO_FILES) or (by_name and not _files_left()):
        return _Failure(
            "no_files",
            Overloaded(
                "The gateway cannot open more connections. Try again in a moment.",
                detail=f"no connection to the upstream: {cause(error)}",
            ),
        )
    if by_name or isinstance(error, aiohttp.ClientSSLError):
        return _Failure(
            "failed",
            UpstreamUnreachable(
                "The upstream could not be reached securely or by name. Tell the gateway's operator.",
                detail=cause(error),
            ),
            is_final=True,
        )
    return _Failure(
        "failed",
        UpstreamUnreachable("The upstream cannot be reached. Try again later.", detail=cause(error)),
    )


def _files_left() -> bool:
    """Whether a file can be opened: name resolution does not say when that was its trouble."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True
