"""TLS towards clients: the same gateway behind it, and nobody harmed by who is slow or wrong before it is agreed on."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import gc
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from gateway.proxy.client_tls import ClientTls
from tests.conftest import StartGateway
from tests.kit.client import CHAT, JSON, MIB, PLAIN, QUESTION, STREAMED_QUESTION, RawClient
from tests.kit.gateway import Gateway
from tests.kit.tls import served_pair
from tests.kit.upstream import OK, SSE_HEAD, ScriptedUpstream, Turn, silent
from tests.kit.waiting import until
from tests.kit.websocket import BINARY, frame, open_session, read_frame

pytestmark = pytest.mark.both_loops

REFUSED = 'gateway_refused_connections_total{reason="%s"}'
MANY = os.urandom(251) * 80_000
"""20 MB in which every offset is told from its neighbours."""


@pytest.fixture
async def secure(start_gateway: StartGateway, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway that serves TLS."""
    yield await start_gateway(**served_pair(tmp_path))


async def breaks_off(turn: Turn) -> None:
    """The upstream leaves amid a stream."""
    await turn.read_body()
    await turn.send(SSE_HEAD)
    await turn.chunk(b"data: one\n\n")
    turn.close()


async def asked(gateway: Gateway) -> None:
    """Somebody connects, asks and is answered."""
    async with await gateway.connect() as client:
        assert (await client.request("POST", CHAT, QUESTION, headers=JSON)).status == 200


async def plain(gateway: Gateway) -> RawClient:
    """A connection on which nobody speaks TLS yet."""
    client = await RawClient.connect(gateway.host, gateway.port)
    gateway.clients.append(client)
    return client


def hello(tls: ssl.SSLContext) -> bytes:
    """How a client begins."""
    outgoing = ssl.MemoryBIO()
    client = tls.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_requests_are_answered_by_tls_one_after_the_other(
    secure: Gateway, version: ssl.TLSVersion
) -> None:
    tls = secure.tls
    assert tls is not None
    tls.minimum_version = tls.maximum_version = version
    tls.set_alpn_protocols(["h2", "http/1.1"])
    client = await RawClient.connect(secure.host, secure.port, secure.credential(), tls=tls)
    secure.clients.append(client)

    for _ in range(3):
        answer = await client.request("POST", CHAT, QUESTION, headers=JSON)
        assert (answer.status, answer.body, answer.clean_end) == (200, b"{}", True)
    spoken: ssl.SSLObject = client.writer.get_extra_info("ssl_object")
    assert (spoken.selected_alpn_protocol(), spoken.version()) == ("http/1.1", version.name.replace("_", "."))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_older_versions_are_not_spoken(secure: Gateway) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.set_ciphers("DEFAULT:@SECLEVEL=0")
    tls.minimum_version = ssl.TLSVersion.TLSv1
    tls.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(OSError):
        await RawClient.connect(secure.host, secure.port, tls=tls)

    await until(lambda: secure.metric(REFUSED % "handshake") == 1)
    await asked(secure)


async def test_large_bodies_go_both_ways_unchanged(secure: Gateway, upstream: ScriptedUpstream) -> None:
    async def script(turn: Turn) -> None:
        body = await turn.read_body()
        assert sha256(body).digest() == sha256(MANY).digest()
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: %d\r\n\r\n" % len(MANY)
        )
        await turn.send(MANY)

    upstream.plays(script)
    client = await secure.connect()
    sending = asyncio.create_task(
        client.send(client.request_bytes("POST", "/v1/unlisted/upload", MANY, headers=PLAIN))
    )
    answer = await client.read_answer()
    await sending

    assert answer.clean_end
    assert sha256(answer.body).digest() == sha256(MANY).digest()


async def test_events_come_as_they_are_sent(secure: Gateway, upstream: ScriptedUpstream) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(b"data: one\n\n")
        await turn.wait_for("the first was read")
        await turn.chunk(b"data: two\n\n")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await secure.connect()
    await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON))

    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == b"data: one\n\n"
    upstream.gate("the first was read").set()
    assert await client.read_chunk() == b"data: two\n\n"
    assert await client.read_chunk() == b""


async def test_a_broken_answer_has_no_clean_end(secure: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(breaks_off)
    client = await secure.connect()
    await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON))

    assert not (await client.read_answer()).clean_end


