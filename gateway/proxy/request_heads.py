"""Heads of requests, read by aiohttp's C parser: it is given heads alone, each a parser of its own.

What the gateway takes from aiohttp on the clients' side stands here and in `edge`, which is a `web.Server`;
`tests/proxy/test_inside_aiohttp.py` fails loudly when it moves. Bodies never come near the parser: it cannot be asked
where it stands, and its readers cost more than most bodies.

Clients send the same head again and again, but for the length of the body and what tells one request from another, as
the ids of traces. What one says is kept for a while, by all its other bytes, credential included: the very same bytes
say the very same. It is kept from the second time on, so that heads that never come again do not drive out those that
do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParserC, RawRequestMessage  # absent without the C parser
from aiohttp.http_writer import HttpVersion10, HttpVersion11

from gateway.errors import (
    BadRequest,
    GatewayError,
    HeadersTooLarge,
    MethodUnknown,
    TargetTooLong,
    VersionRefused,
)
from gateway.operations.table import Match
from gateway.wire.absolute_form import origin_form
from gateway.wire.headers import RawFields, RequestHead, with_values

assert HttpRequestParserC is not None

HTTP10, HTTP11 = HttpVersion10, HttpVersion11
"""The parser says the version by these very objects."""

SPOKEN = "Only HTTP/1.1 and HTTP/1.0 are spoken here."

END_OF_HEAD = b"\r\n\r\n"
_MOST_LINE_BYTES = 16 * 1024
_MOST_FIELDS = 256

_ASKS = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^\0- ]*(?: HTTP/[0-9]\.[0-9]\r\n| [HTP/0-9.\r]*\Z|\Z)")
"""A request line, whatever its method, or what has come of one behind that."""

_ONLY_PASS = re.compile(
    rb"(?<=\r\n)(?:content-location|content-range|etag|max-forwards|server|user-agent)(?=:)", re.IGNORECASE
)
_REPEATED = re.compile(
    r"Duplicate '(?:content-location|content-range|etag|max-forwards|server|user-agent)'", re.IGNORECASE
)
"""How the parser says that such a field is there twice."""

_TOO_MANY = "Too many headers received"
"""How the parser says that there are more."""

_LENGTH = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_MOST_DIGITS = 15
_ZERO = ord("0")
OF_ONE_REQUEST = (
    *("b3", "baggage", "date", "idempotency-key", "request-id", "sentry-trace", "traceparent", "tracestate"),
    *("uber-trace-id", "x-amzn-trace-id", "x-b3-parentspanid", "x-b3-spanid", "x-b3-traceid"),
    *("x-client-request-id", "x-cloud-trace-context", "x-correlation-id", "x-datadog-parent-id"),
    *("x-datadog-trace-id", "x-idempotency-key", "x-request-id", "x-trace-id"),
)
"""Fields that mostly have another value in each request. Nothing is decided by them: they only pass."""

_OWN = re.compile(
    rb"(\r\n(?=[bBcCdDiIrRsStTuUxX])(?i:content-length: (?=[1-9][0-9]{0,%d}\r\n)|(?:%b): ))"
    rb"([!-~](?:[ -~]{0,254}[!-~])?)(?=\r\n)" % (_MOST_DIGITS - 1, "|".join(OF_ONE_REQUEST).encode())
)
"""A field of which each request has a value of its own, as long as that value is plain."""

KEPT_BYTES = 3 * 1024
"""Of a head that is kept, at most."""

_KEPT_LINES = 48
"""Of a head that is kept, at most: what a line is read into occupies many times its bytes, and strangers send heads
too."""

MOST_KEPT = 2048
"""Heads that are kept for sure; as many more are, until others take their place."""

MOST_SEEN = 8192
"""Heads of which it is known for sure that they have come once; as many more are, until others take their place."""


class KnownHead:
    """What a head says whatever its own values are, and what has been made of that."""

    __slots__ = (
        *(
            "_fields",
            "chunked",
            "head",
            "keep_alive",
            "match",
            "method",
            "own",
            "stated_bytes",
        ),
        *("target", "version"),
    )

    def __init__(self, message: RawRequestMessage, fields: RawFields) -> None:
        self.method: str = message.method
        target: str = message.path
        if target[:1] != "/":
            target = origin_form(target, message.headers.get("Host", "")) or target
        self.target = target
        """The raw request target, without our own scheme and host; bytes that are not UTF-8 stand as surrogates."""

        self._fields = fields
        self.version = message.version
        self.keep_alive: bool = not message.should_close
        """Whether the client may ask again on its connection."""

        self.chunked: bool = message.chunked
        length = None if message.chunked else message.headers.get("Content-Length")
        self.stated_bytes = None if length is None else int(length)
        """The length of the body where one is stated, unless that is each request's own."""

        self.own: tuple[int, ...] | None = None
        """Of a head that is kept: where among its fields those stand of which each request has a value of its own."""

        self.head: RequestHead | None = None
        self.match: Match | None = None
        """What has been found of it, once it has been found sound; the outermost middleware writes both."""

    def fields(self, values: Sequence[bytes]) -> RawFields:
        """The header fields as they came, with a request's own values."""
        return with_values(self._fields, self.own or (), values)


