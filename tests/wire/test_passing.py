"""Which header fields pass."""

from __future__ import annotations

import pytest

from gateway.wire import passing
from gateway.wire.answer_head import Head
from gateway.wire.headers import RawFields, RequestHead, read
from gateway.wire.leading import Origin
from gateway.wire.passing import for_upstream

HOST = (b"Host", b"gateway.test")
AUTH = (b"Authorization", b"Bearer theirs")


def for_client(fields: RawFields, *, limits: bool) -> list[tuple[bytes, bytes]]:
    origin = Origin(b"api.test", b"443", b"/v1")
    lines = passing.for_client(Head(200, "OK", fields), limits=limits, origin=origin, target="/v1/models")
    assert not lines or lines.endswith(b"\r\n")
    gone_down = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in gone_down]


def head_of(*fields: tuple[bytes, bytes]) -> RequestHead:
    return read([HOST, *fields], http10=False, max_bytes=65536)


def goes_up(*fields: tuple[bytes, bytes], length: int | None = None) -> list[bytes]:
    """The lines that go up beside Host and Authorization."""
    block = for_upstream(head_of(*fields), host=b"api.test", authorization=b"Bearer ours", length=length)
    assert block.endswith(b"\r\n")
    gone_up = block[:-2].split(b"\r\n")
    assert gone_up.count(b"Host: api.test") == 1
    return [line for line in gone_up if line not in (b"Host: api.test", b"Authorization: Bearer ours")]


def test_order_duplicates_and_spelling_go_up_as_they_came() -> None:
    fields = [(b"X-b", b"1"), (b"x-A", b"2"), (b"X-b", b"3"), (b"aCCept", b"*/*"), (b"X-Empty", b"")]

    assert goes_up(*fields) == [b"X-b: 1", b"x-A: 2", b"X-b: 3", b"aCCept: */*", b"X-Empty: "]


def test_names_repeated_in_another_spelling_go_up_in_the_first_one() -> None:
    assert goes_up((b"X-Y", b"1"), (b"x-y", b"2"), (b"X-y", b"3")) == [b"X-Y: 1", b"X-Y: 2", b"X-Y: 3"]


def test_host_and_credential_are_replaced_where_they_stand() -> None:
    head = read([(b"X-A", b"1"), (b"hOST", b"gateway.test"), AUTH], http10=False, max_bytes=65536)

    block = for_upstream(head, host=b"api.test:8443", authorization=b"Bearer ours", length=None)

    assert block == b"X-A: 1\r\nhOST: api.test:8443\r\nAuthorization: Bearer ours\r\n"


def test_the_clients_credential_never_goes_up_even_without_a_key_of_our_own() -> None:
    block = for_upstream(head_of(AUTH), host=b"api.test", authorization=None, length=None)

    assert block == b"Host: api.test\r\n"


def test_host_and_key_are_added_where_the_client_sent_none() -> None:
    head = read([], http10=True, max_bytes=65536)

    block = for_upstream(head, host=b"api.test", authorization=b"Bearer ours", length=None)

    assert block == b"Host: api.test\r\nAuthorization: Bearer ours\r\n"


DROPPED = [
    "Api-Key",
    "CDN-Loop",
    "CF-Connecting-IP",
    "CF-Ray",
    "Connection",
    "Cookie",
    "Forwarded",
    "Keep-Alive",
    "OpenAI-Organization",
    "OpenAI-Project",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "Proxy-Whatever",
    "TE",
    "Trailer",
    "True-Client-IP",
    "Upgrade",
    "Via",
    "X-API-Key",
    "X-Envoy-Original-Path",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Original-URI",
    "X-Original-URL",
    "X-Real-IP",
    "X-Rewrite-URL",
    "X_Forwarded_For",
    "Content_Length",
    "Transfer_Encoding",
    "Authorization_",
]


