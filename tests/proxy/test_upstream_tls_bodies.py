"""Bodies, and sessions, by TLS: whole, both ways, and never taken for whole because somebody cut the connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.conftest import StartGateway
from tests.kit.asking import assert_upstream_error
from tests.kit.client import MIB
from tests.kit.gateway import EVERY_SCOPE
from tests.kit.tls import TlsUpstream, cut
from tests.kit.upstream import OK, Turn
from tests.kit.websocket import BINARY, TEXT, frame, open_session

pytestmark = pytest.mark.both_loops

MANY = os.urandom(251) * 80_000
"""20 MB in which every offset is told from its neighbours."""


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[TlsUpstream]:
    """An upstream by TLS."""
    upstream = TlsUpstream(tmp_path)
    async with upstream:
        yield upstream


def answer_of(body: bytes, framing: str) -> bytes:
    """An answer whose end is told as `framing` says."""
    match framing:
        case "length":
            head, framed = f"Content-Length: {len(body)}\r\n", body
        case "chunks":
            head, framed = "Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        case _:
            head, framed = "", body
    return f"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n{head}\r\n".encode() + framed


@pytest.mark.parametrize("size", [5, 900_000])
@pytest.mark.parametrize("is_cut", [True, False])
async def test_what_ends_with_its_connection_is_whole_only_if_the_upstream_says_so(
    start_gateway: StartGateway, far: TlsUpstream, size: int, is_cut: bool
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer_of(MANY[:size], "connection"))
        await turn.wait_for("all was read")
        if is_cut:
            cut(turn)
        else:
            turn.close()

    far.plays(script)
    gateway = await start_gateway(upstream=far.settings)
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/models"))
    answer = await client.read_head()
    body = b""
    while len(body) < size:
        body += await client.read_chunk()
    far.gate("all was read").set()
    await client.read_body(answer)

    assert (answer.status, body, answer.body, answer.clean_end) == (200, MANY[:size], b"", not is_cut)
    [line] = await gateway.lines.wait(1)
    assert line["ending"] == ("upstream_lost" if is_cut else "complete")


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_what_tells_its_own_end_needs_no_other(
    start_gateway: StartGateway, far: TlsUpstream, framing: str
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer_of(b"whole", framing))
        cut(turn)

    far.plays(script)
    gateway = await start_gateway(upstream=far.settings)
    client = await gateway.connect()

    for _ in range(2):
        answer = await client.request("GET", "/v1/models")

        assert (answer.status, answer.body, answer.clean_end) == (200, b"whole", True)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_what_is_cut_before_its_own_end_is_broken(
    start_gateway: StartGateway, far: TlsUpstream, framing: str
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer_of(b"not all of it", framing)[:-7])
        await turn.wait_for("its beginning was read")
        cut(turn)

    far.plays(script)
    gateway = await start_gateway(upstream=far.settings)
    client = await gateway.connect()

    await client.send(client.request_bytes("GET", "/v1/models"))
    answer = await client.read_head()
    far.gate("its beginning was read").set()
    await client.read_body(answer)

    assert (answer.status, answer.clean_end) == (200, False)


async def test_an_upstream_that_is_cut_off_before_its_answer_is_a_502(
    start_gateway: StartGateway, far: TlsUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        cut(turn)

    far.plays(script)
    gateway = await start_gateway(upstream=far.settings)
    client = await gateway.connect()

    answer = await client.request("GET", "/v1/models")

    assert_upstream_error(answer, 502, "upstream_broken")


@pytest.mark.parametrize("framing", ["length", "chunks", "connection"])
@pytest.mark.parametrize("pause_seconds", [0.0, 0.3])
async def test_a_large_answer_comes_whole_to_whoever_reads_quickly_or_slowly(
    start_gateway: StartGateway, far: TlsUpstream, framing: str, pause_seconds: float
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer_of(MANY, framing))
        if framing == "connection":
            turn.close()

    far.plays(script)
    gateway = await start_gateway(upstream=far.settings)
    client = await gateway.connect()

    await client.send(client.request_bytes("GET", "/v1/models"))
    head = await client.read_head()
    await asyncio.sleep(pause_seconds)
    await client.read_body(head)

    assert head.clean_end
    assert sha256(head.body).digest() == sha256(MANY).digest()


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("pause_seconds", [0.0, 0.3])
async def test_a_large_upload_arrives_whole_at_an_upstream_that_reads_quickly_or_slowly(
    start_gateway: StartGateway, far: TlsUpstream, chunked: bool, pause_seconds: float
) -> None:
    async def script(turn: Turn) -> None:
        await asyncio.sleep(pause_seconds)
        await turn.read_body()
        await turn.send(OK)

    far.plays(script)
    gateway = await start_gateway(upstream=far.settings, tenants={"acme": EVERY_SCOPE})
    client = await gateway.connect()
    framed = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(MANY)}"
    headers = f"Content-Type: multipart/form-data; boundary=x\r\n{framed}\r\n"

    await client.send(client.request_bytes("POST", "/v1/audio/transcriptions", headers=headers))
    for at in range(0, len(MANY), MIB):
        piece = MANY[at : at + MIB]
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        await client.send(b"0\r\n\r\n")
    answer = await client.read_answer()

    assert answer.status == 200, answer.body
    assert sha256(far.requests[-1].body).digest() == sha256(MANY).digest()


async def test_frames_pass_byte_for_byte_both_ways(start_gateway: StartGateway, far: TlsUpstream) -> None:
    gateway = await start_gateway(upstream=far.settings)
    session = await open_session(gateway, far)
    up = frame(TEXT, b"{}") + frame(BINARY, MANY[:MIB])
    down = frame(TEXT, b"{}", masked=False) + frame(BINARY, MANY[:MIB], masked=False)

    await session.from_client(up)
    await session.from_upstream(down)

    assert await asyncio.wait_for(session.turn.reader.readexactly(len(up)), 10) == up
    assert await asyncio.wait_for(session.client.reader.readexactly(len(down)), 10) == down
