"""Heads of requests, read by aiohttp's C parser: it is given heads alone, each a parser of its own.

What the gateway takes from aiohttp on the clients' side stands here and in `edge`, which is a `web.Server`;
`tests/proxy/test_inside_aiohttp.py` fails loudly when it moves. Bodies never come near the parser: it cannot be asked
where it stands, and its readers cost more than most bodies.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParserC, RawRequestMessage  # absent without the C parser
from aiohttp.http_writer import HttpVersion10, HttpVersion11

from gateway.errors import BadRequest, GatewayError, HeadersTooLarge, VersionRefused

assert HttpRequestParserC is not None

Message = RawRequestMessage
"""A head that has been read."""

HTTP10, HTTP11 = HttpVersion10, HttpVersion11
"""The parser says the version by these very objects."""

SPOKEN = "Only HTTP/1.1 and HTTP/1.0 are spoken here."

_END = b"\r\n\r\n"
_MOST_LINE_BYTES = 16 * 1024
_MOST_FIELDS = 256


def end_of_head(data: bytes) -> int:
    """Where what begins with a head goes on behind it; 0: its end has not come."""
    at = data.find(_END)
    return 0 if at < 0 else at + 4


def whole_head(head: bytes) -> Message:
    """Read a head that has come whole, up to its empty line and nothing behind. Raises the refusal of a bad one."""
    return _only(_fed(_parser(), head))


class HeadInParts:
    """A head that comes in parts: each is read as it comes, so that what is wrong with it shows at once."""

    __slots__ = ("_parser", "_tail", "size_bytes")

    def __init__(self) -> None:
        self._parser = _parser()
        self._tail = b""
        self.size_bytes = 0

    def feed(self, data: bytes) -> tuple[Message | None, bytes]:
        """The head, once it is complete, and what stands behind it. Raises the refusal of a bad one."""
        tail = self._tail
        end = end_of_head(tail + data) - len(tail)
        if end > 0:
            return _only(_fed(self._parser, data[:end])), data[end:]
        self.size_bytes += len(data)
        self._tail = (tail + data[-3:])[-3:]
        if _fed(self._parser, data):
            raise _unreadable("the head ends without an empty line")
        return None, b""


def _parser() -> HttpRequestParserC:
    # No reader is ever made for a body, so neither a protocol nor a loop is needed.
    return HttpRequestParserC(
        None,
        None,
        0,
        max_line_size=_MOST_LINE_BYTES,
        max_field_size=_MOST_LINE_BYTES,
        max_headers=_MOST_FIELDS,
        response_with_body=False,
        auto_decompress=False,
    )


def _fed(parser: HttpRequestParserC, data: bytes) -> Sequence[tuple[Message, object]]:
    try:
        return parser.feed_data(data)[0]
    except HttpProcessingError as error:
        refusal = _refusal_of(error)
    raise refusal


def _only(messages: Sequence[tuple[Message, object]]) -> Message:
    if len(messages) != 1:
        raise _unreadable("no request line")
    return messages[0][0]


def _refusal_of(error: HttpProcessingError) -> GatewayError:
    # aiohttp's text goes on to quote the line, which may hold a credential: only what was wrong is kept.
    reason = " ".join((error.message or "").split("\n\n", 1)[0].split())[:100]
    if isinstance(error, LineTooLong):
        return HeadersTooLarge("The request line or one header is too long.")
    if "invalid http version" in reason.lower():
        return VersionRefused(SPOKEN, detail=reason)
    return _unreadable(reason)


def _unreadable(reason: str) -> BadRequest:
    return BadRequest(
        "The request could not be read as HTTP/1.1. Check the request line, the headers and the body's framing.",
        code="bad_request_syntax",
        detail=reason,
    )
