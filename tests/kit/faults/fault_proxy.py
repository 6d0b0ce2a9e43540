"""A TCP proxy that does to a connection what networks do: slow it, cut it, swallow it, slice it.

Put it between a gateway and its upstream, or between a client and its gateway. It knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field, replace
from typing import Literal

Way = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to the bytes of one direction; the defaults let everything pass."""

    latency_seconds: float = 0.0
    """Each piece is delivered this much later; order is kept."""

    bytes_per_second: float | None = None
    slice_bytes: int | None = None
    """Pieces are delivered this many bytes at a time, each in a segment of its own."""

    cut_after_bytes: int | None = None
    """After this many bytes of a connection `end` happens to it, both ways."""

    end: Literal["fin", "rst", "silence"] = "fin"
    swallow: bool = False
    """A black hole: bytes are taken and never delivered, and neither is the end."""


@dataclass(eq=False)
class _Link:
    """One proxied connection."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    passed: dict[Way, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    dead: bool = False


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `port`, with faults.

    `up` is from whoever connects to the target, `down` the way back. Faults may be changed at any
    time; they hold for what arrives from then on.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.faults: dict[Way, Faults] = {"up": Faults(), "down": Faults()}
        self.connections = 0
        self.refuse = False
        """Reset whoever connects, at once."""

        self.swallowed: list[bytes] = []
        """What has disappeared, piece by piece, either way."""

        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in tuple(self._links):
            self._end(link, "rst")

    def set(self, way: Way, **faults: object) -> None:
        """Change some faults of one direction."""
        self.faults[way] = replace(self.faults[way], **faults)  # type: ignore[arg-type]

    def cut(self, end: Literal["fin", "rst"] = "rst") -> None:
        """End every connection now."""
        for link in tuple(self._links):
            self._end(link, end)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        if self.refuse:
            _reset(writer)
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        link = _Link(writer, far_writer)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pass(link, "up", reader, far_writer), self._pass(link, "down", far_reader, writer)
            )
        finally:
            if not link.dead:
                self._end(link, "fin")

    async def _pass(
        self, link: _Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while piece := await reader.read(65536):
                faults = self.faults[way]
                if faults.swallow or link.dead:
                    self.swallowed.append(piece)
                    continue
                await self._deliver(link, way, faults, piece, writer)
            if not (self.faults[way].swallow or link.dead):
                writer.close()
        except ConnectionError:
            if not link.dead:
                self._end(link, "rst")

    async def _deliver(
        self, link: _Link, way: Way, faults: Faults, piece: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if faults.latency_seconds:
            await asyncio.sleep(faults.latency_seconds)
        cut = faults.cut_after_bytes
        room = len(piece) if cut is None else max(0, cut - link.passed[way])
        size = faults.slice_bytes or len(piece)
        for start in range(0, min(room, len(piece)), size):
            part = piece[start : min(start + size, room)]
            writer.write(part)
            await writer.drain()
            link.passed[way] += len(part)
            if faults.bytes_per_second is not None:
                await asyncio.sleep(len(part) / faults.bytes_per_second)
            elif faults.slice_bytes:
                await asyncio.sleep(0)
        if cut is not None and link.passed[way] >= cut:
            self._end(link, faults.end)

    def _end(self, link: _Link, end: Literal["fin", "rst", "silence"]) -> None:
        link.dead = True
        if end == "silence":
            return
        self._links.discard(link)
        for writer in (link.client, link.server):
            if end == "rst":
                _reset(writer)
            else:
                writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
