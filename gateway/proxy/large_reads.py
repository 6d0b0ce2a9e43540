"""Reads of a megabyte, for connections that bring as much: fewer of them, and nothing is copied.

uvloop reads a quarter of a megabyte at once, and makes bytes of it. What is read here is a piece of a buffer, which is
read into again once nobody has a piece of it any more: whoever keeps one, as a transport does whose peer reads slowly,
keeps its buffer.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

LARGE_BYTES = 1024 * 1024
FULL_READ_BYTES = 256_000
"""As much as uvloop reads at once by itself."""

SMALL_READ_BYTES = 64 * 1024
"""A connection that brings less at once is no longer read like this."""

_MOST_BUFFERS = 8


class Buffers:
    """The buffers of one process. When all are kept, smaller ones are made that live as long as what is read."""

    __slots__ = ("_buffers",)

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []

    def free(self) -> bytearray:
        """A buffer of which nobody has a piece."""
        for buffer in self._buffers:
            try:
                buffer.append(0)  # refused as long as there is a piece of it
            except BufferError:
                continue
            buffer.pop()
            return buffer
        if len(self._buffers) == _MOST_BUFFERS:
            return bytearray(FULL_READ_BYTES)
        buffer = bytearray(LARGE_BYTES)
        self._buffers.append(buffer)
        return buffer


class Reader(Protocol):
    """A connection that may be read like this."""

    @property
    def has_room(self) -> bool:
        """Whether what is read can be taken now."""

    def take_large(self, piece: memoryview, *, is_full: bool) -> None:
        """Deal with what was read; `is_full`: there may be more."""

    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class LargeReads(asyncio.BufferedProtocol):
    """Stands in for a connection's protocol as long as it is read like this; all but what is read goes to it."""

    __slots__ = ("_buffer", "_buffers", "_reader", "_starved")

    def __init__(self, reader: Reader, buffers: Buffers) -> None:
        self._reader = reader
        self._buffers = buffers
        self._buffer = _NONE
        self._starved: MemoryError | None = None

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        try:
            buffer = self._buffer = self._buffers.free()
        except MemoryError as starved:
            self._starved = starved.with_traceback(None)
            raise
        # What cannot be taken now is copied, and waits.
        return memoryview(buffer) if self._reader.has_room else memoryview(buffer)[:FULL_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        buffer, self._buffer = self._buffer, _NONE
        self._reader.take_large(memoryview(buffer)[:nbytes], is_full=nbytes == len(buffer))

    def eof_received(self) -> bool | None:
        return self._reader.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._reader.connection_lost(self._starved or exc)  # else nobody would say what it was

    def pause_writing(self) -> None:
        self._reader.pause_writing()

    def resume_writing(self) -> None:
        self._reader.resume_writing()


_NONE = bytearray()
