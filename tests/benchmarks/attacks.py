"""What an attacker sends in `hurting`, and the upstream behind it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from tests.kit.client import MIB

ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello. " * 30}}],
        "usage": {"prompt_tokens": 60, "completion_tokens": 60, "total_tokens": 120},
    }
)
CHUNK = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "flood",
        "choices": [{"index": 0, "delta": {"content": " more"}, "finish_reason": None}],
        "usage": None,
    }
)
EVENTS = b"data: %b\n\n" % CHUNK * 200
WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
FRAME = b"\x81\x7e" + len(CHUNK).to_bytes(2, "big") + CHUNK


# The upstream


async def upstream() -> None:
    """Serve on a port of its own, which it prints: small JSON, or floods of events and frames."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"upgrade: websocket" in head.lower():
                    await _flood_frames(writer, head)
                    return
                body = await _body(reader, head.lower())
                if b'"flood"' in body[:200]:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                    while True:
                        writer.write(EVENTS)
                        await writer.drain()
                if b'"silent"' in body[:200]:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                    await reader.read()
                    return
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(ANSWER), ANSWER)
                )
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # it left
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=MIB)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The beginning of a request's body; all of it is read."""
    if b"transfer-encoding: chunked" in head:
        begin = b""
        while size := int(await reader.readline(), 16):
            begin = (begin + await reader.readexactly(size))[:200]
            await reader.readline()
        await reader.readline()
        return begin
    stated = re.search(rb"content-length: (\d+)", head)
    left = int(stated[1]) if stated else 0
    begin = b""
    while left:
        piece = await reader.read(min(left, MIB))
        if not piece:
            raise ConnectionResetError
        left -= len(piece)
        begin = begin if len(begin) > 200 else begin + piece[:200]
    return begin


async def _flood_frames(writer: asyncio.StreamWriter, head: bytes) -> None:
    key = re.search(rb"sec-websocket-key: (\S+)", head, re.IGNORECASE)
    assert key is not None
    accept = base64.b64encode(hashlib.sha1(key[1] + WEBSOCKET, usedforsecurity=False).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
    )
    while True:
        writer.write(FRAME * 200)
        await writer.drain()


# The attacks: each runs until it is ended, on as many threads as it says.


@dataclass(frozen=True)
class Target:
    """Whom to attack, and as whom."""

    port: int
    attacker: str
    limited: str
    answers: Counter[str]

    def connect(self) -> socket.socket:
        """A connection with a deadline."""
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def head(
        self, target: str, length: int | None, more: str = "", *, credential: str | None = None
    ) -> bytes:
        """A request's head; a JSON body of this length follows, where one does."""
        method = "GET" if length is None else "POST"
        stated = "" if length is None else f"Content-Length: {length}\r\nContent-Type: application/json\r\n"
        return (
            f"{method} {target} HTTP/1.1\r\nHost: gateway.test\r\n"
            f"Authorization: Bearer {self.attacker if credential is None else credential}\r\n{stated}{more}\r\n"
        ).encode()

    def send(
        self, body: bytes, target: str = "/v1/chat/completions", *, credential: str | None = None
    ) -> None:
        """Ask once, and count the status of the answer."""
        with self.connect() as connection:
            try:
                connection.sendall(self.head(target, len(body), credential=credential) + body)
            except OSError:
                pass  # refused before it was read: the answer lies there all the same
            try:
                self.answers[connection.recv(65536)[9:12].decode() or "cut"] += 1
            except OSError:
                self.answers["reset"] += 1


def _again(body: bytes, target: str = "/v1/chat/completions") -> Callable[[Target], None]:
    return lambda at: at.send(body, target)


def _chat(content: bytes) -> bytes:
    return b'{"model":"gpt-4o","messages":[{"role":"user","content":%b}]}' % content


def _refused_bodies(at: Target) -> None:
    at.send(_chat(b'"%b"' % (b"a" * 20 * MIB)), credential=at.limited)


def _flood_read(at: Target) -> None:
    with at.connect() as connection:
        body = b'{"model":"flood","stream":true,"messages":[]}'
        connection.sendall(at.head("/v1/chat/completions", len(body)) + body)
        at.answers[connection.recv(65536)[9:12].decode() or "cut"] += 1
        while connection.recv(MIB):
            pass


