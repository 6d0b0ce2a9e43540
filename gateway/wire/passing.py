"""Which header fields pass, either way.

Everything passes, with its order, duplicates and spelling, except what stands in the lists below.
Nothing is invented.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

from gateway.wire.answer_head import Head
from gateway.wire.headers import (
    NEVER_LISTED,
    NOTHING_LISTED,
    FieldNames,
    RawFields,
    RequestHead,
    listed_by,
)
from gateway.wire.leading import LEADING, Origin

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

# Never from the upstream to a tenant: whose account it is, its cookies, promises about the gateway's own host, and what
# another gateway says of our credential there.
NOT_CLIENT = HOP_BY_HOP | frozenset(
    {
        b"alt-svc",
        b"openai-organization",
        b"openai-project",
        b"set-cookie",
        b"strict-transport-security",
        b"x-gateway-credential-expires",
        b"x-gateway-request-id",
    }
)
UPSTREAM_LIMITS = b"x-ratelimit-"
_OF_LIMITS = re.compile(rb"rate[-_]?limit|tokenlimit|quota|remaining")
"""What names of fields about limits have in common, whoever sends them."""

_WRITTEN = (b"host", b"authorization", b"content-length", b"transfer-encoding")
"""What has a value of the gateway's own."""

_REMEMBERED = 1024
"""Rows of names whose way is kept known."""


def loop_field(head: RequestHead, name: bytes) -> tuple[bytes, bytes]:
    """CDN-Loop as it goes up: what came in it, which nobody may take away (RFC 8586), and our own `name`."""
    return b"CDN-Loop", b", ".join((*filter(None, head.loops), name)) if head.loops else name


class _Upward(NamedTuple):
    """What becomes of a head of these names on its way up, whatever the values."""

    going: tuple[bool, ...]
    """Which fields go up."""

    spelled: tuple[tuple[int, bytes], ...]
    """By their places among those that go: what is written in another spelling."""

    host: tuple[int, bytes] | None
    authorization: tuple[int, bytes] | None
    content_length: tuple[int, bytes] | None
    transfer_encoding: tuple[int, bytes] | None
    """Where these stand among those that go, and how they are spelled."""


def for_upstream(
    head: RequestHead,
    *,
    host: bytes,
    authorization: bytes | None,
    length: int | bytes | None,
    added: RawFields = (),
    without: frozenset[bytes] = NOTHING_LISTED,
    identity: bool = False,
) -> bytes:
    """The header block that goes up, in the order and spelling in which the client sent it.

    `authorization` replaces the client's, `host` its Host; `length` is the body's size in bytes
    where it is known, or what stands in its place; `added` are fields of the gateway's own; what `without`
    names in lower case stays behind as well; with `identity` the answer is asked for unencoded. Names that
    repeat in another spelling go up in their first spelling.
    """
    names, dropped = head.names, without
    if head.listed:
        dropped |= head.listed.intersection(names.lower)
    find = _upward if names.is_kept else _upward.__wrapped__
    way = find(names, dropped, identity, authorization is not None)
    going = [*compress(head.fields, way.going)]
    for at, name in way.spelled:
        going[at] = (name, going[at][1])
    if way.host is not None:
        at, name = way.host
        going[at] = (name, host)
    else:
        going.append((b"Host", host))
    if way.content_length is not None and length is not None:
        at, name = way.content_length
        going[at] = (name, b"%d" % length if isinstance(length, int) else length)
    if way.transfer_encoding is not None:
        at, name = way.transfer_encoding
        going[at] = (name, b"chunked")
    if authorization is not None:
        if way.authorization is not None:
            at, name = way.authorization
            going[at] = (name, authorization)
        else:
            going.append((b"Authorization", authorization))
    going += added
    if identity:
        going.append((b"Accept-Encoding", b"identity"))
    return lines_of(going)


def lines_of(fields: RawFields) -> bytes:
    """Header fields as they stand in a head, each with its end of line."""
    return b"\r\n".join([*map(b": ".join, fields), b""])


