"""What slow and hostile peers cost: the gateway runs in a process of its own and is weighed from outside."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.client import HANDSHAKE, MIB
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.websocket import BINARY, TARGET, accepted, frame

CROWD = 200
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ServedProcess:
    """A gateway as an operator runs it."""

    pid: int
    port: int
    credential: str

    def rss_bytes(self) -> int:
        """What the process and its children hold in memory."""
        return sum(
            int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * PAGE_BYTES
            for pid in family(self.pid)
        )

    async def settled_rss_bytes(self) -> int:
        """The same, once it has stopped growing."""
        last = 0
        for _ in range(60):
            now = self.rss_bytes()
            if abs(now - last) < MIB // 4:
                return now
            last = now
            await asyncio.sleep(0.4)
        return last

    def head(self, method: str, target: str, *fields: str) -> bytes:
        """A request head with a credential, complete but for its last line."""
        lines = [
            f"{method} {target} HTTP/1.1",
            "Host: a",
            f"Authorization: Bearer {self.credential}",
            *fields,
        ]
        return "".join(f"{line}\r\n" for line in lines).encode()


def family(pid: int) -> Iterable[int]:
    """A process and all that it has started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text("ascii").split():
            yield from family(int(child))


@asynccontextmanager
async def served(upstream_url: str, keys: Path) -> AsyncIterator[ServedProcess]:
    """Run `gateway serve` on free ports until the block ends."""
    arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--upstream", upstream_url]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", *arguments, "--keys-dir", str(keys)),
        *("--set", "drain_seconds=0", "--set", "drain_notice_seconds=0"),
        env={**os.environ, "OPENAI_API_KEY": "sk-up"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(20):
            while not (serving := re.search(r"serving on http://127\.0\.0\.1:(\d+)", said)):
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        first = re.search(r"a first credential, .*, which only you can read: (.+\.jwt)", said)
        assert first, said
        credential = await asyncio.to_thread(Path(first[1]).read_text)
        yield ServedProcess(process.pid, int(serving[1]), credential.strip())
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.communicate(), 10)
        except TimeoutError:
            process.kill()
            await process.communicate()


