"""What reaches the upstream and what comes back, byte for byte."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.conftest import StartGateway
from tests.kit.client import JSON, QUESTION
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, SSE_HEAD, ScriptedUpstream, Turn, answer_ok


async def test_request_and_answer_pass_unchanged(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    client = await gateway.connect()

    answer = await client.request(
        "POST",
        "/v1/chat/completions?a=%41&b",
        QUESTION,
        headers="Content-Type: application/json\r\nX-Thing: one\r\n",
    )

    assert (answer.status, answer.body) == (200, b"{}")
    seen = upstream.requests[0]
    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/chat/completions?a=%41&b", QUESTION)
    assert seen.fields == [
        ("Host", f"127.0.0.1:{upstream.port}"),
        ("Authorization", "Bearer sk-upstream-key"),
        ("Content-Length", str(len(QUESTION))),
        ("Content-Type", "application/json"),
        ("X-Thing", "one"),
        ("CDN-Loop", gateway.app.services.trust.deployment.name.decode()),
    ]
    assert answer.get("x-gateway-request-id")
    await client.close()


async def test_second_event_is_not_sent_until_the_client_has_the_first(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.wait_for("head seen")
        await turn.chunk(b"data: 1\n\n")
        await turn.wait_for("first seen")
        await turn.chunk(b"data: 2\n\n")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", "/v1/chat/completions", QUESTION, headers=JSON))

    answer = await client.read_head()
    upstream.gate("head seen").set()
    assert await client.read_chunk() == b"data: 1\n\n"
    upstream.gate("first seen").set()
    await client.read_body(answer)

    assert (answer.status, answer.body, answer.clean_end) == (200, b"data: 2\n\n", True)
    await client.close()


async def test_connection_is_not_reused_when_the_upload_failed_behind_an_early_answer(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def early(turn: Turn) -> None:
        if turn.seen.method == "POST":
            await turn.send(OK[:-1])
            await turn.wait_for("upload broken")
            await turn.send(OK[-1:])
            await turn.gone()
        else:
            await answer_ok(turn)

    upstream.plays(early)
    gateway = await start_gateway()
    client = await gateway.connect()

    await client.send(
        client.request_bytes("POST", "/v1/files", headers="Transfer-Encoding: chunked\r\n")
        + b"5\r\nhello\r\n"
    )
    head = await client.read_head()
    await client.send(b"not a chunk\r\n")
    await asyncio.sleep(0.05)  # until the gateway has seen it
    upstream.gate("upload broken").set()
    await client.read_body(head)
    await client.close()
    second = await gateway.connect()
    answer = await second.request("GET", "/v1/models")

    assert answer.status == 200
    assert upstream.requests[1].connection != upstream.requests[0].connection
    await second.close()


AUDIO = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "framed"),
    [
        ([b"5\r\nhel", b"lo", b"\r\n5\r", b"\nworld\r\n0\r\n\r\n"], b"5\r\nhello\r\n"),
        ([b"5\r\nhello\r\n5\r\nworld\r\n", b"0\r\n\r\n"], b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"),
        ([b"5;a=b\r\nhe", b"llo\r\n5\r\nworld\r\n0;c\r\nX-Sum: 1\r\n\r\n"], b"2\r\nhe\r\n"),
        ([b"5\r\nhello\r\n0005 \r\nworld\r\n0\r\n\r\n"], b"5\r\nhello\r\n5\r\nworld\r\n"),
    ],
    ids=["cut amid chunks", "whole chunks", "extensions and trailers", "another spelling"],
)
async def test_chunks_with_plain_sizes_pass_as_they_came_and_all_others_in_our_own_framing(
    gateway: Gateway, upstream: ScriptedUpstream, sent: list[bytes], framed: bytes
) -> None:
    async def speak(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(AUDIO)
        for piece in sent:
            await asyncio.sleep(0.05)
            await turn.send(piece)

    upstream.plays(speak)
    client = await gateway.connect()

    await client.send(client.request_bytes("POST", "/v1/audio/speech", b"{}", headers=JSON))
    answer = await client.read_head()
    raw = await client.reader.readuntil(b"0\r\n\r\n")

    assert answer.get("transfer-encoding") == "chunked"
    assert raw.startswith(framed)
    assert b"X-Sum" not in raw
    assert b";" not in raw
    assert b"".join(re.findall(rb"(?:^|\r\n)[0-9a-f]+\r\n(.*?)(?=\r\n)", raw)) == b"helloworld"
    line = (await gateway.lines.wait(1))[0]
    assert (line["ending"], line["bytes_out"]) == ("complete", 10)
