"""How long an upstream may take, for what."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from tests.conftest import StartGateway
from tests.kit.asking import assert_upstream_error
from tests.kit.client import JSON, QUESTION
from tests.kit.upstream import OK, ScriptedUpstream, Turn


def timed(upstream: ScriptedUpstream, **limits: Any) -> dict[str, Any]:
    """Upstream settings with short limits."""
    return {"base_url": upstream.base_url, "api_key": "sk-up"} | limits


async def test_every_kind_of_operation_has_its_own_first_byte_limit(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream=timed(
            upstream,
            first_byte_timeout_seconds=5,
            timeouts={"stored": {"first_byte_seconds": 0.2}, "generation": {"first_byte_seconds": 2}},
        )
    )

    async def late(turn: Turn) -> None:
        await turn.read_body()
        await asyncio.sleep(0.5)
        await turn.send(OK)

    upstream.plays(late)
    stored, generation = await gateway.connect(), await gateway.connect()

    quick, patient = await asyncio.gather(
        stored.request("GET", "/v1/models"),
        generation.request("POST", "/v1/chat/completions", QUESTION, headers=JSON),
    )

    assert_upstream_error(quick, 504, "upstream_timeout")
    assert patient.status == 200


async def test_the_idle_limit_runs_between_pieces_and_not_over_the_whole_answer(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(upstream=timed(upstream, idle_timeout_seconds=0.4))

    async def drip(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.15)
            await turn.chunk(b"x")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(drip)
    client = await gateway.connect()

    answer = await client.request("GET", "/v1/files/file-1/content")

    assert (answer.body, answer.clean_end) == (b"xxxxxx", True)


async def test_the_total_limit_ends_an_answer_that_never_ends(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(upstream=timed(upstream, total_timeout_seconds=0.5))

    async def endless(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not turn.writer.is_closing():
            await turn.chunk(b"x")
            await asyncio.sleep(0.05)

    upstream.plays(endless)
    client = await gateway.connect()
    began = monotonic()

    answer = await client.request("GET", "/v1/files/file-1/content")

    assert not answer.clean_end
    assert 0.4 < monotonic() - began < 2.5
    assert (await gateway.lines.wait(1))[0]["ending"] == "timed_out"
    assert await upstream.all_closed()


async def test_a_slow_reading_client_does_not_use_up_the_upstreams_idle_limit(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """While the gateway itself holds the upstream back, its silence is not its fault."""
    gateway = await start_gateway(upstream=timed(upstream, idle_timeout_seconds=0.4))
    size = 24 * 2**20

    async def large(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 2**20):
            await turn.send(bytes(2**20))

    upstream.plays(large)
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/files/file-1/content"))
    answer = await client.read_head()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(1.2)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    client.timeout_seconds = 10

    await client.read_body(answer)

    assert (len(answer.body), answer.clean_end) == (size, True)
