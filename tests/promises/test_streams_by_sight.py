"""What an upstream sends is read for what it is: encoded although nobody asked for that, or called what it is not."""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import Callable

import brotli
import orjson
import pytest
import zstandard

from tests.conftest import StartGateway
from tests.kit.asking import assert_upstream_error
from tests.kit.client import CHAT, JSON, QUESTION, STREAMED_QUESTION, RawAnswer
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn

DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
ADDED = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = DELTA + DELTA + ADDED + DONE
WITHOUT_ADDED = DELTA + DELTA + DONE
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "GZIP": gzip.compress,
    "gzip, br": lambda text: brotli.compress(gzip.compress(text)),
}
TYPES = {
    "text/plain": "Content-Type: text/plain; charset=utf-8\r\n",
    "JSON": "Content-Type: application/json\r\n",
    "bytes": "Content-Type: application/octet-stream\r\n",
    "none": "",
}
BEGINNINGS = (b"", b": hello\n\n", b"event: message\n", b"id: 1\n", b"retry: 5\n", b"\xef\xbb\xbf")


@pytest.fixture
async def metered(start_gateway: StartGateway) -> Gateway:
    """A gateway whose tenant is metered: streams are asked for their usage, which is taken out again."""
    return await start_gateway(tenants={"acme": {**EVERY_SCOPE, "metering": True}})


