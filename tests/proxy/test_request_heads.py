"""A head that has been read before is not read again: its bytes say the same, but for the length of the body."""

from __future__ import annotations

import tracemalloc

import pytest

from gateway.errors import BadRequest
from gateway.proxy import request_heads
from gateway.wire import headers
from tests.conftest import StartGateway
from tests.kit.client import CHAT
from tests.kit.upstream import ScriptedUpstream

HEADS = request_heads.RequestHeads()
_ANY = b"Content-Type: application/json\r\nContent-Length: %d\r\n"
OWN = (
    b"X-Request-Id: r#-50%%\r\n" + _ANY,
    _ANY + b"traceparent: 00-#-01\r\n",
    b"Idempotency-Key: k#\r\n" + _ANY + b"x-a: 100%%\r\n",
)
"""Fields of which one has another value, at #, in each request."""

FIELDS = b"Host: a\r\nX-One: 1\r\n%b: %b\r\nX-Two: 2\r\n\r\n"


def head_of(length: bytes, *, name: bytes = b"Content-Length", method: bytes = b"POST") -> bytes:
    return method + b" /v1/x HTTP/1.1\r\n" + FIELDS % (name, length)


def known_of(head: bytes) -> request_heads.AskedHead:
    """What a head says that has come before."""
    HEADS.whole(head)
    return HEADS.whole(head)


def test_the_same_head_is_read_once_whatever_the_length_of_its_body() -> None:
    first, own, stated = known_of(head_of(b"5"))
    again, others, more = HEADS.whole(head_of(b"70000"))

    assert again is first
    assert (stated, more) == (5, 70000)
    assert first.fields(own) == (
        (b"Host", b"a"),
        (b"X-One", b"1"),
        (b"Content-Length", b"5"),
        (b"X-Two", b"2"),
    )
    assert dict(first.fields(others))[b"Content-Length"] == b"70000"


@pytest.mark.parametrize("name", request_heads.OF_ONE_REQUEST)
def test_the_same_head_is_read_once_whatever_ids_its_request_has(name: str) -> None:
    of_one = name.title().encode() + b": %b\r\nContent-Length: 5"
    known, _, _ = known_of(head_of(b"5").replace(b"Content-Length: 5", of_one % b"00-4bf92f-01"))
    again, own, stated = HEADS.whole(
        head_of(b"5").replace(b"Content-Length: 5", of_one % b"Thu, 26 Nov 2026")
    )

    assert again is known
    assert stated == 5
    assert again.fields(own)[2:4] == (
        (name.title().encode(), b"Thu, 26 Nov 2026"),
        (b"Content-Length", b"5"),
    )


def test_nothing_is_decided_by_what_is_read_once_whatever_its_value() -> None:
    of_one = {name.encode() for name in request_heads.OF_ONE_REQUEST}
    decided_by = (
        headers.NEVER_LISTED | headers.METHOD_OVERRIDES | headers.RARE | {b"accept-encoding", b"accept"}
    )

    assert not of_one & decided_by


@pytest.mark.parametrize(
    "value",
    [b" 1", b"1 ", b"1\t2", b"\xc3\xa9", b"x" * 300, b"", b"1\x01", b"1\r\n 2", b"1\r\nX-Request-Id: 2"],
)
def test_a_value_that_is_not_plain_makes_it_another_head(value: bytes) -> None:
    def of_id(value: bytes) -> bytes:
        return head_of(b"5").replace(b"X-One: 1", b"X-Request-Id: " + value)

    known, _, _ = known_of(of_id(b"1"))
    try:
        another, own, _ = HEADS.whole(of_id(value))
    except BadRequest:
        return
    assert another is not known
    assert [field for name, field in another.fields(own) if name == b"X-Request-Id"] == [
        part.strip() for part in value.split(b"\r\nX-Request-Id:")
    ]


@pytest.mark.parametrize(
    "other",
    [
        head_of(b"5", name=b"content-length"),
        head_of(b"5", name=b"CONTENT-LENGTH"),
        head_of(b"5").replace(b"Length: 5", b"Length:5"),
        head_of(b"5").replace(b"Length: 5", b"Length:  5"),
        head_of(b"5").replace(b"Length: 5", b"Length: 5 "),
        head_of(b"5", method=b"PUT"),
        head_of(b"5").replace(b"X-One: 1", b"X-One: 2"),
        head_of(b"5").replace(b"X-Two: 2", b"X-Two: 1"),
        head_of(b"5").replace(b"/v1/x", b"/v1/X"),
    ],
)
def test_every_other_byte_makes_it_another_head(other: bytes) -> None:
    known, _, _ = known_of(head_of(b"5"))
    another, _, stated = known_of(other)

    assert another is not known
    assert stated == 5


@pytest.mark.parametrize("length", [b"x", b"-1", b"+1", b"1 1", b"0x1", b"1,1", b"\xb9", b"9" * 30])
def test_a_length_that_is_none_is_refused_however_well_its_head_is_known(length: bytes) -> None:
    known_of(head_of(b"5"))

    with pytest.raises(BadRequest):
        HEADS.whole(head_of(length))