Messages = Sequence[tuple[RawRequestMessage, object]]

AskedHead = tuple[KnownHead, tuple[bytes, ...], int | None]
"""The head of one request: what it says as all like it do, its own values, and the length of its body, where it states
one."""


class RequestHeads:
    """Reads heads that come whole, those that it knows by looking them up."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, ...], KnownHead] = {}
        self._older: dict[tuple[bytes, ...], KnownHead] = {}
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()

    def whole(self, head: bytes) -> AskedHead:
        """Read a head up to its empty line and nothing behind. Raises the refusal of a bad one."""
        name = _LENGTH[0]
        at = head.find(name)
        if at < 0:
            name = _LENGTH[1]
            at = head.find(name)
        if at >= 0:  # most have nothing else of their own
            begin = at + len(name)
            end = head.find(b"\r\n", begin)
            digits = head[begin:end]
            known = self._kept.get((head[:at], head[end:], name))
            if known is not None and digits.isdigit() and len(digits) <= _MOST_DIGITS and digits[0] != _ZERO:
                return known, (digits,), int(digits)
        return self._of_any(head)

    def _of_any(self, head: bytes) -> AskedHead:
        if len(head) > KEPT_BYTES:
            return _read(head)
        parts = _OWN.split(head)
        names, values = parts[1::3], tuple(parts[2::3])
        key = (*parts[::3], *names)
        known = self._kept.get(key) or self._older.pop(key, None)
        if known is None:
            if not self._comes_again(hash(key), head):
                return _read(head)
            known = _read(head)[0]
            own = _places(known.fields(()), names)
            if own is None:
                return known, (), known.stated_bytes
            known.own = own
        if key not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._older, self._kept = self._kept, {}
            self._kept[key] = known
        for name, value in zip(names, values, strict=True):
            if name.lower() == _LENGTH[1]:
                return known, values, int(value)
        return known, values, known.stated_bytes

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


def _places(fields: RawFields, names: Sequence[bytes]) -> tuple[int, ...] | None:
    """Where these stand among a head's fields; None: one of them stands there twice, so that nobody could say which."""
    lower = [name.lower() for name, _ in fields]
    own = [name.strip(b"\r\n: ").lower() for name in names]
    if any(lower.count(name) != 1 for name in own):
        return None
    return tuple(map(lower.index, own))


def _read(head: bytes) -> AskedHead:
    try:
        return _asked(_only(_fed(_parser(), head, head), head))
    except _Repeated:
        pass
    message = _only(_fed(_parser(), _ONLY_PASS.sub(_masked, head), head), head)
    names = (line.partition(b":")[0] for line in head.split(b"\r\n")[1:-2])
    return _asked(message, tuple(zip(names, (value for _, value in message.raw_headers), strict=True)))


def _masked(name: re.Match[bytes]) -> bytes:
    return b"~" * len(name[0])


def _asked(message: RawRequestMessage, fields: RawFields | None = None) -> AskedHead:
    known = KnownHead(message, message.raw_headers if fields is None else fields)
    return known, (), known.stated_bytes