def answers(
    upstream: ScriptedUpstream, fields: str, pieces: list[bytes], *, framing: str = "chunked"
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        if framing == "length":
            fields_of = f"{fields}Content-Length: {sum(map(len, pieces))}\r\n"
        else:
            fields_of = fields + ("Transfer-Encoding: chunked\r\n" if framing == "chunked" else "")
        await turn.send(f"HTTP/1.1 200 OK\r\n{fields_of}\r\n".encode())
        for piece in pieces:
            await asyncio.sleep(0.002)
            if turn.writer.is_closing():
                return
            await (turn.chunk(piece) if framing == "chunked" else turn.send(piece))
        if framing == "chunked":
            await turn.send(b"0\r\n\r\n")
        elif framing == "close":
            turn.close()

    upstream.plays(script)


def cut(text: bytes, size: int) -> list[bytes]:
    """A text in pieces; of one byte, where it begins."""
    if size == 1:
        return [piece for piece in (*(text[at : at + 1] for at in range(12)), text[12:]) if piece]
    return [text[at : at + size] for at in range(0, len(text), size)]


async def streamed(gateway: Gateway) -> RawAnswer:
    client = await gateway.connect()
    answer = await client.request("POST", CHAT, STREAMED_QUESTION, headers=JSON)
    await client.close()
    return answer


async def used(gateway: Gateway) -> tuple[int, int, str, str]:
    line = (await gateway.lines.wait(1))[-1]
    return line["usage"]["input"], line["usage"]["output"], line["usage_known"], line["ending"]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("coding", CODINGS)
async def test_a_stream_that_is_encoded_although_nobody_asked_is_unpacked_where_it_is_changed(
    coding: str, framing: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    fields = f"Content-Type: text/event-stream\r\nContent-Encoding: {coding}\r\n"
    answers(upstream, fields, cut(CODINGS[coding](STREAM), 9), framing=framing)

    answer = await streamed(metered)

    assert upstream.requests[0].get("accept-encoding") == "identity"
    assert (answer.status, answer.body, answer.clean_end) == (200, WITHOUT_ADDED, True)
    assert answer.get("content-encoding") is None
    assert await used(metered) == (11, 7, "reported", "complete")


async def test_an_event_of_an_encoded_stream_passes_as_soon_as_it_is_there(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(DELTA) + packer.flush(zlib.Z_SYNC_FLUSH)
    second = packer.compress(ADDED + DONE) + packer.flush()

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        await turn.chunk(first)
        await turn.wait_for("first seen")
        await turn.chunk(second)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await metered.connect()
    await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
    await client.read_head()

    assert await client.read_chunk() == DELTA
    upstream.gate("first seen").set()
    assert await client.read_chunk() == DONE


@pytest.mark.parametrize("kind", ["damaged", "a bomb", "unknown"])
async def test_an_encoded_stream_that_cannot_be_unpacked_is_broken_or_passes_as_it_came(
    kind: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    body = {
        "damaged": gzip.compress(STREAM)[:15] + b"\xff" * 60,
        "a bomb": gzip.compress(bytes(50_000_000)),
        "unknown": b"who knows",
    }[kind]
    coding = "compress" if kind == "unknown" else "gzip"
    answers(upstream, f"Content-Type: text/event-stream\r\nContent-Encoding: {coding}\r\n", cut(body, 4000))

    answer = await streamed(metered)

    if kind == "unknown":
        assert (answer.body, answer.get("content-encoding"), answer.clean_end) == (body, coding, True)
    else:
        assert not answer.clean_end
        assert (await metered.lines.wait(1))[0]["ending"] == "upstream_lost"


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("coding", CODINGS)
async def test_an_encoding_that_is_cut_off_amid_an_event_is_no_clean_end(
    coding: str, framing: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    """Who gets the text plainly cannot see that its encoding has no end."""
    packed = CODINGS[coding](STREAM * 3)[:-12]
    answers(
        upstream,
        f"Content-Type: text/event-stream\r\nContent-Encoding: {coding}\r\n",
        [packed],
        framing=framing,
    )

    answer = await streamed(metered)

    assert answer.status == 502 or not answer.clean_end
    assert (await metered.lines.wait(1))[0]["ending"] == "upstream_lost"


@pytest.mark.parametrize("kind", ["no end", "no last line end", "nothing"])
async def test_an_encoding_that_says_all_of_its_events_is_whole(
    kind: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    """Some servers flush each event and never end what they packed them in."""
    packing = zlib.compressobj(wbits=31)
    body, text = b"", b""
    if kind == "no end":
        body, text = packing.compress(STREAM) + packing.flush(zlib.Z_SYNC_FLUSH), WITHOUT_ADDED
    elif kind == "no last line end":
        body, text = gzip.compress(STREAM[:-2]), WITHOUT_ADDED[:-2]
    answers(upstream, "Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n", cut(body, 50))

    answer = await streamed(metered)

    assert (answer.status, answer.body, answer.clean_end) == (200, text, True)
    assert (await metered.lines.wait(1))[0]["ending"] == "complete"


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_list_of_models_that_is_encoded_is_cut_to_what_may_be_used(
    coding: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "models": ["mine"]}})
    models = b'{"object":"list","data":[{"id":"mine","object":"model"},{"id":"theirs","object":"model"}]}'
    fields = f"Content-Type: application/json\r\nContent-Encoding: {coding}\r\nETag: W/1\r\n"
    answers(upstream, fields, [CODINGS[coding](models)], framing="length")
    client = await gateway.connect()

    answer = await client.request("GET", "/v1/models")

    assert [model["id"] for model in orjson.loads(answer.body)["data"]] == ["mine"]
    assert answer.get("content-encoding") is None
    assert answer.get("content-length") == str(len(answer.body))


async def test_a_list_of_models_that_cannot_be_unpacked_does_not_pass(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "models": ["mine"]}})
    answers(upstream, "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", [b"no gzip"])
    client = await gateway.connect()

    assert_upstream_error(await client.request("GET", "/v1/models"), 502, "upstream_broken")


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("begins", BEGINNINGS)
@pytest.mark.parametrize("kind", TYPES)
async def test_a_stream_is_known_by_its_first_bytes_whatever_it_is_called(
    kind: str, begins: bytes, framing: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    for size in (1, 7, 10_000):
        answers(upstream, TYPES[kind], cut(begins + STREAM, size), framing=framing)

        answer = await streamed(metered)

        assert (answer.status, answer.body, answer.clean_end) == (200, begins + WITHOUT_ADDED, True), size
        assert answer.all("content-type") == TYPES[kind].split("\r\n")[0].split(": ")[1:]
    lines = await metered.lines.wait(3)
    assert {(line["usage"]["input"], line["usage"]["output"], line["ending"]) for line in lines} == {
        (11, 7, "complete")
    }


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("kind", TYPES)
async def test_it_is_so_known_where_it_is_encoded_too(
    kind: str, framing: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    for size in (1, 20):
        fields = f"{TYPES[kind]}Content-Encoding: gzip\r\n"
        answers(upstream, fields, cut(gzip.compress(STREAM), size), framing=framing)

        answer = await streamed(metered)

        assert (answer.body, answer.clean_end) == (WITHOUT_ADDED, True)
        assert answer.get("content-encoding") is None
    assert await used(metered) == (11, 7, "reported", "complete")


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_so_it_is_in_however_many_pieces_it_comes(
    coding: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    """Until something can be told, hundreds of bytes of an encoding may have to come."""
    packed = zstandard.compress(STREAM)
    if coding == "gzip":
        file = io.BytesIO()
        with gzip.GzipFile(filename="n" * 300, mode="wb", fileobj=file) as stream:
            stream.write(STREAM)
        packed = file.getvalue()

    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await turn.send(head.encode())
        for byte in packed:
            await turn.chunk(bytes((byte,)))
            await asyncio.sleep(0.001)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)

    assert (await streamed(metered)).body == WITHOUT_ADDED
    assert await used(metered) == (11, 7, "reported", "complete")


@pytest.mark.parametrize("kind", TYPES)
async def test_it_is_metered_too_where_nothing_is_changed(
    kind: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "metering": False}})
    for framing in ("chunked", "length"):
        for size in (30, 10_000):
            answers(upstream, TYPES[kind], cut(STREAM, size), framing=framing)

            assert (await streamed(gateway)).body == STREAM
            assert await used(gateway) == (11, 7, "reported", "complete")

    async def at_once(turn: Turn) -> None:
        await turn.read_body()
        head = f"HTTP/1.1 200 OK\r\n{TYPES[kind]}Content-Length: {len(STREAM)}\r\n\r\n"
        await turn.send(head.encode() + STREAM)

    upstream.plays(at_once)
    assert (await streamed(gateway)).body == STREAM
    assert [line["usage"]["output"] for line in await gateway.lines.wait(5)] == [7] * 5


@pytest.mark.parametrize("kind", TYPES)
async def test_a_stream_of_the_wrong_type_that_breaks_off_is_broken(
    kind: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    answers(upstream, TYPES[kind], cut(STREAM[:-9], 20), framing="close")

    assert not (await streamed(metered)).clean_end


NO_EVENTS = {
    "JSON": (b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}', "JSON"),
    "text": (b"dated: yesterday, and more", "text/plain"),
    "almost": (b"data", "none"),
    "a blank line": (b'\n\n{"a":1}', "JSON"),
    "nothing": (b"", "bytes"),
}


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("kind", NO_EVENTS)
async def test_what_begins_otherwise_passes_as_it_came(
    kind: str, framing: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    body, called = NO_EVENTS[kind]
    for size in (1, 10_000):
        answers(upstream, TYPES[called], cut(body, size), framing=framing)

        answer = await streamed(metered)

        assert (answer.status, answer.body, answer.clean_end) == (200, body, True)


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted"])
async def test_a_stream_is_changed_under_any_status_of_success(
    status: str, metered: Gateway, upstream: ScriptedUpstream
) -> None:
    """Some frameworks answer whatever is posted with 201."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD.replace(b"200 OK", status.encode()))
        await turn.chunk(STREAM)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    answer = await streamed(metered)

    assert (f"{answer.status} {answer.reason}", answer.body) == (status, WITHOUT_ADDED)
    assert await used(metered) == (11, 7, "reported", "complete")


async def test_a_head_does_not_wait_for_the_first_byte(metered: Gateway, upstream: ScriptedUpstream) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        await turn.wait_for("head seen")
        await turn.chunk(STREAM)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await metered.connect()
    await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
    answer = await client.read_head()
    upstream.gate("head seen").set()
    await client.read_body(answer)

    assert (answer.body, answer.clean_end) == (WITHOUT_ADDED, True)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("metering", [True, False])
async def test_a_stream_that_ends_behind_a_line_is_whole_without_its_last_blank_one(
    metering: bool, line_end: bytes, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "metering": metering}})
    events = DELTA + ADDED.removesuffix(b"\n\n")
    body = events.replace(b"\n", line_end) + line_end
    answers(upstream, "Content-Type: text/event-stream\r\n", cut(body, 50), framing="close")

    answer = await streamed(gateway)

    assert answer.clean_end
    assert answer.body == (DELTA.replace(b"\n", line_end) if metering else body)
    assert await used(gateway) == (11, 7, "reported", "complete")


async def test_what_asked_for_no_stream_is_not_looked_at(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    answers(upstream, TYPES["text/plain"], [b"data: of mine"], framing="close")
    client = await metered.connect()

    answer = await client.request("POST", CHAT, QUESTION, headers=JSON)

    assert (answer.body, answer.clean_end) == (b"data: of mine", True)