def test_what_is_stated_twice_is_refused_however_often_it_comes() -> None:
    twice = head_of(b"5").replace(b"X-Two: 2", b"Content-Length: 5")
    for _ in range(3):
        with pytest.raises(BadRequest):
            HEADS.whole(twice)


def test_heads_that_never_come_again_do_not_drive_out_those_that_do() -> None:
    known, _, _ = known_of(head_of(b"5"))
    for n in range(3 * request_heads.MOST_KEPT):
        once, _, _ = HEADS.whole(head_of(b"5").replace(b"X-One: 1", b"X-One: %d" % (n + 10)))
        assert once.own is None

    assert HEADS.whole(head_of(b"5"))[0] is known


def test_what_has_come_is_known_within_bounds() -> None:
    several = request_heads.RequestHeads()
    for n in range(5 * request_heads.MOST_SEEN):
        several.whole(head_of(b"5").replace(b"X-One: 1", b"X-One: %d" % n))

    for n in range(5 * request_heads.MOST_KEPT):
        known_of_several = head_of(b"5").replace(b"X-One: 1", b"X-One: a%d" % n)
        several.whole(known_of_several)
        several.whole(known_of_several)

    assert len(several._kept) + len(several._older) <= 2 * request_heads.MOST_KEPT
    assert len(several._seen) + len(several._seen_before) <= 2 * request_heads.MOST_SEEN


def test_a_large_head_is_not_kept() -> None:
    large = head_of(b"5").replace(b"X-Two: 2", b"X-Two: " + b"2" * request_heads.KEPT_BYTES)

    assert HEADS.whole(large)[0] is not HEADS.whole(large)[0]


def test_what_strangers_send_cannot_fill_the_memory_by_being_kept() -> None:
    """Heads of as many fields as fit, each sent twice: a field occupies many times its bytes."""
    several, count = request_heads.RequestHeads(), request_heads.MOST_KEPT // 8
    fields = b"".join(b"%x:%x\r\n" % (n, n) for n in range(200))
    tracemalloc.start()
    try:
        for n in range(2 * count):
            several.whole(b"GET /v1/models?%d HTTP/1.1\r\nHost: a\r\n%b\r\n" % (n // 2, fields))
        kept_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert kept_bytes < count * request_heads.KEPT_BYTES


async def test_requests_that_differ_in_little_go_up_as_they_came(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """On one connection: other lengths, fields, order and spelling, the first again, and ids of each request."""
    gateway = await start_gateway()
    client = await gateway.connect()
    asked = [
        (b"Content-Type: application/json\r\nX-A: 1\r\nContent-Length: %d\r\n", b'{"model":"m"}'),
        (b"Content-Type: application/json\r\nX-A: 1\r\nContent-Length: %d\r\n", b'{"model":"m","n":1}'),
        (b"Content-Type: application/json\r\nX-A: 2\r\nContent-Length: %d\r\n", b'{"model":"m"}'),
        (b"Content-Length: %d\r\nX-A: 1\r\nContent-Type: application/json\r\n", b'{"model":"m"}'),
        (b"content-length: %d\r\nX-A: 1\r\nContent-Type: application/json\r\n", b'{"model":"m","n":10}'),
        (b"Content-Type: application/json\r\nX-A: 1\r\nContent-Length: %d\r\n", b'{"model":"m"}'),
        *((own.replace(b"#", b"%d" % n), b'{"model":"m","n":%d}' % n) for own in OWN for n in (1, 10, 100)),
    ]
    for fields, body in asked:
        await client.send(
            b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n%b\r\n%b"
            % (CHAT.encode(), client.credential.encode(), fields % len(body), body)
        )
        assert (await client.read_answer()).status == 200

    assert [request.body for request in upstream.requests] == [body for _, body in asked]
    for request, (fields, body) in zip(upstream.requests, asked, strict=True):
        ours = {"host", "authorization", "cdn-loop"}
        sent = [f"{name}: {value}".encode() for name, value in request.fields if name.lower() not in ours]
        assert b"".join(line + b"\r\n" for line in sent) == fields % len(body)


async def test_what_replaces_a_body_goes_up_with_its_own_length_however_the_clients_is_spelled(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {"default_model": "m"}})
    client = await gateway.connect()
    for length in (b"Content-Length: %d", b"Content-Length:%d", b"X-Request-Id: 7\r\ncontent-length: %d"):
        for body in (b"{}", b'{"n":1}', b'{"model":"m"}', b"{}"):
            await client.send(
                b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n"
                b"Content-Type: application/json\r\n%b\r\n\r\n%b"
                % (CHAT.encode(), client.credential.encode(), length % len(body), body)
            )
            assert (await client.read_answer()).status == 200
            assert b'"model":"m"' in upstream.requests[-1].body


async def test_what_connection_takes_away_does_not_go_up_whatever_its_value(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway()
    client = await gateway.connect()
    for n in range(4):
        await client.send(
            b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nTraceparent: %d\r\n"
            b"X-Request-Id: id%d\r\nConnection: traceparent\r\n\r\n" % (client.credential.encode(), n, n)
        )
        assert (await client.read_answer()).status == 200

    for n, request in enumerate(upstream.requests):
        sent = {name.lower(): value for name, value in request.fields}
        assert sent["x-request-id"] == f"id{n}"
        assert "traceparent" not in sent
