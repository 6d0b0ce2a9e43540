"""Where clients connect: aiohttp's server protocol with caps, deadlines and answers of our own.

This room alone leans on aiohttp's private attributes; `tests/proxy/test_inside_aiohttp.py` fails loudly when they
move. The low-level server is used rather than aiohttp's router, so that every request that can be parsed
at all (`OPTIONS *`, CONNECT, encoded line ends) reaches the same middlewares, and `100 Continue` is sent
by us or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time, set_exception
from aiohttp.http_parser import HttpRequestParserC  # absent without the C parser
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from gateway.errors import GatewayError, HeadersTooLarge, Overloaded, RequestTimeout
from gateway.exchange.kept_errors import forget_cancellation, forget_origin
from gateway.proxy.ahead import Ahead
from gateway.proxy.answer import error_fields, own_answer, reason_of
from gateway.proxy.bites import REQUESTS, Turns
from gateway.proxy.client_connections import ClientConnections, NoRoom, Peer
from gateway.proxy.framing import Framing
from gateway.proxy.parse_errors import Unbegun, parse_error
from gateway.proxy.request import Request

assert HttpRequestParserC is not None

LINGER_SECONDS = 2.0
Unseen = Callable[["EdgeProtocol", GatewayError], list[tuple[bytes, bytes]]]
"""Records an exchange that never became a request; returns the header fields that its answer shall carry."""


class EdgeProtocol(Ahead, RequestHandler):
    """aiohttp's request handler, bounded.

    Adds a cap on the whole head (431), a deadline for it (408), caps on connections (503), an end for answers that
    are left unread, and the API's error shape for everything that could not be parsed. What never becomes a request
    is reported to `unseen`, so that it is logged and counted like any other exchange.
    """

    __slots__ = ("_edge", "_framing", "_head_bytes", "_head_timer", "_last_payload", "peer", "waits_since")

    def __init__(self, manager: web.Server, *, edge: EdgeServer, **kwargs: Any) -> None:
        RequestHandler.__init__(self, manager, **kwargs)
        self.begin_bites(edge.turns, REQUESTS)
        self._edge = edge
        self._head_bytes = 0
        self._framing = Framing()
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_payload: StreamReader | None = None
        self.peer: Peer | None = None
        self.waits_since = 0.0
        self.starved = False
        """Whether the connection was cut because there was no memory for what came over it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        edge = self._edge
        address = transport.get_extra_info("peername")
        host = address[0] if isinstance(address, tuple) else ""
        try:
            edge.clients.enter(self, host, self._loop.time())
        except NoRoom as refusal:
            edge.events.refused(refusal.reason)
            self._refuse(
                Overloaded(
                    "This gateway serves as many connections as it can. Try again in a moment.",
                    detail=str(refusal),
                )
            )

    def connection_lost(self, exc: BaseException | None) -> None:
        self.starved = isinstance(exc, MemoryError)
        self._edge.clients.leave(self)
        self._edge.gone(self)
        self._stop_head_timer()
        if self._task_handler is not None:
            self._task_handler.add_done_callback(forget_cancellation)
        super().connection_lost(exc)
        # What is left knows this connection.
        self._forget_frames()
        self._last_payload = None
        self._messages.clear()

    def take(self, data: bytes) -> None:
        """Have a bite parsed."""
        if not data or self._upgraded or self._payload_parser is not None:
            RequestHandler.data_received(self, data)
            return
        payload = self._last_payload
        in_head = payload is None or payload.is_eof()
        count = self._request_count
        try:
            RequestHandler.data_received(self, data)
        except Exception as failure:  # noqa: BLE001 (the parser lacked memory, and no request may vanish for that)
            self._cannot_take(failure, payload)
            return
        if self._request_count != count:
            self.begin_anew()
            if self._bites is not REQUESTS:
                self.take_as(REQUESTS)
            self._edge.clients.asks(self)
            self._forget_frames()
            self._head_bytes = 0
            self._framing.begin()
            if self._head_timer is not None:
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
                self._edge.clients.waits(self, self._loop.time())
                self._head_timer = self._loop.call_later(
                    self._edge.header_timeout_seconds, self._head_overdue
                )
        elif not in_head and payload is not None and self._framing.is_all(len(data), payload.total_bytes):
            set_exception(payload, RequestPayloadError("next to nothing but framing has come"))
            self.close()

    def _cannot_take(self, failure: Exception, payload: StreamReader | None) -> None:
        """Fail the request whose body is being read, or answer what never became one; nothing more is read."""
        forget_origin(failure)
        if payload is None or payload.is_eof():
            self._refuse(parse_error(failure))
            return
        set_exception(payload, RequestPayloadError("the body could not be taken"), failure)
        self.close()

    def _forget_frames(self) -> None:
        """An error of the parser's keeps the bytes that it came from, and itself, by the frames it came through."""
        for message, _ in self._messages:
            if isinstance(message, _ErrInfo) and message.exc is not None:
                forget_origin(message.exc)

    def _note_message(self, payload: StreamReader | None) -> None:
        """Remember whose body comes next; let a body that turned out broken fail the request it belongs to."""
        message, following = self._messages[-1]
        if isinstance(message, _ErrInfo) and payload is not None and not payload.is_eof():
            # aiohttp would leave that request waiting for the rest, and answer a second one that nobody sent.
            self._messages.pop()
            set_exception(payload, RequestPayloadError("the body's framing is broken"), message.exc)
        else:
            self._last_payload = following

    @property
    def draining(self) -> bool:
        """Whether this connection ends with the answer that is being written."""
        return self._edge.draining

    @property
    def idle(self) -> bool:
        """Whether no request is being read or answered."""
        return self._waiter is not None and not self._messages and not self._head_bytes and not self.surplus

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """An answer has been written: the connection waits for its next request.

        One that is there already waits for its turn: whoever sends many at once comes after those who ask one by one.
        """
        finished = await super().finish_response(request, resp, start_time)
        if self._messages:
            await self._edge.turns.share()
        transport = self.transport
        if transport is not None and not self._messages:
            if transport.get_write_buffer_size():
                self._watch_unread(transport, self._request_count, 0, 0.0)
            else:
                self._edge.clients.waits(self, self._loop.time())
        return finished

    def _watch_unread(self, transport: asyncio.Transport, count: int, before: int, since: float) -> None:
        """Cut a connection when nothing of an answer's rest is read within the write idle deadline.

        Closing it in any other way would wait for the client to read that first, for ever. `before` bytes were
        left `since` then.
        """
        if self._request_count != count:
            return  # another answer has its own deadline
        unread, now = transport.get_write_buffer_size(), self._loop.time()
        if not unread:
            self._edge.clients.waits(self, now)
            return
        deadline_seconds = self._edge.write_idle_seconds
        if unread != before:
            since = now
        elif now - since >= deadline_seconds:
            transport.abort()
            return
        self._loop.call_later(min(1.0, deadline_seconds), self._watch_unread, transport, count, unread, since)

    def make_way(self) -> None:
        """Close for somebody else's sake; a client that has begun to ask is told so."""
        if self._head_bytes:
            self._edge.events.closed("head")
            self._refuse(
                Overloaded(
                    "This gateway serves as many connections as it can, and this request was slow to come. "
                    "Try again in a moment.",
                    detail="made way with half a head",
                )
            )
            return
        self._edge.events.closed("idle")
        self.force_close()

    def _head_overdue(self) -> None:
        self._head_timer = None
        self._refuse(
            RequestTimeout(
                f"The request's headers were not complete within {self._edge.header_timeout_seconds:g} seconds.",
                detail="edge.header_timeout_seconds",
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
            fields = [*error_fields(error), *self._edge.events.unseen(self, error)]
            head = [b"HTTP/1.1 %d %b\r\n" % (error.status, reason_of(error.status).encode())]
            head += [b"%b: %b\r\n" % field for field in fields]
            head.append(
                b"Date: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                % (rfc822_formatted_time().encode(), len(body))
            )
            transport.write(b"".join(head) + body)
            self.linger(transport)
            return
        if transport is not None:
            self._edge.events.unseen(self, error)
        self.force_close()

    def linger(self, transport: asyncio.Transport) -> None:
        """Close without taking back what was just sent."""
        # Closing over unread bytes would reset the connection and take the answer away with it:
        # send our end, drop what still comes, and close when the client does or after a moment.
        self._force_close = True
        self._edge.clients.leave(self)
        if self._waiter is not None:
            self._waiter.cancel()
        try:
            if transport.can_write_eof():
                transport.write_eof()
        except OSError:
            pass  # it has left before it could be told
        self._resume_transport_reading()  # a body may have been held back
        self._edge.linger(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 (the error knows its own)
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 (aiohttp's text echoes input)
    ) -> web.StreamResponse:
        """Answer what could not be parsed; cut what broke after its head was out."""
        if request.writer.output_size > 0:
            # aiohttp closes the connection upon this; a second answer would corrupt the first.
            raise ConnectionResetError("the answer has begun and cannot be completed")
        error = parse_error(exc)
        if exc is not None:
            forget_origin(exc)
        answer = own_answer(
            error.status, error.body(), fields=[*error_fields(error), *self._edge.events.unseen(self, error)]
        )
        answer.force_close()
        return Unbegun(answer, self.linger, write_idle_seconds=self._edge.write_idle_seconds)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Nothing: what happened is in the exchange's one line."""


def starved(request: Request) -> bool:
    """Whether the request's connection was cut because there was no memory for what came over it."""
    protocol = request.protocol
    return isinstance(protocol, EdgeProtocol) and protocol.starved


def hang_up(request: Request) -> None:
    """Close behind an answer although the client may still be sending, such that it can read the answer."""
    protocol = request.protocol
    if isinstance(protocol, EdgeProtocol) and protocol.transport is not None:
        protocol.linger(protocol.transport)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Request:
    return Request(message, payload, protocol, writer, task, protocol._loop)


class EdgeEvents(NamedTuple):
    """Who is told what becomes of connections."""

    unseen: Unseen

    refused: Callable[[str], None]
    """A newcomer was not let in: `full` or `peer_share`."""

    closed: Callable[[str], None]
    """One had to make way: it was `idle`, or had sent half a `head`."""


class EdgeServer(web.Server):
    """Makes one EdgeProtocol per connection and knows all that are open."""

    def __init__(
        self,
        handler: Callable[..., Any],
        *,
        events: EdgeEvents,
        clients: ClientConnections,
        most_lingering: int,
        max_header_bytes: int,
        header_timeout_seconds: float,
        write_idle_seconds: float,
        keepalive_seconds: float,
        turns: Turns,
    ) -> None:
        super().__init__(
            handler,
            request_factory=_request,
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
        self.events = events
        self.clients = clients
        self._most_lingering = most_lingering
        self.max_header_bytes = max_header_bytes
        self.header_timeout_seconds = header_timeout_seconds
        self.write_idle_seconds = write_idle_seconds
        self.turns = turns
        self.draining = False
        self._lingering: dict[EdgeProtocol, asyncio.TimerHandle] = {}

    def close_idle(self) -> None:
        """Close connections that wait for a next request; those that serve one go on."""
        for connection in self.connections:
            if isinstance(connection, EdgeProtocol) and connection.idle:
                connection.close()
                if connection.transport is not None:
                    connection.transport.close()

    def linger(self, connection: EdgeProtocol) -> None:
        """Cut a connection that is over when its client has had a moment to read so; `most_lingering` at once."""
        if len(self._lingering) >= self._most_lingering:
            first, timer = next(iter(self._lingering.items()))
            timer.cancel()
            self._cut(first)
        self._lingering[connection] = self._loop.call_later(LINGER_SECONDS, self._cut, connection)

    def _cut(self, connection: EdgeProtocol) -> None:
        self._lingering.pop(connection, None)
        if connection.transport is not None:
            connection.transport.abort()

    def gone(self, connection: EdgeProtocol) -> None:
        """A connection is lost: nobody waits for its client any more."""
        timer = self._lingering.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def __call__(self) -> RequestHandler:
        return EdgeProtocol(self, edge=self, loop=self._loop, **self._kwargs)
