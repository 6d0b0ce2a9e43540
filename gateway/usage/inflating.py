"""Content encodings undone piece by piece, by the libraries that know them, and never to more than any answer has."""

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import brotli
import zstandard

_INFLATED_BYTES = 64 * 1024
# Text shrinks to a tenth. What unpacks to so much more than was sent would keep everybody waiting.
_TEXT_TIMES = 10
_INFLATED_TIMES = 50
_INFLATED_FREELY_BYTES = 512 * 1024
_MOST_SAVED_BYTES = 4 * 2**20
"""Of what little came of earlier pieces, so much may come of one, for all of that is read in one turn: pictures come
again in later events, and shrink to nothing there."""

_MOST_CODINGS = 3
_ZSTD_WINDOW_BYTES = 8 * 2**20
"""RFC 9659: no receiver on the web needs more."""

Sink = Callable[[bytes], object]
"""Takes what has been unpacked, in pieces of about `_INFLATED_BYTES`."""


class Unreadable(Exception):
    """Not in that encoding, or a bomb."""


class Inflater:
    """Undoes the encodings of one answer: what it unpacks to goes to a sink."""

    def __init__(self, encodings: tuple[bytes, ...], sink: Sink) -> None:
        """`encodings` as they were applied."""
        self._room = _Room()
        self._streams: list[_Stream] = []
        for encoding in encodings:
            stream = _STREAMS[encoding](self._room.before(sink))
            self._streams.append(stream)
            sink = stream.feed
        self._feed = sink

    @property
    def has_ended(self) -> bool:
        """Whether all encodings are known to have come to their ends."""
        return all(stream.has_ended for stream in self._streams)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the answer. Raises Unreadable."""
        room, size = self._room, len(piece)
        room.left_bytes = min(
            room.left_bytes + size * _INFLATED_TIMES, _MOST_SAVED_BYTES + size * _TEXT_TIMES
        )
        try:
            self._feed(piece)
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise Unreadable from error


def unpacking(encodings: tuple[bytes, ...], sink: Sink) -> Sink:
    """What takes the pieces of an answer and tells `sink` what they are; once they cannot be read, nothing more."""
    return _Unpacking(encodings, sink).feed if encodings else sink


class _Unpacking:
    def __init__(self, encodings: tuple[bytes, ...], sink: Sink) -> None:
        self._inflater: Inflater | None = Inflater(encodings, sink)

    def feed(self, piece: bytes) -> None:
        if self._inflater is None:
            return
        try:
            self._inflater.feed(piece)
        except Unreadable:
            self._inflater = None


def knows(encodings: tuple[bytes, ...]) -> bool:
    """Whether answers that were encoded so can be read."""
    return len(encodings) <= _MOST_CODINGS and all(encoding in _STREAMS for encoding in encodings)


class _Room:
    """How much more an answer may unpack to, whatever its encodings."""

    def __init__(self) -> None:
        self.left_bytes = _INFLATED_FREELY_BYTES

    def before(self, sink: Sink) -> Sink:
        def bounded(inflated: bytes) -> None:
            self.left_bytes -= len(inflated)
            if self.left_bytes < 0:
                raise Unreadable
            sink(inflated)

        return bounded


class _Stream(Protocol):
    @property
    def has_ended(self) -> bool:
        """Whether it is known that nothing more has to come."""

    def feed(self, piece: bytes) -> None: ...


class _Gzip:
    """One member or several, as RFC 1952 allows."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._member = zlib.decompressobj(31)

    @property
    def has_ended(self) -> bool:
        return self._member.eof

    def feed(self, piece: bytes) -> None:
        while True:
            piece = _unpack(self._member, piece, self._sink)
            if not self._member.eof:
                return
            if not piece:
                return
            self._member = zlib.decompressobj(31)


class _Deflate:
    """With zlib's header, as the standard says, or without, as some servers send it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head = b""
        self._stream: Any = None

    @property
    def has_ended(self) -> bool:
        return self._stream is not None and bool(self._stream.eof)

    def feed(self, piece: bytes) -> None:
        if self._stream is None:
            self._head += piece
            if len(self._head) < 2:
                return
            piece = self._head
            has_header = piece[0] & 0x0F == 8 and int.from_bytes(piece[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(15 if has_header else -15)
        if not self._stream.eof:
            _unpack(self._stream, piece, self._sink)


class _Brotli:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._stream = brotli.Decompressor()

    @property
    def has_ended(self) -> bool:
        return bool(self._stream.is_finished())

    def feed(self, piece: bytes) -> None:
        stream = self._stream
        while not stream.is_finished():
            inflated = stream.process(piece, output_buffer_limit=_INFLATED_BYTES)
            if not inflated and stream.can_accept_more_data():
                return
            self._sink(inflated)
            piece = b""


class _Zstd:
    """One frame or several. What its library unpacks goes on at once, so that it can be stopped; it does not say where
    a frame ends."""

    has_ended = False

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._stream = unpacker.stream_writer(
            _Writing(sink),  # type: ignore[arg-type]  # no more is asked of it
            write_size=_INFLATED_BYTES,
        )

    def feed(self, piece: bytes) -> None:
        self._stream.write(piece)


class _Writing:
    """A sink as libraries know it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, inflated: bytes) -> int:
        self._sink(inflated)
        return len(inflated)


def _unpack(stream: Any, piece: bytes, sink: Sink) -> bytes:
    """Unpack a piece; return what follows the end of the stream in it."""
    while True:
        inflated = stream.decompress(piece, _INFLATED_BYTES)
        if inflated:
            sink(inflated)
        piece = stream.unconsumed_tail
        if stream.eof:
            tail: bytes = stream.unused_data
            return tail
        if not piece and len(inflated) < _INFLATED_BYTES:
            return b""


_STREAMS: dict[bytes, Callable[[Sink], _Stream]] = {
    b"gzip": _Gzip,
    b"x-gzip": _Gzip,
    b"deflate": _Deflate,
    b"br": _Brotli,
    b"zstd": _Zstd,
}

READABLE_CODINGS = frozenset({b"", b"identity", *_STREAMS})
"""What an answer may come in; an empty name is none."""
