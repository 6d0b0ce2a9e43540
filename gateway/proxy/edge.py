"""Where clients connect: aiohttp's server protocol with caps, deadlines and answers of our own.

This module and `upstream.py` are the only ones that lean on aiohttp's private attributes;
`tests/test_edge.py` fails loudly when they move. The low-level server is used rather than
aiohttp's router, so that every request that can be parsed at all (`OPTIONS *`, CONNECT, encoded
line ends) reaches the same middlewares, and `100 Continue` is sent by us or not at all.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParserC  # absent without the C parser
from aiohttp.http_writer import HttpVersion10, HttpVersion11, StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from gateway.errors import (
    BadRequest,
    ClientLeft,
    ClientStalled,
    Ending,
    GatewayError,
    HeadersTooLarge,
    Internal,
    Overloaded,
    RequestTimeout,
    VersionRefused,
)
from gateway.exchange.exchange import Exchange

assert HttpRequestParserC is not None

LINGER_SECONDS = 2.0
_VERSIONS = "Only HTTP/1.1 and HTTP/1.0 are spoken here."
NO_LINGER = struct.pack("ii", 1, 0)
_TCP_CLOSE = 7
_EMPTY_STATUS = frozenset({101, 204, 304})

EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.BaseRequest, Handler], Awaitable[web.StreamResponse]]

Unseen = Callable[["EdgeProtocol", GatewayError], list[tuple[bytes, bytes]]]
"""Records an exchange that never became a request; returns the header fields that its answer shall carry."""


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

    def begin(self, request: web.BaseRequest, *, write_idle_seconds: float) -> None:
        """Fix the framing and hand the head to the writer; nothing is sent yet."""
        self._write_idle_seconds = write_idle_seconds
        self._protocol = request.protocol
        writer: Any = request._payload_writer
        self._writer = writer
        version = request.version
        http10 = version == HttpVersion10
        keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive
        if isinstance(self._protocol, EdgeProtocol) and self._protocol.draining:
            keep_alive = False  # the client's next request belongs to another process
        writer.chunked = False
        self._no_body = request.method == "HEAD" or self.status in _EMPTY_STATUS
        has_length = any(name.lower() == b"content-length" for name, _ in self.fields)
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
                await self._protocol._drain_helper()
        except TimeoutError:
            abort(self._protocol)
            raise ClientStalled("The client stopped reading.") from None

    @property
    def prepared(self) -> bool:
        """Whether the head is fixed; aiohttp asks."""
        return self.started

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        """Nothing: aiohttp calls this after the handler, when everything has been sent."""
        return self._writer


def abort(protocol: RequestHandler) -> None:
    """Reset the connection: the one sign of a broken answer that no client can take for its end."""
    transport = protocol.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        except OSError:
            pass  # already closed by the peer
    transport.abort()


def connection_reset(protocol: RequestHandler) -> bool:
    """Whether the client has reset its connection, as the kernel sees it; for when we do not read from it."""
    transport = protocol.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return True
    try:
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE)
    except OSError:
        return True


def check_version(request: web.BaseRequest) -> None:
    """Raise VersionRefused for what the parser lets through: HTTP/0.9 and HTTP/2.0 request lines."""
    if request.version not in (HttpVersion10, HttpVersion11):
        raise VersionRefused(_VERSIONS)


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
    answer = Answer(status, _reason(status), head)
    answer.content = body
    return answer


async def send_own(request: web.BaseRequest, own: Answer, write_idle_seconds: float) -> Answer:
    """Send a complete answer of the gateway itself. Raises ClientLeft."""
    own.begin(request, write_idle_seconds=write_idle_seconds)
    exchange = request[EXCHANGE]
    exchange.status = own.status
    await own.write_eof(own.content)
    if request.method != "HEAD":
        exchange.bytes_out += len(own.content)
    if exchange.ending is None:
        exchange.ending = Ending.COMPLETE
    return own


def error_fields(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """The header fields that belong to an error, as raw bytes."""
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers()]


def send_continue(request: web.BaseRequest) -> None:
    """Invite the body: everything that the head can decide has been decided."""
    transport = request.transport
    if transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class EdgeProtocol(RequestHandler):
    """aiohttp's request handler, bounded.

    Adds a cap on the whole head (431), a deadline for it (408), a cap on connections (503), and
    the API's error shape for everything that could not be parsed. What never becomes a request is
    reported to `unseen`, so that it is logged and counted like any other exchange.
    """

    __slots__ = ("_edge", "_head_bytes", "_head_timer", "_last_payload")

    def __init__(self, manager: web.Server, *, edge: EdgeServer, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._edge = edge
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_payload: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        edge = self._edge
        edge.open_connections += 1
        if edge.max_connections and edge.open_connections > edge.max_connections:
            self._refuse(
                Overloaded("This gateway serves as many connections as it can. Try again in a moment.")
            )

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is not None:
            self._edge.open_connections -= 1
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not data or self._upgraded or self._payload_parser is not None:
            super().data_received(data)
            return
        payload = self._last_payload
        in_head = payload is None or payload.is_eof()
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            self._head_bytes = 0
            self._stop_head_timer()
            if self._messages:
                self._note_message(payload)
        elif in_head and not self._force_close and not self._close:
            if not self._head_bytes and not data.strip(b"\r\n"):
                return  # an empty line before a request line means nothing (RFC 9112, section 2.2)
            self._head_bytes += len(data)
            if self._current_request is not None or self._messages:
                # Another request is being answered: its client has time, but not room without end.
                if self._head_bytes > self._edge.max_header_bytes:
                    self.close()
            elif self._head_bytes > self._edge.max_header_bytes:
                self._refuse(
                    HeadersTooLarge(
                        f"The request's headers exceed {self._edge.max_header_bytes} bytes. "
                        "Send fewer or shorter headers."
                    )
                )
            elif self._head_timer is None:
                self._head_timer = self._loop.call_later(
                    self._edge.header_timeout_seconds, self._head_overdue
                )

    def _note_message(self, payload: StreamReader | None) -> None:
        """Remember whose body comes next; let a body that turned out broken fail the request it belongs to."""
        message, following = self._messages[-1]
        if isinstance(message, _ErrInfo) and payload is not None and not payload.is_eof():
            # aiohttp would leave that request waiting for the rest, and answer a second one that nobody sent.
            self._messages.pop()
            payload.set_exception(RequestPayloadError("the body's framing is broken"))
        else:
            self._last_payload = following

    @property
    def draining(self) -> bool:
        """Whether this connection ends with the answer that is being written."""
        return self._edge.draining

    @property
    def idle(self) -> bool:
        """Whether no request is being read or answered."""
        return self._waiter is not None and not self._messages and not self._head_bytes

    def _head_overdue(self) -> None:
        self._head_timer = None
        self._refuse(
            RequestTimeout(
                f"The request's headers were not complete within {self._edge.header_timeout_seconds:g} seconds."
            )
        )

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: GatewayError) -> None:
        """Answer what never became a request, and close."""
        self._stop_head_timer()
        transport = self.transport
        # While an earlier request on this connection is being answered, a second answer would corrupt the first.
        if transport is not None and self._current_request is None and not self._messages:
            body = error.body()
            fields = [*error_fields(error), *self._edge.unseen(self, error)]
            head = [b"HTTP/1.1 %d %b\r\n" % (error.status, _reason(error.status).encode())]
            head += [b"%b: %b\r\n" % field for field in fields]
            head.append(
                b"Date: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                % (rfc822_formatted_time().encode(), len(body))
            )
            transport.write(b"".join(head) + body)
            self.linger(transport)
            return
        if transport is not None:
            self._edge.unseen(self, error)
        self.force_close()

    def linger(self, transport: asyncio.Transport) -> None:
        """Close without taking back what was just sent."""
        # Closing over unread bytes would reset the connection and take the answer away with it:
        # send our end, drop what still comes, and close when the client does or after a moment.
        self._force_close = True
        if self._waiter is not None:
            self._waiter.cancel()
        if transport.can_write_eof():
            transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, transport.abort)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 (the error knows its own)
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 (aiohttp's text echoes input)
    ) -> web.StreamResponse:
        """Answer what could not be parsed; cut what broke after its head was out."""
        if request.writer.output_size > 0 or isinstance(exc, GatewayError):
            # aiohttp closes the connection upon this; a second answer would corrupt the first.
            raise ConnectionResetError("the answer has begun and cannot be completed")
        error = _parse_error(exc) if isinstance(exc, HttpProcessingError) else Internal("The gateway failed.")
        if not isinstance(exc, HttpProcessingError):
            error.detail = repr(exc)
        answer = own_answer(
            error.status, error.body(), fields=[*error_fields(error), *self._edge.unseen(self, error)]
        )
        answer.force_close()
        return _Unbegun(answer, self._edge.write_idle_seconds)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Nothing: what happened is in the exchange's one line."""


