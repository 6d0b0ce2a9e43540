"""A raw upstream: records every byte, plays a script, opens gates when the test says so."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_upstream\r\nContent-Length: 2\r\n\r\n{}"

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Seen:
    """One request as the upstream saw it."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    raw_head: bytes
    body: bytes = b""
    complete: bool = False
    connection: int = 0

    def get(self, name: str) -> str | None:
        """The first value of a header field."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)

    def all(self, name: str) -> list[str]:
        """Every value of a header field."""
        return [value for key, value in self.fields if key.lower() == name.lower()]


class Turn:
    """The upstream's side of one request: what a script acts on."""

    def __init__(
        self,
        upstream: ScriptedUpstream,
        seen: Seen,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.seen = seen
        self.reader = reader
        self.writer = writer
        self._upstream = upstream

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def wait_for(self, gate: str) -> None:
        """Wait until the test opens a gate."""
        await asyncio.wait_for(self._upstream.gate(gate).wait(), 60)

    def open(self, gate: str) -> None:
        """Open a gate at which the test waits."""
        self._upstream.gate(gate).set()

    async def read_body(self) -> bytes:
        """Read the rest of the request body by its framing."""
        seen = self.seen
        length = seen.get("content-length")
        if (seen.get("transfer-encoding") or "").lower() == "chunked":
            while True:
                size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
                data = await self.reader.readexactly(size + 2)
                if not size:
                    break
                seen.body += data[:-2]
        elif length is not None:
            while len(seen.body) < int(length):
                piece = await self.reader.read(min(2**20, int(length) - len(seen.body)))
                if not piece:
                    return seen.body
                seen.body += piece
        seen.complete = True
        return seen.body

    def reset(self) -> None:
        """Die by RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """Die by FIN."""
        self.writer.close()

    async def gone(self) -> None:
        """Return when the gateway has closed this connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Turn], Awaitable[None]]


async def answer_ok(turn: Turn) -> None:
    """The script of an upstream to which nothing happens: read everything, answer `{}`."""
    await turn.read_body()
    await turn.send(OK)


async def silent(turn: Turn) -> None:
    """The script of an upstream that opens the gate `asked` and says nothing until the gateway has hung up."""
    await turn.read_body()
    turn.open("asked")
    await turn.gone()


async def cut_off(turn: Turn) -> None:
    """The script of an upstream that opens the gate `cut` when the gateway breaks its request off."""
    try:
        await turn.read_body()
    except ConnectionError:
        turn.open("cut")


async def breaks_off(turn: Turn) -> None:
    """The script of an upstream that begins a stream, and resets the connection after one event."""
    await turn.read_body()
    await turn.send(SSE_HEAD)
    await turn.chunk(b"data: 1\n\n")
    turn.reset()


def says(*pieces: bytes, head: bytes = SSE_HEAD) -> Script:
    """The script of an answer of which no more than these pieces comes until the gateway has hung up."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(head)
        for piece in pieces:
            await turn.chunk(piece)
        await turn.gone()

    return script


def in_two(first: bytes, second: bytes, head: bytes = SSE_HEAD) -> Script:
    """The script of an answer whose second half waits at the gate `go on`."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(head)
        await turn.chunk(first)
        await turn.wait_for("go on")
        await turn.chunk(second)
        await turn.send(b"0\r\n\r\n")

    return script


two_events = in_two(b"data: 1\n\n", b"data: 2\n\n")
"""The script of a stream of two events."""


class ScriptedUpstream:
    """Listens on a free port of 127.0.0.1."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.requests: list[Seen] = []
        self.connections = 0
        self.open_connections = 0
        self._script: Script = answer_ok
        self._gates: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []

    def plays(self, script: Script) -> None:
        """From now on every request gets this script."""
        self._script = script

    def gate(self, name: str) -> asyncio.Event:
        """A gate by name; scripts wait for it, tests `set` it, or the other way round."""
        return self._gates.setdefault(name, asyncio.Event())

    async def passed(self, gate: str) -> None:
        """Wait until a script has opened a gate."""
        await asyncio.wait_for(self.gate(gate).wait(), 10)

    @property
    def base_url(self) -> str:
        """The base URL for a gateway's settings."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def all_closed(self, within_seconds: float = 1.0) -> bool:
        """Whether no connection is open any more, within a time."""
        deadline = asyncio.get_running_loop().time() + within_seconds
        while self.open_connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        return not self.open_connections

    async def __aenter__(self) -> ScriptedUpstream:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=2**20, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not self.failures, self.failures

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                seen = _parse(head, number)
                self.requests.append(seen)
                await self._script(Turn(self, seen, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException as failure:
            self.failures.append(failure)
            raise
        finally:
            self.open_connections -= 1
            writer.close()


def _parse(head: bytes, connection: int) -> Seen:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in rest if line)]
    return Seen(method, target, fields, head, connection=connection)
