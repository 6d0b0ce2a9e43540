"""A raw upstream: it answers as the API does, at next to no cost, what `canned.py` has in store.

It reads no JSON, keeps no state beyond a connection, and leaves it to clients to close one. Answers go out in the turn
in which the request is whole.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from time import monotonic_ns
from typing import cast

from gateway.bench import canned, frames
from gateway.bench.beat import Schedule
from gateway.bench.messages import MessageReader

_BLOCK_CHUNKS = 16


class RawUpstream:
    """What all connections share."""

    def __init__(self) -> None:
        self.schedule = Schedule()
        self.embeddings = canned.embeddings_answer()
        self.block = canned.chunk(canned.SOUND) * _BLOCK_CHUNKS

    async def listen(self, port: int, certificate: ssl.SSLContext | None = None) -> asyncio.Server:
        """Serve on loopback; port 0 is any."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(
            partial(_Connection, self), "127.0.0.1", port, ssl=certificate, backlog=4096
        )


class _Connection(asyncio.Protocol):
    """One client: requests in, answers out, one after the other."""

    __slots__ = (
        "_bytes_left",
        "_chunked",
        "_continued",
        "_due_ns",
        "_ended",
        "_event_form",
        "_events_left",
        "_every_ns",
        "_frames",
        "_paused",
        "_reader",
        "_transport",
        "_upstream",
        "_waiting",
    )

    def __init__(self, upstream: RawUpstream) -> None:
        self._upstream = upstream
        self._reader = MessageReader(answers=False)
        self._frames: frames.FrameReader | None = None
        self._paused = False
        self._ended = False
        self._continued = False
        self._waiting: bytes | None = None
        """While an answer lasts: what came meanwhile."""
        self._events_left = 0
        self._bytes_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # What is written goes out at once, and pause_writing says that something of it stayed. (At high=0 uvloop says
        # it of TLS after every write, and never that all has gone.)
        self._transport.set_write_buffer_limits(high=1)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (a client may leave as it likes)
        self._ended = True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._bytes_left:
            self._send_audio()

    def data_received(self, data: bytes) -> None:
        if self._frames is not None:
            self._echo(data)
        elif self._waiting is not None:
            self._waiting += data
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        rest: bytes | None = data
        while rest:
            reader = self._reader
            rest = reader.feed(rest)
            if rest is None:
                if not self._continued and reader.line and b"\r\nexpect:" in reader.head:
                    self._continued = True
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            self._continued = False
            self._answer(reader)
            reader.begin()
            if self._events_left or self._bytes_left:
                self._waiting = rest
                return
            if self._frames is not None:
                return

    def _answer(self, request: MessageReader) -> None:
        line, body, write = request.line, request.kept, self._transport.write
        if b"/completions" in line or b"/responses" in line:
            wishes = canned.wishes(body)
            if b"events" in wishes:
                self._begin_events(wishes, body)
            elif b"silent" in wishes:
                self._events_left = 1  # until the client leaves
                write(canned.EVENTS_HEAD + canned.EVENT_FORM % monotonic_ns())
            else:
                write(canned.CHAT_ANSWER)
        elif b"/embeddings" in line:
            write(self._upstream.embeddings)
        elif b"/audio/speech" in line:
            self._begin_audio(canned.wishes(body))
        elif b"\r\nupgrade: websocket" in request.head:
            self._accept(request.raw_head)
        else:
            write(canned.received(request.body_bytes))

    def _begin_events(self, wishes: dict[bytes, int], body: bytes) -> None:
        asked = b'"include_usage":true' in body.replace(b" ", b"")
        self._event_form = canned.EVENT_FORM_WITH_USAGE if asked else canned.EVENT_FORM
        self._events_left = wishes[b"events"]
        self._every_ns = wishes[b"every_us"] * 1000
        self._transport.write(canned.EVENTS_HEAD)
        self._due_ns = monotonic_ns() + self._every_ns
        self._upstream.schedule.at(self._due_ns, self._send_event)

    def _send_event(self) -> None:
        if self._ended:
            return
        self._transport.write(self._event_form % monotonic_ns())
        self._events_left -= 1
        if self._events_left:
            self._due_ns += self._every_ns
            self._upstream.schedule.at(self._due_ns, self._send_event)
            return
        usage = canned.USAGE_EVENT if self._event_form is canned.EVENT_FORM_WITH_USAGE else b""
        self._transport.write(usage + canned.EVENTS_END)
        self._go_on()

    def _begin_audio(self, wishes: dict[bytes, int]) -> None:
        self._chunked = b"length" not in wishes
        size = wishes.get(b"chunked") or wishes.get(b"length") or 0
        self._transport.write(
            canned.CHUNKED_AUDIO_HEAD
            if self._chunked
            else canned.head("audio/mpeg", f"Content-Length: {size}")
        )
        self._bytes_left = size
        self._send_audio()

    def _send_audio(self) -> None:
        """Until the connection takes no more; `resume_writing` goes on."""
        write, block_bytes = self._transport.write, _BLOCK_CHUNKS * canned.CHUNK_BYTES
        while self._bytes_left and not self._paused and not self._ended:
            if self._bytes_left >= block_bytes:
                self._bytes_left -= block_bytes
                write(self._upstream.block if self._chunked else canned.SOUND * _BLOCK_CHUNKS)
                continue
            piece = canned.SOUND[: self._bytes_left]
            self._bytes_left -= len(piece)
            write(canned.chunk(piece) if self._chunked else piece)
        if not self._bytes_left:
            if self._chunked:
                write(b"0\r\n\r\n")
            self._go_on()

    def _go_on(self) -> None:
        rest, self._waiting = self._waiting, None
        if rest:
            self._read(rest)

    def _accept(self, head: bytes) -> None:
        """Become a socket that sends every text back as it came."""
        at = head.lower().find(b"\r\nsec-websocket-key:") + 20
        end = head.find(b"\r\n", at)
        key = head[at : end if end >= 0 else len(head)].strip()
        self._frames = frames.FrameReader()
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + frames.accepted(key) + b"\r\n\r\n"
        )

    def _echo(self, data: bytes) -> None:
        assert self._frames is not None
        for opcode, payload in self._frames.feed(data):
            match opcode:
                case frames.TEXT:
                    self._transport.write(frames.frame(frames.TEXT, payload, masked=False))
                case frames.PING:
                    self._transport.write(frames.frame(frames.PONG, payload, masked=False))
                case frames.CLOSE:
                    self._transport.write(frames.frame(frames.CLOSE, payload, masked=False))
                    self._transport.close()
                case _:
                    pass
