"""What a client sends ahead, behind a request of its own that is still being answered."""

from __future__ import annotations

import asyncio

import pytest

from gateway.proxy.edge_protocol import AHEAD_BYTES, AHEAD_SECONDS, EdgeProtocol
from tests.conftest import StartGateway
from tests.kit.client import CHAT, JSON, STREAMED_QUESTION, RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn, answer_ok, two_events
from tests.kit.waiting import until

BODY = b'{"model":"gpt-4o","messages":[]}'.ljust(400_000)


def lying(gateway: Gateway) -> int:
    """How many bytes of clients lie here untaken."""
    assert gateway.app.server is not None
    return sum(
        connection.ahead_bytes
        for connection in gateway.app.server.connections
        if isinstance(connection, EdgeProtocol)
    )


async def streaming(gateway: Gateway, upstream: ScriptedUpstream, behind: bytes) -> RawClient:
    """A client whose answer has begun, and which has sent more behind its request."""
    upstream.plays(two_events)
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == b"data: 1\n\n"
    client.writer.write(behind)
    return client


async def much_ahead(gateway: Gateway, upstream: ScriptedUpstream) -> RawClient:
    """A client whose answer has begun, which has sent much behind its request, and of whom nothing lies here now."""
    client = await streaming(gateway, upstream, b"")
    client.writer.write(client.request_bytes("POST", CHAT, BODY, headers=JSON))
    await until(lambda: lying(gateway) > 100_000)
    await until(lambda: lying(gateway) == 0)
    return client


async def test_what_is_much_does_not_lie_here_for_as_long_as_the_answer_takes(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await much_ahead(gateway, upstream)
    upstream.gate("go on").set()

    assert await client.read_chunk() == b"data: 2\n\n"
    assert await client.read_chunk() == b""
    assert await client.closed(), "what was dropped is not answered"
    assert len(upstream.requests) == 1


async def test_client_that_sent_much_ahead_is_still_seen_leaving(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await much_ahead(gateway, upstream)
    client.reset()

    assert (await gateway.lines.wait(1))[0]["ending"] == "client_left"
    assert gateway.upstream_connections() == 0
    upstream.gate("go on").set()


async def test_what_is_little_is_answered_in_its_turn_however_long_that_takes(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await streaming(gateway, upstream, b"")
    client.writer.write(client.request_bytes("POST", CHAT, BODY[:50_000], headers=JSON))
    await asyncio.sleep(1.5 * AHEAD_SECONDS)
    upstream.gate("go on").set()

    assert await client.read_chunk() == b"data: 2\n\n"
    assert await client.read_chunk() == b""
    assert (await client.read_answer()).status == 200


@pytest.mark.parametrize("size", [50_000, 400_000])
async def test_next_request_on_a_connection_may_be_large(start_gateway: StartGateway, size: int) -> None:
    gateway = await start_gateway()
    client = await gateway.connect()
    for _ in range(3):
        assert (await client.request("POST", CHAT, BODY[:size].ljust(size), headers=JSON)).status == 200


async def test_requests_without_bodies_are_answered_in_their_turn_too(
    gateway: Gateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    client = await streaming(gateway, upstream, b"")
    client.credential = gateway.credential(["models:read"])
    request = client.request_bytes("GET", "/v1/models")
    count = AHEAD_BYTES // len(request)
    client.writer.write(request * count)
    await asyncio.sleep(1.5 * AHEAD_SECONDS)
    upstream.plays(answer_ok)
    upstream.gate("go on").set()

    assert await client.read_chunk() == b"data: 2\n\n"
    assert await client.read_chunk() == b""
    assert [(await client.read_answer()).status for _ in range(count)] == [200] * count
    assert not [record for record in caplog.records if record.exc_info]


async def ends_with_much_to_read(turn: Turn) -> None:
    """The script of an answer whose end, packed as it is, takes half a turn of the loop."""
    await turn.read_body()
    await turn.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    await turn.chunk(b"some")
    await turn.wait_for("go on")
    await turn.send(b"%x\r\n%b\r\n0\r\n\r\n" % (4000, bytes(4000)))


async def test_what_was_sent_ahead_is_read_to_its_end_however_busy_the_loop_is(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """When many answers end in one turn, what stands behind them waits for others, and more comes meanwhile."""
    upstream.plays(ends_with_much_to_read)
    clients = [await gateway.connect() for _ in range(12)]
    for client in clients:
        await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        assert (await client.read_head()).status == 200
        assert await client.read_chunk() == b"some"
        client.writer.write(client.request_bytes("POST", CHAT, BODY, headers=JSON))
    await until(lambda: lying(gateway) > len(clients) * AHEAD_BYTES)
    upstream.plays(answer_ok)
    upstream.gate("go on").set()

    for client in clients:
        assert await client.read_chunk() == bytes(4000)
        assert await client.read_chunk() == b""
        assert (await client.read_answer()).status == 200