class _Unbegun(web.StreamResponse):
    """An answer that aiohttp itself starts and ends, after the handler has failed."""

    def __init__(self, answer: Answer, write_idle_seconds: float) -> None:
        super().__init__(status=answer.status)
        self._answer = answer
        self._idle = write_idle_seconds
        self._keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._answer.begin(request, write_idle_seconds=self._idle)
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002
        protocol = self._answer._protocol
        await self._answer.write_eof(self._answer.content)
        if isinstance(protocol, EdgeProtocol) and protocol.transport is not None:
            protocol.linger(protocol.transport)


class EdgeServer(web.Server):
    """Makes one EdgeProtocol per connection and knows how many are open."""

    def __init__(
        self,
        handler: Callable[..., Any],
        *,
        unseen: Unseen,
        max_connections: int,
        max_header_bytes: int,
        header_timeout_seconds: float,
        write_idle_seconds: float,
        keepalive_seconds: float,
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            keepalive_timeout=keepalive_seconds,
            auto_decompress=False,
            read_bufsize=65536,
            access_log=None,
            max_line_size=16384,
            max_field_size=16384,
            max_headers=256,
            lingering_time=3.0,
        )
        self.unseen = unseen
        self.max_connections = max_connections
        self.max_header_bytes = max_header_bytes
        self.header_timeout_seconds = header_timeout_seconds
        self.write_idle_seconds = write_idle_seconds
        self.open_connections = 0
        self.draining = False

    def close_idle(self) -> None:
        """Close connections that wait for a next request; those that serve one go on."""
        for connection in self.connections:
            if isinstance(connection, EdgeProtocol) and connection.idle:
                connection.close()
                if connection.transport is not None:
                    connection.transport.close()

    def __call__(self) -> RequestHandler:
        return EdgeProtocol(self, edge=self, loop=self._loop, **self._kwargs)


def _parse_error(error: HttpProcessingError) -> GatewayError:
    # aiohttp's text goes on to quote the line, which may hold a credential: only what was wrong is kept.
    reason = " ".join((error.message or "").split("\n\n", 1)[0].split())[:100]
    if isinstance(error, LineTooLong):
        return HeadersTooLarge("The request line or one header is too long.")
    if "invalid http version" in reason.lower():
        return VersionRefused(_VERSIONS, detail=reason)
    return BadRequest(
        "The request could not be read as HTTP/1.1. Check the request line, the headers and the body's framing.",
        code="bad_request_syntax",
        detail=reason,
    )


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase
