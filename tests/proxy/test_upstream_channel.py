"""What comes over a connection to the upstream: one answer, whatever pieces it comes in, and nothing of another."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParserC

from gateway.errors import GatewayError, UpstreamBroken, UpstreamTimeout
from gateway.proxy.answer_heads import AnswerHeads, HeadInPieces, end_of_head
from gateway.proxy.bites import UPSTREAM_UNSENT_BYTES, Turns
from gateway.proxy.channel import NO_LINGER
from gateway.proxy.deadlines import ReplyDeadlines
from gateway.proxy.pool import PoolEvents, UpstreamPool
from gateway.proxy.reply import Reply
from gateway.proxy.upstream_channel import KEPT_BYTES
from gateway.proxy.wheel import Wheel
from gateway.settings.certificates import trusted_certificates
from gateway.settings.upstream import Upstream
from gateway.wire.headers import NOTHING_LISTED
from gateway.wire.leading import Origin
from gateway.wire.passing import for_client
from gateway.wire.search import Piece
from tests.conftest import StartGateway
from tests.kit.asking import assert_upstream_error
from tests.kit.client import JSON, QUESTION
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import until

SOON = ReplyDeadlines(5, 5, 5)
Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Collected:
    """A sink that remembers what it got, and how it ended."""

    pieces: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    ended: bool = False
    error: GatewayError | None = None
    takes_raw: bool = False

    def raw(self, data: Piece, body_bytes: int) -> None:
        raise AssertionError("nobody asked for it")

    def usual(self) -> None:
        """Whatever it is, it is to be handed over."""

    def piece(self, body: Piece, chunks: Piece | None) -> None:
        assert body
        assert not self.over
        self.pieces.append((bytes(body), None if chunks is None else bytes(chunks)))

    def end(self, body: Piece = b"", chunks: Piece | None = None) -> None:
        if body:
            self.piece(body, chunks)
        assert not self.over
        self.ended = True

    def fail(self, error: GatewayError) -> None:
        assert not self.over
        self.error = error

    @property
    def over(self) -> bool:
        return self.ended or self.error is not None

    @property
    def body(self) -> bytes:
        return b"".join(body for body, _ in self.pieces)


@asynccontextmanager
async def pool_of(answers: Answers, **settings: Any) -> AsyncIterator[UpstreamPool]:
    """A pool of connections to a server that answers each of them so."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answers(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    pool = UpstreamPool(
        Upstream(**settings),
        name="default",
        base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1",
        http_proxy=None,
        trusted=trusted_certificates(None),
        events=PoolEvents(lambda *_: None, lambda *_: None, lambda _: None),
        make_room=lambda: None,
        turns=Turns(),
        wheel=Wheel(),
    )
    async with server:
        try:
            yield pool
        finally:
            await pool.close()


async def asked(pool: UpstreamPool, deadlines: ReplyDeadlines = SOON, *, no_body: bool = False) -> Reply:
    """A connection on which one request has been made."""
    assert pool.places.take("acme")
    reply = await pool.open("acme", deadlines, no_body=no_body)
    reply.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    reply.start_clock()
    return reply


