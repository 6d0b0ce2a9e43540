"""What floods is read in large pieces of buffers that are read into again, and nobody ever has other bytes for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

from gateway.proxy.bites import ANSWERS, CHUNKED, HEADS, STATED, Bites, Turns
from gateway.proxy.channel import Channel
from gateway.proxy.large_reads import FULL_READ_BYTES, LARGE_BYTES, Buffers
from gateway.wire.search import Piece
from tests.conftest import StartGateway
from tests.kit.client import MIB, RawAnswer, RawClient
from tests.kit.gateway import EVERY_SCOPE
from tests.kit.upstream import ScriptedUpstream, Turn

MANY = bytes(range(251)) * 100_000
"""25 MB in which every offset is told from its neighbours."""


class Taken(Channel):
    """A connection that keeps what it takes."""

    def __init__(self, turns: Turns, bites: Bites) -> None:
        super().__init__(asyncio.get_running_loop(), turns, bites)
        self.pieces: list[Piece] = []
        self.size_bytes = 0
        self.all_at: int | None = None

    def take(self, data: Piece) -> None:
        self.pieces.append(data)
        self.size_bytes += len(data)
        if self.all_at is not None and self.size_bytes >= self.all_at:
            self.take_as(HEADS)

    @property
    def passes_on(self) -> bool:
        return True

    def lost(self, error: BaseException | None) -> None:
        pass


@asynccontextmanager
async def connection(
    bites: Bites, *, all_at: int | None = None
) -> AsyncIterator[tuple[Taken, socket.socket]]:
    """A connection by TCP, and the peer's end of it."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    theirs.setblocking(False)
    taken = Taken(Turns(), bites)
    taken.all_at = all_at
    await loop.create_connection(lambda: taken, sock=ours)
    try:
        yield taken, theirs
    finally:
        if taken.transport is not None:
            taken.transport.abort()
        theirs.close()
        await asyncio.sleep(0)


async def until(taken: Taken, size: int) -> None:
    async with asyncio.timeout(20):
        while taken.size_bytes < size:
            await asyncio.sleep(0)


@pytest.mark.parametrize("bites", [STATED, ANSWERS])
async def test_who_keeps_the_pieces_of_a_flood_keeps_the_bytes_that_came(bites: Bites) -> None:
    async with connection(bites) as (taken, peer):
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(peer, MANY))
        await until(taken, len(MANY))
        await sending

        assert b"".join(taken.pieces) == MANY
        assert any(len(piece) > FULL_READ_BYTES for piece in taken.pieces)
        assert max(map(len, taken.pieces)) <= LARGE_BYTES


async def test_what_somebody_looks_into_comes_as_bytes_and_in_its_own_bites() -> None:
    async with connection(CHUNKED) as (taken, peer):
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(peer, MANY[: 4 * MIB]))
        await until(taken, 4 * MIB)
        await sending

        assert all(isinstance(piece, bytes) and len(piece) <= CHUNKED.most_bytes for piece in taken.pieces)


async def test_what_comes_behind_a_flood_comes_as_bytes() -> None:
    async with connection(STATED, all_at=16 * MIB) as (taken, peer):
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(peer, MANY[: 16 * MIB]))
        await until(taken, 16 * MIB)
        await sending
        assert any(isinstance(piece, memoryview) for piece in taken.pieces)

        await asyncio.get_running_loop().sock_sendall(peer, b"GET")
        await until(taken, 16 * MIB + 3)
        assert taken.pieces[-1] == b"GET"
        assert isinstance(taken.pieces[-1], bytes)


def test_a_buffer_is_read_into_again_once_nobody_has_a_piece_of_it() -> None:
    buffers = Buffers()
    one = buffers.free()
    piece = memoryview(one)[10:20]
    other = buffers.free()
    assert other is not one
    del piece
    assert buffers.free() is one

    kept = [memoryview(buffers.free()) for _ in range(20)]
    assert sum(map(len, kept)) <= 8 * LARGE_BYTES + 12 * FULL_READ_BYTES


async def digest(turn: Turn) -> None:
    """Read the body slowly at first, and answer with what it was, and as much again."""
    await asyncio.sleep(0.2)
    body = await turn.read_body()
    head = f"HTTP/1.1 200 OK\r\nX-Digest: {sha256(body).hexdigest()}\r\nContent-Length: {len(MANY)}\r\n\r\n"
    turn.writer.write(head.encode() + MANY)
    await turn.writer.drain()


async def test_a_large_form_that_is_judged_and_a_large_answer_pass_unchanged_between_slow_peers(
    upstream: ScriptedUpstream, start_gateway: StartGateway
) -> None:
    upstream.plays(digest)
    gateway = await start_gateway(tenants={"acme": EVERY_SCOPE | {"models": ["whisper-1"]}})
    border = "bench-0123456789abcdef"
    form = (
        f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'.encode()
        + MANY
        + f'\r\n--{border}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'.encode()
    ) + f"--{border}--\r\n".encode()
    for _ in range(2):
        async with await gateway.connect() as client:
            answer = await asked(client, form, border)
            await asyncio.sleep(0.2)
            await client.read_body(answer)

        assert answer.status == 200
        assert answer.get("X-Digest") == sha256(form).hexdigest()
        assert answer.body == MANY


async def asked(client: RawClient, form: bytes, border: str) -> RawAnswer:
    headers = f"Content-Type: multipart/form-data; boundary={border}\r\n"
    await client.send(client.request_bytes("POST", "/v1/audio/transcriptions", form, headers=headers))
    return await client.read_head()