async def test_a_client_that_leaves_ends_the_upstreams_request(
    secure: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(b"data: one\n\n")
        await turn.gone()
        turn.open("it is gone")

    upstream.plays(script)
    client = await secure.connect()
    await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON))
    await client.read_head()
    await client.read_chunk()
    await client.close()

    await upstream.passed("it is gone")
    [line] = await secure.lines.wait()
    assert line["ending"] == "client_left"


async def test_sessions_are_relayed_by_tls(secure: Gateway, upstream: ScriptedUpstream) -> None:
    session = await open_session(secure, upstream)
    message = MANY[: 2 * MIB]

    await session.from_client(frame(BINARY, message))
    arrived = await read_frame(session.turn.reader)
    await session.from_upstream(frame(BINARY, message, masked=False))
    back = await read_frame(session.client.reader)

    assert arrived.payload == back.payload == message


async def test_requests_in_pieces_of_a_byte_are_read(secure: Gateway) -> None:
    client = await secure.connect()
    for byte in client.request_bytes("POST", CHAT, QUESTION, headers=JSON):
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0)

    assert (await client.read_answer()).status == 200


async def test_a_plain_request_is_told_what_is_wrong(secure: Gateway) -> None:
    client = await plain(secure)

    answer = await client.request("GET", "/v1/models")

    assert answer.status == 400
    assert "https://" in orjson.loads(answer.body)["error"]["message"]
    assert answer.get("x-gateway-request-id")
    assert await client.closed()
    assert secure.metric(REFUSED % "plain_http") == 1
    [line] = await secure.lines.wait()
    assert line["status"] == 400
    await asked(secure)


@pytest.mark.parametrize(
    "begin", [b"\x00\x01\x02", b"\x16garbage" * 10, b"\x16\x03\x01\xff\xff" + bytes(70_000)]
)
async def test_what_is_no_handshake_ends_and_harms_nobody(secure: Gateway, begin: bytes) -> None:
    client = await plain(secure)

    client.writer.write(begin)

    assert await client.closed()
    await until(lambda: secure.metric(REFUSED % "handshake") == 1)
    await asked(secure)


@pytest.mark.parametrize("sent", ["nothing", "a byte", "half of a hello", "a hello"])
async def test_a_slow_handshake_has_its_time_and_no_more(
    start_gateway: StartGateway, tmp_path: Path, sent: str
) -> None:
    gateway = await start_gateway(**served_pair(tmp_path), edge={"header_timeout_seconds": 1.0})
    tls = gateway.tls
    assert tls is not None
    begin = hello(tls)
    client = await plain(gateway)
    client.writer.write(
        {"nothing": b"", "a byte": begin[:1], "half of a hello": begin[:100], "a hello": begin}[sent]
    )

    assert await client.closed()
    await asked(gateway)


