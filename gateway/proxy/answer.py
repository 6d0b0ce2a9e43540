"""Answers as the gateway writes them: an upstream's, piece by piece, or one of its own."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus

from aiohttp.helpers import rfc822_formatted_time

from gateway.errors import ClientLeft, Ending, GatewayError
from gateway.exchange.exchange import Exchange
from gateway.limits.arithmetic import format_milliseconds, tightest
from gateway.limits.terms import Dimension
from gateway.proxy.request import Request
from gateway.wire.passing import lines_of
from gateway.wire.search import Piece

_EMPTY_STATUS = frozenset({101, 204, 304})
_LAST_CHUNK = b"0\r\n\r\n"

JOINED_BYTES = 64 * 1024
"""What is larger is not copied to leave together with its head."""


class Answer:
    """An answer written by the gateway itself: head, pieces, end.

    The head waits for the first piece so that small answers leave in one send. The framing is
    ours: the body's length where the head states it, else chunks, else the end of the connection. It speaks our own
    version, whatever the client's (RFC 9110, section 6.2); only the framing heeds its.
    What is sent to a client that has left is lost: whoever sends is told by being cancelled.
    """

    __slots__ = (
        "_has_no_body",
        "_head",
        "_request",
        "_states_length",
        "content",
        "finished",
        "is_chunked",
        "keep_alive",
        "status",
    )

    def __init__(self, status: int, head: bytes, *, states_length: bool = True, content: bytes = b"") -> None:
        """`head`: the status line and the header fields, each with its end of line, but for those of the framing that
        are ours; `states_length`: the body's length is among them.
        """
        self.status = status
        self.content = content
        """The whole body, where the answer is the gateway's own."""

        self.keep_alive = True
        """Whether the client may ask again on the same connection."""

        self.finished = False
        self._head = head
        """The head, as long as it has not been sent."""

        self._states_length = states_length
        self.is_chunked = False
        """Whether the body goes down in chunks."""

    def begin(self, request: Request, exchange: Exchange | None) -> None:
        """Fix the framing; nothing is sent yet."""
        self._request = request
        status = self.status
        has_no_body = self._has_no_body = request.method == "HEAD" or status in _EMPTY_STATUS
        # The client's next request belongs to another process when this one drains.
        self.keep_alive = self.keep_alive and request.keep_alive and not request.connection.ends
        if not self.keep_alive or request.http10 or status == 101 or not (self._states_length or has_no_body):
            self._head += self._framing(request.http10)
        self._head += b"\r\n"
        if exchange is not None:
            exchange.status = status

    def _framing(self, http10: bool) -> bytes:
        lines = b""
        if not self._has_no_body and not self._states_length:
            if http10:
                self.keep_alive = False
            else:
                self.is_chunked = True
                lines = b"Transfer-Encoding: chunked\r\n"
        if self.status == 101:
            self.keep_alive = False
            return lines + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        if not self.keep_alive:
            return lines + b"Connection: close\r\n"
        return lines + b"Connection: keep-alive\r\n" if http10 else lines

    @property
    def is_open_ended(self) -> bool:
        """Whether the body may become longer than the upstream's."""
        return not self._states_length and not self._has_no_body

    def flush_head(self) -> None:
        """Send the head now, without waiting for a piece of the body."""
        if self._head:
            self.send(b"")

    def push(self, piece: Piece, chunks: Piece | None = None) -> None:
        """Send one piece, never empty; `chunks`: the same in chunks, which pass as they are where we send chunks."""
        if self._has_no_body:
            return
        if self.is_chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if chunks is None else chunks
        self.send(piece)

    def finish(self, piece: Piece = b"", chunks: Piece | None = None) -> None:
        """Send the last piece and the end of the body, at once where it is small; `chunks`: as in `push`."""
        if self.finished:
            return
        if len(piece) > JOINED_BYTES:
            self.push(piece, chunks)
            piece = b""
        self.finished = True
        if self._has_no_body:
            piece = b""
        elif not self.is_chunked:
            pass
        elif not piece:
            piece = _LAST_CHUNK
        elif chunks is None:
            piece = b"%x\r\n%b\r\n%b" % (len(piece), bytes(piece), _LAST_CHUNK)
        else:
            piece = bytes(chunks) + _LAST_CHUNK
        if piece or self._head:
            self.send(piece)

    async def write(self, piece: bytes) -> None:
        """Send one piece; waits while the client reads slowly. Raises ClientLeft."""
        self.push(piece)
        if self.waits():
            await self.taken()

    async def write_eof(self, piece: bytes = b"") -> None:
        """Send the last piece and the end of the body; waits while the client reads slowly. Raises ClientLeft."""
        self.finish(piece)
        if self.waits():
            await self.taken()

    def send(self, data: Piece) -> None:
        """Send bytes that are framed already."""
        request = self._request
        transport = request.connection.transport
        if transport is None:
            return
        head = self._head
        if head:
            self._head = b""
            request.answer_begun = True
            if len(data) > JOINED_BYTES:
                transport.write(head)
            else:
                data = head + data
        transport.write(data)

    def waits(self) -> bool:
        """Whether the client has much to read yet. Raises ClientLeft."""
        connection = self._request.connection
        if connection.transport is None or connection.transport.is_closing():
            raise ClientLeft("The client left.")
        return connection.writing_paused

    async def taken(self) -> None:
        """Wait while the client has much to read yet. Raises ClientLeft."""
        connection = self._request.connection
        try:
            await connection.drained()
        except ConnectionError:
            raise ClientLeft("The client left.") from None
        # Many that read on at the same moment must not make one long turn.
        await connection.turns.share()


