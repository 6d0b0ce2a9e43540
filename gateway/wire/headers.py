"""What a message's head says, and what is refused about one that could be read in two ways.

Works on raw header names and values, order and duplicates kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from gateway.errors import BadRequest, ExpectationRefused, HeadersTooLarge

RawFields = Sequence[tuple[bytes, bytes]]

# How browsers, which cannot set headers on a WebSocket, send a credential.
SUBPROTOCOL_CREDENTIAL = b"openai-insecure-api-key."

METHOD_OVERRIDES = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})

NEVER_LISTED = frozenset(
    {b"authorization", b"content-length", b"content-type", b"content-encoding", b"host", b"transfer-encoding"}
)
"""What a message's Connection field may not take away: what the gateway itself decides by."""

_READ = METHOD_OVERRIDES | {
    b"authorization",
    b"cdn-loop",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"expect",
    b"host",
    b"sec-websocket-protocol",
    b"transfer-encoding",
    b"upgrade",
}

# reg-name or IPv4 with optional port, or a bracketed IPv6 literal; no userinfo, path, list or emptiness.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")


@dataclass(slots=True, eq=False)
class RequestHead:
    """What the gateway needs to know of a request's header fields, read in one pass."""

    fields: RawFields
    authorization: list[bytes] = field(default_factory=list)
    loops: list[bytes] = field(default_factory=list)
    """What CDN-Loop says of the servers through which it came."""

    content_length: int | None = None
    chunked: bool = False
    expect_continue: bool = False
    content_type: bytes = b""
    content_encoding: bytes = b""
    upgrade: bytes = b""
    subprotocols: list[bytes] = field(default_factory=list)
    listed: frozenset[bytes] = frozenset()
    """Lower-case names that Connection lists: they speak about the client's connection alone."""

    repeated: bool = False
    """Some name occurs more than once."""

    @property
    def has_body(self) -> bool:
        """A body follows, possibly empty when it is chunked."""
        return self.chunked or bool(self.content_length)


@dataclass(frozen=True, slots=True)
class Head:
    """An answer's head as the upstream sent it: raw header names and values, order and duplicates kept."""

    status: int
    reason: str
    fields: RawFields
    _first: dict[bytes, bytes] = field(init=False, repr=False, compare=False)
    """The first value of each header, by its name in lower case: several ask."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_first", {name.lower(): value for name, value in reversed(self.fields)})

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header, `name` in lower case; None when it is absent."""
        return self._first.get(name)

    def pick(self, names: Set[bytes]) -> dict[bytes, bytes]:
        """The first value of each of these headers that is there, names in lower case."""
        return {name: self._first[name] for name in self._first.keys() & names}


NO_HEAD = RequestHead(())
"""Stands for a head that nobody has read yet."""


def read(fields: RawFields, *, http10: bool, max_bytes: int) -> RequestHead:
    """Read and check a request's header fields.

    Raises BadRequest, HeadersTooLarge or ExpectationRefused for everything that another reader
    could understand differently (RFC 9112, sections 3.2, 6.1 and 6.3; reliability findings on aiohttp).
    """
    head = RequestHead(fields)
    hosts = 0
    size = 0
    seen = set()
    listed: list[bytes] = []
    codings: list[bytes] = []
    has_transfer_encoding = False
    lengths = 0
    for name, value in fields:
        size += len(name) + len(value) + 4
        if not value.isascii():
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                raise BadRequest(
                    f"The header {_show(name)} is not valid UTF-8. Encode its value as UTF-8 or leave it out.",
                    code="invalid_header",
                ) from None
        lower = name.lower()
        seen.add(lower)
        if lower not in _READ:
            continue
        match lower:
            case b"authorization":
                head.authorization.append(value)
            case b"cdn-loop":
                head.loops.append(value)
            case b"host":
                hosts += 1
                if not _HOST.fullmatch(value):
                    raise BadRequest(
                        "The Host header is not a host name with an optional port.", code="invalid_host"
                    )
            case b"content-length":
                lengths += 1
                if not _LENGTH.fullmatch(value):
                    raise BadRequest(
                        "Content-Length must be a plain decimal number without leading zeros.",
                        code="bad_framing",
                    )
                head.content_length = int(value)
            case b"transfer-encoding":
                if has_transfer_encoding or value.strip().lower() != b"chunked":
                    raise BadRequest(
                        "The only Transfer-Encoding that is accepted is a single 'chunked'.",
                        code="bad_framing",
                    )
                has_transfer_encoding = head.chunked = True
            case b"content-type":
                head.content_type = value
            case b"content-encoding":
                # All of them count, in their order: who takes the last alone would read another body than the upstream.
                codings.append(value.strip().lower())
            case b"expect":
                if value.strip().lower() != b"100-continue":
                    raise ExpectationRefused("The only Expect that is understood is '100-continue'.")
                head.expect_continue = True
            case b"connection":
                listed.extend(part.strip().lower() for part in value.split(b","))
            case b"upgrade":
                head.upgrade = value.strip().lower()
            case b"sec-websocket-protocol":
                head.subprotocols.extend(part.strip() for part in value.split(b",") if part.strip())
            case _:
                raise BadRequest(
                    f"The header {_show(name)} is refused: send the method that is meant.",
                    code="method_override",
                )
    if len(head.authorization) > 1 or (head.authorization and b"," in head.authorization[0]):
        raise BadRequest(
            "Send exactly one Authorization header with one credential.", code="duplicate_authorization"
        )
    if codings:
        head.content_encoding = b", ".join(codings)
    if size > max_bytes:
        raise HeadersTooLarge(
            f"The request's headers exceed {max_bytes} bytes. Send fewer or shorter headers."
        )
    if hosts != 1 and not (http10 and hosts == 0):
        raise BadRequest("Exactly one Host header is needed.", code="invalid_host")
    if lengths > 1 or (lengths and has_transfer_encoding):
        raise BadRequest("The length of the body is stated more than once.", code="bad_framing")
    if http10 and has_transfer_encoding:
        raise BadRequest(
            "Transfer-Encoding is not part of HTTP/1.0; send Content-Length.", code="bad_framing"
        )
    if listed:
        names = frozenset(filter(None, listed))
        taken = names & NEVER_LISTED
        if taken:
            raise BadRequest(f"The Connection header may not list {_show(min(taken))}.", code="bad_framing")
        head.listed = names
    head.repeated = len(seen) != len(fields)
    return head


def media_type(content_type: bytes) -> bytes:
    """The media type of a Content-Type value, lower case and without parameters."""
    return content_type.partition(b";")[0].strip().lower()


def is_json(content_type: bytes) -> bool:
    """Whether a Content-Type value announces JSON."""
    kind = media_type(content_type)
    return kind == b"application/json" or kind.endswith(b"+json")


def _show(name: bytes) -> str:
    return repr(name.decode("latin-1"))


def is_event_stream(head: Head) -> bool:
    """Whether an answer's head announces server-sent events."""
    return media_type(head.get(b"content-type") or b"") == b"text/event-stream"