def sends(*pieces: bytes, then: str = "wait") -> Answers:
    """Answers every request with these pieces, each in a packet of its own; `then`: `wait`, `close` or `reset`."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(0.02)
                writer.write(piece)
            if then == "close":
                return
            if then == "reset":
                await asyncio.sleep(0.02)
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                writer.transport.abort()

    return answers


# Heads.

HEADS = {
    "plain": b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 3\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nX-A: 1\nContent-Length: 3\n\n",
    "mixed": b"HTTP/1.1 200 OK\nX-A: 1\r\nContent-Length: 3\n\r\n",
    "mixed the other way": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\n\n",
    "blank lines in front": b"\r\n\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 3\r\n\r\n",
    "interim ones in front": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\nLink: </a>\n\n"
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 3\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX-B: a\r\n b\r\nX-A: 1\r\nContent-Length: 3\r\n\r\n",
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_the_same_in_whatever_pieces_it_comes(kind: str) -> None:
    data = HEADS[kind] + b"a\n\n"
    for first in range(1, len(data)):
        for second in (first, min(first + 1, len(data)), min(first + 7, len(data))):
            head = HeadInPieces()
            read, rest = None, b""
            for piece in (data[:first], data[first:second], data[second:]):
                if read is not None:
                    rest += piece
                elif (found := head.feed(piece)) is not None:
                    read, rest = found
            assert read is not None
            assert read.status == 200
            assert read.get(b"x-a") == b"1"
            assert rest == b"a\n\n", (first, second)


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Content-Length: \r\n",
        b"Content-Length:  5 \r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5_0\r\n",
        b"Content-Length: 005\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 18446744073709551616\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: Chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"X : a\r\n",
        b" X: a\r\n",
        b"X: a\rb\r\n",
        b"X: \x00\r\n",
        b"X\r\n",
        b": x\r\n",
        b"Connection: close\r\n",
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"X: " + b"a" * 70_000 + b"\r\n",
        b"X: a\r\n" * 600,
    ],
)
@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 200 OK", b"HTTP/1.0 404 No", b"HTTP/1.1 204 No", b"HTTP/1.1 101 S"]
)
async def test_a_head_is_read_as_aiohttps_parser_reads_it_with_a_body_to_come(
    line: bytes, fields: bytes
) -> None:
    """Ours is told that there is no body: that must change nothing of what it refuses, and of what it says."""
    loop = asyncio.get_running_loop()
    theirs: Any = HttpResponseParserC(
        BaseProtocol(loop),
        loop,
        2**16,
        read_until_eof=True,
        auto_decompress=False,
        max_line_size=65536,
        max_field_size=65536,
        max_headers=512,
    )
    head = line + b"\r\n" + fields + b"\r\n"
    try:
        expected = theirs.feed_data(head)[0][0][0]
    except HttpProcessingError as refused:
        for read in (AnswerHeads().whole, HeadInPieces().feed):
            with pytest.raises(type(refused)):
                read(head)
        return
    heads = AnswerHeads()
    for before in (OK, head, *[head] * 40):  # what has been read before, and how often, does not matter
        heads.whole(before)
        for read in (heads.whole, HeadInPieces().feed):
            found = read(head + b"rest")
            if found is None:
                assert expected.code < 200
                continue
            told, rest = found
            assert rest == b"rest"
            assert (told.status, told.reason or None) == (expected.code, expected.reason or None)
            assert tuple(told.fields) == expected.raw_headers
            assert told.keeps is not expected.should_close
            length = expected.headers.get("Content-Length")
            assert told.length == (None if length is None else int(length))


ORIGIN = Origin(b"api.test", b"443", b"/v1")

COMES_AGAIN = (
    b"HTTP/1.1 200 OK\r\nDate: Thu, 26 Nov 2026 09:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 3\r\nConnection: keep-alive, X-B\r\nopenai-organization: ours\r\nX-B: 1\r\n"
    b"x-request-id: req_1\r\n"
    b"X-RateLimit-Limit-Requests: 5\r\nx-tokens-remaining: 7\r\nx-%b: %\r\nset-cookie: a=b\r\nServer: s\r\n\r\n"
)


def _says(heads: AnswerHeads, data: bytes) -> object:
    """What is read in front of `data`, and what of it passes."""
    try:
        found = heads.whole(data)
    except HttpProcessingError as refused:
        return type(refused)
    if found is None:
        return None
    head, rest = found
    asked = [
        head.get(name) for name in (b"x-request-id", b"content-type", b"date", b"x-b", b"content-encoding")
    ]
    ways = [
        for_client(head, limits=limits, without=without, origin=ORIGIN, target="/v1/models")
        for limits in (True, False)
        for without in (NOTHING_LISTED, frozenset({b"date"}))
    ]
    picked = head.pick([b"openai-organization", b"openai-project"])
    return head.status, head.reason, head.length, head.keeps, asked, picked, ways, tuple(head.fields), rest


def test_heads_that_come_again_with_other_values_are_read_as_if_they_came_for_the_first_time() -> None:
    known = AnswerHeads()
    for _ in range(100):
        known.whole(COMES_AGAIN)
    for at in range(len(COMES_AGAIN)):
        for letter in (b"\r", b"\n", b"\0", b" ", b"\t", b":", b"9", b"e", b"\xc3\xa9", b"\x80", b""):
            for end in (at, at + 1):
                head = COMES_AGAIN[:at] + letter + COMES_AGAIN[end:] + b"{}\n"
                assert _says(known, head) == _says(AnswerHeads(), head), head
    found = known.whole(COMES_AGAIN.replace(b": 3", b": 12").replace(b"req_1", b"req_2") + b"{}")
    assert found is not None
    assert found[0].shape is not None  # it was not the parser that read it


def test_heads_of_more_kinds_than_are_kept_are_read_all_the_same() -> None:
    heads = AnswerHeads()
    for _ in range(3):
        for kind in range(50):
            for length in range(80):
                fields = b"Server-%d: s\r\nContent-Length: %d\r\n" % (kind, length)
                found = heads.whole(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n{")
                assert found is not None
                head, rest = found
                assert (head.length, head.get(b"server-%d" % kind), rest) == (length, b"s", b"{")
                assert for_client(head, limits=False, origin=ORIGIN, target="/v1/models") == fields


def test_what_came_with_a_head_is_not_kept_as_long_as_that() -> None:
    heads = AnswerHeads()
    for _ in range(80):
        found = heads.whole(COMES_AGAIN + bytes(100_000))
    assert found is not None
    head, rest = found
    assert head.match is not None
    assert len(head.match.string) < 8192
    assert len(rest) == 100_000


def test_where_a_head_ends() -> None:
    assert end_of_head(b"a\r\n\r\nb\n\n") == 5
    assert end_of_head(b"a\n\nb\r\n\r\n") == 3
    assert end_of_head(b"a\n\r\nb") == 4
    assert end_of_head(b"a\r\nb\r\n") == 0
    assert end_of_head(b"") == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2",
        b"\x15\x03\x01\x00\x02\x02",
        b"HTTP/1.1 2x",
        b"HTTP/1.1 200 OK\r\nX : 1",
        b"<html>",
    ],
)
async def test_what_is_no_head_is_told_at_once_and_not_by_a_deadline(
    garbage: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(garbage)
        await turn.gone()

    upstream.plays(script)
    client = await gateway.connect()
    client.timeout_seconds = 2

    assert_upstream_error(await client.request("GET", "/v1/models"), 502, "upstream_broken")


@pytest.mark.parametrize("flood", [b"X: a\r\n" * 200_000, b"\r\n" * 600_000, b"HTTP/1.1 103 E\r\n\r\n" * 100])
async def test_a_head_that_does_not_end_is_given_up(
    flood: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send((b"HTTP/1.1 200 OK\r\n" if flood.startswith(b"X") else b"") + flood)
        await turn.gone()

    upstream.plays(script)
    client = await gateway.connect()
    client.timeout_seconds = 5

    answer = await client.request("GET", "/v1/models")
    assert_upstream_error(answer, 502, "upstream_broken")
    assert (b"(1xx)" in answer.body) is flood.startswith(b"HTTP/")


# What comes behind a head.


async def test_a_small_answer_is_there_whole_when_its_head_is() -> None:
    async with pool_of(sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")) as pool:
        reply = await asked(pool)
        head = await reply.read_head()

        assert (head.status, reply.buffered, reply.finished) == (200, True, False)
        assert reply.read_nowait() == b"{}"
        assert reply.finished
        reply.release()


@pytest.mark.parametrize(
    ("status", "no_body"), [(204, False), (304, False), (200, True)], ids=["204", "304", "HEAD"]
)
async def test_an_answer_without_a_body_has_none_whatever_its_head_says(status: int, no_body: bool) -> None:
    for fields in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 0\r\n"):
        async with pool_of(sends(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, fields))) as pool:
            for _ in range(2):
                reply = await asked(pool, no_body=no_body)
                await reply.read_head()

                assert reply.finished
                assert await reply.read() == b""
                reply.release()
            assert pool.counts() == {"busy": 0, "idle": 1, "waiting": 0}


@pytest.mark.parametrize("line", [b"\r\n", b"\n"])
@pytest.mark.parametrize("when", ["with it", "before the next is asked", "once it is kept", "with the next"])
@pytest.mark.parametrize(
    "answer", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
)
async def test_an_empty_line_behind_an_answer_does_not_cost_the_connection(
    answer: bytes, when: str, line: bytes
) -> None:
    connections, kept = 0, asyncio.Event()

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for first in (True, False):
            await reader.readuntil(b"\r\n\r\n")
            if when == "with it":
                writer.write(answer + line)
            elif when == "with the next":
                writer.write(answer if first else line + answer)
            else:
                writer.write(answer)
                if when == "once it is kept":
                    await kept.wait()
                await asyncio.sleep(0.01)
                writer.write(line)
        await reader.read()

    async with pool_of(answers) as pool:
        for _ in range(2):
            reply = await asked(pool)
            await reply.read_head()
            assert await reply.read() == b"{}"
            assert await reply.read() == b""
            if when == "before the next is asked":
                await asyncio.sleep(0.05)
            reply.release()
            kept.set()
            await asyncio.sleep(0.05)

        assert pool.counts() == {"busy": 0, "idle": 1, "waiting": 0}
    assert connections == 1


@pytest.mark.parametrize("behind", [b"x", b"\r\n" * 9, OK])
@pytest.mark.parametrize(
    "answer", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
)
async def test_a_connection_on_which_more_came_than_the_answer_is_not_used_again(
    answer: bytes, behind: bytes
) -> None:
    for pieces in ((answer + behind,), (answer, behind)):
        async with pool_of(sends(*pieces)) as pool:
            reply = await asked(pool)
            await reply.read_head()
            assert await reply.read() == b"{}"
            assert await reply.read() == b""
            assert reply.finished
            if len(pieces) > 1:
                await asyncio.sleep(0.1)
            reply.release()

            assert pool.counts() == {"busy": 0, "idle": 0, "waiting": 0}


async def test_what_comes_before_anybody_wants_it_is_bounded() -> None:
    received = 0

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            received += 65536

    async with pool_of(floods) as pool:
        reply = await asked(pool)
        await reply.read_head()
        await asyncio.sleep(0.3)
        before = received
        await asyncio.sleep(0.3)

        assert received == before
        assert reply.surplus_bytes + len(reply.read_nowait()) < 2**20
        reply.close()


# To a sink.


async def test_a_sink_gets_what_was_kept_and_then_every_piece_as_it_comes() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers = sends(head + b"1\r\na\r\n", b"2\r\nbc\r\n", b"3;x=1\r\ndef\r\n", b"1\r\ng\r\n0\r\n\r\n")
    async with pool_of(answers) as pool:
        reply, sink = await asked(pool), Collected()
        await reply.read_head()
        reply.relay_to(sink)
        assert sink.pieces[0] == (b"a", b"1\r\na\r\n")
        await until(lambda: sink.over)

        assert sink.ended
        assert sink.pieces[1:] == [(b"bc", b"2\r\nbc\r\n"), (b"def", None), (b"g", b"1\r\ng\r\n")]
        reply.release()
        assert pool.counts()["idle"] == 1


async def test_a_sink_that_comes_when_all_is_over_gets_all_at_once() -> None:
    async with pool_of(sends(b"HTTP/1.1 200 OK\r\n\r\nall", then="close")) as pool:
        reply, sink = await asked(pool), Collected()
        await reply.read_head()
        await asyncio.sleep(0.1)
        reply.relay_to(sink)

        assert (sink.body, sink.ended) == (b"all", True)
        reply.release()
        assert pool.counts()["idle"] == 0


BROKEN = {
    "a bad chunk": (sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxyz"), b"ok"),
    "a cut length": (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", then="close"), b"ok"),
    "a cut chunk": (
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", then="close"),
        b"ok",
    ),
    "a reset": (sends(b"HTTP/1.1 200 OK\r\n\r\n", b"ok", then="reset"), b"ok"),
}


async def test_an_upstream_that_reads_slowly_does_not_fill_the_kernel() -> None:
    async with pool_of(sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok")) as pool:
        reply = await asked(pool)
        assert reply.transport is not None
        sock = reply.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UPSTREAM_UNSENT_BYTES
        reply.close()


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("later", [False, True])
async def test_a_sink_gets_what_was_good_and_then_what_went_wrong(kind: str, later: bool) -> None:
    answers, good = BROKEN[kind]
    async with pool_of(answers) as pool:
        reply, sink = await asked(pool), Collected()
        await reply.read_head()
        if later:
            await asyncio.sleep(0.2)
        reply.relay_to(sink)
        await until(lambda: sink.over)

        assert isinstance(sink.error, UpstreamBroken)
        assert sink.body == good
        assert not reply.finished
        reply.release()
        assert pool.counts() == {"busy": 0, "idle": 0, "waiting": 0}


async def test_a_sink_is_told_of_a_silence_that_is_too_long() -> None:
    answers = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"a", b"b")
    async with pool_of(answers) as pool:
        reply, sink = await asked(pool, ReplyDeadlines(5, 0.3, 5)), Collected()
        await reply.read_head()
        reply.relay_to(sink)
        await until(lambda: sink.over)

        assert isinstance(sink.error, UpstreamTimeout)
        assert sink.body == b"ab"
        reply.close()


async def test_a_body_that_is_peeked_may_be_as_long_as_was_said_and_no_longer() -> None:
    size = 4 * KEPT_BYTES
    async with pool_of(sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))) as pool:
        for most in (size, size - 1):
            reply = await asked(pool)
            await reply.read_head()

            peeked = await reply.peek(most)

            assert (peeked is None) == (most < size)
            body = b""
            while piece := await reply.read():
                body += piece
            assert body == bytes(size)
            assert reply.finished
            reply.release()


# Whose connection it is.


async def test_a_connection_in_use_when_trust_changes_serves_its_exchange_and_nobody_elses() -> None:
    async with pool_of(sends(OK)) as pool:
        reply = await asked(pool)
        pool.trust(trusted_certificates(None))
        again = await asked(pool)
        assert again is not reply
        for one in (reply, again):
            assert (await one.read_head()).status == 200
            one.release()
        assert pool.counts()["idle"] == 2

        pool.trust(ssl.create_default_context())
        assert pool.counts()["idle"] == 0


async def test_the_connection_that_was_used_last_is_used_next_and_the_others_run_out(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "keepalive_seconds": 0.5}
    )
    client = await gateway.connect()

    async def together(turn: Turn) -> None:
        await turn.read_body()
        await turn.wait_for("all there")
        await turn.send(OK)

    upstream.plays(together)
    others = [await gateway.connect() for _ in range(3)]
    asking = [asyncio.create_task(one.request("GET", "/v1/models")) for one in others]
    await until(lambda: len(upstream.requests) == 3)
    upstream.gate("all there").set()
    await asyncio.gather(*asking)
    assert gateway.upstream_connections("idle") == 3

    for _ in range(12):
        assert (await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)).status == 200
        await asyncio.sleep(0.1)

    assert gateway.upstream_connections("idle") == 1
    assert upstream.connections == 3
