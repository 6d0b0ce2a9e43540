"""The handshake of a WebSocket: the upstream is connected before the client is accepted, and nothing is lost."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from gateway.wire.frame_format import accept_key
from tests.kit.asking import TABLE
from tests.kit.client import WEBSOCKET_KEY
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.websocket import (
    BINARY,
    TARGET,
    TEXT,
    Frame,
    accepted,
    frame,
    handshake,
    open_session,
    read_frame,
)

pytestmark = pytest.mark.both_loops


async def test_the_handshake_is_the_clients_own_but_for_credential_and_extensions(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(
        gateway,
        upstream,
        protocols="realtime, openai-beta.realtime-v1",
        more="Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nX-Mark: 1\r\n"
        "Content-Length: 0\r\n",
    )

    seen = session.turn.seen
    assert (seen.method, seen.target) == ("GET", TARGET)
    assert seen.get("authorization") == "Bearer sk-upstream-key"
    assert seen.all("sec-websocket-key") == [WEBSOCKET_KEY]
    assert seen.all("sec-websocket-version") == ["13"]
    assert seen.all("connection") == ["Upgrade"]
    assert seen.all("upgrade") == ["websocket"]
    assert seen.get("sec-websocket-protocol") == "realtime, openai-beta.realtime-v1"
    assert seen.get("sec-websocket-extensions") is None
    assert seen.get("x-mark") == "1"
    assert seen.get("content-length") is None
    assert session.head.all("sec-websocket-accept") == [accept_key(WEBSOCKET_KEY)]
    assert session.head.all("sec-websocket-protocol") == ["realtime"]
    assert session.head.all("connection") == ["Upgrade"]
    assert session.head.all("upgrade") == ["websocket"]
    assert session.head.get("sec-websocket-extensions") is None
    assert session.head.get("x-gateway-request-id")


SOCKETS = {
    "connectRealtime": "/v1/realtime?model=gpt-realtime",
    "connectRealtimeTranscription": "/v1/realtime/transcription_sessions?model=gpt-4o-transcribe",
    "connectRealtimeTranslation": "/v1/realtime/translations?model=gpt-realtime-translate",
    "connectResponses": "/v1/responses",
}


def test_every_socket_of_the_table_has_a_target_here() -> None:
    assert SOCKETS.keys() == {operation.id for operation in TABLE if operation.is_session}


@pytest.mark.parametrize("operation", SOCKETS)
async def test_every_socket_is_open_under_its_own_operation(
    operation: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    target = SOCKETS[operation]
    session = await open_session(gateway, upstream, target=target)

    await session.from_client(frame(TEXT, b'{"type":"session.update"}'))
    await session.from_upstream(frame(TEXT, b'{"type":"session.updated"}', masked=False))

    assert session.turn.seen.target == target
    assert (await read_frame(session.client.reader)).payload == b'{"type":"session.updated"}'
    await session.client.close()
    [line] = await gateway.lines.wait(1)
    assert (line["operation"], line["status"]) == (operation, 101)


@pytest.mark.parametrize(
    ("connection", "upgrade"),
    [("keep-alive, Upgrade", "websocket"), ("upgrade", "WebSocket"), ("Upgrade,Keep-Alive", "WEBSOCKET")],
)
async def test_the_handshake_has_no_case_and_may_list_more(
    connection: str, upgrade: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(accepted(turn))
        await turn.gone()

    upstream.plays(script)
    client = await gateway.connect()
    request = handshake(client).replace(b"Connection: Upgrade", f"Connection: {connection}".encode())

    await client.send(request.replace(b"Upgrade: websocket", f"Upgrade: {upgrade}".encode()))

    assert (await client.read_head()).status == 101


async def test_a_credential_in_the_subprotocols_opens_the_session_and_stays_here(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    turns: asyncio.Queue[Turn] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        turns.put_nowait(turn)
        await turn.send(accepted(turn))

    upstream.plays(script)
    client = await gateway.connect()
    offered = f"realtime, openai-insecure-api-key.{client.credential}, openai-beta.realtime-v1"
    request = handshake(client, protocols=offered)
    lines = [line for line in request.split(b"\r\n") if not line.startswith(b"Authorization")]

    await client.send(b"\r\n".join(lines))
    head = await client.read_head()
    await client.close()

    assert head.status == 101
    seen = (await turns.get()).seen
    assert seen.get("sec-websocket-protocol") == "realtime, openai-beta.realtime-v1"
    assert seen.get("authorization") == "Bearer sk-upstream-key"
    assert client.credential.encode() not in seen.raw_head
    assert head.all("sec-websocket-protocol") == ["realtime"]
    assert not [value for _, value in head.fields if client.credential in value]
    await gateway.lines.wait(1)
    assert not [line for line in gateway.lines.raw if client.credential.encode() in line]


async def test_two_credentials_are_one_too_many(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    client = await gateway.connect()

    await client.send(handshake(client, protocols=f"realtime, openai-insecure-api-key.{client.credential}"))
    answer = await client.read_answer()

    assert answer.status in (400, 401)
    assert upstream.connections == 0


async def test_without_the_scope_nobody_is_connected(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    client = await gateway.connect()
    client.credential = gateway.credential(["models:read", "realtime:read"])

    await client.send(handshake(client))
    answer = await client.read_answer()

    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (403, "missing_scope")
    assert upstream.connections == 0


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("400 Bad Request", b'{"error":{"code":"bad_model"}}'),
        ("404 Not Found", b"nothing here"),
        ("429 Too Many Requests\r\nRetry-After: 7", b'{"error":{"code":"rate_limit_exceeded"}}'),
        ("503 Service Unavailable", b""),
        ("200 OK", b"no socket here"),
    ],
)
async def test_the_upstreams_refusal_goes_down_as_plain_http_with_its_own_body(
    head: str, body: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def refuse(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    upstream.plays(refuse)
    client = await gateway.connect()
    await client.send(handshake(client))
    answer = await client.read_answer()

    assert (answer.status, answer.body, answer.clean_end) == (int(head[:3]), body, True)
    assert answer.get("retry-after") == ("7" if "Retry" in head else None)
    assert answer.get("sec-websocket-accept") is None
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (int(head[:3]), "complete")


async def test_an_upstream_that_refuses_our_key_is_a_502(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def refuse(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 11\r\n\r\nsk-upstream")

    upstream.plays(refuse)
    client = await gateway.connect()
    await client.send(handshake(client))
    answer = await client.read_answer()

    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (502, "upstream_refused_key")
    assert b"sk-upstream" not in answer.body


UPGRADED = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
ACCEPTED = f"Sec-WebSocket-Accept: {accept_key(WEBSOCKET_KEY)}\r\n"
BAD_ACCEPTANCES: dict[str, str] = {
    "wrong accept": f"{UPGRADED}Sec-WebSocket-Accept: {accept_key('another key')}\r\n",
    "no accept": UPGRADED,
    "no upgrade": f"Connection: Upgrade\r\n{ACCEPTED}",
    "other upgrade": f"Upgrade: h2c\r\nConnection: Upgrade\r\n{ACCEPTED}",
    "an extension": f"{UPGRADED}{ACCEPTED}Sec-WebSocket-Extensions: permessage-deflate\r\n",
    "a protocol that nobody offered": f"{UPGRADED}{ACCEPTED}Sec-WebSocket-Protocol: other\r\n",
    "two answers to one key": f"{UPGRADED}{ACCEPTED}Sec-WebSocket-Accept: {accept_key('another key')}\r\n",
}


@pytest.mark.parametrize("kind", BAD_ACCEPTANCES)
async def test_an_upstream_that_accepts_wrongly_is_a_502_in_plain_http(
    kind: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def accept_wrongly(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 101 Switching Protocols\r\n{BAD_ACCEPTANCES[kind]}\r\n".encode())
        await turn.gone()

    upstream.plays(accept_wrongly)
    client = await gateway.connect()
    client.timeout_seconds = 3
    await client.send(handshake(client))
    answer = await client.read_answer()

    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (502, "upstream_broken")
    assert await upstream.all_closed()


async def test_frames_that_come_with_the_handshake_are_not_lost(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    early = frame(TEXT, b"early bird")
    received: asyncio.Queue[Frame] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        await turn.send(accepted(turn) + frame(TEXT, b"hello", masked=False))
        received.put_nowait(await read_frame(turn.reader))
        await turn.gone()

    upstream.plays(script)
    client = await gateway.connect()
    await client.send(handshake(client) + early)

    assert (await client.read_head()).status == 101
    assert (await read_frame(client.reader)).payload == b"hello"
    assert (await asyncio.wait_for(received.get(), 5)).raw == early


async def test_a_client_that_starts_before_it_was_accepted_loses_nothing(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """More than any buffer holds, sent while the upstream still thinks about it."""
    early = b"".join(frame(BINARY, os.urandom(50_000)) for _ in range(40))
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        await asyncio.sleep(0.3)
        await turn.send(accepted(turn))
        received.put_nowait(await turn.reader.readexactly(len(early)))
        await turn.gone()

    upstream.plays(script)
    client = await gateway.connect()
    sending = asyncio.create_task(client.send(handshake(client) + early))

    assert (await client.read_head()).status == 101
    assert await asyncio.wait_for(received.get(), 10) == early
    await sending


async def test_frames_behind_a_refused_handshake_are_never_taken_for_a_request(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def refuse(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    upstream.plays(refuse)
    client = await gateway.connect()
    hidden = client.request_bytes("GET", "/v1/models")

    await client.send(handshake(client) + frame(TEXT, b"hello") + hidden)
    answer = await client.read_answer()
    await client.closed()

    assert answer.status == 404
    assert [seen.target for seen in upstream.requests] == [TARGET]