@lru_cache(maxsize=64)
def status_line(status: int, reason: str) -> bytes:
    """The first line of an answer of ours."""
    return b"HTTP/1.1 %d %b\r\n" % (status, reason.encode("utf-8", "surrogateescape"))


def own_answer(
    status: int,
    body: bytes,
    *,
    lines: bytes = b"",
    content_type: bytes = b"application/json",
) -> Answer:
    """A complete small answer of the gateway itself, ready to `begin` and `write_eof`."""
    head = b"%bDate: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b" % (
        status_line(status, reason_of(status)),
        rfc822_formatted_time().encode(),
        content_type,
        len(body),
        lines,
    )
    return Answer(status, head, content=body)


async def send_own(request: Request, own: Answer) -> Answer:
    """Send a complete answer of the gateway itself. Raises ClientLeft."""
    exchange = request.exchange
    own.begin(request, exchange)
    await own.write_eof(own.content)
    if request.method != "HEAD":
        exchange.sent(len(own.content))
    exchange.end(Ending.COMPLETE)
    return own


def broken_off(request: Request) -> Answer:
    """End the connection in the middle of an answer: the client must see a broken end, never a clean one.

    Nothing is raised for that: whoever keeps the error would keep with it whatever the exchange held.
    """
    connection = request.connection
    if request.http10:
        connection.abort()  # to HTTP/1.0 a closed connection is the end of the body
    connection.force_close()
    answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"")
    answer.finished = True
    answer.keep_alive = False
    return answer


def refusal(error: GatewayError, lines: bytes) -> bytes:
    """The whole answer to what never became a request; the connection ends with it. `lines`: as `error_lines` has."""
    body = error.body()
    return b"".join(
        (
            status_line(error.status, reason_of(error.status)),
            lines,
            b"Date: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            % (rfc822_formatted_time().encode(), len(body)),
            body,
        )
    )


def error_lines(error: GatewayError, exchange: Exchange) -> bytes:
    """The header fields of an error, as lines: its own, its id as SDKs look for it, and what every answer has and says
    of who may read it."""
    fields = [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers()]
    return (
        lines_of([*fields, (b"x-request-id", exchange.id.encode())])
        + own_lines(exchange)
        + (exchange.head.cors or b"")
    )


def own_lines(exchange: Exchange) -> bytes:
    """What the gateway adds to every answer, as lines: its request id, when the credential expires where that is soon,
    and the tenant's own limits.
    """
    lines, decision = f"x-gateway-request-id: {exchange.id}\r\n{exchange.caller.notice}", exchange.decision
    if decision is not None:
        levels = decision.levels if decision.units_differ else tightest(decision.levels)
        for dimension, limit, remaining, reset in levels:
            lines += _LIMIT_LINES[dimension] % (limit, remaining, format_milliseconds(reset))
    return lines.encode("ascii")


_LIMIT_LINES = {
    dimension: "".join(
        (
            f"x-ratelimit-limit-{dimension.unit}: %d\r\n",
            f"x-ratelimit-remaining-{dimension.unit}: %d\r\n",
            f"x-ratelimit-reset-{dimension.unit}: %s\r\n",
        )
    )
    for dimension in Dimension
}
"""How the level of a limit is told, under the name of its unit."""


EXPOSED = ", ".join(
    (
        *("x-request-id", "x-gateway-request-id", "x-gateway-credential-expires"),
        *("retry-after", "retry-after-ms", "x-should-retry", "location", "openai-processing-ms"),
        *(
            f"x-ratelimit-{what}-{unit}"
            for unit in dict.fromkeys(dimension.unit for dimension in Dimension)
            for what in ("limit", "remaining", "reset")
        ),
    )
).encode()
"""What pages in browsers may read of an answer's head beside the few fields that they always may: ids, limits, when to
come back."""


def reason_of(status: int) -> str:
    """The reason phrase of a status."""
    return HTTPStatus(status).phrase
