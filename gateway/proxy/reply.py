"""One exchange over one connection to the upstream.

The request is written by us, so that what goes up is exactly what `passing.py` lets pass; aiohttp's response
parser reads the answer. Foreign exceptions become the gateway's errors here, in one table.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.helpers import _EXC_SENTINEL as _NO_CAUSE
from aiohttp.helpers import set_exception
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway.errors import GatewayError, UpstreamBroken, UpstreamTimeout
from gateway.exchange.kept_errors import forget_origin
from gateway.proxy.bites import ANSWERS, InBites, Turns
from gateway.proxy.deadlines import ReplyDeadlines
from gateway.wire.headers import Head

# Enough for one bite: what is more waits in front of the parser, where turns are shared.
READ_BUFFER_BYTES = 16 * 1024
MOST_INTERIM_ANSWERS = 32


def cause(error: BaseException) -> str:
    """What went wrong, for the log: never the bytes that aiohttp's texts go on to quote."""
    said = error.strerror if isinstance(error, OSError) else None
    if isinstance(error, HttpProcessingError):
        said = " ".join((error.message or "").split("\n\n", 1)[0].split())[:100]
    return type(error).__name__ + (f": {said}" if said else "")


def _timed_out(error: BaseException) -> GatewayError:
    return UpstreamTimeout("The upstream took too long to answer.", detail=cause(error))


def _broken(error: BaseException) -> GatewayError:
    return UpstreamBroken("The upstream broke off its answer.", detail=cause(error))


def _not_http(error: BaseException) -> GatewayError:
    return UpstreamBroken("The upstream sent something that is not an HTTP answer.", detail=cause(error))


# First match wins: aiohttp's timeouts are also connection errors.
_BORDER: tuple[tuple[type[BaseException], Callable[[BaseException], GatewayError]], ...] = (
    (aiohttp.ServerTimeoutError, _timed_out),
    (TimeoutError, _timed_out),
    (aiohttp.ClientPayloadError, _broken),
    (HttpProcessingError, _not_http),
    (aiohttp.ClientError, _broken),
    (OSError, _broken),
)
FOREIGN = tuple(kind for kind, _ in _BORDER)


def translated(error: BaseException) -> GatewayError:
    """The gateway's error for one of aiohttp's or the system's, with the cause for the log."""
    for kind, ours in _BORDER:
        if isinstance(error, kind):
            return ours(error)
    raise TypeError(f"not a foreign exception: {error!r}")


def _left_in_tls(transport: asyncio.Transport) -> bytes:
    """What came and was not read. When the peer hangs up meanwhile, asyncio's TLS and uvloop's lose it."""
    tls = transport.get_extra_info("ssl_object")
    pieces = []
    try:
        while tls is not None and (piece := tls.read(65536)):
            pieces.append(piece)
    except (ssl.SSLError, ValueError):
        pass  # that was all, or it is not even a whole record
    return b"".join(pieces)


class UpstreamProtocol(InBites, ResponseHandler):
    """aiohttp's client protocol, without two habits that would let one exchange into another.

    It takes what comes on an idle connection for the answer to the next request, whoever makes it; and it
    forgets a body under way when the framing of what follows is broken.
    """

    idle = False

    def __init__(self, loop: asyncio.AbstractEventLoop, turns: Turns) -> None:
        ResponseHandler.__init__(self, loop)
        self.begin_bites(turns, ANSWERS)

    @property
    def should_close(self) -> bool:
        return bool(self._surplus) or super().should_close

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this for every piece that is read. Its parser, which inflates nothing here, has something left
        # only where it was paused.
        if self._reading_paused or self._held or self._surplus:
            super().resume_reading(resume_parser)

    def data_received(self, data: bytes) -> None:
        if self.idle and data:
            self.abort()
            return
        super().data_received(data)

    take = ResponseHandler.data_received
    """As InBites has it, in one call less for each of many small events."""

    def connection_lost(self, exc: BaseException | None) -> None:
        left = b"" if self.idle or self.transport is None else _left_in_tls(self.transport)
        if self.transport is not None and (left or self.surplus or self.held):
            # What came before the end is still the client's, however little of it was wanted by then.
            if (payload := self._payload) is not None:
                payload.set_read_chunk_size(sys.maxsize)
                payload._high_water_chunks = sys.maxsize
            self.take_rest(left)
        super().connection_lost(exc)

    def _drain_tail(self) -> None:
        # What lies there came before all that waits.
        within, self._taking = self._taking, True
        super()._drain_tail()
        self._taking = within

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _NO_CAUSE) -> None:
        payload = self._payload
        super().set_exception(exc, exc_cause)
        if payload is not None and isinstance(exc, HttpProcessingError) and not payload.is_eof():
            set_exception(payload, aiohttp.ClientPayloadError("the body's framing is broken"), exc)


