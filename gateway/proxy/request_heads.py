"""Heads of requests, read by aiohttp's C parser: it is given heads alone, each a parser of its own.

What the gateway takes from aiohttp on the clients' side stands here and in `edge`, which is a `web.Server`;
`tests/proxy/test_inside_aiohttp.py` fails loudly when it moves. Bodies never come near the parser: it cannot be asked
where it stands, and its readers cost more than most bodies.

Clients send the same head again and again, but for the length of the body. What one says is kept for a while, by its
bytes, credential included: the very same bytes say the very same. It is kept from the second time on, so that heads
that never come again, as with an id of their own for every request, do not drive out those that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParserC, RawRequestMessage  # absent without the C parser
from aiohttp.http_writer import HttpVersion10, HttpVersion11

from gateway.errors import BadRequest, GatewayError, HeadersTooLarge, VersionRefused
from gateway.operations.table import Match
from gateway.wire.headers import RawFields, RequestHead

assert HttpRequestParserC is not None

HTTP10, HTTP11 = HttpVersion10, HttpVersion11
"""The parser says the version by these very objects."""

SPOKEN = "Only HTTP/1.1 and HTTP/1.0 are spoken here."

_END = b"\r\n\r\n"
_MOST_LINE_BYTES = 16 * 1024
_MOST_FIELDS = 256

_LENGTH = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_MOST_DIGITS = 15
KEPT_BYTES = 3 * 1024
"""Of a head that is kept, at most."""

_KEPT_LINES = 48
"""Of a head that is kept, at most: what a line is read into occupies many times its bytes, and strangers send heads
too."""

MOST_KEPT = 2048
"""Heads that are kept."""

MOST_SEEN = 8192
"""Heads of which it is known for sure that they have come once; as many more are, until others take their place."""


class KnownHead:
    """What a head says whatever the length of its body, and what has been made of that."""

    __slots__ = (
        *(
            "_fields",
            "_length_varies",
            "asks_upgrade",
            "chunked",
            "head",
            "is_kept",
            "keep_alive",
            "match",
            "method",
        ),
        *("stated_bytes", "target", "version"),
    )

    def __init__(self, message: RawRequestMessage, *, is_kept: bool, length_varies: bool = False) -> None:
        self.method: str = message.method
        self.target: str = message.path
        """The raw request target; bytes that are not UTF-8 stand as surrogates."""

        self._fields: RawFields = message.raw_headers
        self.version = message.version
        self.asks_upgrade: bool = message.upgrade
        """Connection and Upgrade ask for another protocol, whichever."""

        self.keep_alive: bool = not message.should_close
        """Whether the client may ask again on its connection."""

        self.chunked: bool = message.chunked
        self._length_varies = length_varies
        """Whether it has been read with a length of 0 in place of any."""

        self.stated_bytes = 0 if message.chunked else int(message.headers.get("Content-Length", 0))
        """The length of the body, unless it varies."""

        self.is_kept = is_kept
        """Whether the next head of the same bytes is this one."""

        self.head: RequestHead | None = None
        self.match: Match | None = None
        """What has been found of it, once it has been found sound; the outermost middleware writes both."""

    def fields(self, stated_bytes: int) -> RawFields:
        """The header fields as they came, with a body of so many bytes."""
        if not self._length_varies:
            return self._fields
        length = b"%d" % stated_bytes
        return tuple(
            (name, length if name.lower() == b"content-length" else value) for name, value in self._fields
        )


class AskedHead(NamedTuple):
    """The head of one request."""

    known: KnownHead
    stated_bytes: int
    """The length of its body, as far as it is stated."""


def end_of_head(data: bytes) -> int:
    """Where what begins with a head goes on behind it; 0: its end has not come."""
    at = data.find(_END)
    return 0 if at < 0 else at + 4


class RequestHeads:
    """Reads heads that come whole, those that it knows by looking them up."""

    def __init__(self) -> None:
        self._known = lru_cache(maxsize=MOST_KEPT)(_known)
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()

    def whole(self, head: bytes) -> AskedHead:
        """Read a head up to its empty line and nothing behind. Raises the refusal of a bad one."""
        if len(head) > KEPT_BYTES:
            return _read(head)
        at = head.find(_LENGTH[0])
        if at < 0:
            at = head.find(_LENGTH[1])
            if at < 0:
                # Without a length, or with one that is spelled otherwise.
                if not self._comes_again(hash(head), head):
                    return _read(head)
                known = self._known(head, b"")
                return AskedHead(known, known.stated_bytes)
        begin = at + len(_LENGTH[0])
        end = head.find(b"\r\n", begin)
        digits = head[begin:end]
        if not digits.isdigit() or len(digits) > _MOST_DIGITS or (digits[0] == ord("0") and len(digits) > 1):
            return _read(head)
        before, behind = head[:begin], head[end:]
        if not self._comes_again(hash((before, behind)), head):
            return _read(head)
        return AskedHead(self._known(before, behind), int(digits))

    def _comes_again(self, digest: int, head: bytes) -> bool:
        """Whether a head like this has come already, and may be kept; two that share a hash are kept a little early."""
        if digest in self._seen:
            return True
        if head.count(b"\n") > _KEPT_LINES:
            return False
        if len(self._seen) >= MOST_SEEN:
            self._seen, self._seen_before = set(), self._seen
        self._seen.add(digest)
        return digest in self._seen_before


def _known(before: bytes, behind: bytes) -> KnownHead:
    """What the head says of which these parts stand before and behind the digits of a length."""
    varies = bool(behind)
    message = _only(_fed(_parser(), b"%b0%b" % (before, behind) if varies else before))
    return KnownHead(message, is_kept=True, length_varies=varies)


def _read(head: bytes) -> AskedHead:
    return _asked(_only(_fed(_parser(), head)))


def _asked(message: RawRequestMessage) -> AskedHead:
    known = KnownHead(message, is_kept=False)
    return AskedHead(known, known.stated_bytes)


class HeadInParts:
    """A head that comes in parts: each is read as it comes, so that what is wrong with it shows at once."""

    __slots__ = ("_parser", "_tail", "size_bytes")

    def __init__(self) -> None:
        self._parser = _parser()
        self._tail = b""
        self.size_bytes = 0

    def feed(self, data: bytes) -> tuple[AskedHead | None, bytes]:
        """The head, once it is complete, and what stands behind it. Raises the refusal of a bad one."""
        tail = self._tail
        end = end_of_head(tail + data) - len(tail)
        if end > 0:
            return _asked(_only(_fed(self._parser, data[:end]))), data[end:]
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


def _fed(parser: HttpRequestParserC, data: bytes) -> Sequence[tuple[RawRequestMessage, object]]:
    try:
        return parser.feed_data(data)[0]
    except HttpProcessingError as error:
        refusal = _refusal_of(error)
    raise refusal


def _only(messages: Sequence[tuple[RawRequestMessage, object]]) -> RawRequestMessage:
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
