"""Encoded answers unpacked piece by piece, to be read beside their way; a bomb is not."""

import zlib
from collections.abc import Iterator

_INFLATED_BYTES = 64 * 1024
# Text shrinks to a tenth. What unpacks to so much more than was sent would keep everybody waiting.
_INFLATED_TIMES = 50
_INFLATED_FREELY_BYTES = 2**20


class Inflater:
    """Undoes a content encoding piece by piece. Raises zlib.error for what is not in that encoding, or a bomb."""

    ENCODINGS = (b"gzip", b"x-gzip", b"deflate")

    def __init__(self, encoding: bytes) -> None:
        self._gzip = encoding != b"deflate"
        self._stream = zlib.decompressobj(31) if self._gzip else None
        self._head = b""
        self._room_bytes = _INFLATED_FREELY_BYTES

    def feed(self, piece: bytes) -> Iterator[bytes]:
        self._room_bytes += len(piece) * _INFLATED_TIMES
        if self._stream is None:
            # Some send `deflate` with a zlib header, as the standard says, some without.
            self._head += piece
            if len(self._head) < 2:
                return
            piece = self._head
            has_header = piece[0] & 0x0F == 8 and int.from_bytes(piece[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(15 if has_header else -15)
        stream = self._stream
        while True:
            inflated = stream.decompress(piece, _INFLATED_BYTES)
            self._room_bytes -= len(inflated)
            if self._room_bytes < 0:
                raise zlib.error("it unpacks to more than any answer would")
            if inflated:
                yield inflated
            piece = stream.unconsumed_tail
            if stream.eof:
                piece = stream.unused_data
                if not piece or not self._gzip:
                    return
                self._stream = stream = zlib.decompressobj(31)
            elif not piece and len(inflated) < _INFLATED_BYTES:
                return
