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
from enum import Enum, auto
from typing import Protocol

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
    """How much of the body has come so far."""

    taken_bytes: int
    """How much has come in all: the body, and what stood around it."""

    chunks: bytes | None
    """The body that the last `feed` returned, in whole chunks exactly as they came; None: frame it anew."""

    ended: bool
    """Whether the body has ended."""

    rest: bytes
    """What stood behind the end in the piece that brought it."""

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in `data`, which is not empty. Raises FramingBroken."""

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
        self.chunks: bytes | None = None
        self.ended = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        size = len(data)
        left = self._left - size
        if left < 0:
            data, self.rest = data[: self._left], data[self._left :]
            size, left = self._left, 0
        self._left = left
        self.body_bytes += size
        self.taken_bytes += size
        if not left:
            self.ended = True
        return data

    def feed_eof(self) -> None:
        if not self.ended:
            raise FramingBroken("less of the body came than its length says")


class _UntilClose:
    """A body that ends with its connection."""

    __slots__ = ("body_bytes", "chunks", "ended", "rest", "taken_bytes")

    def __init__(self) -> None:
        self.body_bytes = 0
        self.taken_bytes = 0
        self.chunks: bytes | None = None
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        self.body_bytes += len(data)
        self.taken_bytes += len(data)
        return data

    def feed_eof(self) -> None:
        self.ended = True


class _At(Enum):
    """Where in a chunked body the next byte stands."""

    BORDER = auto()
    """Between two chunks, or in front of the first."""

    SIZE = auto()
    PADDING = auto()
    EXTENSION = auto()
    """Behind a semicolon."""

    NAME = auto()
    VALUE = auto()
    QUOTED = auto()
    ESCAPED = auto()
    UNQUOTED = auto()
    SIZE_LF = auto()
    DATA = auto()
    DATA_CR = auto()
    DATA_LF = auto()
    TRAILER = auto()
    """In front of a trailer, or of the line that ends them."""

    FIELD = auto()
    FIELD_VALUE = auto()
    FIELD_LF = auto()
    LAST_LF = auto()
    END = auto()


# To name a member of an Enum takes as long as many a function.
_BORDER, _DATA, _DATA_CR = _At.BORDER, _At.DATA, _At.DATA_CR

_HEX = b"0123456789abcdefABCDEF"
_LETTERS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_QUOTABLE = bytes([9, 32, *range(0x21, 0x7F), *range(0x80, 0x100)])


def _each(of: bytes, at: _At) -> dict[int, _At]:
    return dict.fromkeys(of, at)


_GOES_ON = {
    _At.SIZE: re.compile(b"[0-9a-fA-F]*"),
    _At.PADDING: re.compile(b"[ \t]*"),
    _At.NAME: re.compile(b"[%b]*" % re.escape(_LETTERS)),
    _At.VALUE: re.compile(b"[%b]*" % re.escape(_LETTERS)),
    _At.QUOTED: re.compile(rb"[\t !#-\[\]-~\x80-\xff]*"),
    _At.FIELD: re.compile(b"[%b]*" % re.escape(_LETTERS)),
    _At.FIELD_VALUE: re.compile(rb"[\t -~\x80-\xff]*"),
}
"""What may stand at a place in any number."""

_THEN: dict[_At, dict[int, _At]] = {
    _At.SIZE: {ord("\r"): _At.SIZE_LF, ord(";"): _At.EXTENSION},
    _At.PADDING: {ord("\r"): _At.SIZE_LF, ord(";"): _At.EXTENSION},
    _At.EXTENSION: {ord(";"): _At.EXTENSION, ord("="): _At.VALUE, **_each(_LETTERS, _At.NAME)},
    _At.NAME: {ord("\r"): _At.SIZE_LF, ord(";"): _At.EXTENSION, ord("="): _At.VALUE},
    _At.VALUE: {ord("\r"): _At.SIZE_LF, ord(";"): _At.EXTENSION, ord('"'): _At.QUOTED},
    _At.QUOTED: {ord('"'): _At.UNQUOTED, ord("\\"): _At.ESCAPED},
    _At.ESCAPED: _each(_QUOTABLE, _At.QUOTED),
    _At.UNQUOTED: {ord("\r"): _At.SIZE_LF, ord(";"): _At.EXTENSION},
    _At.SIZE_LF: {ord("\n"): _At.DATA},
    _At.DATA_CR: {ord("\r"): _At.DATA_LF},
    _At.DATA_LF: {ord("\n"): _At.BORDER},
    _At.TRAILER: {ord("\r"): _At.LAST_LF, **_each(_LETTERS, _At.FIELD)},
    _At.FIELD: {ord(":"): _At.FIELD_VALUE},
    _At.FIELD_VALUE: {ord("\r"): _At.FIELD_LF},
    _At.FIELD_LF: {ord("\n"): _At.TRAILER},
    _At.LAST_LF: {ord("\n"): _At.END},
}
"""What else may stand at a place, and where that leads."""

_PADDED = {ord(" "): _At.PADDING, ord("\t"): _At.PADDING}

_LAST_CHUNK = b"0\r\n\r\n"
_plain_size = re.compile(b"([1-9a-fA-F][0-9a-fA-F]{0,15})\r\n").match

_CHANGES_THE_HEAD = frozenset({b"content-length", b"transfer-encoding", b"host"})
_LONGEST_OF_THEM = 17


class _Chunked:
    """A body in chunks."""

    __slots__ = (
        "_at",
        "_besides_bytes",
        "_field",
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
        self._at = _At.BORDER
        self._left = 0
        """How much of the chunk is to come; at its size what has been read of that."""

        self._besides_bytes = 0
        """How much of this chunk's size and extensions, or of the trailers, has come."""

        self._field = b""
        """The name of the trailer that is coming, as far as it matters."""

        self.body_bytes = 0
        self.taken_bytes = 0
        self.chunks: bytes | None = None
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        size = len(data)
        if self._at is _BORDER:
            plain = _plain_size(data)
            if plain is not None:
                begin = plain.end()
                end = begin + int(plain[1], 16)
                if size == end + 2 and data.endswith(b"\r\n"):
                    self.taken_bytes += size
                    self.body_bytes += end - begin
                    self.chunks = data
                    return data[begin:end]
        elif self._left > size and self._at is _DATA:
            self._left -= size
            self.taken_bytes += size
            self.body_bytes += size
            self.chunks = None
            return data
        return self._cut(data, size)

    def feed_eof(self) -> None:
        if not self.ended:
            raise FramingBroken("the body ended before its last chunk")

    def _cut(self, data: bytes, size: int) -> bytes:
        """As `feed`, for a piece that is not one whole chunk, nor a part of one."""
        body: list[bytes] = []
        whole_to = self._whole_chunks(data, 0, body) if self._at is _BORDER else 0
        whole = len(body)
        at = self._begin_plain(data, whole_to)
        try:
            while at < size and not self.ended:
                place = self._at
                if place is _DATA:
                    piece = data[at : at + self._left]
                    body.append(piece)
                    at += len(piece)
                    self._left -= len(piece)
                    if not self._left:
                        self._at = _DATA_CR
                elif place is _DATA_CR and data.startswith(b"\r\n", at):
                    self._at = _BORDER
                    at = self._begin_plain(data, self._whole_chunks(data, at + 2, body))
                else:
                    at = self._step(data, at)
        except FramingBroken as broken:
            broken.passed = b"".join(body)
            raise
        self.rest = data[at:]
        self.chunks = data[:whole_to] if whole and whole == len(body) else None
        passed = body[0] if len(body) == 1 else b"".join(body)
        self.taken_bytes += at
        self.body_bytes += len(passed)
        return passed

    def _whole_chunks(self, data: bytes, at: int, body: list[bytes]) -> int:
        """Take the whole plain chunks that stand at a border; returns where they end."""
        while (plain := _plain_size(data, at)) is not None:
            begin = plain.end()
            end = begin + int(plain[1], 16)
            if data[end : end + 2] != b"\r\n":
                break
            body.append(data[begin:end])
            at = end + 2
        return at

    def _begin_plain(self, data: bytes, at: int) -> int:
        """Take the plain size of a chunk of which more is to come, if one stands at this border; returns how far."""
        plain = _plain_size(data, at) if self._at is _BORDER else None
        if plain is None:
            return at
        self._left = int(plain[1], 16)
        self._at = _DATA
        return plain.end()

    def _step(self, data: bytes, at: int) -> int:
        """Read on in the framing; returns how far. Raises FramingBroken."""
        place = self._at
        if place is _BORDER:
            if data.startswith(_LAST_CHUNK, at):
                self.ended = True
                self._at = _At.END
                return at + len(_LAST_CHUNK)
            if data[at] not in _HEX:
                raise FramingBroken("a chunk begins without its size")
            self._left = self._besides_bytes = 0
            self._at = place = _At.SIZE
        begin, size = at, len(data)
        goes_on = _GOES_ON.get(place)
        if goes_on is not None:
            at = goes_on.match(data, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if place is _At.SIZE and at > begin:
                self._left = self._left << 4 * (at - begin) | int(data[begin:at], 16)
                if self._left > _MOST_SIZE:
                    raise FramingBroken("a chunk's size has more than 64 bits")
            elif place is _At.FIELD:
                self._field = (self._field + data[begin:at])[: _LONGEST_OF_THEM + 1]
        if at < size:
            self._go_on(place, data[at : at + 1])
            at += 1
        self._besides_bytes += at - begin
        if self._besides_bytes > (_MOST_TRAILERS_BYTES if self._at_trailers else _MOST_EXTENSIONS_BYTES):
            raise FramingBroken("there is more around the body than anybody reads")
        return at

    @property
    def _at_trailers(self) -> bool:
        return self._at in (_At.TRAILER, _At.FIELD, _At.FIELD_VALUE, _At.FIELD_LF, _At.LAST_LF)

    def _go_on(self, place: _At, letter: bytes) -> None:
        then = _THEN[place].get(letter[0])
        if then is None and self._padded_sizes and place is _At.SIZE:
            then = _PADDED.get(letter[0])
        if then is None:
            raise FramingBroken(f"unexpected byte in a chunked body, at {place.name.lower()}")
        if then is _At.DATA and not self._left:
            self._besides_bytes = 0
            then = _At.TRAILER
        elif then is _At.FIELD:
            self._field = letter
        elif then is _At.FIELD_VALUE and self._field.lower() in _CHANGES_THE_HEAD:
            raise FramingBroken("a trailer would change what the head has said")
        elif then is _At.END:
            self.ended = True
        self._at = then