def _flood_unread(at: Target) -> None:
    with at.connect() as connection:
        body = b'{"model":"flood","stream":true,"messages":[]}'
        connection.sendall(at.head("/v1/chat/completions", len(body)) + body)
        at.answers["sent"] += 1
        time.sleep(3600)


def _silent(at: Target) -> None:
    with at.connect() as connection:
        body = b'{"model":"silent","stream":true,"messages":[]}'
        connection.sendall(at.head("/v1/chat/completions", len(body)) + body)
        at.answers[connection.recv(65536)[9:12].decode() or "cut"] += 1
        connection.settimeout(None)
        connection.recv(1)


def _frames(at: Target) -> None:
    with at.connect() as connection:
        connection.sendall(
            at.head(
                "/v1/realtime?model=gpt-4o-realtime-preview",
                None,
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            )
        )
        at.answers[connection.recv(65536)[9:12].decode() or "cut"] += 1
        while connection.recv(MIB):
            pass


def _upload(at: Target) -> None:
    with at.connect() as connection:
        head = at.head("/v1/files", 2**30).replace(b"application/json", b"multipart/form-data; boundary=edge")
        part = (
            b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
            b"Content-Type: text/plain\r\n\r\n"
        )
        connection.sendall(head + part)
        at.answers["sent"] += 1
        piece = b"\r\n-" * (MIB // 3)
        while True:
            connection.sendall(piece)


def _bad_credentials(at: Target) -> None:
    head = at.head("/v1/models", None, credential=at.attacker[:-8] + "AAAAAAAA")
    with at.connect() as connection:
        due = time.monotonic()
        while True:
            connection.sendall(head)
            at.answers[connection.recv(65536)[9:12].decode() or "cut"] += 1
            due += 10 / 2000
            time.sleep(max(0.0, due - time.monotonic()))


def _drip(at: Target) -> None:
    with at.connect() as connection:
        connection.sendall(at.head("/v1/chat/completions", 60 * MIB))
        at.answers["sent"] += 1
        while True:
            connection.sendall(b" ")
            time.sleep(5)


def _connections(at: Target) -> None:
    connection = at.connect()
    connection.sendall(b"GET /v1/models HTTP/1.1\r\n")
    HELD.append(connection)
    at.answers["opened"] += 1


HELD: list[socket.socket] = []
_OBJECTS = 60_000
ATTACKS: dict[str, tuple[int, Callable[[Target], None]]] = {
    "refused-bodies": (4, _refused_bodies),
    "one-string": (2, _again(_chat(b'"%b"' % (b"a" * 60 * MIB)))),
    "escapes": (2, _again(_chat(b'"%b"' % (b"\\\\\\n" * (15 * MIB))))),
    "objects": (
        2,
        _again(_chat(b"[" + b'{"type":"text","text":"aaaaaaaaaaaaaaaa"},' * (_OBJECTS // 2) + b'"a"]')),
    ),
    "structures": (2, _again(b'{"model":"gpt-4o","input":[%b1]}' % (b"[]," * 190_000), "/v1/embeddings")),
    "too-complex": (2, _again(b'{"model":"gpt-4o","input":[%b1]}' % (b"[]," * 10**7), "/v1/embeddings")),
    "commas": (2, _again(b'{"model":"gpt-4o","input":[%b1]}' % (b"1," * 1_900_000), "/v1/embeddings")),
    "digits": (2, _again(b'{"model":"gpt-4o","n":%b}' % (b"1" * 30 * MIB))),
    "middling": (8, _again(_chat(b'"%b"' % (b"a\\n" * 100_000)))),
    "fast-readers": (20, _flood_read),
    "never-read": (100, _flood_unread),
    "frames": (10, _frames),
    "upload": (4, _upload),
    "bad-credentials": (10, _bad_credentials),
    "drip": (100, _drip),
    "silent-streams": (600, _silent),
    "connections": (1, _connections),
}


def attack(name: str, target: Target) -> None:
    """Attack until standard input ends, then tell what was answered."""
    os.nice(10)
    threads, act = ATTACKS[name]

    def run() -> None:
        while True:
            try:
                act(target)
            except OSError as error:
                target.answers[type(error).__name__] += 1
                time.sleep(0.05)

    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()
    sys.stdin.read()  # until we are told to stop
    print(orjson.dumps(target.answers).decode(), flush=True)
    os._exit(0)
