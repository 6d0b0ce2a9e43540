"""Reading what came in a content coding, to look at it: gzip, deflate, br and zstd. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping

import brotli
import zstandard

_MOST_CODINGS = 3
_ZSTD_WINDOW_BYTES = 8 * 2**20
"""RFC 9659: no receiver on the web needs more."""


class _Unreadable(Exception):
    """Damaged, or longer than anybody wants to read."""


def codings(content_encodings: Iterable[bytes]) -> tuple[bytes, ...]:
    """The codings that the values of Content-Encoding name, in the order in which they were applied."""
    names = (name.strip().lower() for name in b",".join(content_encodings).split(b","))
    return tuple(name for name in names if name not in (b"", b"identity"))


def decoded(body: bytes, applied: tuple[bytes, ...], *, most_bytes: int) -> bytes | None:
    """What a body says; None for a coding that is not known here, for damage, and for what has more bytes than that.

    Takes time and memory for `most_bytes` at most, whatever the body would become.
    """
    if len(applied) > _MOST_CODINGS:
        return None
    for name in reversed(applied):
        decode = _DECODERS.get(name)
        if decode is None:
            return None
        try:
            body = decode(body, most_bytes)
        except (_Unreadable, zlib.error, brotli.error, zstandard.ZstdError):
            return None
        if len(body) > most_bytes:
            return None
    return body


def _gzip(body: bytes, most_bytes: int) -> bytes:
    """One member or several, as RFC 1952 allows."""
    members: list[bytes] = []
    room = most_bytes + 1
    while body:
        member = zlib.decompressobj(wbits=31)
        members.append(member.decompress(body, room))
        room -= len(members[-1])
        if not room:
            break  # longer than anybody wants to read
        if not member.eof:
            raise _Unreadable
        body = member.unused_data
    return b"".join(members)


def _deflate(body: bytes, most_bytes: int) -> bytes:
    """With zlib's wrapper, as the RFC has it, or without, as some servers do."""
    try:
        return zlib.decompressobj(wbits=15).decompress(body, most_bytes + 1)
    except zlib.error:
        return zlib.decompressobj(wbits=-15).decompress(body, most_bytes + 1)


def _brotli(body: bytes, most_bytes: int) -> bytes:
    text: bytes = brotli.Decompressor().process(body, output_buffer_limit=most_bytes + 1)
    return text


def _zstd(body: bytes, most_bytes: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    with decompressor.stream_reader(body, read_across_frames=True) as reader:
        return reader.read(most_bytes + 1)


_DECODERS: Mapping[bytes, Callable[[bytes, int], bytes]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"br": _brotli,
    b"zstd": _zstd,
}
