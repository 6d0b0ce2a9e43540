"""What streams, streams: piece by piece, both ways, and no broken stream ends as if it were whole.

The promises below are gated: one side does not go on until the other has what was sent before. Each is
kept by the gateway and, so that the check is known to bite, seen broken by a proxy that buffers.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from gateway.wire.frame_format import accept_key
from tests.kit.client import HANDSHAKE, JSON, MIB, STREAMED_QUESTION, WEBSOCKET_KEY, RawAnswer, RawClient
from tests.kit.faults.buffering_proxy import BufferingProxy
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, SSE_HEAD, ScriptedUpstream, Turn, says, silent
from tests.kit.waiting import until
from tests.kit.websocket import BINARY, CLOSE, TEXT, accepted, frame, read_message, shake_hands

# A gate that is open lets everybody pass: with all of them open a promise asks for nothing but delivery.
GATES = ("head seen", "first piece seen", "first megabyte seen", "first message seen")
SHORT_SECONDS = 0.4

pytestmark = pytest.mark.both_loops

Promise = Callable[[RawClient, ScriptedUpstream], Awaitable[None]]


async def event_two_is_not_sent_until_the_client_has_event_one(
    client: RawClient, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.wait_for("head seen")
        await turn.chunk(b"data: 1\n\n")
        await turn.wait_for("first piece seen")
        await turn.chunk(b"data: 2\n\n")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    await client.send(client.request_bytes("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON))

    answer = await client.read_head()
    upstream.gate("head seen").set()
    body = BodyReader(client, answer)
    assert await body.exactly(9) == b"data: 1\n\n"
    upstream.gate("first piece seen").set()
    assert await body.exactly(9) == b"data: 2\n\n"
    assert await body.ended()


async def audio_piece_two_is_not_sent_until_the_client_has_piece_one(
    client: RawClient, upstream: ScriptedUpstream, *, chunked: bool
) -> None:
    one, two = bytes(range(256)) * 12, b"\r\n\r\n0\r\n" * 400

    async def script(turn: Turn) -> None:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(one + two)
        send = turn.chunk if chunked else turn.send
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n%b\r\n\r\n" % framing)
        await send(one)
        await turn.wait_for("first piece seen")
        await send(two)
        await turn.send(b"0\r\n\r\n" if chunked else b"")

    upstream.plays(script)
    speech = b'{"model":"tts-1","voice":"alloy","input":"Hello"}'
    await client.send(client.request_bytes("POST", "/v1/audio/speech", speech, headers=JSON))

    body = BodyReader(client, await client.read_head())
    assert await body.exactly(len(one)) == one
    upstream.gate("first piece seen").set()
    assert await body.exactly(len(two)) == two
    assert await body.ended()


async def upstream_has_megabyte_one_before_the_client_sends_megabyte_two(
    client: RawClient, upstream: ScriptedUpstream, *, chunked: bool, target: str
) -> None:
    opening = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
    ending = (
        b'\r\n--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1'
        b'\r\n--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--edge--\r\n'
    )
    one, two = opening + b"1" * MIB, b"2" * MIB + ending

    async def script(turn: Turn) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(turn.read_body())
            await until(lambda: len(turn.seen.body) >= len(one))
            upstream.gate("first megabyte seen").set()
        await turn.send(OK)

    upstream.plays(script)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(one + two)}"
    headers = f"Content-Type: multipart/form-data; boundary=edge\r\n{framing}\r\n"
    await client.send(client.request_bytes("POST", target, headers=headers))

    await client.send(b"%x\r\n%b\r\n" % (len(one), one) if chunked else one)
    await upstream.passed("first megabyte seen")
    await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(two), two) if chunked else two)
    answer = await client.read_answer()

    assert (answer.status, answer.body) == (200, b"{}")
    assert upstream.requests[-1].body == one + two


async def message_echoes_before_the_next_is_sent(
    client: RawClient, upstream: ScriptedUpstream, *, opcode: int
) -> None:
    one, two = b'{"type":"one"}', b'{"type":"two"}' * 5000

    async def script(turn: Turn) -> None:
        await turn.send(accepted(turn))
        first = await read_message(turn.reader)
        upstream.gate("first message seen").set()
        await turn.send(frame(*first, masked=False))
        await turn.wait_for("first piece seen")
        await turn.send(frame(*await read_message(turn.reader), masked=False))

    upstream.plays(script)
    assert (await shake_hands(client, protocols="")).status == 101
    hurried = upstream.gate("first piece seen").is_set()

    await client.send(frame(opcode, one))
    await upstream.passed("first message seen")
    echoes = [] if hurried else [await read_message(client.reader)]
    upstream.gate("first piece seen").set()
    await client.send(frame(opcode, two))
    while len(echoes) < 2:
        echoes.append(await read_message(client.reader))

    assert echoes == [(opcode, one), (opcode, two)]


PROMISES: dict[str, Promise] = {
    "event": event_two_is_not_sent_until_the_client_has_event_one,
    "chunked audio": partial(audio_piece_two_is_not_sent_until_the_client_has_piece_one, chunked=True),
    "audio of known length": partial(
        audio_piece_two_is_not_sent_until_the_client_has_piece_one, chunked=False
    ),
    "upload of known length": partial(
        upstream_has_megabyte_one_before_the_client_sends_megabyte_two, chunked=False, target="/v1/files"
    ),
    "chunked upload": partial(
        upstream_has_megabyte_one_before_the_client_sends_megabyte_two, chunked=True, target="/v1/files"
    ),
    "upload whose form is read for its model": partial(
        upstream_has_megabyte_one_before_the_client_sends_megabyte_two,
        chunked=False,
        target="/v1/audio/transcriptions",
    ),
    "text message": partial(message_echoes_before_the_next_is_sent, opcode=TEXT),
    "binary message": partial(message_echoes_before_the_next_is_sent, opcode=BINARY),
}
each_promise = pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES.keys())


class TestGatedPromise:
    @each_promise
    async def test_is_kept_by_the_gateway(
        self, promise: Promise, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async with await gateway.connect() as client:
            await promise(client, upstream)

    @each_promise
    async def test_is_seen_broken_by_a_proxy_that_buffers(
        self, promise: Promise, upstream: ScriptedUpstream
    ) -> None:
        async with (
            BufferingProxy(f"127.0.0.1:{upstream.port}") as proxy,
            await RawClient.connect(proxy.host, proxy.port) as client,
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SHORT_SECONDS):
                    await promise(client, upstream)

    @each_promise
    async def test_is_broken_there_by_nothing_but_buffering(
        self, promise: Promise, upstream: ScriptedUpstream
    ) -> None:
        for gate in GATES:
            upstream.gate(gate).set()
        async with (
            BufferingProxy(f"127.0.0.1:{upstream.port}") as proxy,
            await RawClient.connect(proxy.host, proxy.port) as client,
        ):
            await promise(client, upstream)


class TestDownload:
    @pytest.mark.parametrize(
        ("status", "content_range", "body"),
        [
            (b"206 Partial Content", "bytes 2-5/10", b"2345"),
            (b"416 Range Not Satisfiable", "bytes */10", b'{"error":{"message":"no such range"}}'),
        ],
    )
    async def test_range_goes_up_and_its_answer_comes_down_unchanged(
        self, status: bytes, content_range: str, body: bytes, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.send(
                b"HTTP/1.1 %b\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n"
                b'Content-Range: %b\r\nETag: W/"a"\r\nContent-Length: %d\r\n\r\n%b'
                % (status, content_range.encode(), len(body), body)
            )

        upstream.plays(script)
        asked = 'Range: bytes=2-5\r\nIf-Range: W/"a"\r\n'
        async with await gateway.connect() as client:
            answer = await client.request("GET", "/v1/files/file-1/content", headers=asked)

        seen = upstream.requests[0]
        assert (seen.get("range"), seen.get("if-range")) == ("bytes=2-5", 'W/"a"')
        assert (answer.status, answer.reason) == (int(status[:3]), status[4:].decode())
        assert answer.get("content-range") == content_range
        assert (answer.get("accept-ranges"), answer.get("etag")) == ("bytes", 'W/"a"')
        assert (answer.body, answer.clean_end) == (body, True)


class TestSocket:
    async def test_subprotocol_is_the_one_that_the_upstream_selects(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.send(accepted(turn))

        upstream.plays(script)
        credential = gateway.credential()
        async with await RawClient.connect(gateway.host, gateway.port) as client:
            offered = f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{credential}, other\r\n"
            request = client.request_bytes("GET", "/v1/realtime?model=m", headers=HANDSHAKE + offered)
            await client.send(request.replace(b"Authorization: Bearer \r\n", b""))
            answer = await client.read_head()

        assert answer.status == 101
        assert answer.all("sec-websocket-protocol") == ["realtime"]
        assert answer.get("sec-websocket-accept") == accept_key(WEBSOCKET_KEY)
        seen = upstream.requests[0]
        assert seen.all("sec-websocket-protocol") == ["realtime, other"]
        assert seen.all("authorization") == ["Bearer sk-upstream-key"]
        assert credential.encode() not in seen.raw_head

    async def test_message_that_comes_with_the_handshake_is_not_lost(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.send(accepted(turn) + frame(TEXT, b"session.created", masked=False))
            await turn.send(frame(*await read_message(turn.reader), masked=False))
            await turn.gone()

        upstream.plays(script)
        async with await gateway.connect() as client:
            handshake = client.request_bytes("GET", "/v1/realtime?model=m", headers=HANDSHAKE)
            await client.send(handshake + frame(TEXT, b"impatient"))
            assert (await client.read_head()).status == 101
            assert await read_message(client.reader) == (TEXT, b"session.created")
            assert await read_message(client.reader) == (TEXT, b"impatient")

    async def test_close_code_and_reason_of_the_client_reach_the_upstream_and_are_answered(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        closes: list[tuple[int, bytes]] = []

        async def script(turn: Turn) -> None:
            await turn.send(accepted(turn))
            closes.append(await read_message(turn.reader))
            await turn.send(frame(CLOSE, struct.pack("!H", 4002) + b"so long", masked=False))
            turn.close()

        upstream.plays(script)
        async with await gateway.connect() as client:
            await shake_hands(client, protocols="")
            await client.send(frame(CLOSE, struct.pack("!H", 4001) + b"going home"))
            answered = await read_message(client.reader)
            assert await client.closed()

        assert closes == [(CLOSE, struct.pack("!H", 4001) + b"going home")]
        assert answered == (CLOSE, struct.pack("!H", 4002) + b"so long")
        (line,) = await gateway.lines.wait(1)
        assert (line["operation"], line["status"], line["ending"]) == ("connectRealtime", 101, "complete")

    async def test_close_code_and_reason_of_the_upstream_reach_the_client_and_are_answered(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        closes: list[tuple[int, bytes]] = []

        async def script(turn: Turn) -> None:
            await turn.send(accepted(turn))
            await turn.send(frame(CLOSE, struct.pack("!H", 4003) + b"session expired", masked=False))
            closes.append(await read_message(turn.reader))
            turn.close()

        upstream.plays(script)
        async with await gateway.connect() as client:
            await shake_hands(client, protocols="")
            told = await read_message(client.reader)
            await client.send(frame(CLOSE, struct.pack("!H", 4003)))
            assert await client.closed()

        assert told == (CLOSE, struct.pack("!H", 4003) + b"session expired")
        assert closes == [(CLOSE, struct.pack("!H", 4003))]
        assert (await gateway.lines.wait(1))[0]["ending"] == "complete"

    async def test_refusal_by_the_upstream_arrives_as_plain_http_with_its_own_body(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        body = b'{"error":{"message":"no such model","type":"invalid_request_error"}}'

        async def script(turn: Turn) -> None:
            await turn.send(
                b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )

        upstream.plays(script)
        async with await gateway.connect() as client:
            answer = await client.request("GET", "/v1/realtime?model=m", headers=HANDSHAKE)

        assert (answer.status, answer.reason, answer.body) == (404, "Not Found", body)
        assert answer.get("x-request-id") == "req_1"
        assert answer.get("upgrade") is None
        assert answer.get("sec-websocket-accept") is None

    async def test_upstream_that_dies_is_no_normal_close(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.send(accepted(turn))
            await read_message(turn.reader)
            turn.reset()

        upstream.plays(script)
        async with await gateway.connect() as client:
            await shake_hands(client, protocols="")
            await client.send(frame(TEXT, b"{}"))
            opcode, payload = await read_message(client.reader)
            assert await client.closed()

        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1011))
        assert (await gateway.lines.wait(1))[0]["ending"] == "upstream_lost"


class TestUpload:
    async def test_answer_amid_it_reaches_the_client_at_once_and_ends_the_upstream_connection(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.reader.readexactly(1000)
            await turn.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!")
            await turn.gone()

        upstream.plays(script)
        headers = f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {MIB}\r\n"
        async with await gateway.connect() as client:
            await client.send(client.request_bytes("POST", "/v1/files", headers=headers) + b"1" * 2000)
            answer = await client.read_answer()

            assert (answer.status, answer.body) == (400, b"no!")
            assert await upstream.all_closed(within_seconds=1), "the rest must not meet another request"


class TestClientThatLeaves:
    """By FIN or by RST: either way the upstream's connection is closed within a second."""

    @pytest.fixture(params=["FIN", "RST"])
    def leave(self, request: pytest.FixtureRequest) -> Callable[[RawClient], Awaitable[None]]:
        async def leave(client: RawClient) -> None:
            if request.param == "RST":
                client.reset()
            await client.close()

        return leave

    async def test_before_the_first_byte_closes_the_upstream_connection(
        self, leave: Callable[[RawClient], Awaitable[None]], gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(silent)
        client = await gateway.connect()
        await client.send(
            client.request_bytes("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON)
        )
        await upstream.passed("asked")

        await leave(client)

        assert await upstream.all_closed(within_seconds=1)
        assert (await gateway.lines.wait(1))[0]["ending"] == "client_left"

    async def test_after_the_first_byte_closes_the_upstream_connection(
        self, leave: Callable[[RawClient], Awaitable[None]], gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(says(b"data: 1\n\n"))
        client = await gateway.connect()
        await client.send(
            client.request_bytes("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON)
        )
        await client.read_head()
        assert await client.read_chunk() == b"data: 1\n\n"

        await leave(client)

        assert await upstream.all_closed(within_seconds=1)
        assert (await gateway.lines.wait(1))[0]["ending"] == "client_left"

    async def test_amid_an_upload_closes_the_upstream_connection(
        self, leave: Callable[[RawClient], Awaitable[None]], gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.reader.readexactly(MIB)
            upstream.gate("uploading").set()
            await turn.gone()

        upstream.plays(script)
        client = await gateway.connect()
        headers = f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {2 * MIB}\r\n"
        await client.send(client.request_bytes("POST", "/v1/files", headers=headers) + b"1" * MIB)
        await upstream.passed("uploading")

        await leave(client)

        assert await upstream.all_closed(within_seconds=1)
        assert (await gateway.lines.wait(1))[0]["ending"] == "client_left"

    async def test_amid_a_websocket_closes_the_upstream_connection(
        self, leave: Callable[[RawClient], Awaitable[None]], gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.send(accepted(turn))
            await turn.gone()

        upstream.plays(script)
        client = await gateway.connect()
        await shake_hands(client, protocols="")

        await leave(client)

        assert await upstream.all_closed(within_seconds=1)
        assert (await gateway.lines.wait(1))[0]["ending"] == "client_left"


FRAMINGS = {
    "chunked": b"Transfer-Encoding: chunked\r\n",
    "content-length": b"Content-Length: 1000\r\n",
    "close-delimited": b"Connection: close\r\n",
}


class TestUpstreamThatDies:
    async def play(
        self,
        gateway: Gateway,
        upstream: ScriptedUpstream,
        framing: str,
        die: Callable[[Turn], None],
        version: str = "HTTP/1.1",
    ) -> RawAnswer:
        """An answer whose upstream dies when the client has its first piece."""

        async def script(turn: Turn) -> None:
            await turn.read_body()
            await turn.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n" % FRAMINGS[framing]
            )
            await (turn.chunk if framing == "chunked" else turn.send)(b"data: 1\n\n")
            await turn.wait_for("first piece seen")
            die(turn)

        upstream.plays(script)
        async with await gateway.connect() as client:
            await client.send(
                client.request_bytes(
                    "POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON, version=version
                )
            )
            answer = await client.read_head()
            body = BodyReader(client, answer)
            assert await body.exactly(9) == b"data: 1\n\n"
            upstream.gate("first piece seen").set()
            answer.clean_end = await body.ended()
        return answer

    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
    @pytest.mark.parametrize(
        ("framing", "die"),
        [
            ("chunked", Turn.close),
            ("chunked", Turn.reset),
            ("content-length", Turn.close),
            ("content-length", Turn.reset),
            ("close-delimited", Turn.reset),
        ],
    )
    async def test_amid_its_answer_is_never_a_clean_end(
        self,
        gateway: Gateway,
        upstream: ScriptedUpstream,
        framing: str,
        die: Callable[[Turn], None],
        version: str,
    ) -> None:
        answer = await self.play(gateway, upstream, framing, die, version)

        assert not answer.clean_end
        (line,) = await gateway.lines.wait(1)
        assert (line["status"], line["ending"]) == (200, "upstream_lost")

    async def test_after_an_answer_that_ends_with_its_connection_is_a_clean_end(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        answer = await self.play(gateway, upstream, "close-delimited", Turn.close)

        assert answer.clean_end
        assert (await gateway.lines.wait(1))[0]["ending"] == "complete"

    @pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Ty"])
    @pytest.mark.parametrize("die", [Turn.close, Turn.reset])
    async def test_before_its_answer_is_a_502(
        self, gateway: Gateway, upstream: ScriptedUpstream, sent: bytes, die: Callable[[Turn], None]
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.read_body()
            await turn.send(sent)
            die(turn)

        upstream.plays(script)
        async with await gateway.connect() as client:
            answer = await client.request("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON)

        assert answer.status == 502
        assert b'"upstream_broken"' in answer.body
        assert len(upstream.requests) == 1, "what was sent is not sent again"

    async def test_amid_the_upload_it_reads_is_a_502(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def script(turn: Turn) -> None:
            await turn.reader.readexactly(1000)
            turn.reset()
            upstream.gate("dead").set()

        upstream.plays(script)
        async with await gateway.connect() as client:
            headers = f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {MIB}\r\n"
            await client.send(client.request_bytes("POST", "/v1/files", headers=headers) + b"1" * 1000)
            await upstream.passed("dead")
            answer = await client.read_answer()

        assert answer.status == 502
        assert b'"upstream_broken"' in answer.body


class BodyReader:
    """Reads an answer's body by its framing, as many bytes as are wanted, and says whether it ended well."""

    def __init__(self, client: RawClient, answer: RawAnswer) -> None:
        self._client = client
        self._chunked = (answer.get("transfer-encoding") or "").lower() == "chunked"
        length = answer.get("content-length")
        self._missing = None if length is None else int(length)
        self._read = b""

    async def exactly(self, count: int) -> bytes:
        """So many bytes; raises IncompleteReadError when the body ends before."""
        if not self._chunked:
            data = await asyncio.wait_for(self._client.reader.readexactly(count), 10)
            if self._missing is not None:
                self._missing -= count
            return data
        while len(self._read) < count:
            self._read += await self._client.read_chunk()
        data, self._read = self._read[:count], self._read[count:]
        return data

    async def ended(self) -> bool:
        """Whether the body ends here, as its framing says."""
        try:
            if self._chunked:
                return not self._read and not await self._client.read_chunk()
            if self._missing is not None:
                return not await asyncio.wait_for(self._client.reader.readexactly(self._missing), 10)
            return not await asyncio.wait_for(self._client.reader.read(), 10)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
