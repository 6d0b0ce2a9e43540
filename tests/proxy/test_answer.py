"""Answers as they go down: framed for their client, and for no longer than it reads."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic

from tests.conftest import StartGateway
from tests.kit.asking import assert_refused
from tests.kit.client import JSON, QUESTION
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn


async def test_a_client_that_stops_reading_is_reset_after_the_write_idle_deadline(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"write_idle_timeout_seconds": 0.5})

    async def flood(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not turn.writer.is_closing():
            await turn.chunk(bytes(65536))

    upstream.plays(flood)
    client = await gateway.connect()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(client.request_bytes("GET", "/v1/files/file-1/content"))

    [line] = await gateway.lines.wait(1)

    assert line["ending"] == "client_left"
    assert "error" not in line, "no defect of anybody's, and no code to look up"
    assert await upstream.all_closed()
    assert client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 7  # closed, by a reset


async def test_a_client_that_never_reads_the_end_of_its_answer_is_let_go(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The upstream is long done; what waits to be read may not hold the connection for ever."""
    gateway = await start_gateway(edge={"write_idle_timeout_seconds": 0.5, "keepalive_seconds": 0.5})

    async def fills_every_buffer(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))

    upstream.plays(fills_every_buffer)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect((gateway.host, gateway.port))
        client = await gateway.connect()
        # Enough answers in a row that the kernel cannot take them all.
        deaf.sendall(client.request_bytes("GET", "/v1/models") * 60)
        await client.close()
        deadline = monotonic() + 4
        while gateway.metric("gateway_client_connections") and monotonic() < deadline:
            await asyncio.sleep(0.05)

        assert gateway.metric("gateway_client_connections") == 0
    assert (
        await upstream.all_closed()
        or gateway.metric('gateway_upstream_connections{state="busy",upstream="default"}') == 0
    )


async def chunked_ok(turn: Turn) -> None:
    """Answer `hello` in chunks."""
    await turn.read_body()
    await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (b"hel", b"lo"):
        await turn.chunk(piece)
    await turn.send(b"0\r\n\r\n")


async def test_an_http10_client_gets_plain_bodies_that_end_with_the_connection(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(chunked_ok)
    for more in ("", "Connection: keep-alive\r\n"):
        client = await gateway.connect()
        answer = await client.request(
            "POST", "/v1/chat/completions", QUESTION, version="HTTP/1.0", headers=JSON + more
        )

        assert (answer.status, answer.body, answer.clean_end) == (200, b"hello", True)
        assert answer.get("transfer-encoding") is None
        assert (answer.get("connection") or "close").lower() == "close"
        assert await client.closed()
    assert upstream.requests[0].raw_head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


async def test_an_http10_connection_is_kept_when_asked_for_and_the_length_is_known(gateway: Gateway) -> None:
    keeping, closing = await gateway.connect(), await gateway.connect()

    for _ in range(3):
        answer = await keeping.request(
            "GET", "/v1/models", version="HTTP/1.0", headers="Connection: keep-alive\r\n"
        )
        assert (answer.status, answer.body) == (200, b"{}")
        assert (answer.get("connection") or "").lower() == "keep-alive"
    assert (await closing.request("GET", "/v1/models", version="HTTP/1.0")).body == b"{}"
    assert await closing.closed()


async def test_connection_close_is_honoured_and_announced(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()

    answer = await client.request("GET", "/v1/models", headers="Connection: close\r\n")

    assert (answer.status, (answer.get("connection") or "").lower()) == (200, "close")
    assert await client.closed()
    assert upstream.requests[0].get("connection") is None


async def test_a_refusal_on_http10_or_head_is_framed_for_its_client(gateway: Gateway) -> None:
    old, head = await gateway.connect(), await gateway.connect()

    first = await old.request("GET", "/elsewhere", version="HTTP/1.0")
    second = await head.request("HEAD", "/elsewhere")
    following = await head.request("GET", "/v1/models")

    assert_refused(first, 404, "not_found")
    assert (second.status, second.body) == (404, b"")
    assert (following.status, following.body) == (200, b"{}")
