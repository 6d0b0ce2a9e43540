"""Comments in silent streams, where they are switched on: between two events, and nowhere else."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from tests.conftest import StartGateway
from tests.kit.client import CHAT, JSON, STREAMED_QUESTION, RawAnswer, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
ADDED = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}\n\n'
DONE = b"data: [DONE]\n\n"
COMMENT = b":\n"
SILENT_SECONDS = 0.9
"""Of which a comment comes after 0.2, and after as much again."""

pytestmark = pytest.mark.both_loops


async def started(
    start_gateway: StartGateway, *, metering: bool = False, sse_comment_seconds: float = 0.2
) -> Gateway:
    return await start_gateway(
        tenants={"acme": {**EVERY_SCOPE, "metering": metering}},
        edge={"sse_comment_seconds": sse_comment_seconds},
    )


def comes(upstream: ScriptedUpstream, *pieces: bytes, head: bytes = SSE_HEAD) -> None:
    """An answer of these pieces, a silence between any two, in chunks unless the head says otherwise."""
    chunked = b"chunked" in head

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(head)
        for at, piece in enumerate(pieces):
            if at:
                await asyncio.sleep(SILENT_SECONDS)
            if piece:
                await (turn.chunk(piece) if chunked else turn.send(piece))
        if chunked:
            await turn.send(b"0\r\n\r\n")
        elif b"Content-Length" not in head:
            turn.close()

    upstream.plays(script)


async def streamed(gateway: Gateway, **more: str) -> RawAnswer:
    client = await gateway.connect()
    answer = await client.request("POST", CHAT, STREAMED_QUESTION, headers=JSON, **more)
    await client.close()
    return answer


def split_at_silence(body: bytes, before: bytes, after: bytes) -> bytes:
    """What came between two parts of an answer."""
    assert body.startswith(before) and body.endswith(after), body
    return body[len(before) : len(body) - len(after)]


@pytest.mark.parametrize("metering", [False, True])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_comment_comes_between_two_events_after_so_much_silence(
    version: str, metering: bool, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, metering=metering)
    comes(upstream, EVENT * 3, EVENT + ADDED + DONE)

    answer = await streamed(gateway, version=version)

    comments = split_at_silence(answer.body, EVENT * 3, EVENT + (b"" if metering else ADDED) + DONE)
    assert comments in (COMMENT * 2, COMMENT * 3, COMMENT * 4)
    assert answer.clean_end
    [line] = await gateway.lines.wait(1)
    assert (line["usage"]["input"], line["usage"]["output"], line["usage_known"]) == (11, 7, "reported")


async def test_a_comment_may_come_before_the_first_event_but_not_before_the_head(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await asyncio.sleep(SILENT_SECONDS)
        if turn.seen.get("x-fails"):
            await turn.send(b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}")
            return
        await turn.send(SSE_HEAD)
        await asyncio.sleep(SILENT_SECONDS)
        await turn.chunk(EVENT + DONE)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await gateway.connect()
    refused = await client.request("POST", CHAT, STREAMED_QUESTION, headers=JSON + "X-Fails: 1\r\n")
    answer = await streamed(gateway)

    assert (refused.status, refused.body) == (429, b"{}")
    assert split_at_silence(answer.body, b"", EVENT + DONE) in (COMMENT * 2, COMMENT * 3, COMMENT * 4)


@pytest.mark.parametrize("metering", [False, True])
@pytest.mark.parametrize("cut", [1, 5, len(EVENT) - 2, len(EVENT) - 1])
async def test_no_comment_comes_amid_an_event(
    cut: int, metering: bool, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, metering=metering)
    comes(upstream, EVENT + EVENT[:cut], EVENT[cut:] + DONE)

    assert (await streamed(gateway)).body == EVENT * 2 + DONE


@pytest.mark.parametrize("metering", [False, True])
@pytest.mark.parametrize("cut", [0, 30])
async def test_so_it_is_behind_events_that_are_like_those_before_them(
    cut: int, metering: bool, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, metering=metering)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for _ in range(12):
            await turn.chunk(EVENT)
            await asyncio.sleep(0.005)
        if cut:
            await turn.chunk(EVENT[:cut])
        await asyncio.sleep(SILENT_SECONDS)
        await turn.chunk(EVENT[cut:] + DONE)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    comments = split_at_silence((await streamed(gateway)).body, EVENT * 12, EVENT + DONE)

    assert comments == b"" if cut else comments in (COMMENT * 2, COMMENT * 3, COMMENT * 4)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
async def test_lines_may_end_otherwise(
    line_end: bytes, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway)
    event = EVENT.replace(b"\n", line_end)
    comes(upstream, event, event)

    assert COMMENT in split_at_silence((await streamed(gateway)).body, event, event)


OTHERS = {
    "JSON": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    "encoded": SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
    "of a length": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n",
    "an error": SSE_HEAD.replace(b"200 OK", b"500 No"),
}


@pytest.mark.parametrize("kind", OTHERS)
async def test_nothing_comes_into_what_could_not_take_it(
    kind: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway)
    head, one, two = OTHERS[kind], EVENT, DONE
    if kind == "JSON":
        one, two = b'{"a":[\n\n', b'{"b":1}]}'
    elif kind == "encoded":
        one, two = gzip.compress(EVENT) + b"\n\n", DONE
    elif kind == "of a length":
        head = head % len(EVENT + DONE)
    comes(upstream, one, two, head=head)

    answer = await streamed(gateway)

    assert (answer.body, answer.clean_end) == (one + two, True)


async def test_a_stream_that_speaks_hears_none(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, sse_comment_seconds=0.5)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for _ in range(20):
            await turn.chunk(EVENT)
            await asyncio.sleep(0.06)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)

    assert (await streamed(gateway)).body == EVENT * 20


async def test_by_default_nothing_is_added(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    comes(upstream, EVENT, DONE)

    assert (await streamed(gateway)).body == EVENT + DONE


async def test_nothing_is_said_to_whoever_has_left(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway)
    comes(upstream, EVENT, EVENT, DONE)
    async with await RawClient.connect(gateway.host, gateway.port, gateway.credential()) as client:
        await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        await client.read_head()

    [line] = await gateway.lines.wait(1)
    assert line["ending"] == "client_left"
    assert gateway.upstream_connections("busy") == 0
