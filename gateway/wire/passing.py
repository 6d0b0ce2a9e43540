"""Which header fields pass, either way.

Everything passes, with its order, duplicates and spelling, except what stands in the lists below.
Nothing is invented.
"""

import re

from gateway.wire.headers import NEVER_LISTED, RawFields, RequestHead

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

# Never from a tenant to the upstream: forged provenance, other credentials, what picks an account, and what some
# servers read as another target than the one that was judged.
NOT_UPSTREAM = HOP_BY_HOP | frozenset(
    {
        b"api-key",
        b"cookie",
        b"expect",
        b"forwarded",
        b"openai-organization",
        b"openai-project",
        b"true-client-ip",
        b"via",
        b"x-api-key",
        b"x-original-uri",
        b"x-original-url",
        b"x-real-ip",
        b"x-rewrite-url",
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
_OF_LIMITS = re.compile(rb"rate[-_]?limit|tokenlimit|quota|remaining")
"""What names of fields about limits have in common, whoever sends them."""

_REPLACED = frozenset({b"authorization", b"cdn-loop", b"content-length", b"host"})


def loop_field(head: RequestHead, name: bytes) -> tuple[bytes, bytes]:
    """CDN-Loop as it goes up: what came in it, which nobody may take away (RFC 8586), and our own `name`."""
    return b"CDN-Loop", b", ".join((*filter(None, head.loops), name)) if head.loops else name


def for_upstream(
    head: RequestHead,
    *,
    host: bytes,
    authorization: bytes | None,
    length: int | None,
    added: RawFields = (),
    without: frozenset[bytes] = frozenset(),
    identity: bool = False,
) -> bytes:
    """The header block that goes up, in the order and spelling in which the client sent it.

    `authorization` replaces the client's, `host` its Host; `length` is the body's size in bytes
    where it is known; `added` are fields of the gateway's own; what `without` names in lower case stays
    behind as well; with `identity` the answer is asked for unencoded. Names that repeat in another
    spelling go up in their first spelling.
    """
    lines: list[bytes] = []
    dropped = NOT_UPSTREAM
    if head.listed or without:
        dropped = NOT_UPSTREAM | head.listed | without
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
            elif authorization is None or lower == b"cdn-loop":
                continue
            else:
                value = authorization
                authorized = True
        lines.append(b"%b: %b\r\n" % (name, value))
    if not host_sent:
        lines.append(b"Host: %b\r\n" % host)
    if authorization is not None and not authorized:
        lines.append(b"Authorization: %b\r\n" % authorization)
    lines += [b"%b: %b\r\n" % field for field in added]
    if identity:
        lines.append(b"Accept-Encoding: identity\r\n")
    return b"".join(lines)


def for_client(fields: RawFields, *, limits: bool) -> tuple[list[tuple[bytes, bytes]], int]:
    """The answer's header fields that go down, and how many had to be dropped for not being UTF-8.

    `limits`: the upstream's own limits go down too, `x-ratelimit-` told apart by the prefix `x-upstream-ratelimit-`. On
    an account that others use as well they would tell what these do.
    """
    # What an answer is cannot be taken away by a header that speaks of the connection.
    names = [name.lower() for name, _ in fields]
    dropped = NOT_CLIENT
    if b"connection" in names:
        dropped |= {
            part.strip().lower()
            for lower, (_, value) in zip(names, fields, strict=True)
            if lower == b"connection"
            for part in value.split(b",")
        } - NEVER_LISTED
    passed: list[tuple[bytes, bytes]] = []
    unreadable = 0
    for lower, (name, value) in zip(names, fields, strict=True):
        if lower in dropped:
            continue
        if not value.isascii():
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                unreadable += 1
                continue
        if not limits and _OF_LIMITS.search(lower):
            continue
        if lower.startswith(UPSTREAM_LIMITS):
            name = b"x-upstream-" + name[2:]
        passed.append((name, value))
    return passed, unreadable
