"""Messages are told apart as they stand on the wire, wherever they are cut."""

from __future__ import annotations

import pytest

from gateway.bench.messages import MessageReader

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nA\r\n, world!\r\n\r\n0\r\nx: y\r\n\r\n"
STATED = HEAD + b"CONTENT-LENGTH: 5\r\n\r\nhello"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + STATED
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "status", "body_bytes"),
    [(CHUNKED, 200, 15), (STATED, 200, 5), (EMPTY, 204, 0), (CONTINUED, 200, 5), (SWITCHED, 101, 0)],
)
def test_an_answer_ends_where_it_ends_however_it_is_cut(answer: bytes, status: int, body_bytes: int) -> None:
    for cut in range(1, len(answer)):
        reader = MessageReader(answers=True)
        assert reader.feed(answer[:cut]) is None
        assert reader.feed(answer[cut:] + b"next") == b"next"
        assert (reader.status, reader.body_bytes, reader.lasts) == (status, body_bytes, True)


def test_an_answer_that_comes_byte_by_byte_is_read() -> None:
    reader = MessageReader(answers=True)
    rests = [reader.feed(bytes((byte,))) for byte in CHUNKED]
    assert rests == [None] * (len(CHUNKED) - 1) + [b""]
    assert reader.body_bytes == 15


def test_an_answer_without_framing_lasts_until_its_connection_ends() -> None:
    reader = MessageReader(answers=True)
    assert reader.feed(HEAD + b"\r\nhello") is None
    assert reader.until_close
    assert not reader.lasts
    assert (reader.body_bytes, reader.kept) == (5, b"hello")


def test_a_request_is_kept_by_its_beginning_only() -> None:
    reader = MessageReader(answers=False)
    body = b"x" * 100_000
    request = b"POST /v1/files HTTP/1.1\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n"
    assert reader.feed(request) is None
    assert reader.feed(body) == b""
    assert reader.line == b"post /v1/files http/1.1"
    assert (reader.body_bytes, len(reader.kept), reader.lasts) == (100_000, 4096, False)


@pytest.mark.parametrize(
    "junk", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", HEAD + b"Content-Length: x\r\n\r\n"]
)
def test_what_is_no_answer_is_refused(junk: bytes) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        MessageReader(answers=True).feed(junk)