@pytest.fixture
async def process(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[ServedProcess]:
    """A served gateway that has warmed up: a crowd has been there once, and has gone."""
    async with served(upstream.base_url, tmp_path / "keys") as running:

        async def visit(connection: socket.socket) -> None:
            await send(connection, running.head("GET", "/v1/models") + b"\r\n")
            await asyncio.get_running_loop().sock_recv(connection, 65536)

        async with crowd(running.port, visit):
            pass
        yield running


async def send(connection: socket.socket, data: bytes) -> None:
    """Send all of it."""
    await asyncio.get_running_loop().sock_sendall(connection, data)


@asynccontextmanager
async def crowd(
    port: int, act: Callable[[socket.socket], Awaitable[None]]
) -> AsyncIterator[list[socket.socket]]:
    """Open connections with small receive buffers, have each act, and leave them open for the block."""
    loop = asyncio.get_running_loop()
    connections = []
    try:
        for _ in range(CROWD):
            connection = socket.socket()
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connections.append(connection)
            await loop.sock_connect(connection, ("127.0.0.1", port))
        await asyncio.gather(*map(act, connections))
        yield connections
    finally:
        for connection in connections:
            connection.close()


async def test_the_scale_shows_what_a_process_holds(process: ServedProcess) -> None:
    """A scale that always says zero would pass everything below."""
    assert process.rss_bytes() > 20 * MIB


async def test_slow_readers_behind_a_fast_upstream_stay_light(
    process: ServedProcess, upstream: ScriptedUpstream
) -> None:
    flooded = 0

    async def flood(turn: Turn) -> None:
        nonlocal flooded
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while not turn.writer.is_closing():
            await turn.chunk(bytes(65536))
            flooded += 65536

    async def ask_and_look_away(connection: socket.socket) -> None:
        await send(connection, process.head("GET", "/v1/files/file-1/content") + b"\r\n")

    before = await process.settled_rss_bytes()
    upstream.plays(flood)
    async with crowd(process.port, ask_and_look_away):
        after = await process.settled_rss_bytes()
        assert len(upstream.requests) == 2 * CROWD
        assert flooded > 50 * MIB  # far more came than could be kept

    assert (after - before) / CROWD <= 1.1 * MIB


async def test_uploads_to_a_stalled_upstream_stay_light(
    process: ServedProcess, upstream: ScriptedUpstream
) -> None:
    async def never_reads(turn: Turn) -> None:
        turn.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async def push(connection: socket.socket) -> None:
        head = process.head("POST", "/v1/files", "Content-Type: text/plain", "Content-Length: 1000000000")
        await send(connection, head + b"\r\n")
        try:
            async with asyncio.timeout(6):
                while True:
                    await send(connection, bytes(2**18))
        except TimeoutError:
            pass

    before = await process.settled_rss_bytes()
    upstream.plays(never_reads)
    async with crowd(process.port, push):
        after = await process.settled_rss_bytes()
        assert len(upstream.requests) == 2 * CROWD

    assert (after - before) / CROWD <= 1.1 * MIB


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_websockets_whose_one_side_does_not_read_stay_light(
    direction: str, process: ServedProcess, upstream: ScriptedUpstream
) -> None:
    async def flood_or_ignore(turn: Turn) -> None:
        await turn.send(accepted(turn))
        if direction == "up":
            turn.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.Event().wait()
        piece = frame(BINARY, bytes(65536), masked=False)
        while not turn.writer.is_closing():
            await turn.send(piece)

    async def open_and_push(connection: socket.socket) -> None:
        await send(connection, process.head("GET", TARGET, HANDSHAKE.rstrip()) + b"\r\n")
        piece = frame(BINARY, bytes(65536))
        try:
            async with asyncio.timeout(4):
                while direction == "up":
                    await send(connection, piece)
        except TimeoutError:
            pass

    before = await process.settled_rss_bytes()
    upstream.plays(flood_or_ignore)
    async with crowd(process.port, open_and_push):
        after = await process.settled_rss_bytes()
        assert len(upstream.requests) == 2 * CROWD

    assert (after - before) / CROWD <= 1.1 * MIB


@pytest.mark.parametrize("fields", [8, 120], ids=["few big fields", "many small fields"])
async def test_an_unfinished_head_of_60_kib_stays_light(
    fields: int, process: ServedProcess, upstream: ScriptedUpstream
) -> None:
    size = 60 * 1024 // fields
    bomb = process.head("GET", "/v1/models") + b"".join(
        b"X-%03d: %b\r\n" % (number, b"a" * (size - 9)) for number in range(fields)
    )

    async def light_the_fuse(connection: socket.socket) -> None:
        await send(connection, bomb)

    before = await process.settled_rss_bytes()
    async with crowd(process.port, light_the_fuse):
        await asyncio.sleep(0.5)
        after = await process.settled_rss_bytes()

    assert (after - before) / CROWD <= 200 * 1024
    assert len(upstream.requests) == CROWD


async def test_what_a_crowd_has_cost_is_given_back(
    process: ServedProcess, upstream: ScriptedUpstream
) -> None:
    """The third crowd weighs no more than one may: nothing piles up from each to the next."""

    async def large(turn: Turn) -> None:
        if turn.seen.target == "/v1/models":
            await turn.send(OK)
            return
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while not turn.writer.is_closing():
            await turn.send(bytes(65536))

    async def ask_and_look_away(connection: socket.socket) -> None:
        await send(connection, process.head("GET", "/v1/files/file-1/content") + b"\r\n")

    upstream.plays(large)
    before = await process.settled_rss_bytes()
    for _ in range(3):
        async with crowd(process.port, ask_and_look_away):
            after = await process.settled_rss_bytes()
        assert await upstream.all_closed(within_seconds=5)

    assert (after - before) / CROWD <= 1.1 * MIB
