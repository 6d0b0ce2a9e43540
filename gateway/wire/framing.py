"""Where a body ends, and what of it is framing: read as it streams by, whatever pieces it comes in.

There is a body of stated length, one in chunks, and one that ends with its connection. What comes around chunks,
their extensions and the trailers behind the last one, is bounded and dropped; who sends the body on frames it anew,
unless a piece is nothing but whole chunks: `chunks` may then pass as it came.

What one reader would take for a chunk and another for something else breaks the framing: sizes are digits alone and
at most 64 bits, lines end in CRLF, nothing is folded, and no trailer can change what the head has said. The one odd
spelling that is read is blanks behind a size, in answers: old servers write their sizes to a fixed width.

Source: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import re
from typing import Protocol

from gateway.wire.chunk_grammar import (
    BORDER,
    DATA,
    DATA_CR,
    DATA_LF,
    END,
    FIELD,
    FIELD_VALUE,
    GOES_ON,
    HEX,
    IN_STEP,
    IN_TRAILERS,
    PADDED,
    SIZE,
    THEN,
    TRAILER,
)
from gateway.wire.search import Piece
from gateway.wire.whole_chunks import WHOLE, begin_of_whole, whole_chunk

_MOST_SIZE = 2**64 - 1
_MOST_EXTENSIONS_BYTES = 128 * 1024
"""Of one chunk: a signature has a hundred."""

_MOST_TRAILERS_BYTES = 8 * 1024
"""Of all trailers: a few fields, each of which a gateway may drop."""

_FREE_BYTES = 64 * 1024
_PER_BYTE = 32
"""A chunk of one byte has six around it, a signed one of 64 KiB a hundred."""


class FramingBroken(Exception):
    """What came is not a body of the framing that was announced; `passed` is what was good in front of that."""

    def __init__(self, reason: str, passed: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.passed = passed


class Decoder(Protocol):
    """Finds the body in what comes behind a head, and its end."""

    body_bytes: int
    """How much of the body has been fed so far."""

    taken_bytes: int
    """How much has been fed in all: the body, and what stood around it."""

    chunks: Piece | None
    """The body that the last `feed` returned, in whole chunks exactly as they came; None: frame it anew."""

    ended: bool
    """Whether the body has ended."""

    rest: bytes
    """What stood behind the end in the piece that brought it."""

    @property
    def between_chunks(self) -> bool:
        """Whether what comes next begins a chunk: what `whole_chunk` finds then need not be fed, nor is it counted."""

    @property
    def amid_bytes(self) -> int:
        """How much is to come of a chunk that has begun and cannot be followed; 0 where nothing is, or nobody knows."""

    def feed(self, data: Piece) -> Piece:
        """The bytes of the body in `data`, which is not empty. Raises FramingBroken."""

    def follow(self, data: Piece) -> int:
        """How much of `data`, from its beginning, may pass as it came, to whoever has had all of its chunk so.

        It ends wherever the piece does. What is left of it has to be fed.
        """

    def feed_eof(self) -> None:
        """The connection has ended. Raises FramingBroken where the body has not, and does not with it."""


def decoder_for(length: int | None, chunked: bool, *, padded_sizes: bool = False) -> Decoder:
    """The decoder of a body that is chunked, has `length` bytes, or ends with its connection where it has neither.

    `padded_sizes`: whether blanks may stand behind the size of a chunk.
    """
    if chunked:
        return _Chunked(padded_sizes)
    return _UntilClose() if length is None else _Stated(length)


def is_next_to_nothing_but_framing(body: Decoder) -> bool:
    """Tells a body that is all but lost in its framing: always on its way, it would outlast every deadline."""
    return body.taken_bytes > _FREE_BYTES + _PER_BYTE * body.body_bytes


class _Stated:
    """A body of so many bytes."""

    __slots__ = ("_left", "body_bytes", "chunks", "ended", "rest", "taken_bytes")

    def __init__(self, length: int) -> None:
        self._left = length
        self.body_bytes = 0
        self.taken_bytes = 0
        self.chunks: Piece | None = None
        self.ended = length == 0
        self.rest = b""

    @property
    def between_chunks(self) -> bool:
        return False

    @property
    def amid_bytes(self) -> int:
        return 0

    def feed(self, data: Piece) -> Piece:
        size = len(data)
        left = self._left - size
        if left < 0:
            data, self.rest = data[: self._left], bytes(data[self._left :])
            size, left = self._left, 0
        self._left = left
        self.body_bytes += size
        self.taken_bytes += size
        if not left:
            self.ended = True
        return data

    def follow(self, data: Piece) -> int:  # noqa: ARG002
        return 0

    def feed_eof(self) -> None:
        if not self.ended:
            raise FramingBroken("less of the body came than its length says")


class _UntilClose:
    """A body that ends with its connection."""

    __slots__ = ("body_bytes", "chunks", "ended", "rest", "taken_bytes")

    def __init__(self) -> None:
        self.body_bytes = 0
        self.taken_bytes = 0
        self.chunks: Piece | None = None
        self.ended = False
        self.rest = b""

    @property
    def between_chunks(self) -> bool:
        return False

    @property
    def amid_bytes(self) -> int:
        return 0

    def feed(self, data: Piece) -> Piece:
        self.body_bytes += len(data)
        self.taken_bytes += len(data)
        return data

    def follow(self, data: Piece) -> int:  # noqa: ARG002
        return 0

    def feed_eof(self) -> None:
        self.ended = True


_LF = ord("\n")
_LAST_CHUNK = b"0\r\n\r\n"
_plain_size = re.compile(b"([1-9a-fA-F][0-9a-fA-F]{0,15})\r\n").match
_next_chunk = re.compile(b"\r\n([1-9a-fA-F][0-9a-fA-F]{0,15})\r\n").match
"""The end of a chunk, and the size of the one behind it."""


_CHANGES_THE_HEAD = frozenset({b"content-length", b"transfer-encoding", b"host"})
_LONGEST_OF_THEM = 17


class _Chunked:
    """A body in chunks."""

    __slots__ = (
        "_at",
        "_besides_bytes",
        "_field",
        "_in_step",
        "_left",
        "_padded_sizes",
        "body_bytes",
        "chunks",
        "ended",
        "rest",
        "taken_bytes",
    )

    def __init__(self, padded_sizes: bool) -> None:
        self._padded_sizes = padded_sizes
        self._at = BORDER
        self._left = 0
        """How much of the chunk is to come; at its size what has been read of that."""

        self._besides_bytes = 0
        """How much of this chunk's size and extensions, or of the trailers, has come."""

        self._in_step = True
        """Whether of the chunk that is coming everything has passed as it came."""

        self._field = b""
        """The name of the trailer that is coming, as far as it matters."""

        self.body_bytes = 0
        self.taken_bytes = 0
        self.chunks: Piece | None = None
        self.ended = False
        self.rest = b""

    @property
    def between_chunks(self) -> bool:
        return self._at == BORDER

    @property
    def amid_bytes(self) -> int:
        if self._in_step or self._at not in (DATA, DATA_CR):
            return 0
        return self._left + len(b"\r\n")

    def feed(self, data: Piece) -> Piece:
        size = len(data)
        if self._at == BORDER:
            data = bytes(data)
            begin = WHOLE.get(size) or begin_of_whole(size)
            body = data.removeprefix(begin).removesuffix(b"\r\n")
            body_bytes = len(body)
            if len(begin) + body_bytes + 2 == size:
                # The usual piece: one whole chunk.
                self.taken_bytes += size
                self.body_bytes += body_bytes
                self.chunks = data
                return body
            if data.endswith(_LAST_CHUNK) and (body := whole_chunk(chunk := data[: -len(_LAST_CHUNK)])):
                # The usual end: one whole chunk, and the last one.
                self.taken_bytes += size
                self.body_bytes += len(body)
                self.chunks = chunk
                self.ended = True
                self._at = END
                self._in_step = False
                return body
        elif self._left > size and self._at == DATA:
            self._left -= size
            self.taken_bytes += size
            self.body_bytes += size
            self.chunks = None
            self._in_step = False
            return data
        return self._cut(bytes(data), size)

    def follow(self, data: Piece) -> int:
        place, left = self._at, self._left
        if not self._in_step or place not in IN_STEP:
            return 0
        at, size, body_bytes = 0, len(data), 0
        while at < size:
            if place == DATA:
                while at + left < size and (then := _next_chunk(data, at + left)) is not None:
                    body_bytes += left
                    at, left = then.end(), int(then[1], 16)
                some = min(left, size - at)
                at += some
                left -= some
                body_bytes += some
                if not left:
                    place = DATA_CR
            elif place == BORDER:
                plain = _plain_size(data, at)
                if plain is None:
                    break
                at, left, place = plain.end(), int(plain[1], 16), DATA
            elif place == DATA_CR and data[at : at + 2] == b"\r\n":
                at, place = at + 2, BORDER
            elif place == DATA_CR and data[at:] == b"\r":
                at, place = size, DATA_LF
            elif place == DATA_LF and data[at] == _LF:
                at, place = at + 1, BORDER
            else:
                break  # `feed` says what is wrong
        self._at, self._left = place, left
        self.taken_bytes += at
        self.body_bytes += body_bytes
        return at

    def feed_eof(self) -> None:
        if not self.ended:
            raise FramingBroken("the body ended before its last chunk")

    def _cut(self, data: bytes, size: int) -> bytes:
        """As `feed`, for a piece that is not one whole chunk, nor a part of one."""
        body: list[bytes] = []
        at = whole = whole_to = 0
        is_plain = self._at == BORDER
        try:
            while at < size and not self.ended:
                if self._at == DATA:
                    piece = data[at : at + self._left]
                    body.append(piece)
                    at += len(piece)
                    self._left -= len(piece)
                    if self._left:
                        continue
                    if data[at : at + 2] != b"\r\n":
                        self._at = DATA_CR
                        continue
                    at, self._at = at + 2, BORDER
                    if is_plain:
                        whole, whole_to = len(body), at
                elif self._at == BORDER and (plain := _plain_size(data, at)) is not None:
                    at, self._left, self._at = plain.end(), int(plain[1], 16), DATA
                else:
                    is_plain = False
                    at = self._step(data, at)
        except FramingBroken as broken:
            broken.passed = b"".join(body)
            raise
        self.rest = data[at:]
        self.chunks = data[:whole_to] if whole and whole == len(body) else None
        self._in_step = self._at == BORDER
        passed = body[0] if len(body) == 1 else b"".join(body)
        self.taken_bytes += at
        self.body_bytes += len(passed)
        return passed

    def _step(self, data: bytes, at: int) -> int:
        """Read on in the framing; returns how far. Raises FramingBroken."""
        place = self._at
        if place == BORDER:
            if data.startswith(_LAST_CHUNK, at):
                self.ended = True
                self._at = END
                return at + len(_LAST_CHUNK)
            if data[at] not in HEX:
                raise FramingBroken("a chunk begins without its size")
            self._left = self._besides_bytes = 0
            self._at = place = SIZE
        begin, size = at, len(data)
        goes_on = GOES_ON.get(place)
        if goes_on is not None:
            at = goes_on.match(data, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if place == SIZE and at > begin:
                self._left = self._left << 4 * (at - begin) | int(data[begin:at], 16)
                if self._left > _MOST_SIZE:
                    raise FramingBroken("a chunk's size has more than 64 bits")
            elif place == FIELD:
                self._field = (self._field + data[begin:at])[: _LONGEST_OF_THEM + 1]
        if at < size:
            self._go_on(place, data[at : at + 1])
            at += 1
        self._besides_bytes += at - begin
        if self._besides_bytes > (
            _MOST_TRAILERS_BYTES if self._at in IN_TRAILERS else _MOST_EXTENSIONS_BYTES
        ):
            raise FramingBroken("there is more around the body than anybody reads")
        return at

    def _go_on(self, place: int, letter: bytes) -> None:
        then = THEN[place].get(letter[0])
        if then is None and self._padded_sizes and place == SIZE:
            then = PADDED.get(letter[0])
        if then is None:
            raise FramingBroken(f"unexpected byte in a chunked body, at place {place}")
        if then == DATA and not self._left:
            self._besides_bytes = 0
            then = TRAILER
        elif then == FIELD:
            self._field = letter
        elif then == FIELD_VALUE and self._field.lower() in _CHANGES_THE_HEAD:
            raise FramingBroken("a trailer would change what the head has said")
        elif then == END:
            self.ended = True
        self._at = then