@pytest.mark.parametrize("name", DROPPED)
def test_what_speaks_about_the_connection_or_forges_its_origin_does_not_go_up(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        assert goes_up((b"X-A", b"1"), (spelling.encode(), b"a"), (b"X-B", b"2")) == [b"X-A: 1", b"X-B: 2"]


@pytest.mark.parametrize(
    "name",
    [
        "OpenAI-Beta",
        "Idempotency-Key",
        "X-Request-Id",
        "X-Client-Request-Id",
        "User-Agent",
        "Accept-Encoding",
        "Content-Encoding",
        "Content-Type",
        "Range",
        "If-None-Match",
        "Origin",
        "Referer",
        "X-Stainless-Lang",
        "traceparent",
        "baggage",
        "CFoo",
        "Proxyish",
    ],
)
def test_what_the_api_may_want_to_know_goes_up(name: str) -> None:
    assert goes_up((name.encode(), b"a b")) == [name.encode() + b": a b"]


def test_expect_never_goes_up() -> None:
    assert goes_up((b"Expect", b"100-continue"), (b"Content-Length", b"5")) == [b"Content-Length: 5"]


def test_what_connection_lists_does_not_go_up() -> None:
    fields = [
        (b"Connection", b"close, X-Hop"),
        (b"connection", b" x-other ,"),
        (b"x-hop", b"1"),
        (b"X-Other", b"2"),
    ]

    assert goes_up(*fields, (b"X-Stays", b"3")) == [b"X-Stays: 3"]


def test_a_changed_body_changes_its_length_where_that_stands() -> None:
    assert goes_up((b"content-length", b"5"), (b"X-A", b"1"), length=17) == [b"content-length: 17", b"X-A: 1"]


def test_a_chunked_body_goes_up_chunked_and_only_so() -> None:
    assert goes_up((b"transfer-encoding", b"Chunked"), (b"X-A", b"1")) == [
        b"transfer-encoding: chunked",
        b"X-A: 1",
    ]


def test_an_answers_fields_go_down_as_they_came() -> None:
    fields = [
        (b"X-b", b"1"),
        (b"x-B", b"2"),
        (b"X-b", b"3"),
        (b"content-TYPE", b"text/plain"),
        (b"Date", b"now"),
    ]

    assert for_client(fields, limits=True) == fields


@pytest.mark.parametrize(
    "name",
    [
        "Alt-Svc",
        "Connection",
        "Keep-Alive",
        "OpenAI-Organization",
        "OpenAI-Project",
        "Proxy-Authenticate",
        "Set-Cookie",
        "Strict-Transport-Security",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_what_speaks_about_our_account_or_connection_does_not_go_down(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        assert for_client([(spelling.encode(), b"a"), (b"X-A", b"1")], limits=True) == [(b"X-A", b"1")]


def test_what_the_upstreams_connection_lists_does_not_go_down() -> None:
    fields = [(b"x-hop", b"1"), (b"Connection", b"keep-alive, X-Hop"), (b"X-A", b"2")]

    assert for_client(fields, limits=True) == [(b"X-A", b"2")]


def test_an_upstream_cannot_take_the_length_away_by_listing_it() -> None:
    """Without its length an answer would be framed anew; with it, as the upstream said."""
    fields = [(b"Content-Length", b"2"), (b"Content-Type", b"text/plain"), (b"Connection", b"content-length")]

    assert for_client(fields, limits=True) == fields[:2]


def test_the_upstreams_own_limits_are_told_apart_from_the_tenants() -> None:
    fields = [(b"x-ratelimit-limit-requests", b"60"), (b"X-RateLimit-Reset-Tokens", b"6m0s")]

    assert for_client(fields, limits=True) == [
        (b"x-upstream-ratelimit-limit-requests", b"60"),
        (b"x-upstream-RateLimit-Reset-Tokens", b"6m0s"),
    ]


def test_the_upstreams_own_limits_are_nobodys_business_on_an_account_of_several() -> None:
    names = (
        *(b"x-ratelimit-limit-requests", b"X-RateLimit-Reset-Tokens", b"RateLimit", b"RateLimit-Policy"),
        *(b"anthropic-ratelimit-tokens-remaining", b"X-Rate-Limit-Remaining", b"x_rate_limit_reset"),
        *(b"x-tokenlimit-limit", b"X-Quota-Used", b"x-credits-remaining"),
    )

    assert for_client([*((name, b"6") for name in names), (b"X-A", b"1")], limits=False) == [(b"X-A", b"1")]


def test_answer_fields_go_down_in_whatever_encoding() -> None:
    fields = [(b"X-A", b"\xff"), (b"X-B", "é".encode()), (b"X-C", b"caf\xe9"), (b"X-D", b"d")]

    assert for_client(fields, limits=True) == fields
