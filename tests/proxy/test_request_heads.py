"""A head that has been read before is not read again: its bytes say the same, but for the length of the body."""

from __future__ import annotations

import tracemalloc

import pytest

from gateway.errors import BadRequest
from gateway.proxy import request_heads
from tests.conftest import StartGateway
from tests.kit.client import CHAT
from tests.kit.upstream import ScriptedUpstream

HEADS = request_heads.RequestHeads()
FIELDS = b"Host: a\r\nX-One: 1\r\n%b: %b\r\nX-Two: 2\r\n\r\n"


def head_of(length: bytes, *, name: bytes = b"Content-Length", method: bytes = b"POST") -> bytes:
    return method + b" /v1/x HTTP/1.1\r\n" + FIELDS % (name, length)


def known_of(head: bytes) -> request_heads.AskedHead:
    """What a head says that has come before."""
    HEADS.whole(head)
    return HEADS.whole(head)


def test_the_same_head_is_read_once_whatever_the_length_of_its_body() -> None:
    first, stated = known_of(head_of(b"5"))
    again, more = HEADS.whole(head_of(b"70000"))

    assert again is first
    assert (stated, more) == (5, 70000)
    assert first.fields(5) == ((b"Host", b"a"), (b"X-One", b"1"), (b"Content-Length", b"5"), (b"X-Two", b"2"))
    assert dict(first.fields(70000))[b"Content-Length"] == b"70000"


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
    known, _ = known_of(head_of(b"5"))
    another, stated = known_of(other)

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
    known, _ = known_of(head_of(b"5"))
    for n in range(3 * request_heads.MOST_KEPT):
        once, _ = HEADS.whole(head_of(b"5").replace(b"X-One: 1", b"X-One: %d" % (n + 10)))
        assert not once.is_kept

    assert HEADS.whole(head_of(b"5"))[0] is known


def test_what_has_come_is_known_within_bounds() -> None:
    several = request_heads.RequestHeads()
    for n in range(5 * request_heads.MOST_SEEN):
        several.whole(head_of(b"5").replace(b"X-One: 1", b"X-One: %d" % n))

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
    """On one connection: other lengths, another field, another order, another spelling, and the first again."""
    gateway = await start_gateway()
    client = await gateway.connect()
    asked = [
        (b"Content-Type: application/json\r\nX-A: 1\r\nContent-Length: %d\r\n", b'{"model":"m"}'),
        (b"Content-Type: application/json\r\nX-A: 1\r\nContent-Length: %d\r\n", b'{"model":"m","n":1}'),
        (b"Content-Type: application/json\r\nX-A: 2\r\nContent-Length: %d\r\n", b'{"model":"m"}'),
        (b"Content-Length: %d\r\nX-A: 1\r\nContent-Type: application/json\r\n", b'{"model":"m"}'),
        (b"content-length: %d\r\nX-A: 1\r\nContent-Type: application/json\r\n", b'{"model":"m","n":10}'),
        (b"Content-Type: application/json\r\nX-A: 1\r\nContent-Length: %d\r\n", b'{"model":"m"}'),
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
