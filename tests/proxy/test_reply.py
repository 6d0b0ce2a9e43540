"""One exchange over one connection: no answer is taken for another, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import StartGateway
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn

UNASKED = {
    "a whole answer": OK.replace(b"{}", b"!!"),
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a head without its body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "noise": b"\x00\x01\x02",
    "an empty line": b"\r\n",
    "a last chunk": b"0\r\n\r\n",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
}


@pytest.mark.parametrize("kind", UNASKED)
async def test_what_comes_on_an_idle_connection_is_never_taken_for_the_next_answer(
    kind: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def talkative(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(OK)
        await asyncio.sleep(0.05)
        await turn.send(UNASKED[kind])

    upstream.plays(talkative)
    client = await gateway.connect()
    for _ in range(3):
        answer = await client.request("GET", "/v1/models")

        assert (answer.status, answer.body) == (200, b"{}")
        await asyncio.sleep(0.15)
    if kind not in ("an empty line", "an interim answer"):
        assert len({seen.connection for seen in upstream.requests}) == 3


async def test_a_connection_that_was_held_back_by_a_slow_client_is_as_good_as_any_afterwards(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """No limit of the exchange that is over goes on running."""
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "idle_timeout_seconds": 0.3}
    )
    size = 16 * 2**20

    async def large(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    upstream.plays(large)
    client = await gateway.connect()
    for _ in range(2):
        await client.send(client.request_bytes("GET", "/v1/files/file-1/content"))
        answer = await client.read_head()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.2)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.read_body(answer)
        assert (len(answer.body), answer.clean_end) == (size, True)
        await asyncio.sleep(0.6)

    assert [seen.connection for seen in upstream.requests] == [1, 1]


async def test_an_answer_before_the_request_was_read_is_delivered_and_its_connection_is_spent(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def refuse_early(turn: Turn) -> None:
        if turn.seen.method == "GET":
            await turn.send(OK)
            return
        await turn.send(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        await turn.gone()

    upstream.plays(refuse_early)
    client, other = await gateway.connect(), await gateway.connect()
    await client.send(
        client.request_bytes(
            "POST", "/v1/files", headers="Content-Type: text/plain\r\nContent-Length: 1000000\r\n"
        )
        + bytes(1000)
    )

    answer = await client.read_answer()
    following = await other.request("GET", "/v1/models")

    assert (answer.status, answer.body) == (413, b"large")
    assert following.body == b"{}"
    assert [seen.connection for seen in upstream.requests] == [1, 2]
    assert gateway.metric('gateway_upstream_connections{state="busy",upstream="default"}') == 0