class Reply:
    """One exchange over one upstream connection; exactly one of `release` or `close` ends it."""

    __slots__ = (
        "_connection",
        "_give_back",
        "_head_due_at",
        "_loop",
        "_payload",
        "_peeked",
        "_total",
        "deadlines",
        "ended",
        "head",
        "protocol",
    )

    def __init__(
        self,
        connection: Connection,
        protocol: UpstreamProtocol,
        loop: asyncio.AbstractEventLoop,
        *,
        give_back: Callable[[], None],
    ) -> None:
        """`give_back` is called once, when somebody else may have a connection."""
        self._connection = connection
        self._give_back = give_back
        self._loop = loop
        self._payload: StreamReader = EMPTY_PAYLOAD
        self._peeked = b""
        self._head_due_at: float | None = None
        self._total: asyncio.TimerHandle | None = None
        self.protocol = protocol
        self.head: Head | None = None
        self.ended = False

    @property
    def transport(self) -> asyncio.Transport:
        """Where the request is written; raises UpstreamBroken when the connection is gone."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            raise UpstreamBroken("The upstream closed its connection before the request was sent.")
        return transport

    def expect(self, deadlines: ReplyDeadlines, *, no_body: bool = False) -> None:
        """Prepare to read one answer; `no_body` for HEAD, whose answers have none whatever they say."""
        self.deadlines = deadlines
        self.protocol.take_as(ANSWERS)
        self.protocol.begin_anew()
        self.protocol.set_response_params(
            skip_payload=no_body,
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=deadlines.first_byte_seconds,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=65536,
            max_field_size=65536,
            max_headers=512,
        )
        # The read timer answers for both deadlines: it fails the head, or the body where that has begun.
        self._total = self._loop.call_later(deadlines.total_seconds, self.protocol._on_read_timeout)

    def start_clock(self) -> None:
        """The request is out: from now on the first-byte deadline runs."""
        self._head_due_at = self._loop.time() + self.deadlines.first_byte_seconds
        self.protocol.start_timeout()

    async def read_head(self) -> Head:
        """The final head; interim ones (1xx) are skipped. Raises an UpstreamFault."""
        protocol = self.protocol
        interim = 0
        try:
            while True:
                message, payload = await protocol.read()
                if message.code == 101 or message.code >= 200:
                    break
                interim += 1
                if interim > MOST_INTERIM_ANSWERS:
                    raise UpstreamBroken("The upstream sends interim answers without end.")
                self._resume_clock()
        except FOREIGN as error:
            raise translated(error) from error
        head = Head(message.code, message.reason or "", message.raw_headers)
        if head.get(b"transfer-encoding") is not None:
            codings = [
                value.strip().lower() for name, value in head.fields if name.lower() == b"transfer-encoding"
            ]
            if codings != [b"chunked"]:
                raise UpstreamBroken("The upstream's answer has a transfer coding that is not spoken here.")
        self._payload = payload
        self.head = head
        protocol.read_timeout = self.deadlines.idle_seconds
        if not payload.is_eof():
            protocol.start_timeout()
        return head

    def _resume_clock(self) -> None:
        # aiohttp stops its timer at every head; an interim one is no first byte.
        if self._head_due_at is not None:
            self.protocol.read_timeout = max(0.001, self._head_due_at - self._loop.time())
            self.protocol.start_timeout()

    @property
    def buffered(self) -> bool:
        """Whether a piece, or the end, can be had without waiting."""
        payload = self._payload
        # The end is asked for first: the payload of a bodiless answer has nothing else to say.
        return bool(self._peeked) or payload.is_eof() or payload.exception() is not None or payload._size > 0

    @property
    def finished(self) -> bool:
        """Whether the whole body has been read, and its end was not a reset in disguise."""
        return (
            not self._peeked
            and self._payload.at_eof()
            and not isinstance(self.protocol.exception(), aiohttp.ClientOSError)
        )

    async def read(self) -> bytes:
        """The next piece as it arrived; empty at the end of the body. Raises an UpstreamFault."""
        if self._peeked:
            piece, self._peeked = self._peeked, b""
            return piece
        payload = self._payload
        if payload.exception() is not None and payload._size:
            return payload._read_nowait(-1)  # what arrived before the break is still the client's
        try:
            piece = await payload.readany()
        except FOREIGN as error:
            raise translated(error) from error
        if not piece:
            # A reset looks like the end of a body that is delimited by the end of the connection.
            lost = self.protocol.exception()
            if isinstance(lost, aiohttp.ClientOSError):
                raise translated(lost)
        return piece

    async def peek(self, most_bytes: int) -> bytes | None:
        """The whole of a short body, which `read` will still return; None when it is longer.

        Raises an UpstreamFault.
        """
        body = b""
        while piece := await self.read():
            body += piece
            if len(body) > most_bytes:
                self._peeked = body
                return None
        self._peeked = body
        return body

    def put_back(self, body: bytes) -> None:
        """Let `read` return this instead of what was peeked."""
        self._peeked = body

    def upgraded(self) -> None:
        """The connection speaks another protocol now: HTTP's deadlines no longer apply."""
        self._cancel_total()

    def release(self) -> None:
        """The exchange ended properly: the connection may serve another one."""
        ended = self._end()
        self.protocol.idle = True
        self._connection.release()
        if not ended:
            self._give_back()

    def close(self) -> None:
        """The exchange ended in any other way: nobody shares this connection any more."""
        ended = self._end()
        self._connection.close()
        self.protocol._buffer.clear()  # a head that nobody has read knows the connection
        if not ended:
            self._give_back()

    def _end(self) -> bool:
        """Leave nothing of this exchange on the connection; returns whether that had been done."""
        before, self.ended = self.ended, True
        self._cancel_total()
        for kept in (self._payload.exception(), self.protocol.exception()):
            if isinstance(kept, BaseException):
                forget_origin(kept)
        # A deadline of this exchange must not run out in the next one.
        self.protocol.read_timeout = None
        self.protocol._drop_timeout()
        return before

    def _cancel_total(self) -> None:
        if self._total is not None:
            self._total.cancel()
            self._total = None
