"""Taking a body in: what is read whole and what streams, caps and deadlines, and who is invited to send."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import BodyTooLarge, MediaTypeRefused
from gateway.operations.table import UNLISTED_WRITE, Operation
from gateway.proxy.body import check_length, must_be_read
from gateway.settings.edge import Edge
from gateway.wire import headers
from tests.conftest import StartGateway
from tests.kit.asking import TABLE, ask, form, verdict
from tests.kit.client import CHAT, FORM, JSON
from tests.kit.gateway import Gateway
from tests.kit.records import caller
from tests.kit.upstream import ScriptedUpstream, Turn


def head(content_type: str | None, *, body: bool = True, encoding: str | None = None) -> headers.RequestHead:
    """A request head as it was read from the wire."""
    fields = [(b"Host", b"gateway.test")]
    if content_type is not None:
        fields.append((b"Content-Type", content_type.encode()))
    if encoding is not None:
        fields.append((b"Content-Encoding", encoding.encode()))
    if body:
        fields.append((b"Content-Length", b"2"))
    return headers.read(fields, http10=False, max_bytes=65536)


def named(operation: str) -> Operation:
    return UNLISTED_WRITE if operation == "unlisted" else TABLE.by_id(operation)


class TestWhatIsRead:
    @pytest.mark.parametrize("operation", ["createChatCompletion", "createEmbedding", "createThread"])
    @pytest.mark.parametrize(
        "kind", [None, "application/json", "text/plain", "multipart/form-data; boundary=x", "application/octet-stream",
                 "application/x-www-form-urlencoded", "APPLICATION/JSON; charset=utf-8", "application/vnd.x+json", ""],
    )  # fmt: skip
    def test_everything_is_read_where_the_operation_takes_json_alone(
        self, operation: str, kind: str | None
    ) -> None:
        assert must_be_read(head(kind), named(operation), caller())

    @pytest.mark.parametrize(
        "operation", ["createFile", "createTranscription", "createImageEdit", "createVideo"]
    )
    def test_form_streams_where_the_operation_takes_forms(self, operation: str) -> None:
        assert not must_be_read(head("multipart/form-data; boundary=x"), named(operation), caller())
        assert must_be_read(head("application/json"), named(operation), caller())

    @pytest.mark.parametrize("operation", ["createImageEdit", "createVideo"])
    @pytest.mark.parametrize(
        "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/mixed"]
    )
    def test_what_is_no_form_is_read_where_json_is_taken_as_well(
        self, operation: str, kind: str | None
    ) -> None:
        assert must_be_read(head(kind), named(operation), caller())

    @pytest.mark.parametrize("kind", [None, "text/plain", "audio/wav", "multipart/form-data; boundary=x"])
    def test_unlisted_body_streams_unless_some_models_only_may_be_used(self, kind: str | None) -> None:
        restricted = caller(models=["good"])

        assert not must_be_read(head(kind), named("unlisted"), caller())
        read = kind is None or not kind.startswith("multipart")
        assert must_be_read(head(kind), UNLISTED_WRITE, restricted) is read
        assert must_be_read(head("application/json"), named("unlisted"), caller())

    @pytest.mark.parametrize("operation", ["createChatCompletion", "createFile", "listModels", "unlisted"])
    def test_no_body_is_nothing_to_read(self, operation: str) -> None:
        assert not must_be_read(head("application/json", body=False), named(operation), caller())

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-anything", "gzip, identity"])
    def test_encoded_body_that_has_to_be_read_is_refused(self, encoding: str) -> None:
        with pytest.raises(MediaTypeRefused):
            must_be_read(head("application/json", encoding=encoding), named("createResponse"), caller())

    def test_encoded_body_that_streams_is_the_upstreams_business(self) -> None:
        assert not must_be_read(
            head("multipart/form-data; boundary=x", encoding="gzip"), named("createFile"), caller()
        )

    @pytest.mark.parametrize("encoding", ["identity", "Identity", " identity "])
    def test_identity_is_no_encoding(self, encoding: str) -> None:
        assert must_be_read(head("application/json", encoding=encoding), named("createResponse"), caller())


class TestCaps:
    EDGE = Edge(max_json_body_bytes=1000, max_body_bytes=5000)

    @pytest.mark.parametrize(("whole", "length", "fits"), [(True, 1000, True), (True, 1001, False),
                                                           (False, 5000, True), (False, 5001, False)])  # fmt: skip
    def test_are_looked_at_by_content_length(self, whole: bool, length: int, fits: bool) -> None:
        if fits:
            check_length(length, whole=whole, edge=self.EDGE)
        else:
            with pytest.raises(BodyTooLarge, match=r"/v1/uploads"):
                check_length(length, whole=whole, edge=self.EDGE)

    async def test_stated_length_is_refused_before_a_byte_of_the_body_is_invited(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(edge={"max_json_body_bytes": 1000, "max_body_bytes": 5000})
        for target, kind, length in ((CHAT, JSON, 1001), ("/v1/files", FORM, 5001)):
            client = await gateway.connect()
            stated = f"{kind}Content-Length: {length}\r\nExpect: 100-continue\r\n"
            await client.send(client.request_bytes("POST", target, headers=stated))
            assert verdict(await client.read_answer()) == (413, "request_too_large")
        assert not upstream.requests

    @pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413), (100_000, 413)])
    async def test_chunks_are_counted(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream, size: int, status: int
    ) -> None:
        gateway = await start_gateway(edge={"max_json_body_bytes": 1000})
        client = await gateway.connect()
        body = b'{"x":"' + b"y" * (size - 8) + b'"}'
        await client.send(client.request_bytes("POST", CHAT, headers=JSON + "Transfer-Encoding: chunked\r\n"))
        try:
            for at in range(0, size, 300):
                piece = body[at : at + 300]
                await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await client.send(b"0\r\n\r\n")
        except ConnectionError:
            pass  # refused while it was sending
        assert (await client.read_answer()).status == status
        assert len(upstream.requests) == (status == 200)

    async def test_form_that_grows_beyond_its_cap_never_reaches_its_end(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(edge={"max_body_bytes": 50_000})
        client = await gateway.connect()
        body = form(("file", b"x" * 60_000), ("purpose", b"batch"), file_at=0)
        await client.send(
            client.request_bytes("POST", "/v1/files", headers=FORM + "Transfer-Encoding: chunked\r\n")
        )
        for at in range(0, len(body), 10_000):
            piece = body[at : at + 10_000]
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        answer = await client.read_answer()

        assert verdict(answer) == (413, "request_too_large")
        assert await upstream.all_closed()
        assert not upstream.requests[0].complete


class TestInvitation:
    async def test_comes_when_nothing_in_the_head_speaks_against(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        for target, kind, body in ((CHAT, JSON, b"{}"), ("/v1/files", FORM, form(("purpose", b"x")))):
            client = await gateway.connect()
            waiting = f"{kind}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n"
            await client.send(client.request_bytes("POST", target, headers=waiting))
            assert (await client.read_head()).status == 100
            await client.send(body)
            assert (await client.read_answer()).status == 200
        assert [seen.body for seen in upstream.requests] == [b"{}", form(("purpose", b"x"))]
        assert all(seen.get("expect") is None for seen in upstream.requests)

    @pytest.mark.parametrize(
        ("target", "credential", "status"),
        [
            (CHAT, "nonsense", 401),
            ("/v1/a//b", None, 400),
            (CHAT, "narrow", 403),
            ("/v1/batches", "models", 403),
        ],
    )
    async def test_does_not_come_to_who_is_refused_by_the_head_alone(
        self, gateway: Gateway, upstream: ScriptedUpstream, target: str, credential: str | None, status: int
    ) -> None:
        client = await gateway.connect()
        match credential:
            case "narrow":
                client.credential = gateway.credential(["files:read"])
            case "models":
                client.credential = gateway.credential(models=["good"])
            case "nonsense":
                client.credential = credential
        await client.send(
            client.request_bytes(
                "POST", target, headers=JSON + "Content-Length: 1000000\r\nExpect: 100-continue\r\n"
            )
        )
        answer = await client.read_answer()

        assert answer.status == status
        assert not upstream.requests

    async def test_does_not_come_to_who_has_no_permits_left(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(tenants={"acme": {"limits": {"max_requests_per_1_minute": 1}}})
        assert (await ask(gateway, "POST", CHAT, b"{}")).status == 200
        client = await gateway.connect()
        await client.send(
            client.request_bytes("POST", CHAT, headers=JSON + "Content-Length: 9\r\nExpect: 100-continue\r\n")
        )

        assert (await client.read_answer()).status == 429
        assert len(upstream.requests) == 1


class TestDeadlines:
    @pytest.mark.parametrize(("target", "kind"), [(CHAT, JSON), ("/v1/files", FORM)])
    async def test_body_that_stops_coming_is_not_waited_for(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream, target: str, kind: str
    ) -> None:
        gateway = await start_gateway(edge={"body_idle_timeout_seconds": 0.2})
        client = await gateway.connect()
        await client.send(
            client.request_bytes("POST", target, headers=f"{kind}Content-Length: 100\r\n") + b"--ed"
        )
        answer = await client.read_answer()

        assert verdict(answer) == (408, "request_timeout")
        assert answer.get("connection") == "close"
        assert await upstream.all_closed()
        assert not any(seen.complete for seen in upstream.requests)

    async def test_body_that_trickles_may_take_its_time(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(edge={"body_idle_timeout_seconds": 0.3})
        client = await gateway.connect()
        await client.send(client.request_bytes("POST", CHAT, headers=JSON + "Content-Length: 7\r\n"))
        for letter in b'{"a":1}':
            await asyncio.sleep(0.1)
            await client.send(bytes((letter,)))

        assert (await client.read_answer()).status == 200

    @pytest.mark.parametrize(("target", "kind"), [(CHAT, JSON), ("/v1/files", FORM)])
    async def test_client_that_leaves_in_the_middle_of_its_body_is_logged_as_gone(
        self, gateway: Gateway, upstream: ScriptedUpstream, target: str, kind: str
    ) -> None:
        client = await gateway.connect()
        await client.send(
            client.request_bytes("POST", target, headers=f"{kind}Content-Length: 100\r\n") + b"--ed"
        )
        await asyncio.sleep(0.05)
        client.reset()
        (line,) = await gateway.lines.wait(1)

        assert (line["ending"], line["status"]) == ("client_left", None)
        assert await upstream.all_closed()

    async def test_waiting_for_the_clients_body_is_not_the_gateways_overhead(self, gateway: Gateway) -> None:
        client = await gateway.connect()
        await client.send(client.request_bytes("POST", CHAT, headers=JSON + "Content-Length: 2\r\n"))
        await asyncio.sleep(0.3)
        await client.send(b"{}")
        await client.read_answer()
        (line,) = await gateway.lines.wait(1)

        assert line["duration_ms"] > 300
        assert line["overhead_ms"] < 100


async def test_form_reaches_the_upstream_while_it_still_comes_in(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """The second half is not sent before the upstream has the first."""

    async def reads(turn: Turn) -> None:
        turn.seen.body += await turn.reader.readexactly(1000)
        upstream.gate("half").set()
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.plays(reads)
    body = form(("file", b"x" * 5000), ("purpose", b"batch"), file_at=0)
    client = await gateway.connect()
    await client.send(
        client.request_bytes("POST", "/v1/files", headers=FORM + f"Content-Length: {len(body)}\r\n")
    )
    await client.send(body[:2000])
    await upstream.passed("half")
    await client.send(body[2000:])

    assert (await client.read_answer()).status == 200
    assert upstream.requests[0].body == body
