"""What a head says, and what is refused about a request's head."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest, ExpectationRefused, GatewayError, HeadersTooLarge
from gateway.wire.answer_head import Head
from gateway.wire.headers import RequestHead, is_json, media_type, read

Fields = list[tuple[bytes, bytes]]

HOST = (b"Host", b"gateway.test")
AUTH = (b"Authorization", b"Bearer theirs")


def head_of(*fields: tuple[bytes, bytes], http10: bool = False, max_bytes: int = 65536) -> RequestHead:
    return read([HOST, *fields], http10=http10, max_bytes=max_bytes)


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

    assert head.authorization == (b"Bearer theirs",)
    assert (head.content_type, head.content_encoding) == (b"application/json; charset=utf-8", b"gzip")
    assert (head.chunked, head.has_body) == (False, True)
    assert head.expect_continue
    assert head.is_socket
    assert head.subprotocols == (b"realtime", b"openai-beta.realtime-v1", b"other")
    assert head.listed == frozenset()


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
    [
        b"a",
        b"a:",
        b"a.b:80",
        b"127.0.0.1:8080",
        b"[::1]",
        b"[2001:db8::7]:443",
        b"xn--bcher-kva.test",
        b"a_b-c~d",
    ],
)
def test_a_host_with_an_optional_port_is_accepted(host: bytes) -> None:
    assert read([(b"Host", host)], http10=False, max_bytes=65536).fields == [(b"Host", host)]


def test_http10_needs_no_host_and_knows_no_transfer_encoding() -> None:
    assert not read([], http10=True, max_bytes=65536).has_body
    with pytest.raises(BadRequest, match=r"HTTP/1\.0"):
        read([(b"Transfer-Encoding", b"chunked")], http10=True, max_bytes=65536)
    with pytest.raises(BadRequest):
        read([HOST, HOST], http10=True, max_bytes=65536)


@pytest.mark.parametrize(
    ("value", "is_socket"),
    [
        (b"websocket", True),
        (b"WebSocket", True),
        (b"h2c, websocket", True),
        (b"h2c", False),
        (b"websockets", False),
        (b"websocket/13", False),
        (b"", False),
    ],
)
def test_an_upgrade_is_a_websocket_or_none(value: bytes, is_socket: bool) -> None:
    assert head_of((b"Upgrade", value)).is_socket is is_socket
    assert head_of((b"Upgrade", value), (b"Upgrade", b"h2c")).is_socket is is_socket


@pytest.mark.parametrize("value", [b"200-ok", b"100-continue, x", b"100-continue;q=1"])
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
    head = Head(200, "OK", [(b"X-A", b"1"), (b"x-a", b"2"), (b"Content-Type", b"text/plain")])

    assert head.get(b"x-a") == b"1"
    assert head.get(b"content-type") == b"text/plain"
    assert head.get(b"x-b") is None
