"""Which header fields pass, and what a request head says.

Everything passes, with its order, duplicates and spelling, except what stands in the lists below.
Nothing is invented. Pure: works on raw bytes, performs no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.errors import (
    BadRequest,
    ExpectationRefused,
    HeadersTooLarge,
)
from gateway.limits.arithmetic import format_reset, tightest

if TYPE_CHECKING:
    from gateway.exchange.exchange import Exchange

RawFields = Sequence[tuple[bytes, bytes]]

# RFC 9110, section 7.6.1: they speak about one connection, not about the message.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# Never from a tenant to the upstream: forged provenance, other credentials, and what picks an account.
NOT_UPSTREAM = HOP_BY_HOP | frozenset(
    {
        b"api-key",
        b"cdn-loop",
        b"cookie",
        b"expect",
        b"forwarded",
        b"openai-organization",
        b"openai-project",
        b"true-client-ip",
        b"via",
        b"x-api-key",
        b"x-real-ip",
    }
)
NOT_UPSTREAM_PREFIXES = (b"cf-", b"proxy-", b"x-envoy-", b"x-forwarded-")

# Never from the upstream to a tenant: whose account it is, its cookies, and promises about the gateway's own host.
NOT_CLIENT = HOP_BY_HOP | frozenset(
    {
        b"alt-svc",
        b"openai-organization",
        b"openai-project",
        b"set-cookie",
        b"strict-transport-security",
        b"x-gateway-request-id",
    }
)
UPSTREAM_LIMITS = b"x-ratelimit-"

# How browsers, which cannot set headers on a WebSocket, send a credential.
SUBPROTOCOL_CREDENTIAL = b"openai-insecure-api-key."

METHOD_OVERRIDES = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})

# Connection may not take away what the gateway itself decides by.
_NEVER_LISTED = frozenset(
    {b"authorization", b"content-length", b"content-type", b"content-encoding", b"host", b"transfer-encoding"}
)

_READ = METHOD_OVERRIDES | {
    b"authorization",
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

_REPLACED = frozenset({b"authorization", b"content-length", b"host"})

# reg-name or IPv4 with optional port, or a bracketed IPv6 literal; no userinfo, path, list or emptiness.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")


@dataclass(slots=True)
class RequestHead:
    """What the gateway needs to know of a request's header fields, read in one pass."""

    fields: RawFields
    authorization: list[bytes] = field(default_factory=list)
    content_length: int | None = None
    chunked: bool = False
    expect_continue: bool = False
    content_type: bytes = b""
    content_encoding: bytes = b""
    upgrade: bytes = b""
    subprotocols: list[bytes] = field(default_factory=list)
    dropped: frozenset[bytes] = NOT_UPSTREAM
    """Lower-case names that do not go up, those listed by Connection included."""

    repeated: bool = False
    """Some name occurs more than once."""

    @property
    def has_body(self) -> bool:
        """A body follows, possibly empty when it is chunked."""
        return self.chunked or bool(self.content_length)


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
                head.content_encoding = value.strip().lower()
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
    if len(head.authorization) > 1 or b"," in b"".join(head.authorization):
        raise BadRequest(
            "Send exactly one Authorization header with one credential.", code="duplicate_authorization"
        )
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
        taken = names & _NEVER_LISTED
        if taken:
            raise BadRequest(f"The Connection header may not list {_show(min(taken))}.", code="bad_framing")
        head.dropped = NOT_UPSTREAM | names
    head.repeated = len(seen) != len(fields)
    return head


def for_upstream(
    head: RequestHead,
    *,
    host: bytes,
    authorization: bytes | None,
    length: int | None,
    account: RawFields = (),
    identity: bool = False,
) -> bytes:
    """The header block that goes up, in the order and spelling in which the client sent it.

    `authorization` replaces the client's, `host` its Host; `length` is the body's size in bytes
    where it is known; `account` picks the upstream's account; with `identity` the answer is asked for
    unencoded. Names that repeat in another spelling go up in their first spelling.
    """
    lines: list[bytes] = []
    dropped = head.dropped
    first_spelling: dict[bytes, bytes] | None = {} if head.repeated else None
    host_sent = authorized = False
    for name, value in head.fields:
        lower = name.lower()
        if lower in dropped:
            if lower == b"transfer-encoding":
                lines.append(b"%b: chunked\r\n" % name)
            continue
        if first_spelling is not None:
            name = first_spelling.setdefault(lower, name)
        if b"_" in lower or lower.startswith(NOT_UPSTREAM_PREFIXES):
            continue
        if identity and lower == b"accept-encoding":
            continue
        if lower in _REPLACED:
            if lower == b"host":
                value = host
                host_sent = True
            elif lower == b"content-length":
                value = value if length is None else b"%d" % length
            elif authorization is None:
                continue
            else:
                value = authorization
                authorized = True
        lines.append(b"%b: %b\r\n" % (name, value))
    if not host_sent:
        lines.append(b"Host: %b\r\n" % host)
    if authorization is not None and not authorized:
        lines.append(b"Authorization: %b\r\n" % authorization)
    lines += [b"%b: %b\r\n" % field for field in account]
    if identity:
        lines.append(b"Accept-Encoding: identity\r\n")
    return b"".join(lines)


def for_client(fields: RawFields) -> tuple[list[tuple[bytes, bytes]], int]:
    """The answer's header fields that go down, and how many had to be dropped for not being UTF-8.

    The upstream's own limits are told apart by the prefix `x-upstream-ratelimit-`.
    """
    # What an answer is cannot be taken away by a header that speaks of the connection.
    listed = {
        part.strip().lower()
        for name, value in fields
        if name.lower() == b"connection"
        for part in value.split(b",")
    } - _NEVER_LISTED
    passed: list[tuple[bytes, bytes]] = []
    unreadable = 0
    for name, value in fields:
        lower = name.lower()
        if lower in NOT_CLIENT or lower in listed:
            continue
        if not value.isascii():
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                unreadable += 1
                continue
        if lower.startswith(UPSTREAM_LIMITS):
            name = b"x-upstream-" + name[2:]
        passed.append((name, value))
    return passed, unreadable


def own(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """What the gateway adds to every answer: its request id, and the tenant's own limits."""
    fields = [(b"x-gateway-request-id", exchange.id.encode("ascii"))]
    if exchange.decision is not None:
        for unit, level in tightest(exchange.decision.levels).items():
            name = unit.encode("ascii")
            fields.append((b"x-ratelimit-limit-" + name, b"%d" % level.limit))
            fields.append((b"x-ratelimit-remaining-" + name, b"%d" % level.remaining))
            fields.append((b"x-ratelimit-reset-" + name, format_reset(level.reset_seconds).encode("ascii")))
    return fields


def media_type(content_type: bytes) -> bytes:
    """The media type of a Content-Type value, lower case and without parameters."""
    return content_type.partition(b";")[0].strip().lower()


def is_json(content_type: bytes) -> bool:
    """Whether a Content-Type value announces JSON."""
    kind = media_type(content_type)
    return kind == b"application/json" or kind.endswith(b"+json")


def first(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a field, `name` in lower case; None when it is absent."""
    for key, value in fields:
        if key.lower() == name:
            return value
    return None


def _show(name: bytes) -> str:
    return repr(name.decode("latin-1"))
