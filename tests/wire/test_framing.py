"""Bodies are read as aiohttp's C parser reads them, and strictly, wherever their pieces are cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParserC, HttpResponseParserC
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.framing import Decoder, FramingBroken, decoder_for, is_next_to_nothing_but_framing
from gateway.wire.search import Piece
from tests.promises.malformed_corpus import ACCEPTED, FAMILIES

BODIES = [
    data.partition(b"\r\n\r\n")[2]
    for data in (
        *(case.data for case in itertools.chain(*FAMILIES.values())),
        *(case.data for case in ACCEPTED),
    )
    if b"\r\nTransfer-Encoding: chunked\r\n" in data and len(data) < 4000
]
ODD = [
    *(b"5;;a\r\nhello\r\n0\r\n\r\n", b'5;a=b"c"\r\nhello\r\n0\r\n\r\n', b"5;a=\r\nhello\r\n0\r\n\r\n"),
    *(
        b'5;a="\xff\\""\r\nhello\r\n0;b\r\n\r\n',
        b"5;\r\nhello\r\n",
        b'5;a="b" \r\nhello\r\n',
        b"5;a \r\nhello\r\n",
    ),
    *(
        b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nA: b\r\nC:d\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
    ),
    *(
        b"5\r\nhello\r\n00000000000000000000005\r\nworld\r\n",
        b"ffffffffffffffff\r\nhello",
        b"10000000000000000\r\n",
    ),
    *(b"5\r\nhello\r\n0\r\n:b\r\n\r\n", b"0\r\nA:\r\n\r\n", b"0\r\n\rX", b"5\r\nhello\r0", b"5\r\nhelloX"),
]
FRAGMENTS = [
    *(
        b"5\r\nhello\r\n",
        b"a\r\n0123456789\r\n",
        b"1\r\nx\r\n",
        b"000005\r\n",
        b'F;a="b"\r\n',
        b"hello",
        b"0x",
    ),
    *(b"0\r\n\r\n", b"0\r\n", b"\r\n", b"\r", b"\n", b" ", b"\t", b";", b"a", b"=", b'"', b"\\", b"5", b"0"),
    *(b"_", b"+", b"-", b":", b"A: b\r\n", b"A:", b"content-length: 1\r\n", b"Transfer-Encoding:"),
    *(b"\x00", b"\x7f", b"\xff"),
]


class Outcome(NamedTuple):
    """What a reader made of a body."""

    body: bytes
    ended: bool
    broken: bool


def ours(pieces: Iterable[bytes], *, answer: bool = False) -> Outcome:
    """What we make of it, whether its pieces are bytes or lie in a buffer."""
    pieces = list(pieces)
    outcome = read(pieces, answer=answer)
    assert read([memoryview(bytearray(piece)) for piece in pieces], answer=answer) == outcome
    return outcome


def read(pieces: Iterable[Piece], *, answer: bool) -> Outcome:
    decoder = decoder_for(None, True, padded_sizes=answer)
    body = b""
    for piece in pieces:
        if decoder.ended:
            break
        try:
            come = decoder.feed(piece)
        except FramingBroken as broken:
            return Outcome(body + broken.passed, False, True)
        if decoder.chunks is not None:
            assert decoder_for(None, True).feed(decoder.chunks) == come
        body += come
        assert decoder.body_bytes == len(body)
    return Outcome(body, decoder.ended, False)


class _Unpaused(BaseProtocol):
    def pause_reading(self) -> None:
        """Nothing: there is no transport."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Nothing."""


def aiohttps(pieces: Iterable[bytes], loop: asyncio.AbstractEventLoop, *, answer: bool = False) -> Outcome:
    kind: Any = HttpResponseParserC if answer else HttpRequestParserC
    parser = kind(_Unpaused(loop), loop, 2**30, auto_decompress=False)
    start = b"HTTP/1.1 200 OK\r\n" if answer else b"POST / HTTP/1.1\r\nHost: a\r\n"
    ((_, payload),), _, _ = parser.feed_data(start + b"Transfer-Encoding: chunked\r\n\r\n")
    broken = False
    for piece in pieces:
        if payload.is_eof():
            break
        try:
            parser.feed_data(piece)
        except HttpProcessingError:
            broken = not payload.is_eof()  # else it is the next message that is
            break
    ended = payload.is_eof()
    return Outcome(payload.read_nowait(-1), ended, broken)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(at % (len(data) + 1) for at in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def every_split(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


@pytest.mark.parametrize("body", [*BODIES, *ODD], ids=lambda body: repr(body)[2:40])
def test_every_split_of_a_request_body_is_read_as_aiohttp_reads_it(
    body: bytes, loop: asyncio.AbstractEventLoop
) -> None:
    expected = aiohttps([body], loop)

    outcomes = {ours(pieces) for pieces in every_split(body)}

    assert outcomes == {expected}


@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=9).map(b"".join), st.lists(st.integers(1)))
@settings(max_examples=1500)
def test_random_request_bodies_are_read_as_aiohttp_reads_them(
    loop: asyncio.AbstractEventLoop, body: bytes, cuts: list[int]
) -> None:
    mine, theirs = ours(cut(body, cuts)), aiohttps([body], loop)

    if mine.broken and not theirs.broken:
        assert b"Transfer-Encoding:" in body, "known by its name already"
        assert mine.body == theirs.body
    else:
        assert mine == theirs


