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
COMMENT_SECONDS = 0.2
SILENT_SECONDS = 0.9
"""Long enough for some, where none may come."""

HEARD = "two comments were heard"

pytestmark = pytest.mark.both_loops


async def started(
    start_gateway: StartGateway, *, metering: bool = False, sse_comment_seconds: float = COMMENT_SECONDS
) -> Gateway:
    return await start_gateway(
        tenants={"acme": {**EVERY_SCOPE, "metering": metering}},
        edge={"sse_comment_seconds": sse_comment_seconds},
    )


def comes(upstream: ScriptedUpstream, *pieces: bytes, head: bytes = SSE_HEAD, heard: bool = False) -> None:
    """An answer of these pieces, a silence between any two, in chunks unless the head says otherwise.

    `heard`: it lasts until the client has heard two comments.
    """
    chunked = b"chunked" in head

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(head)
        for at, piece in enumerate(pieces):
            if at:
                await (turn.wait_for(HEARD) if heard else asyncio.sleep(SILENT_SECONDS))
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


async def listened(gateway: Gateway, upstream: ScriptedUpstream, version: str = "HTTP/1.1") -> bytes:
    """The same answer's body, of whose upstream two comments have been heard before it goes on."""
    body = b""
    async with await gateway.connect() as client:
        await client.send(
            client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON, version=version)
        )
        await client.read_head()
        while piece := await (client.read_chunk() if version == "HTTP/1.1" else client.reader.read(65536)):
            body += piece
            if body.endswith(COMMENT * 2):
                upstream.gate(HEARD).set()
    return body


def only_comments(body: bytes, before: bytes, after: bytes) -> bool:
    """Whether these are two parts of an answer, with nothing but comments between them."""
    assert body.startswith(before) and body.endswith(after), body
    between = body[len(before) : len(body) - len(after)]
    return between == COMMENT * (len(between) // len(COMMENT))


@pytest.mark.parametrize("metering", [False, True])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_comment_comes_between_two_events_after_so_much_silence(
    version: str, metering: bool, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, metering=metering)
    comes(upstream, EVENT * 3, EVENT + ADDED + DONE, heard=True)

    body = await listened(gateway, upstream, version)

    assert only_comments(body, EVENT * 3, EVENT + (b"" if metering else ADDED) + DONE)
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
        await turn.wait_for(HEARD)
        await turn.chunk(EVENT + DONE)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await gateway.connect()
    refused = await client.request("POST", CHAT, STREAMED_QUESTION, headers=JSON + "X-Fails: 1\r\n")
    body = await listened(gateway, upstream)

    assert (refused.status, refused.body) == (429, b"{}")
    assert only_comments(body, b"", EVENT + DONE)


@pytest.mark.parametrize("metering", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
async def test_no_mark_stands_behind_a_comment(
    at_once: bool, metering: bool, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A byte order mark is one at the beginning alone; behind that it would take the first event with it."""
    gateway = await started(start_gateway, metering=metering)
    first = b"\xef\xbb\xbf" + EVENT
    comes(upstream, *([b"", first + DONE] if at_once else [b"", first, DONE]))

    body = (await streamed(gateway)).body

    assert body.startswith(COMMENT) and body.replace(COMMENT, b"") == EVENT + DONE
    assert (await gateway.lines.wait(1))[0]["bytes_out"] == len(body)


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
        else:
            await turn.wait_for(HEARD)
        await turn.chunk(EVENT[cut:] + DONE)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    body = await listened(gateway, upstream)

    assert body == EVENT * 13 + DONE if cut else only_comments(body, EVENT * 12, EVENT + DONE)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
async def test_lines_may_end_otherwise(
    line_end: bytes, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway)
    event = EVENT.replace(b"\n", line_end)
    comes(upstream, event, event, heard=True)

    assert only_comments(await listened(gateway, upstream), event, event)


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
    gateway = await started(start_gateway, sse_comment_seconds=1.5)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for _ in range(30):
            await turn.chunk(EVENT)
            await asyncio.sleep(0.06)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)

    assert (await streamed(gateway)).body == EVENT * 30


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
