"""Answers as the gateway writes them: an upstream's, piece by piece, or one of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_writer import HttpVersion10, StreamWriter

from gateway.errors import ClientLeft, ClientStalled, Ending, GatewayError
from gateway.exchange.exchange import Exchange
from gateway.limits.arithmetic import format_reset, tightest
from gateway.proxy.bites import Turns
from gateway.proxy.connection import abort, drained
from gateway.proxy.request import Request

_EMPTY_STATUS = frozenset({101, 204, 304})


class _Connection(Protocol):
    """What an answer asks of the connection on which it goes down."""

    @property
    def draining(self) -> bool:
        """Whether the connection ends with this answer."""

    @property
    def turns(self) -> Turns:
        """Whose turns its answers are part of."""


class Answer(web.StreamResponse):
    """An answer written by the gateway itself: head, pieces, end.

    The head waits for the first piece so that small answers leave in one send. The framing is
    ours: the body's length where the head states it, else chunks, else the end of the connection.
    """

    def __init__(self, status: int, reason: str, fields: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(status=status, reason=reason)
        self.fields = list(fields)
        self.content = b""
        """The whole body, where the answer is the gateway's own."""

        self.started = False
        self.finished = False
        self._writer: StreamWriter | None = None

    def begin(self, request: Request, exchange: Exchange | None, *, write_idle_seconds: float) -> None:
        """Fix the framing and hand the head to the writer; nothing is sent yet."""
        self._write_idle_seconds = write_idle_seconds
        self._protocol = request.protocol
        writer: Any = request._payload_writer
        self._writer = writer
        version = request.version
        http10 = version == HttpVersion10
        keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive
        if cast(_Connection, self._protocol).draining:
            keep_alive = False  # the client's next request belongs to another process
        writer.chunked = False
        self._no_body = request.method == "HEAD" or self.status in _EMPTY_STATUS
        has_length = b"content-length" in [name.lower() for name, _ in self.fields]
        # Our own version, whatever the client's (RFC 9110, section 6.2); only the framing heeds its.
        lines = [b"HTTP/1.1 %d %b\r\n" % (self.status, self.reason.encode("utf-8", "surrogateescape"))]
        lines += [b"%b: %b\r\n" % field for field in self.fields]
        if not self._no_body and not has_length:
            if http10:
                keep_alive = False
            else:
                writer.chunked = True
                lines.append(b"Transfer-Encoding: chunked\r\n")
        if self.status == 101:
            lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
            keep_alive = False
        elif not keep_alive:
            lines.append(b"Connection: close\r\n")
        elif http10:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self._keep_alive = keep_alive
        writer._headers_buf = b"".join(lines)
        writer._headers_written = False
        self.started = True
        if exchange is not None:
            exchange.status = self.status

    def flush_head(self) -> None:
        """Send the head now, without waiting for a piece of the body."""
        assert self._writer is not None
        try:
            self._writer.send_headers()
        except ConnectionError:
            raise ClientLeft("The client left.") from None

    async def write(self, piece: bytes) -> None:  # type: ignore[override]
        """Send one piece; waits while the client reads slowly.

        Raises ClientLeft, or ClientStalled after the write idle deadline.
        """
        assert self._writer is not None
        try:
            await self._writer.write(piece, drain=False)
            if self._protocol.writing_paused:
                await self._drained()
        except ConnectionError:
            raise ClientLeft("The client left.") from None

    async def write_eof(self, piece: bytes = b"") -> None:
        """Send the last piece and the end of the body."""
        if self.finished:
            return
        assert self._writer is not None
        self.finished = True
        writer = self._writer
        try:
            if self._no_body:
                writer.chunked = False
                writer.send_headers()
                writer._eof = True
            else:
                self._end_body(writer, piece)
                if self._protocol.writing_paused:
                    await self._drained()
        except ConnectionError:
            raise ClientLeft("The client left.") from None
        self._eof_sent = True
        self._writer = self._payload_writer = None

    def _end_body(self, writer: StreamWriter, piece: bytes) -> None:
        # aiohttp's own write_eof waits for the client without a limit.
        if writer._headers_buf and not writer._headers_written:
            writer._send_headers_with_payload(piece, True)
        elif writer.chunked:
            writer._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if piece else b"0\r\n\r\n")
        elif piece:
            writer._write(piece)
        writer._eof = True

    async def _drained(self) -> None:
        try:
            async with asyncio.timeout(self._write_idle_seconds):
                await drained(self._protocol)
        except TimeoutError:
            abort(self._protocol)
            raise ClientStalled("The client stopped reading.") from None
        # Many that read on at the same moment must not make one long turn.
        await cast(_Connection, self._protocol).turns.share()

    @property
    def prepared(self) -> bool:
        """Whether the head is fixed; aiohttp asks."""
        return self.started

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        """Nothing: aiohttp calls this after the handler, when everything has been sent."""
        return self._writer


def own_answer(
    status: int,
    body: bytes,
    *,
    fields: Sequence[tuple[bytes, bytes]] = (),
    content_type: bytes = b"application/json",
) -> Answer:
    """A complete small answer of the gateway itself, ready to `begin` and `write_eof`."""
    head = [
        (b"Date", rfc822_formatted_time().encode()),
        (b"Content-Type", content_type),
        (b"Content-Length", b"%d" % len(body)),
        *fields,
    ]
    answer = Answer(status, reason_of(status), head)
    answer.content = body
    return answer


async def send_own(request: Request, own: Answer, write_idle_seconds: float) -> Answer:
    """Send a complete answer of the gateway itself. Raises ClientLeft."""
    exchange = request.exchange
    own.begin(request, exchange, write_idle_seconds=write_idle_seconds)
    await own.write_eof(own.content)
    if request.method != "HEAD":
        exchange.sent(len(own.content))
    exchange.end(Ending.COMPLETE)
    return own


def broken_off(request: Request) -> Answer:
    """End the connection in the middle of an answer: the client must see a broken end, never a clean one.

    Nothing is raised for that: aiohttp would keep the error, and with it whatever the exchange held.
    """
    if request.version == HttpVersion10:
        abort(request.protocol)  # to HTTP/1.0 a closed connection is the end of the body
    request.protocol.force_close()
    answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "", ())
    answer.started = answer.finished = True
    answer.force_close()
    return answer


def error_fields(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """The header fields that belong to an error, as raw bytes."""
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers()]


def own_fields(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """What the gateway adds to every answer: its request id, and the tenant's own limits."""
    fields = [(b"x-gateway-request-id", exchange.id.encode("ascii"))]
    if exchange.decision is not None:
        for unit, level in tightest(exchange.decision.levels).items():
            name = unit.encode("ascii")
            fields.append((b"x-ratelimit-limit-" + name, b"%d" % level.limit))
            fields.append((b"x-ratelimit-remaining-" + name, b"%d" % level.remaining))
            fields.append((b"x-ratelimit-reset-" + name, format_reset(level.reset_seconds).encode("ascii")))
    return fields


def reason_of(status: int) -> str:
    """The reason phrase of a status."""
    return HTTPStatus(status).phrase
