"""Where clients connect: aiohttp's server, with its runner and its C parser (`request_heads`), and our protocols.

None of aiohttp's request handling is behind it: every request that can be parsed at all (`OPTIONS *`, CONNECT, encoded
line ends) reaches the same middlewares, `100 Continue` is sent by us or not at all, and a connection that waits has
no timer of its own.
"""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import web

from gateway.proxy.client_tls import ClientTls
from gateway.proxy.edge_protocol import EdgeProtocol
from gateway.proxy.edge_state import EdgeConnection, EdgeState
from gateway.proxy.handler import Handler
from gateway.proxy.served_tls import ServedTls


class EdgeServer(web.Server):
    """Makes a connection for each client and knows all that are open."""

    def __init__(self, answers: Handler, state: EdgeState) -> None:
        super().__init__(_not_asked)
        self._loop = asyncio.get_running_loop()
        self._answers = answers
        self.state = state
        self._tls = ServedTls(
            state.turns, handshake_seconds=state.deadlines.header_seconds, failed=state.events.refused
        )

    def serve_with(self, context: ssl.SSLContext | None) -> None:
        """Serve whoever connects from now on by TLS with this, or without; all others go on as they are."""
        self._tls.context = context

    def __call__(self) -> EdgeProtocol | ClientTls:  # type: ignore[override]  # a protocol all the same
        channel, context = EdgeProtocol(self.state, self._answers, self._loop), self._tls.context
        return channel if context is None else ClientTls(self._tls, context, channel)

    @property
    def connections(self) -> list[EdgeConnection]:  # type: ignore[override]  # protocols of our own
        """All that are open, or whose last request is still being ended."""
        return list(self.state.connections)

    def pre_shutdown(self) -> None:
        """Take no request any more."""
        for connection in self.connections:
            connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Cancel what does not end in that time."""
        tasks = {
            connection.task
            for connection in self.connections
            if connection.is_served and connection.task is not None
        }
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=timeout)
        for connection in self.connections:
            connection.force_close()


async def _not_asked(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("requests are answered without aiohttp's request handler")