class HeadInParts:
    """A head that comes in parts: each is read as it comes, so that what is wrong with it shows at once."""

    __slots__ = ("_begin", "_parser", "_repeated", "_tail", "since", "size_bytes")

    def __init__(self, since: float) -> None:
        """`since`: from when on its first part could have been read."""
        self.since = since
        self._parser = _parser()
        self._begin = bytearray()
        """The request line, and what else has come of the first bytes."""

        self._repeated: GatewayError | None = None
        """What the parser says of a field that only passes; then the head has to be read once more, as a whole."""

        self._tail = b""
        self.size_bytes = 0

    def too_large(self, most_bytes: int) -> GatewayError:
        """The refusal of a head that goes on behind so many bytes."""
        if b"\n" not in self._begin:
            return _target_too_long()
        return HeadersTooLarge(
            f"The request's headers exceed {most_bytes} bytes. Send fewer or shorter headers."
        )

    def feed(self, data: bytes) -> tuple[AskedHead | None, bytes]:
        """The head, once it is complete, and what stands behind it. Raises the refusal of a bad one."""
        begin, tail = self._begin, self._tail
        at = (tail + data).find(END_OF_HEAD)
        end = len(data) if at < 0 else at + len(END_OF_HEAD) - len(tail)
        self.size_bytes += end
        self._tail = (tail + data[-3:])[-3:]
        if len(begin) < _MOST_LINE_BYTES:
            begin += data[: min(end, _MOST_LINE_BYTES - len(begin))]
        messages: Messages = ()
        if self._repeated is None:
            try:
                messages = _fed(self._parser, data[:end], begin)
            except _Repeated as repeated:
                self._repeated = repeated.refusal
        if self._repeated is not None and self.size_bytes > len(begin):
            raise self._repeated
        if at < 0:
            if messages:
                raise _unreadable("the head ends without an empty line")
            return None, b""
        asked = _asked(_only(messages, begin)) if self._repeated is None else _read(bytes(begin))
        return asked, data[end:]


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


class _Repeated(Exception):
    """The parser takes no field of some names twice, though nothing is decided by them."""

    def __init__(self, refusal: GatewayError) -> None:
        super().__init__()
        self.refusal = refusal


def _fed(parser: HttpRequestParserC, data: bytes, line: bytes | bytearray) -> Messages:
    """What the parser makes of more of a head; `line`: what has come of its request line, and maybe more."""
    try:
        return parser.feed_data(data)[0]
    except HttpProcessingError as error:
        refusal = _refusal_of(error, line)
        repeated = _REPEATED.match(refusal.detail or "") is not None
    if repeated:
        raise _Repeated(refusal)
    raise refusal


def _only(messages: Messages, line: bytes | bytearray) -> RawRequestMessage:
    if len(messages) != 1:
        if line.startswith(b"PRI * HTTP/2.0\r\n"):  # whoever takes it for granted that we speak that
            raise VersionRefused(SPOKEN, detail="HTTP/2 with prior knowledge")
        raise _unreadable("no request line")
    return messages[0][0]


def _longest(head: bytes | bytearray) -> str:
    """What its longest line is, by a name that is safe to be shown."""
    name = max(bytes(head).split(b"\n"), key=len).partition(b":")[0].strip().lower()
    return "The credential in Authorization" if name == b"authorization" else "A header"


def _refusal_of(error: HttpProcessingError, line: bytes | bytearray) -> GatewayError:
    # aiohttp's text goes on to quote the line, which may hold a credential: only what was wrong is kept.
    reason = " ".join((error.message or "").split("\n\n", 1)[0].split())[:100]
    if isinstance(error, LineTooLong):
        if line.find(b"\n", 0, _MOST_LINE_BYTES) < 0:
            return _target_too_long()
        return HeadersTooLarge(
            f"{_longest(line)} has more than {_MOST_LINE_BYTES} bytes. Send a shorter one."
        )
    if reason == _TOO_MANY:
        return HeadersTooLarge(f"The request has more than {_MOST_FIELDS} headers. Send fewer.")
    if "url" in reason.lower():
        return BadRequest(
            "The request target has a character that it cannot have. Percent-encode what is not printable ASCII.",
            code="bad_request_syntax",
            detail=reason,
        )
    if "method" in reason.lower() and _ASKS.match(line):
        return MethodUnknown("No such method is known here. Methods are spelled in capitals.", detail=reason)
    if "invalid http version" in reason.lower():
        return VersionRefused(SPOKEN, detail=reason)
    return _unreadable(reason)


def _target_too_long() -> TargetTooLong:
    return TargetTooLong("The request target is too long. Shorten the path or the query.")


def _unreadable(reason: str) -> BadRequest:
    return BadRequest(
        "The request could not be read as HTTP/1.1. Check the request line, the headers and the body's framing.",
        code="bad_request_syntax",
        detail=reason,
    )