@lru_cache(maxsize=_REMEMBERED)
def _upward(names: FieldNames, dropped: frozenset[bytes], identity: bool, replaces: bool) -> _Upward:
    """`identity`: the answer is asked for unencoded. `replaces`: the client's Authorization is replaced by another."""
    first_spelling: dict[bytes, bytes] = {}
    going, spelled = [], []
    own: dict[bytes, tuple[int, bytes]] = {}
    at = 0
    for name, lower in zip(names.written, names.lower, strict=True):
        goes = _goes_up(lower, dropped, identity=identity) and (lower != b"authorization" or replaces)
        going.append(goes)
        if not goes:
            continue
        first = first_spelling.setdefault(lower, name)
        if lower in _WRITTEN:
            own[lower] = at, name
        elif first != name:
            spelled.append((at, first))
        at += 1
    return _Upward(tuple(going), tuple(spelled), *map(own.get, _WRITTEN))


def _goes_up(lower: bytes, dropped: frozenset[bytes], *, identity: bool) -> bool:
    if lower == b"transfer-encoding":
        return True
    if lower in NOT_UPSTREAM or lower in dropped or lower == b"cdn-loop":
        return False
    if b"_" in lower or lower.startswith(NOT_UPSTREAM_PREFIXES):
        return False
    return not (identity and lower == b"accept-encoding")


def for_client(
    head: Head,
    *,
    limits: bool,
    origin: Origin,
    target: str,
    without: frozenset[bytes] = NOTHING_LISTED,
) -> bytes:
    """The answer's header fields that go down, as lines.

    `limits`: the upstream's own limits go down too, `x-ratelimit-` told apart by the prefix `x-upstream-ratelimit-`. On
    an account that others use as well they would tell what these do. What `without` names in lower case stays behind.
    What leads into the upstream, which is at `origin`, leads to the gateway, of which the client asked for `target`.
    """
    if head.shape is not None and not without:
        assert head.match is not None
        return head.shape.lines(head.match, limits=limits)
    fields, way = head.fields, _way_down(head, without, limits)
    passed = [*compress(fields, way.going)]
    for at, name in way.spelled:
        passed[at] = (name, passed[at][1])
    if way.leading:
        asked_for = target.encode("utf-8", "surrogateescape")
        for at, lower in reversed(way.leading):
            value = origin.led_back(lower, passed[at][1], asked_for)
            passed[at : at + 1] = [] if value is None else [(passed[at][0], value)]
    return lines_of(passed)


def names_for_client(head: Head, *, limits: bool) -> list[bytes | None]:
    """Under which name each field of a head goes down, whatever its value; None: it does not."""
    way = _way_down(head, NOTHING_LISTED, limits)
    names: list[bytes | None] = [*compress(head.names.written, way.going)]
    for at, name in way.spelled:
        names[at] = name
    passing = iter(names)
    return [next(passing) if goes else None for goes in way.going]


def _way_down(head: Head, without: frozenset[bytes], limits: bool) -> _Downward:
    names = head.names
    find = _downward if names.is_kept else _downward.__wrapped__
    way = find(names, without, limits)
    for at in way.connection:
        if head.fields[at][1] != b"keep-alive":
            # What an answer is cannot be taken away by a header that speaks of the connection.
            listed = NOTHING_LISTED.union(*(listed_by(head.fields[at][1]) for at in way.connection))
            return find(names, without | listed.intersection(names.lower) - NEVER_LISTED, limits)
    return way


class _Downward(NamedTuple):
    """What becomes of an answer's head of these names on its way down, whatever the values."""

    going: tuple[bool, ...]
    spelled: tuple[tuple[int, bytes], ...]
    connection: tuple[int, ...]
    """Where Connection stands."""

    leading: tuple[tuple[int, bytes], ...]
    """Where among those that go down the references stand, and their names in lower case."""


@lru_cache(maxsize=_REMEMBERED)
def _downward(names: FieldNames, dropped: frozenset[bytes], limits: bool) -> _Downward:
    going = tuple(
        lower not in NOT_CLIENT and lower not in dropped and (limits or not _OF_LIMITS.search(lower))
        for lower in names.lower
    )
    passed = [name for name, goes in zip(names.written, going, strict=True) if goes]
    return _Downward(
        going,
        tuple(
            (at, b"x-upstream-" + name[2:])
            for at, name in enumerate(passed)
            if name.lower().startswith(UPSTREAM_LIMITS)
        ),
        names.all_of(b"connection"),
        tuple((at, name.lower()) for at, name in enumerate(passed) if name.lower() in LEADING),
    )
