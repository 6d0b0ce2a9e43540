"""Which header fields pass, and what is refused about a request's head."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest, ExpectationRefused, GatewayError, HeadersTooLarge
from gateway.wire.headers import (
    NOT_UPSTREAM,
    RequestHead,
    first,
    for_client,
    for_upstream,
    is_json,
    media_type,
    read,
)

Fields = list[tuple[bytes, bytes]]

HOST = (b"Host", b"gateway.test")
AUTH = (b"Authorization", b"Bearer theirs")


def head_of(*fields: tuple[bytes, bytes], http10: bool = False, max_bytes: int = 65536) -> RequestHead:
    return read([HOST, *fields], http10=http10, max_bytes=max_bytes)


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
    "X-Real-IP",
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


def test_the_head_says_what_the_gateway_must_know() -> None:
    head = head_of(
        AUTH,
        (b"content-type", b"application/json; charset=utf-8"),
        (b"Content-Encoding", b" GZIP "),
        (b"Content-Length", b"120"),
        (b"Expect", b"100-Continue"),
        (b"Upgrade", b"WebSocket"),
        (b"Sec-WebSocket-Protocol", b"realtime, openai-beta.realtime-v1"),
        (b"sec-websocket-protocol", b",other,"),
    )

    assert head.authorization == [b"Bearer theirs"]
    assert (head.content_type, head.content_encoding) == (b"application/json; charset=utf-8", b"gzip")
    assert (head.content_length, head.chunked, head.has_body) == (120, False, True)
    assert head.expect_continue
    assert head.upgrade == b"websocket"
    assert head.subprotocols == [b"realtime", b"openai-beta.realtime-v1", b"other"]
    assert head.dropped == NOT_UPSTREAM


@pytest.mark.parametrize(
    ("fields", "has_body"),
    [
        ([], False),
        ([(b"Content-Length", b"0")], False),
        ([(b"Content-Length", b"1")], True),
        ([(b"Transfer-Encoding", b"chunked")], True),
    ],
)
def test_a_body_is_known_by_its_framing(fields: Fields, has_body: bool) -> None:
    assert head_of(*fields).has_body is has_body


REFUSED: list[tuple[str, Fields]] = [
    ("invalid_host", []),
    ("invalid_host", [HOST, HOST]),
    ("invalid_host", [(b"Host", b"")]),
    ("invalid_host", [(b"Host", b"a, b")]),
    ("invalid_host", [(b"Host", b"user@a")]),
    ("invalid_host", [(b"Host", b"a/b")]),
    ("invalid_host", [(b"Host", b"a:b")]),
    ("invalid_host", [(b"Host", b"a:")]),
    ("invalid_host", [(b"Host", b"a b")]),
    ("invalid_host", [(b"Host", b"[::1")]),
    ("bad_framing", [HOST, (b"Content-Length", b"007")]),
    ("bad_framing", [HOST, (b"Content-Length", b"+7")]),
    ("bad_framing", [HOST, (b"Content-Length", b"-7")]),
    ("bad_framing", [HOST, (b"Content-Length", b"")]),
    ("bad_framing", [HOST, (b"Content-Length", b"7,7")]),
    ("bad_framing", [HOST, (b"Content-Length", b"7 ")]),
    ("bad_framing", [HOST, (b"Content-Length", "٧".encode())]),
    ("bad_framing", [HOST, (b"Content-Length", b"1" * 20)]),
    ("bad_framing", [HOST, (b"Content-Length", b"7"), (b"content-length", b"7")]),
    ("bad_framing", [HOST, (b"Content-Length", b"7"), (b"Transfer-Encoding", b"chunked")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"0")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b"gzip, chunked")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b"chunked, chunked")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b"xchunked")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b"identity")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b"")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b"chunked,")]),
    ("bad_framing", [HOST, (b"Transfer-Encoding", b'"chunked"')]),
    ("bad_framing", [HOST, (b"Connection", b"close, authorization")]),
    ("bad_framing", [HOST, (b"Connection", b"Content-Length")]),
    ("bad_framing", [HOST, (b"Connection", b"host")]),
    ("bad_framing", [HOST, (b"Connection", b"x"), (b"Connection", b"transfer-encoding")]),
    ("invalid_header", [HOST, (b"X-A", b"\xff")]),
    ("invalid_header", [HOST, (b"X-A", b"caf\xe9")]),
    ("invalid_header", [HOST, (b"X-A", b"\xed\xa0\x80")]),
    ("method_override", [HOST, (b"X-HTTP-Method-Override", b"DELETE")]),
    ("method_override", [HOST, (b"x-http-method", b"PUT")]),
    ("method_override", [HOST, (b"X-METHOD-OVERRIDE", b"")]),
]


@pytest.mark.parametrize(("code", "fields"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_could_be_read_in_two_ways_is_refused(code: str, fields: Fields) -> None:
    with pytest.raises(BadRequest) as refused:
        read(fields, http10=False, max_bytes=65536)

    assert refused.value.code == code
    assert (refused.value.status, refused.value.type) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "host",
    [b"a", b"a.b:80", b"127.0.0.1:8080", b"[::1]", b"[2001:db8::7]:443", b"xn--bcher-kva.test", b"a_b-c~d"],
)
def test_a_host_with_an_optional_port_is_accepted(host: bytes) -> None:
    assert read([(b"Host", host)], http10=False, max_bytes=65536).fields == [(b"Host", host)]


def test_http10_needs_no_host_and_knows_no_transfer_encoding() -> None:
    assert not read([], http10=True, max_bytes=65536).has_body
    with pytest.raises(BadRequest, match=r"HTTP/1\.0"):
        read([(b"Transfer-Encoding", b"chunked")], http10=True, max_bytes=65536)
    with pytest.raises(BadRequest):
        read([HOST, HOST], http10=True, max_bytes=65536)


@pytest.mark.parametrize("value", [b"", b"200-ok", b"100-continue, x", b"100-continue;q=1"])
def test_no_other_expectation_is_understood(value: bytes) -> None:
    with pytest.raises(ExpectationRefused):
        head_of((b"Expect", value))


def test_the_whole_head_has_a_cap_to_the_byte() -> None:
    fields = [(b"X-A", b"a" * 100)] * 10
    size = sum(len(name) + len(value) + 4 for name, value in [HOST, *fields])

    assert head_of(*fields, max_bytes=size)
    with pytest.raises(HeadersTooLarge):
        head_of(*fields, max_bytes=size - 1)


@pytest.mark.parametrize("fields", [fields for _, fields in REFUSED if len(fields) > 1])
def test_a_refusal_quotes_no_value(fields: Fields) -> None:
    secret = b"Bearer canary-7f3a"
    with pytest.raises(GatewayError) as refused:
        read([*fields, (b"X-A", secret), (b"Authorization", secret)], http10=False, max_bytes=65536)

    assert "canary" not in f"{refused.value.message}{refused.value.detail}"


def test_an_answers_fields_go_down_as_they_came() -> None:
    fields = [
        (b"X-b", b"1"),
        (b"x-B", b"2"),
        (b"X-b", b"3"),
        (b"content-TYPE", b"text/plain"),
        (b"Date", b"now"),
    ]

    assert for_client(fields) == (fields, 0)


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
        assert for_client([(spelling.encode(), b"a"), (b"X-A", b"1")]) == ([(b"X-A", b"1")], 0)


def test_what_the_upstreams_connection_lists_does_not_go_down() -> None:
    fields = [(b"x-hop", b"1"), (b"Connection", b"keep-alive, X-Hop"), (b"X-A", b"2")]

    assert for_client(fields) == ([(b"X-A", b"2")], 0)


def test_an_upstream_cannot_take_the_length_away_by_listing_it() -> None:
    """Without its length an answer would be framed anew; with it, as the upstream said."""
    fields = [(b"Content-Length", b"2"), (b"Content-Type", b"text/plain"), (b"Connection", b"content-length")]

    assert for_client(fields)[0] == fields[:2]


def test_the_upstreams_own_limits_are_told_apart_from_the_tenants() -> None:
    fields = [(b"x-ratelimit-limit-requests", b"60"), (b"X-RateLimit-Reset-Tokens", b"6m0s")]

    assert for_client(fields)[0] == [
        (b"x-upstream-ratelimit-limit-requests", b"60"),
        (b"x-upstream-RateLimit-Reset-Tokens", b"6m0s"),
    ]


def test_answer_fields_that_are_not_utf8_are_dropped_and_counted() -> None:
    fields = [(b"X-A", b"\xff"), (b"X-B", "é".encode()), (b"X-C", b"caf\xe9"), (b"X-D", b"d")]

    assert for_client(fields) == ([(b"X-B", "é".encode()), (b"X-D", b"d")], 2)


@pytest.mark.parametrize(
    ("value", "media", "json"),
    [
        (b"application/json", b"application/json", True),
        (b"Application/JSON; charset=utf-8", b"application/json", True),
        (b" application/json ;", b"application/json", True),
        (b"application/problem+json", b"application/problem+json", True),
        (b"application/jsonl", b"application/jsonl", False),
        (b"text/json-seq", b"text/json-seq", False),
        (b"multipart/form-data; boundary=a", b"multipart/form-data", False),
        (b"", b"", False),
    ],
)
def test_media_types_are_read_without_case_and_parameters(value: bytes, media: bytes, json: bool) -> None:
    assert (media_type(value), is_json(value)) == (media, json)


def test_the_first_of_several_values_is_found_in_any_spelling() -> None:
    assert first([(b"X-A", b"1"), (b"x-a", b"2")], b"x-a") == b"1"
    assert first([], b"x-a") is None