@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=9).map(b"".join), st.lists(st.integers(1)))
@settings(max_examples=1500)
def test_random_answers_are_never_read_where_aiohttp_reads_something_else(
    loop: asyncio.AbstractEventLoop, body: bytes, cuts: list[int]
) -> None:
    """In answers aiohttp takes a bare LF behind data and in trailers, and any byte in these: we do not."""
    mine, theirs = ours(cut(body, cuts), answer=True), aiohttps([body], loop, answer=True)

    if mine.broken:
        assert theirs.body.startswith(mine.body)
        assert ours([body]).broken, "it is not read in requests either"
    else:
        assert mine == theirs


@pytest.mark.parametrize("padding", [b" ", b"   ", b" \t"])
def test_blanks_behind_a_size_are_read_in_answers_alone(padding: bytes) -> None:
    body = b"5%b\r\nhello\r\n0%b\r\n\r\n" % (padding, padding)

    assert {ours(pieces, answer=True) for pieces in every_split(body)} == {Outcome(b"hello", True, False)}
    assert ours([body]) == Outcome(b"", False, True)


def fed(*pieces: Piece) -> tuple[Decoder, list[tuple[Piece, Piece | None]]]:
    decoder = decoder_for(None, True)
    return decoder, [(decoder.feed(piece), decoder.chunks) for piece in pieces]


def test_whole_plain_chunks_may_pass_as_they_came() -> None:
    one, two = b"5\r\nhello\r\n", b"5\r\nhello\r\n6\r\n world\r\n"

    _, came = fed(one, two, two + b"0\r\n\r\n")

    assert came == [(b"hello", one), (b"hello world", two), (b"hello world", two)]
    assert came[0][1] is one
    assert came[1][1] is two


