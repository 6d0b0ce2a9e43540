"""A TCP link on loopback that can be made slow, deaf or cut, to put between a client and a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FaultyLink:
    """Passes bytes both ways; the faults are attributes that may change at any time."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        self.delay_seconds = 0.0
        """How long the server's bytes are kept back."""
        self.drop_replies = False
        """Whether the server's bytes disappear."""
        self.port = port
        self.connections = 0
        """Made so far."""
        self.writes: list[bytes] = []
        """What the client sent, as it arrived."""
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut every connection and refuse new ones, until opened again."""
        if self._server:
            self._server.close()
        self.cut()
        await asyncio.sleep(0.02)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        await asyncio.gather(self._pass_on(reader, server_writer, 0), self._pass_on(server_reader, writer, 1))
        self._writers -= {writer, server_writer}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: int) -> None:
        try:
            while piece := await reader.read(65536):
                if not back:
                    self.writes.append(piece)
                elif self.drop_replies:
                    continue
                elif self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                writer.write(piece)
                await writer.drain()
        except (OSError, RuntimeError):  # uvloop says so of a transport that was cut
            pass
        finally:
            writer.close()


@asynccontextmanager
async def faulty_link(target_port: int, port: int = 0) -> AsyncIterator[FaultyLink]:
    """A link to the target, on a free port unless one is named."""
    link = FaultyLink(target_port, port)
    await link.open()
    try:
        yield link
    finally:
        await link.close()
