"""The stick that `stick` measures by: bytes from one connection to another, and nothing else. It must never change.

    python -m tests.benchmarks.relay UPSTREAM_PORT

What it costs on a machine is what that machine asks for moving bytes through Python: a ratio to it says the same on
another machine, and a year later.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of two connections; what it receives goes to the other."""

    other: Side | None = None
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


class Client(Side):
    """The side of a client, which dials."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.dialling = asyncio.get_running_loop().create_task(self.dial())

    async def dial(self) -> None:
        _, upstream = await asyncio.get_running_loop().create_connection(Side, "127.0.0.1", self.port)
        self.other, upstream.other = upstream, self
        for data in self.early:
            upstream.transport.write(data)


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Client, port), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it lets go


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