@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, 65535, 65536])
@pytest.mark.parametrize("come", [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("filling", [b"a", b"\r\n"])
def test_a_piece_says_the_same_whole_and_byte_by_byte(size: int, come: int, filling: bytes) -> None:
    piece = b"%x\r\n%b\r\n" % (size, (filling * size)[: max(0, size + come)])

    def read(pieces: Iterable[bytes]) -> tuple[bytes, bool]:
        decoder, body = decoder_for(None, True), b""
        try:
            for some in pieces:
                body += decoder.feed(some)
        except FramingBroken as broken:
            return body + broken.passed, True
        return body, False

    assert read([piece]) == read(piece[at : at + 1] for at in range(len(piece)))


@pytest.mark.parametrize(
    "odd",
    [
        b"5;a=b\r\nhello\r\n",
        b"05\r\nhello\r\n",
        b"5\r\nhell",
        b"5\r\nhello\r\n5\r\nwo",
        b"5\r\nhello\r\n1;a\r\nx\r\n",
    ],
)
def test_what_needs_other_framing_is_not_offered_as_it_came(odd: bytes) -> None:
    _, came = fed(odd)

    assert came[0][1] is None


def followed(pieces: Iterable[bytes]) -> tuple[bytes, Outcome]:
    """What a client gets that has as much as may pass as it came, and the rest framed anew; and what that was."""
    decoder = decoder_for(None, True)
    sent = body = b""
    for piece in pieces:
        if decoder.ended:
            break
        before = decoder.body_bytes
        at = decoder.follow(piece)
        sent += piece[:at]
        assert at == 0 or decoder.body_bytes - before <= at
        if at < len(piece):
            try:
                come = bytes(decoder.feed(piece[at:]))
            except FramingBroken as broken:
                come = broken.passed
                sent += b"%x\r\n%b\r\n" % (len(come), come) if come else b""
                return sent, Outcome(body, False, True)
            sent += b"%x\r\n%b\r\n" % (len(come), come) if come else b""
    if decoder.ended:
        sent += b"0\r\n\r\n"
    return sent, Outcome(b"", decoder.ended, False)


@pytest.mark.parametrize("body", [*BODIES, *ODD], ids=lambda body: repr(body)[2:40])
def test_what_passes_as_it_came_reads_the_same(body: bytes) -> None:
    plain = b"5\r\nhello\r\n"
    for stream in (body, plain + body, plain + body.replace(b"0\r\n\r\n", plain + b"0\r\n\r\n")):
        read = ours([stream])
        for pieces in every_split(stream):
            sent, outcome = followed(pieces)
            assert (outcome.ended, outcome.broken) == (read.ended, read.broken)
            assert ours([sent])[:2] == read[:2]


def test_a_chunk_that_is_cut_passes_as_it_comes() -> None:
    decoder = decoder_for(None, True)

    assert [
        decoder.follow(piece) for piece in (b"5\r\nhe", b"ll", b"o", b"\r", b"\n5\r\nworld\r\n0\r\n\r\n")
    ] == [
        *(5, 2, 1, 1, 11),
    ]
    assert (decoder.body_bytes, decoder.ended) == (10, False)
    assert decoder.feed(b"0\r\n\r\n") == b""
    assert decoder.ended


def test_a_chunk_that_has_begun_in_other_framing_does_not_go_on_as_it_comes() -> None:
    decoder = decoder_for(None, True)

    assert decoder.follow(b"5;a\r\nhe") == 0
    assert decoder.feed(b"5;a\r\nhe") == b"he"
    assert decoder.follow(b"llo\r\n5\r\nwo") == 0
    assert decoder.amid_bytes == 5
    assert decoder.feed(b"llo\r\n5\r\nwo") == b"llowo"
    assert decoder.amid_bytes == 5
    assert decoder.feed(b"rld\r\n") == b"rld"
    assert decoder.amid_bytes == 0
    assert decoder.follow(b"5\r\nagain") == 8


def test_what_stands_behind_the_end_is_kept_apart() -> None:
    for decoder, whole in (
        (decoder_for(None, True), b"5\r\nhello\r\n0\r\n\r\n"),
        (decoder_for(5, False), b"hello"),
    ):
        assert decoder.feed(whole + b"GET") == b"hello"
        assert decoder.ended
        assert decoder.rest == b"GET"
        assert (decoder.body_bytes, decoder.taken_bytes) == (5, len(whole))


def test_bytes_of_a_stated_length_pass_as_they_are() -> None:
    decoder, piece = decoder_for(10, False), b"hello"

    assert decoder.feed(piece) is piece
    assert not decoder.ended
    with pytest.raises(FramingBroken):
        decoder.feed_eof()
    assert decoder.feed(piece) is piece
    assert decoder.ended


def test_nothing_is_waited_for_where_there_is_no_body() -> None:
    assert decoder_for(0, False).ended


def test_a_body_may_end_with_its_connection() -> None:
    decoder = decoder_for(None, False)
    decoder.feed(b"hello")

    decoder.feed_eof()

    assert decoder.ended


@pytest.mark.parametrize("come", [b"", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b"5\r\nhel"])
def test_chunks_without_a_last_one_are_broken_off(come: bytes) -> None:
    decoder = decoder_for(None, True)
    if come:
        decoder.feed(come)

    with pytest.raises(FramingBroken):
        decoder.feed_eof()


def _without_end(start: bytes, more: bytes) -> int:
    decoder, bytes_taken = decoder_for(None, True), 0
    decoder.feed(start)
    while True:
        try:
            decoder.feed(more)
        except FramingBroken:
            return bytes_taken
        bytes_taken += len(more)
        assert bytes_taken < 10**6


def test_extensions_and_trailers_are_bounded() -> None:
    assert _without_end(b"5;a=", b"b" * 1000) <= 128 * 1024
    assert _without_end(b"", b"0" * 1000) <= 128 * 1024
    assert _without_end(b"0\r\n", b"A: %b\r\n" % (b"b" * 100)) <= 8 * 1024
    assert _without_end(b"0\r\nA: ", b"b" * 100) <= 8 * 1024


def test_a_body_that_is_next_to_nothing_but_framing_can_be_told() -> None:
    wordy, usual = decoder_for(None, True), decoder_for(None, True)

    for _ in range(1000):
        wordy.feed(b"1;a=%b\r\nx\r\n" % (b"b" * 200))
    for _ in range(20_000):
        usual.feed(b"1\r\nx\r\n")

    assert is_next_to_nothing_but_framing(wordy)
    assert not is_next_to_nothing_but_framing(usual)


def test_many_chunks_pass_as_they_came_however_large_the_one_behind_them_says_that_it_is() -> None:
    decoder = decoder_for(None, True)
    size = 2**64 - 1

    at = decoder.follow(b"3\r\none\r\n3\r\ntwo\r\n%x\r\nthree" % size)

    assert at == len(b"3\r\none\r\n3\r\ntwo\r\n") + 18 + len(b"three")
    assert decoder.body_bytes == len(b"onetwothree")
    assert decoder.follow(b"more") == 4
    with pytest.raises(FramingBroken):
        decoder.feed_eof()
