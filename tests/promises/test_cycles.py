"""What an exchange holds ends with it: nothing waits for the cycle collector, which is switched off here."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.credentials.key_ring import KeyRing, ensure_ring
from tests.kit.asking import credential_of, form
from tests.kit.client import CHAT, FORM, HANDSHAKE, JSON, MIB, QUESTION, RawAnswer, RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.readers import readers
from tests.kit.upstream import OK, SSE_HEAD, ScriptedUpstream, Turn
from tests.kit.websocket import TEXT, accepted, close_frame, frame, read_frame, shake_hands
from tests.kit.without_collector import Leftovers, leftovers
from tests.promises.test_memory import memory_bytes

MOST_GROWTH_BYTES = 2 * MIB

CONFIGURATION = """
on_store_failure = "closed"
drain_seconds = 0
drain_notice_seconds = 0

[upstream]
base_url = "{upstream}"
api_key = "sk-upstream-key"
max_connections = 50
timeouts.stored.first_byte_seconds = 2
timeouts.generation.idle_seconds = 2

[edge]
max_json_body_bytes = 30_000_000
header_timeout_seconds = 1
body_idle_timeout_seconds = 3
keepalive_seconds = 600

[tenants.acme]
stored_objects = "own"
scopes = ["*", "org.*", "realtime:mint", "unlisted:*"]
upstream.api_key = "sk-of-acme"

[tenants.counted]
stored_objects = "own"
upstream.api_key = "sk-of-counted"
limits.max_tokens_per_1_minute = 1_000_000_000
limits.max_concurrent_requests = 100

[tenants.almost]
stored_objects = "own"
upstream.api_key = "sk-of-almost"
limits.max_tokens_per_1_minute = 1000

[tenants.poor]
stored_objects = "own"
upstream.api_key = "sk-of-poor"
limits.max_requests_per_1_day = 1

[tenants.restricted]
stored_objects = "own"
models = ["gpt-4o-mini", "whisper-1", "gpt-realtime"]
default_model = "gpt-4o-mini"
upstream.api_key = "sk-of-restricted"

[tenants.sharing]
[tenants.also-sharing]

[tenants.off]
enabled = false

