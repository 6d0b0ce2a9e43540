"""What a message's head says, and what is refused about one that could be read in two ways.

Works on raw header names and values, order and duplicates kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter

from gateway.errors import BadRequest, ExpectationRefused, HeadersTooLarge

RawFields = Sequence[tuple[bytes, bytes]]

# How browsers, which cannot set headers on a WebSocket, send a credential.
SUBPROTOCOL_CREDENTIAL = b"openai-insecure-api-key."

METHOD_OVERRIDES = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})

NEVER_LISTED = frozenset(
    {b"authorization", b"content-length", b"content-type", b"content-encoding", b"host", b"transfer-encoding"}
)
"""What a message's Connection field may not take away: what the gateway itself decides by."""

RARE = frozenset(
    {
        b"cdn-loop",
        b"connection",
        b"content-encoding",
        b"expect",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    }
)
PLAIN_CHARSETS = frozenset({b"", b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin1"})
"""In these ASCII is itself, and no other byte is any of it: whoever reads in which, names are the same."""

NOTHING_LISTED: frozenset[bytes] = frozenset()
_NAME: Callable[[tuple[bytes, bytes]], bytes] = itemgetter(0)
_VALUE: Callable[[tuple[bytes, bytes]], bytes] = itemgetter(1)

# reg-name or IPv4 with optional port, or a bracketed IPv6 literal; no userinfo, path, list or emptiness.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_MOST_LENGTH_DIGITS = 19
_REMEMBERED = 1024
"""Rows of names that are kept read. A client writes the same row again and again."""

_KEPT_BYTES = 2048
_KEPT_NAMES = 48
"""Of the names in a row that is kept, and how many: what strangers make up must not fill the memory."""


class FieldNames:
    """The names of a head's fields, in their order: what follows from these alone, whatever the values."""

    __slots__ = ("first", "is_kept", "lower", "written")

    def __init__(self, names: tuple[bytes, ...]) -> None:
        self.is_kept = is_kept(names)
        self.written = names
        self.lower = tuple(name.lower() for name in names)
        self.first: dict[bytes, int] = {}
        """Where each name, in lower case, stands first."""

        for at, name in enumerate(self.lower):
            self.first.setdefault(name, at)

    def all_of(self, name: bytes) -> tuple[int, ...]:
        """Where a name in lower case stands, each time."""
        return tuple(at for at, lower in enumerate(self.lower) if lower == name)


class RequestNames(FieldNames):
    """The names in a request's head, and what the gateway has to look at."""

    __slots__ = (
        *("authorization", "content_length", "content_type", "host", "is_sound", "rare", "size_bytes"),
        "traceparent",
    )

    def __init__(self, names: tuple[bytes, ...]) -> None:
        super().__init__(names)
        self.size_bytes = sum(map(len, names)) + 4 * len(names)
        """Of the names and what parts them from values and lines."""

        self.host = self.first.get(b"host")
        self.authorization = self.first.get(b"authorization")
        self.content_length = self.first.get(b"content-length")
        self.content_type = next(reversed(self.all_of(b"content-type")), None)
        traces = self.all_of(b"traceparent")
        self.traceparent = traces[0] if len(traces) == 1 else None
        """Where it is said which trace this is part of; two say nothing."""

        self.rare = tuple((at, lower) for at, lower in enumerate(self.lower) if lower in RARE)
        """Where the others stand that have to be read, and what they are."""

        self.is_sound = self.fault() is None

    def fault(self) -> BadRequest | None:
        """Why such a head is refused, whatever the values."""
        if len(self.all_of(b"host")) > 1:
            return BadRequest("Exactly one Host header is needed.", code="invalid_host")
        if len(self.all_of(b"authorization")) > 1:
            return _more_than_one_credential()
        if len(self.all_of(b"content-length")) + len(self.all_of(b"transfer-encoding")) > 1:
            return BadRequest("The length of the body is stated more than once.", code="bad_framing")
        for name, lower in zip(self.written, self.lower, strict=True):
            if lower in METHOD_OVERRIDES:
                return BadRequest(
                    f"The header {_show(name)} is refused: send the method that is meant.",
                    code="method_override",
                )
        return None


class RequestHead:
    """What the gateway needs to know of a request's header fields, read in one pass."""

    __slots__ = (
        *(
            "authorization",
            "chunked",
            "content_encoding",
            "content_type",
            "cors",
            "expect_continue",
            "fields",
        ),
        *("has_body", "is_socket", "listed", "loops", "names", "own", "subprotocols", "way_up"),
    )

    def __init__(self, fields: RawFields, names: RequestNames) -> None:
        self.fields = fields
        self.names = names
        self.authorization: Sequence[bytes] = ()
        self.loops: Sequence[bytes] = ()
        """What CDN-Loop says of the servers through which it came."""

        self.chunked = False
        self.has_body = False
        """A body follows, possibly empty when it is chunked."""

        self.expect_continue = False
        self.content_type = b""
        self.content_encoding = b""
        self.is_socket = False
        """Whether a WebSocket is asked for."""

        self.subprotocols: Sequence[bytes] = ()
        self.listed: frozenset[bytes] = NOTHING_LISTED
        """Lower-case names that Connection lists: they speak about the client's connection alone."""

        self.cors: bytes | None = None
        """What every answer says of who may read it, as lines; None: nothing, and what the upstream says passes."""

        self.own: tuple[int, ...] | None = None
        """Where among the fields those stand of which each request has a value of its own, which is not what stands
        there. None: this is the head of one request alone."""

        self.way_up: object = None
        """How such heads went up last, of a head that comes again; written by who sends them."""

    def value_at(self, at: int, values: Sequence[bytes]) -> bytes:
        """What one field says, of a request with these values of its own."""
        own = self.own
        return values[own.index(at)] if own and at in own else self.fields[at][1]

    def with_values(self, values: Sequence[bytes]) -> RequestHead:
        """This head with a request's own values, in the order of their fields."""
        if not self.own:
            return self
        head = RequestHead.__new__(RequestHead)
        for name in self.__slots__:
            setattr(head, name, getattr(self, name))
        head.fields = with_values(self.fields, self.own, values)
        return head


def with_values(fields: RawFields, places: Sequence[int], values: Sequence[bytes]) -> RawFields:
    """Header fields with other values at these places."""
    changed = list(fields)
    for at, value in zip(places, values, strict=True):
        changed[at] = (fields[at][0], value)
    return tuple(changed)


def read(fields: RawFields, *, http10: bool, max_bytes: int) -> RequestHead:
    """Read and check a request's header fields.

    Raises BadRequest, HeadersTooLarge or ExpectationRefused for everything that another reader
    could understand differently (RFC 9112, sections 3.2, 6.1 and 6.3; reliability findings on aiohttp).
    """
    row = tuple(map(_NAME, fields))
    names = _request_names(row) if is_kept(row) else RequestNames(row)
    values = tuple(map(_VALUE, fields))
    _check_whole(names, values, max_bytes)
    head = RequestHead(fields, names)
    if names.host is not None:
        if not _HOST.fullmatch(values[names.host]):
            raise BadRequest("The Host header is not a host name with an optional port.", code="invalid_host")
    elif not http10:
        raise BadRequest("Exactly one Host header is needed.", code="invalid_host")
    if names.authorization is not None:
        head.authorization = (values[names.authorization],)
    if names.content_type is not None:
        head.content_type = values[names.content_type]
    if names.content_length is not None:
        head.has_body = _length(values[names.content_length]) > 0
    if names.rare:
        _read_rare(head, values, http10=http10)
    return head


def _check_whole(names: RequestNames, values: tuple[bytes, ...], max_bytes: int) -> None:
    """Refuse what is wrong with the head as a whole: its names, its size."""
    if not names.is_sound and (fault := names.fault()) is not None:
        raise fault
    if names.size_bytes + len(b"".join(values)) > max_bytes:
        raise HeadersTooLarge(
            f"The request's headers exceed {max_bytes} bytes. Send fewer or shorter headers."
        )


def _read_rare(head: RequestHead, values: tuple[bytes, ...], *, http10: bool) -> None:
    codings: list[bytes] = []
    listed = NOTHING_LISTED
    for at, lower in head.names.rare:
        value = values[at]
        match lower:
            case b"connection":
                if value != b"keep-alive":  # the usual one, which takes nothing away
                    listed |= listed_by(value)
            case b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise BadRequest(
                        "The only Transfer-Encoding that is accepted is a single 'chunked'.",
                        code="bad_framing",
                    )
                if http10:
                    raise BadRequest(
                        "Transfer-Encoding is not part of HTTP/1.0; send Content-Length.", code="bad_framing"
                    )
                head.chunked = head.has_body = True
            case b"expect":
                expected = value.strip().lower()
                if expected not in (b"100-continue", b""):
                    raise ExpectationRefused("The only Expect that is understood is '100-continue'.")
                head.expect_continue |= expected != b""
            case b"content-encoding":
                # All of them count, in their order: who takes the last alone would read another body than the upstream.
                codings.append(value.strip().lower())
            case b"cdn-loop":
                head.loops = (*head.loops, value)
            case b"upgrade":
                head.is_socket |= offers_websocket(value)
            case _:
                offered = (part.strip() for part in value.split(b","))
                head.subprotocols = (*head.subprotocols, *filter(None, offered))
    if codings:
        head.content_encoding = b", ".join(codings)
    if not listed:
        return
    head.listed = listed
    taken = listed & NEVER_LISTED
    if taken:
        raise BadRequest(f"The Connection header may not list {_show(min(taken))}.", code="bad_framing")


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > _MOST_LENGTH_DIGITS or (value[0] == ord("0") and len(value) > 1):
        raise BadRequest(
            "Content-Length must be a plain decimal number without leading zeros.", code="bad_framing"
        )
    return int(value)


def _more_than_one_credential() -> BadRequest:
    return BadRequest(
        "Send exactly one Authorization header with one credential.", code="duplicate_authorization"
    )


def offers_websocket(upgrade: bytes) -> bool:
    """Whether the value of an Upgrade field asks for a WebSocket; who asks for anything else alone goes on in HTTP/1.1
    (RFC 9110, section 7.8).
    """
    return b"websocket" in (part.strip().lower() for part in upgrade.split(b","))


def listed_by(connection: bytes) -> frozenset[bytes]:
    """The names, in lower case, that the value of a Connection field lists."""
    return frozenset(filter(None, (part.strip().lower() for part in connection.split(b","))))


def is_kept(names: tuple[bytes, ...]) -> bool:
    """Whether what follows from a row of names may be remembered: it is not too long."""
    return len(names) <= _KEPT_NAMES and len(b"".join(names)) <= _KEPT_BYTES


@lru_cache(maxsize=_REMEMBERED)
def _request_names(names: tuple[bytes, ...]) -> RequestNames:
    return RequestNames(names)


def media_type(content_type: bytes) -> bytes:
    """The media type of a Content-Type value, lower case and without parameters."""
    return content_type.partition(b";")[0].strip().lower()


def is_json(content_type: bytes) -> bool:
    """Whether a Content-Type value announces JSON."""
    if content_type == b"application/json":
        return True
    kind = media_type(content_type)
    return kind == b"application/json" or kind.endswith(b"+json")


def _show(name: bytes) -> str:
    return repr(name.decode("latin-1"))


NO_HEAD = RequestHead((), RequestNames(()))
"""Stands for a head that nobody has read yet."""
