"""The usual piece of a body in chunks: exactly one, or several that are whole, short, and spelt as most do."""

from __future__ import annotations

import re

WHOLE: dict[int, bytes] = {}
"""What a piece of so many bytes begins with that is one whole chunk."""

_MOST_BYTES = 2048
_size = re.compile(b"([1-9a-f][0-9a-f]{0,2})\r\n").match


def begin_of_whole(size: int) -> bytes:
    """What a piece of so many bytes begins with that is one whole chunk; for short ones it is noted."""
    begin = b"%x\r\n" % max(1, size - len(b"%x\r\n\r\n" % size))
    if len(begin) + int(begin, 16) + 2 != size:
        begin = b"%x\r\n" % (int(begin, 16) + 1)  # its size has a digit less
        if len(begin) + int(begin, 16) + 2 != size:
            begin = bytes(size + 1)  # no chunk is so long, and no piece begins with more than it has
    if size <= _MOST_BYTES:
        WHOLE[size] = begin
    return begin


def whole_chunk(data: bytes) -> bytes:
    """The body of a short piece that is exactly one chunk; empty for any other."""
    size = len(data)
    if size > _MOST_BYTES:
        return b""
    begin = WHOLE.get(size) or begin_of_whole(size)
    body = data.removeprefix(begin).removesuffix(b"\r\n")
    return body if len(begin) + len(body) + 2 == size else b""


def chunk_at(data: bytes, at: int) -> bytes:
    """The body of the short chunk that begins there; empty where there is none, or not the whole of it."""
    size = _size(data, at)
    if size is None:
        return b""
    begin = size.end()
    end = begin + int(size[1], 16)
    return data[begin:end] if data[end : end + 2] == b"\r\n" else b""
