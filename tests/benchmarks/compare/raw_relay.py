"""The interpreter's floor: bytes from a client to the upstream and back, and nothing else.

    python -m tests.benchmarks.compare.raw_relay PORT UPSTREAM_PORT [CERTIFICATE]

No head is read, nothing is checked, counted or written down, and each client has an upstream connection of its own:
not a gateway, but what pushing bytes through this interpreter and this loop costs at least.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import cast

import uvloop


class End(asyncio.Protocol):
    """One end of a pair; what comes goes out at the other, which holds it back when it is full."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def join(self, other: asyncio.Transport) -> None:
        """From now on what comes goes there; what has come already goes first."""
        self.other = other
        for piece in self._early:
            other.write(piece)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def serve(port: int, upstream_port: int, trusted: ssl.SSLContext | None) -> None:
    """Until the process is ended."""
    loop = asyncio.get_running_loop()
    connecting: set[asyncio.Task[None]] = set()

    class Client(End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            task = loop.create_task(self._connect())
            connecting.add(task)
            task.add_done_callback(connecting.discard)

        async def _connect(self) -> None:
            upstream, far = await loop.create_connection(End, "127.0.0.1", upstream_port, ssl=trusted)
            assert self.transport is not None
            if self.transport.is_closing():
                upstream.close()
                return
            far.join(self.transport)
            self.join(upstream)

    server = await loop.create_server(Client, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    [port, upstream_port, *certificate] = sys.argv[1:]
    trusted = ssl.create_default_context(cafile=certificate[0]) if certificate else None
    uvloop.run(serve(int(port), int(upstream_port), trusted))