[tenants.lost]
stored_objects = "own"
upstream.api_key = "sk-of-lost"
upstream.base_url = "http://127.0.0.1:1/v1"
"""

PLAY = "X-Play: {}\r\n"
"""Which part the upstream plays, passed on by the gateway like any header."""


async def plays(turn: Turn) -> None:
    """What the upstream does is what the request asks it to."""
    part = turn.seen.get("x-play") or ""
    if part == "silence":
        await turn.gone()
        return
    if part == "early":
        await turn.send(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await turn.gone()
        return
    if part == "stop reading":
        turn.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        turn.reset()
        return
    if part.startswith("socket"):
        await turn.send(accepted(turn))
        await _plays_socket(turn, part)
        return
    await turn.read_body()
    match part:
        case "stream" | "endless" | "cut stream" | "stalled stream":
            await turn.send(SSE_HEAD)
            for _ in range(3):
                await turn.chunk(b'data: {"choices":[{"delta":{"content":"word"}}],"usage":null}\n\n')
            if part == "endless" or part == "stalled stream":
                await turn.gone()
            elif part == "cut stream":
                turn.reset()
            else:
                await turn.chunk(
                    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4}}\n\n'
                )
                await turn.chunk(b"data: [DONE]\n\n")
                await turn.send(b"0\r\n\r\n")
        case "large":
            await turn.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20971522\r\n\r\n"
            )
            await turn.send(b'"' + bytes(20 * MIB) + b'"')
        case "large, cut":
            await turn.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20971522\r\n\r\n"
            )
            await turn.send(bytes(MIB))
            turn.reset()
        case "cut":
            turn.reset()
        case "half a head":
            await turn.send(b"HTTP/1.1 200 OK\r\nContent-")
            turn.close()
        case "nonsense":
            await turn.send(b"SSH-2.0-OpenSSH\r\n\r\n")
            turn.close()
        case "our key":
            await turn.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
        case "unreadable":
            await turn.send(
                b"HTTP/1.1 403 Forbidden\r\nContent-Encoding: br\r\nContent-Length: 5\r\n\r\nabcde"
            )
        case "error":
            await turn.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}")
        case "to the end":
            await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil I hang up")
            turn.close()
        case "switch":
            await turn.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n"
            )
        case "models":
            body = b'{"object":"list","data":[{"id":"gpt-4o-mini"},{"id":"gpt-4o"}]}'
            await turn.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
        case "head":
            await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        case _:
            await turn.send(OK)


async def _plays_socket(turn: Turn, part: str) -> None:
    match part:
        case "socket, closed by the upstream":
            await turn.send(frame(TEXT, b'{"type":"session.created"}', masked=False))
            await turn.send(close_frame(1000, masked=False))
            await turn.gone()
        case "socket, cut by the upstream":
            await turn.send(frame(TEXT, b'{"type":"session.created"}', masked=False))
            turn.reset()
        case "socket, bad frames":
            await turn.send(frame(TEXT, b"?", masked=True))
            await turn.gone()
        case "socket, closed by the client":
            while (found := await read_frame(turn.reader)).opcode == TEXT:
                for event in (
                    b'{"type":"response.created","response":{"id":"r1","conversation_id":"c1"}}',
                    b'{"type":"response.created","response":{"id":"r2","conversation_id":"c1"}}',
                    b'{"type":"response.output_text.delta","response_id":"r1","delta":"x"}',
                    b'{"type":"response.done","response":{"id":"r1","usage":{"input_tokens":1,"output_tokens":1}}}',
                ):
                    await turn.send(frame(TEXT, event, masked=False))
            await turn.send(frame(found.opcode, found.payload, masked=False))
        case _:
            await turn.gone()


@dataclass
class Crowd:
    """A gateway without a cycle collector, and those who call it."""

    gateway: RunningCommand
    ring: KeyRing
    place: Path
    kept: dict[object, RawClient]
    """Connections that stay open between two runs, by who asks over them."""

    clients: list[RawClient]
    credentials: dict[str, str]
    """By tenant: those that have been verified are remembered."""

    def rss_bytes(self) -> int:
        return memory_bytes(self.gateway, "VmRSS")

    def credential(self, tenant: str = "acme", **more: Any) -> str:
        if more:
            return credential_of(self.ring, tenant=tenant, **more)
        return self.credentials.setdefault(tenant, credential_of(self.ring, tenant=tenant))

    async def client(self, tenant: str = "acme", credential: str | None = None) -> RawClient:
        credential = self.credential(tenant) if credential is None else credential
        client = await RawClient.connect(self.gateway.host, self.gateway.port, credential)
        self.clients.append(client)
        return client

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        tenant: str = "acme",
        play: str = "",
        headers: str | None = None,
        credential: str | None = None,
        kept: object = None,
    ) -> RawAnswer:
        """The answer to one request, on a connection that ends with it or one that is kept for the next."""
        headers = JSON if headers is None and body is not None else headers or ""
        if play:
            headers += PLAY.format(play)
        client = self.kept.pop(kept, None) or await self.client(tenant, credential)
        answer = await client.request(method, target, body, headers=headers)
        if kept is None or (answer.get("connection") or "").lower() == "close":
            await client.close()
        else:
            self.kept[kept] = client
        return answer

    async def leave(
        self, data: bytes, *, answered: bytes = b"", reset: bool = False, tenant: str = "acme"
    ) -> None:
        """Send this, wait until the answer has this in it, and hang up."""
        client = await self.client(tenant)
        await client.send(data.replace(b"CREDENTIAL", client.credential.encode()))
        if answered:
            said = b""
            while answered not in said:
                piece = await asyncio.wait_for(client.reader.read(65536), 10)
                assert piece, said
                said += piece
        else:
            await asyncio.sleep(0.05)
        if reset:
            client.reset()
        await client.close()

    async def said(self, data: bytes) -> bytes:
        """All that comes back until the gateway hangs up."""
        client = await self.client()
        await client.send(data.replace(b"CREDENTIAL", client.credential.encode()))
        try:
            answer = await asyncio.wait_for(client.reader.read(), 10)
        except ConnectionError:
            answer = b""
        await client.close()
        return answer

    async def socket(
        self,
        play: str,
        *,
        frames: bytes = b"",
        leave: str = "",
        tenant: str = "acme",
        target: str = "/v1/realtime?model=gpt-realtime",
    ) -> None:
        """Open a session, send frames, and end it or wait for its end."""
        client = await self.client(tenant)
        head = await shake_hands(client, target=target, more=PLAY.format(play))
        assert head.status == 101, head
        if frames:
            await client.send(frames)
        if leave == "reset":
            client.reset()
        elif leave != "close":
            await client.closed()
        await client.close()


LARGE = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 20 * MIB}]})
OTHER_MODEL = b'{"model":"gpt-5","messages":["%b"]}' % (b"x" * MIB)
STREAMED = b'{"model":"gpt-4o-mini","stream":true,"messages":[]}'
HEAD = "{} {} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer CREDENTIAL\r\n{}\r\n"
UPLOAD = form(("file", bytes(MIB)), ("model", b"whisper-1"))
WRONG_UPLOAD = form(("file", bytes(MIB)), ("model", b"whisper-2"))


def head(method: str, target: str, *fields: str, play: str = "") -> bytes:
    lines = [*fields, *([PLAY.format(play).strip()] if play else [])]
    return HEAD.format(method, target, "".join(f"{line}\r\n" for line in lines)).encode()


Scene = Callable[[Crowd], Awaitable[object]]


def asked(status: int, method: str, target: str, body: bytes | None = None, **how: object) -> Scene:
    """A request that is answered with this status, once over a connection of its own and once over a kept one."""
    key = object()

    async def scene(crowd: Crowd) -> None:
        for kept in (None, key):
            answer = await crowd.ask(method, target, body, kept=kept, **how)  # type: ignore[arg-type]
            assert answer.status == status, answer

    return scene


def cut(method: str, target: str, body: bytes | None = None, **how: object) -> Scene:
    """A request whose answer breaks off."""

    async def scene(crowd: Crowd) -> None:
        answer = await crowd.ask(method, target, body, **how)  # type: ignore[arg-type]
        assert not answer.clean_end, answer

    return scene


def left(data: bytes, **how: object) -> Scene:
    return lambda crowd: crowd.leave(data, **how)  # type: ignore[arg-type]


def refused(status: int, data: bytes) -> Scene:
    async def scene(crowd: Crowd) -> None:
        answer = await crowd.said(data)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer

    return scene


def session(play: str, **how: object) -> Scene:
    return lambda crowd: crowd.socket(play, **how)  # type: ignore[arg-type]


def forged(crowd: Crowd) -> str:
    genuine = crowd.credential()
    return genuine[:-8] + ("A" * 8 if not genuine.endswith("A" * 8) else "B" * 8)


async def bad_credentials(crowd: Crowd) -> None:
    for credential in (
        "nonsense",
        "sk-abc",
        "a.b.c",
        forged(crowd),
        crowd.credential("nobody"),
    ):
        answer = await crowd.ask("POST", CHAT, LARGE[:MIB], credential=credential)
        assert answer.status in (401, 403)
    client = await crowd.client(credential=forged(crowd))
    for _ in range(3):
        assert (await client.request("GET", "/v1/models")).status == 401
    await client.close()


async def expired(crowd: Crowd) -> None:
    answer = await crowd.ask("GET", "/v1/models", credential=crowd.credential(clock=lambda: 1_600_000_000.0))
    assert answer.status == 401


async def too_many(crowd: Crowd) -> None:
    await crowd.ask("POST", CHAT, QUESTION, tenant="poor")
    for _ in range(2):
        answer = await crowd.ask("POST", CHAT, LARGE, tenant="poor")
        assert answer.status == 429
        client = await crowd.client("poor")
        await client.send(client.request_bytes("POST", CHAT, LARGE, headers=JSON))
        await asyncio.sleep(0.05)
        client.reset()


async def pipelined(crowd: Crowd) -> None:
    client = await crowd.client()
    await client.send(client.request_bytes("GET", "/v1/models") * 3)
    for _ in range(3):
        assert (await client.read_answer()).status == 200
    await client.close()


SCENES: dict[str, Scene] = {
    "small": asked(200, "POST", CHAT, QUESTION),
    "small, counted": asked(200, "POST", CHAT, QUESTION, tenant="counted"),
    "small, with a model put in": asked(200, "POST", CHAT, b'{"messages":[]}', tenant="restricted"),
    "20 MiB": asked(200, "POST", CHAT, LARGE),
    "20 MiB, counted": asked(200, "POST", CHAT, LARGE, tenant="counted"),
    "20 MiB down": asked(200, "POST", CHAT, QUESTION, play="large"),
    "20 MiB down, counted": asked(200, "POST", CHAT, QUESTION, play="large", tenant="counted"),
    "stream": asked(200, "POST", CHAT, STREAMED, play="stream"),
    "stream, counted": asked(200, "POST", CHAT, STREAMED, play="stream", tenant="counted"),
    "stream, left": left(
        head("POST", CHAT, JSON.strip(), "Content-Length: 51", play="endless") + STREAMED, answered=b"word"
    ),
    "stream, reset by the client": left(
        head("POST", CHAT, JSON.strip(), "Content-Length: 51", play="endless") + STREAMED,
        answered=b"word",
        reset=True,
        tenant="counted",
    ),
    "stream, cut by the upstream": cut("POST", CHAT, STREAMED, play="cut stream"),
    "stream, cut by the upstream, counted": cut("POST", CHAT, STREAMED, play="cut stream", tenant="counted"),
    "stream, stalled": cut("POST", CHAT, STREAMED, play="stalled stream"),
    "large answer, cut": cut("POST", CHAT, QUESTION, play="large, cut"),
    "answer to the end of the connection": asked(200, "POST", CHAT, QUESTION, play="to the end"),
    "upstream's error": asked(500, "POST", CHAT, QUESTION, play="error"),
    "upstream cuts before its head": asked(502, "POST", CHAT, LARGE, play="cut"),
    "upstream's head is cut": asked(502, "POST", CHAT, QUESTION, play="half a head"),
    "upstream speaks nonsense": asked(502, "POST", CHAT, QUESTION, play="nonsense"),
    "upstream refuses our key": asked(502, "POST", CHAT, QUESTION, play="our key"),
    "upstream's error cannot be read": lambda crowd: crowd.ask("POST", CHAT, QUESTION, play="unreadable"),
    "upstream switches protocols": asked(502, "POST", CHAT, QUESTION, play="switch"),
    "upstream is not there": asked(502, "POST", CHAT, LARGE, tenant="lost"),
    "upstream is too slow": asked(504, "GET", "/v1/files", play="silence"),
    "bad credentials": bad_credentials,
    "no credential": refused(
        401, b"POST /v1/models HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    ),
    "expired": expired,
    "tenant switched off": asked(403, "POST", CHAT, QUESTION, tenant="off"),
    "scope missing": lambda crowd: crowd.ask(
        "POST", CHAT, QUESTION, credential=credential_of(crowd.ring, ["files:read"], tenant="acme")
    ),
    "model not allowed": asked(403, "POST", CHAT, b'{"model":"gpt-5","messages":[]}', tenant="restricted"),
    "shared": asked(403, "GET", "/v1/files", tenant="sharing"),
    "filtered models": asked(200, "GET", "/v1/models", play="models", tenant="restricted"),
    "not found": asked(404, "GET", "/"),
    "ambiguous": asked(400, "GET", "/v1/../x"),
    "method": refused(405, head("TRACE", "/v1/models")),
    "no JSON": asked(400, "POST", CHAT, b"{" + LARGE[:MIB]),
    "JSON of too much structure": asked(413, "POST", CHAT, b'{"model":"m","x":[%b1]}' % (b"[]," * 300_000)),
    "JSON is left while it is read": left(
        head("POST", CHAT, JSON.strip(), f"Content-Length: {len(OTHER_MODEL)}") + OTHER_MODEL
    ),
    "no JSON, and large": asked(400, "POST", CHAT, b"{" + LARGE[: 2 * MIB]),
    "large model not allowed": asked(403, "POST", CHAT, OTHER_MODEL, tenant="restricted"),
    "too complex": asked(413, "POST", CHAT, b'{"model":"gpt-4o-mini","input":[' + b"[]," * 200_001 + b"1]}"),
    "too large": left(
        head("POST", CHAT, JSON.strip(), "Content-Length: 30000001"), answered=b"request_too_large"
    ),
    "too large, chunked": left(
        head("POST", CHAT, JSON.strip(), "Transfer-Encoding: chunked")
        + (b"100000\r\n" + bytes(MIB) + b"\r\n") * 30,
        answered=b"413",
    ),
    "too many": too_many,
    "body stops": refused(408, head("POST", CHAT, JSON.strip(), "Content-Length: 3000000") + bytes(MIB)),
    "body is left": left(head("POST", CHAT, JSON.strip(), "Content-Length: 30000000") + bytes(20 * MIB)),
    "body's framing breaks": refused(
        400,
        head("POST", CHAT, JSON.strip(), "Transfer-Encoding: chunked") + b"1000\r\nx\r\nzz\r\n" + bytes(5000),
    ),
    "head is cut": left(b"POST /v1/chat/completions HTTP/1.1\r\nHost:"),
    "head is late": refused(408, b"POST /v1/chat/completions HTTP/1.1\r\nHost:"),
    "head is too large": refused(431, head("GET", "/v1/models", "X: " + "x" * 70_000)),
    "no HTTP": refused(400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "other version": refused(505, b"GET /v1/models HTTP/2.0\r\nHost: a\r\n\r\n"),
    "expectation": asked(417, "POST", CHAT, QUESTION, headers=JSON + "Expect: wonders\r\n"),
    "continue": left(
        head("POST", CHAT, JSON.strip(), "Content-Length: 100", "Expect: 100-continue"),
        answered=b"100 Continue",
    ),
    "own paths": asked(200, "GET", "/gateway/me", tenant="counted"),
    "own usage": asked(200, "GET", "/gateway/usage"),
    "own usage, refused": asked(400, "GET", "/gateway/usage?by=nonsense"),
    "own keys": asked(200, "GET", "/.well-known/jwks.json"),
    "form": asked(200, "POST", "/v1/audio/transcriptions", UPLOAD, headers=FORM),
    "form, gated": asked(200, "POST", "/v1/audio/transcriptions", UPLOAD, headers=FORM, tenant="restricted"),
    "form, refused": asked(
        403, "POST", "/v1/audio/transcriptions", WRONG_UPLOAD, headers=FORM, tenant="restricted"
    ),
    "form, answered early": left(
        head("POST", "/v1/audio/transcriptions", FORM.strip(), "Content-Length: 3000000", play="early")
        + UPLOAD,
        answered=b"413",
    ),
    "form, left": left(
        head("POST", "/v1/audio/transcriptions", FORM.strip(), "Content-Length: 3000000") + UPLOAD[:MIB]
    ),
    "form, left while it cannot go up": left(
        head(
            "POST", "/v1/audio/transcriptions", FORM.strip(), "Content-Length: 30000000", play="stop reading"
        )
        + UPLOAD[:MIB]
        + bytes(8 * MIB),
        reset=True,
    ),
    "plain upload": asked(200, "POST", "/v1/files", UPLOAD, headers=FORM),
    "HEAD": asked(200, "HEAD", "/v1/models", play="head"),
    "pipelined": pipelined,
    "left behind pipelined requests": left(head("GET", "/v1/files", play="silence") * 5),
    "nonsense behind a refused upgrade": refused(
        405, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nAuthorization: Bearer CREDENTIAL\r\n\r\n*1\r\n$4\r\n\r\n"
    ),
    "HTTP/1.0": refused(200, b"GET /v1/models HTTP/1.0\r\nAuthorization: Bearer CREDENTIAL\r\n\r\n"),
    "HTTP/1.0, cut": lambda crowd: crowd.said(
        b"GET /v1/models HTTP/1.0\r\nX-Play: large, cut\r\nAuthorization: Bearer CREDENTIAL\r\n\r\n"
    ),
    "socket, closed by the client": session(
        "socket, closed by the client", frames=frame(TEXT, b'{"type":"response.create"}') + close_frame(1000)
    ),
    "socket, counted": session(
        "socket, closed by the client",
        frames=frame(TEXT, b'{"type":"response.create"}') + close_frame(1000),
        tenant="counted",
    ),
    "socket, in debt": session(
        "socket, closed by the client",
        frames=frame(TEXT, b'{"type":"response.create","response":{"max_output_tokens":9000}}')
        + frame(TEXT, b'{"type":"response.create","response":{"conversation":"none"}}')
        + close_frame(1000),
        tenant="almost",
    ),
    "socket, judged": session(
        "socket, closed by the client",
        frames=frame(TEXT, b'{"type":"session.update","session":{"model":"gpt-realtime"}}')
        + close_frame(1000),
        tenant="restricted",
    ),
    "socket, refused for an event": session(
        "socket",
        frames=frame(TEXT, b'{"type":"session.update","session":{"model":"gpt-5"}}'),
        tenant="restricted",
    ),
    "socket of requests": session(
        "socket, closed by the client",
        frames=frame(TEXT, b'{"type":"response.create","model":"gpt-4o-mini","input":"x"}')
        + frame(TEXT, b'{"type":"response.create","model":"gpt-4o-mini","input":"%b"}' % (b"x" * MIB))
        + close_frame(1000),
        target="/v1/responses",
        tenant="counted",
    ),
    "socket of requests, refused": session(
        "socket",
        frames=frame(TEXT, b'{"type":"response.create","model":"gpt-5","input":"x"}') + frame(TEXT, b"?"),
        leave="close",
        target="/v1/responses",
        tenant="restricted",
    ),
    "socket of requests, none there": asked(426, "GET", "/v1/responses", headers=HANDSHAKE),
    "socket, closed by the upstream": session("socket, closed by the upstream"),
    "socket, cut by the upstream": session("socket, cut by the upstream"),
    "socket, cut by the client": session("socket", leave="reset"),
    "socket, left by the client": session("socket", leave="close", frames=frame(TEXT, bytes(MIB))),
    "socket, bad frames of the client": session("socket", frames=frame(TEXT, b"?", masked=False)),
    "socket, bad frames of the upstream": session("socket, bad frames"),
    "socket, not one": asked(
        400, "GET", "/v1/realtime?model=gpt-4o-mini", headers=HANDSHAKE.replace("dGhl", "")
    ),
    "socket, refused by the upstream": asked(200, "GET", "/v1/realtime?model=gpt-4o-mini", headers=HANDSHAKE),
}
"""Everything that can become of an exchange."""

LARGE_SCENES = frozenset(
    {
        *(name for name in SCENES if "20 MiB" in name or "large" in name),
        *(
            "too large, chunked",
            "too many",
            "body is left",
            "upstream cuts before its head",
            "upstream is not there",
        ),
        "form, left while it cannot go up",
    }
)


@asynccontextmanager
async def crowded(upstream: ScriptedUpstream, folder: Path) -> AsyncIterator[Crowd]:
    ring, _ = ensure_ring(folder / "keys")
    configuration = folder / "gateway.toml"
    configuration.write_text(CONFIGURATION.format(upstream=upstream.base_url), "utf-8")
    upstream.plays(plays)
    place = folder / "leftovers"
    arguments = ["--config", str(configuration), "--keys-dir", str(folder / "keys")]
    arguments += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    async with running_command(
        str(place), "serve", *arguments, module="tests.kit.without_collector"
    ) as gateway:
        crowd = Crowd(gateway, ring, place, {}, [], {})
        try:
            yield crowd
        finally:
            for client in crowd.clients:
                await client.close()


@pytest.fixture
async def crowd(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[Crowd]:
    async with crowded(upstream, tmp_path) as running:
        yield running


async def played(crowd: Crowd, names: Iterable[str] = SCENES) -> Leftovers:
    """Play scenes, several at a time; return what they leave when all of them are over."""
    places, one_by_one = asyncio.Semaphore(8), asyncio.Lock()
    await leftovers(crowd.place)

    async def play(name: str) -> None:
        # How high the heap is heaped must not depend on which large bodies happen to meet.
        async with one_by_one if name in LARGE_SCENES else places:
            try:
                await SCENES[name](crowd)
            except BaseException as failure:
                failure.add_note(f"in the scene {name!r}")
                raise

    await asyncio.gather(*map(play, names))
    cyclic: Counter[str] = Counter()
    async with asyncio.timeout(10):
        while True:
            left = await leftovers(crowd.place)
            cyclic.update(left.cyclic)
            # A connection that stays knows its last exchange, which is an empty shell.
            if left.alive.get("Exchange", 0) <= len(crowd.kept):
                return replace(left, cyclic=dict(cyclic))
            await asyncio.sleep(0.05)


async def test_nothing_is_left_to_the_cycle_collector(crowd: Crowd) -> None:
    left = await played(crowd)

    assert "RequestBody" not in left.alive
    assert not left.large
    if left.cyclic:
        guilty = {name: found for name in SCENES if (found := (await played(crowd, [name])).cyclic)}
        assert not guilty
        assert not left.cyclic


async def test_nothing_is_left_by_a_reader_that_dies(crowd: Crowd) -> None:
    await crowd.ask("POST", CHAT, OTHER_MODEL)
    await played(crowd, [])
    for _ in range(3):
        reading = readers(crowd.gateway.process.pid)
        assert reading
        for reader in reading:
            os.kill(reader, signal.SIGSTOP)
        asking = asyncio.create_task(crowd.ask("POST", CHAT, OTHER_MODEL))
        await asyncio.sleep(0.2)
        for reader in reading:
            os.kill(reader, signal.SIGKILL)
        assert (await asking).status == 503
        assert (await crowd.ask("POST", CHAT, OTHER_MODEL)).status == 200
    left = await played(crowd, [])

    assert "RequestBody" not in left.alive
    assert not left.large
    assert not left.cyclic


async def test_a_second_run_adds_next_to_nothing_with_the_cycle_collector_off(crowd: Crowd) -> None:
    await played(crowd)
    before = crowd.rss_bytes()

    await played(crowd)

    assert crowd.rss_bytes() - before <= MOST_GROWTH_BYTES