async def test_who_has_shaken_hands_waits_as_long_as_without_tls(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(**served_pair(tmp_path), edge={"header_timeout_seconds": 1.0})
    client = await gateway.connect()

    await asyncio.sleep(1.5)

    assert (await client.request("POST", CHAT, QUESTION, headers=JSON)).status == 200


async def test_handshakes_that_do_not_come_to_an_end_make_way_for_others(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(**served_pair(tmp_path), edge={"max_connections": 4, "peer_share": 1})
    tls = gateway.tls
    assert tls is not None
    slow = [await plain(gateway) for _ in range(4)]
    for client in slow:
        client.writer.write(hello(tls)[:50])
    await until(lambda: gateway.metric("gateway_client_connections") == 4)
    await asyncio.sleep(0.3)

    await asked(gateway)


async def test_who_finds_no_room_is_told_so_by_tls(
    start_gateway: StartGateway, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.wait_for("the other was refused")
        await turn.send(OK)

    upstream.plays(script)
    gateway = await start_gateway(**served_pair(tmp_path), edge={"max_connections": 1})
    first = await gateway.connect()
    await first.send(first.request_bytes("POST", CHAT, QUESTION, headers=JSON))
    await until(lambda: gateway.app.services.lifecycle.in_flight == 1)

    second = await gateway.connect()
    refused = await second.read_answer()
    upstream.gate("the other was refused").set()

    assert refused.status == 503
    assert await second.closed()
    assert (await first.read_answer()).status == 200


async def test_an_end_is_said_and_nobody_waits_for_it_to_be_confirmed(secure: Gateway) -> None:
    client = await secure.connect()
    answer = await client.request("POST", CHAT, QUESTION, headers=JSON + "Connection: close\r\n")

    assert answer.status == 200
    assert await client.reader.read() == b""  # and no error: the end was said
    await until(lambda: secure.app.open_connections == 0)


async def test_a_slow_reader_has_all_of_a_large_last_answer(
    secure: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: %d\r\n\r\n" % len(MANY)
        )
        await turn.send(MANY)

    upstream.plays(script)
    tls = secure.tls
    assert tls is not None
    request = (await secure.connect()).request_bytes(
        "POST", CHAT, QUESTION, headers=JSON + "Connection: close\r\n"
    )

    def read_slowly() -> bytes:
        with (
            socket.create_connection((secure.host, secure.port)) as sock,
            tls.wrap_socket(sock, server_hostname="127.0.0.1") as client,
            client.makefile("rb") as answer,
        ):
            client.sendall(request)
            time.sleep(1)
            return answer.read().partition(b"\r\n\r\n")[2]

    assert sha256(await asyncio.to_thread(read_slowly)).digest() == sha256(MANY).digest()


async def test_a_gateway_that_stops_waits_for_what_runs(secure: Gateway, upstream: ScriptedUpstream) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        turn.open("it was asked")
        await turn.wait_for("it stops")
        await turn.send(OK)

    upstream.plays(script)
    client, silent, half = await secure.connect(), await plain(secure), await plain(secure)
    half.writer.write(b"\x16\x03")
    await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON))
    await upstream.passed("it was asked")
    secure.runner.stop_accepting()
    drained = asyncio.create_task(secure.app.drain(20))
    await asyncio.sleep(0.1)
    upstream.gate("it stops").set()

    answer = await client.read_answer()
    await silent.close()
    await half.close()
    await asyncio.wait_for(drained, 5)

    assert (answer.status, answer.get("connection")) == (200, "close")


async def test_a_reset_in_a_handshake_is_no_failure_of_ours(secure: Gateway) -> None:
    tls = secure.tls
    assert tls is not None
    for _ in range(5):
        client = await plain(secure)
        client.writer.write(hello(tls))
        assert await client.reader.read(1)  # it is under way
        client.reset()

    await until(lambda: secure.metric(REFUSED % "handshake") == 5)
    await until(lambda: secure.app.open_connections == 0)
    await asked(secure)


class OwnTls:
    """A connection whose records a test makes itself."""

    def __init__(self, client: RawClient, tls: ssl.SSLContext) -> None:
        self.client = client
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")

    async def shake(self) -> None:
        """Have the handshake."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.client.send(self.outgoing.read())
                self.incoming.write(await self.client.reader.read(65536))
            else:
                await self.client.send(self.outgoing.read())
                return

    def change_of_keys(self) -> bytes:
        """What asks for new keys, which is answered by the library itself."""
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))  # None: it is part of the interpreter
        connection = ctypes.c_void_p.from_address(id(self.tls._sslobj) + 3 * ctypes.sizeof(ctypes.c_void_p))  # type: ignore[attr-defined]
        assert library.SSL_key_update(connection, 1) == 1
        self.tls.do_handshake()
        return self.outgoing.read()


@pytest.fixture
async def own(secure: Gateway) -> OwnTls:
    """A connection by TLS that has been agreed on, and whose answers nobody reads."""
    tls = secure.tls
    assert tls is not None
    client = await plain(secure)
    client.credential = secure.credential()
    one = OwnTls(client, tls)
    await one.shake()
    return one


async def test_what_is_sent_ahead_is_answered_and_leaves_the_library_little(
    secure: Gateway, upstream: ScriptedUpstream, own: OwnTls
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.wait_for("go on")
        await turn.send(OK)

    upstream.plays(script)
    server, many = secure.app.server, 60
    assert server is not None
    headers = JSON + f"X-Ahead: {'x' * 8000}\r\n"
    own.tls.write(own.client.request_bytes("POST", CHAT, QUESTION, headers=headers) * many)
    own.client.writer.write(own.outgoing.read())
    await until(lambda: any(connection.held for connection in server.state.connections))  # type: ignore[attr-defined]
    (connection,) = server.state.connections
    assert isinstance(connection.transport, ClientTls)
    kept_bytes = connection.transport._incoming.pending
    upstream.gate("go on").set()

    await secure.lines.wait(many)
    assert {seen.body for seen in upstream.requests} == {QUESTION}
    assert kept_bytes <= 64 * 1024


@pytest.mark.parametrize("apart", [True, False])
async def test_who_says_its_end_is_gone_whether_that_comes_with_its_request_or_behind(
    secure: Gateway, upstream: ScriptedUpstream, own: OwnTls, apart: bool
) -> None:
    upstream.plays(silent)
    own.tls.write(own.client.request_bytes("POST", CHAT, QUESTION, headers=JSON))
    if apart:
        await own.client.send(own.outgoing.read())
        await upstream.passed("asked")
    with pytest.raises(ssl.SSLWantReadError):
        own.tls.unwrap()
    await own.client.send(own.outgoing.read())

    (line,) = await secure.lines.wait()
    assert line["ending"] == "client_left"
    await until(lambda: secure.app.open_connections == 0)


async def test_who_has_new_keys_now_and_then_is_served(secure: Gateway, own: OwnTls) -> None:
    for _ in range(5):
        own.outgoing.write(own.change_of_keys())
        own.tls.write(own.client.request_bytes("POST", CHAT, QUESTION, headers=JSON))
        await own.client.send(own.outgoing.read())
        answer = b""
        while not answer.endswith(b"\r\n\r\n{}"):
            own.incoming.write(await own.client.reader.read(65536))
            try:
                answer += own.tls.read(65536)
            except ssl.SSLWantReadError:
                pass
    await secure.lines.wait(5)


async def test_who_asks_for_new_keys_all_the_time_is_cut(secure: Gateway, own: OwnTls) -> None:
    await own.client.send(b"".join(own.change_of_keys() for _ in range(2000)))

    await until(lambda: secure.app.open_connections == 0)


async def test_what_is_no_tls_amid_an_answer_is_a_client_that_has_left(
    secure: Gateway, upstream: ScriptedUpstream, own: OwnTls
) -> None:
    server = secure.app.server
    assert server is not None

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        (connection,) = server.state.connections
        while connection.transport is not None and not connection.transport.get_write_buffer_size():
            await turn.chunk(b"data: %b\n\n" % bytes(4000))
            await asyncio.sleep(0.001)
        turn.open("unread")
        await turn.wait_for("go on")
        await turn.chunk(b"data: more\n\n")
        await turn.gone()

    upstream.plays(script)
    own.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    own.tls.write(own.client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
    await own.client.send(own.outgoing.read())
    await upstream.passed("unread")
    await own.client.send(b"\x17\x03\x03\x00\x20" + b"?" * 32)
    await asyncio.sleep(0.1)
    upstream.gate("go on").set()

    (line,) = await secure.lines.wait()
    assert line["ending"] == "client_left"
    assert "error" not in line


async def test_many_shake_hands_at_once(secure: Gateway) -> None:
    clients = await asyncio.gather(*(secure.connect() for _ in range(50)))

    answers = await asyncio.gather(
        *(client.request("POST", CHAT, QUESTION, headers=JSON) for client in clients)
    )

    assert {answer.status for answer in answers} == {200}
    assert clients[0].socket.family == socket.AF_INET


async def test_nothing_of_a_connection_is_left_to_the_cycle_collector(
    secure: Gateway, upstream: ScriptedUpstream
) -> None:
    tls = secure.tls
    assert tls is not None
    gc.collect()
    gc.disable()
    try:
        for begin in (b"", b"\x16garbage" * 10, hello(tls), b"GET / HTTP/1.1\r\n\r\n", b"\x00"):
            client = await RawClient.connect(secure.host, secure.port)
            client.writer.write(begin)
            await asyncio.sleep(0.02)
            client.reset()
        await asked(secure)
        upstream.plays(breaks_off)
        async with await secure.connect() as client:
            await client.request("POST", CHAT, QUESTION, headers=JSON)
        upstream.plays(silent)
        client = await secure.connect()
        await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON))
        await asyncio.sleep(0.05)
        client.reset()
        await until(lambda: secure.app.open_connections == 0)

        await until(lambda: not [one for one in gc.get_objects() if isinstance(one, ClientTls)])
    finally:
        gc.enable()
