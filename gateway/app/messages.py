"""What a supervisor and a worker say to each other: JSON, with bytes behind it, over a pair of sockets.

A message is its length (four bytes, most significant first), a JSON object on one line, and what stands behind it.
Both ends may be of different releases, the supervisor's being the older one: what is not known is passed over.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from typing import Any

import orjson

PROTOCOL = 1
"""Changed when a worker could not work under a supervisor of before."""

_LENGTH = struct.Struct(">I")
_MOST_BYTES = 256 * 2**20

Message = Mapping[str, Any]
Hears = Callable[[Message, bytes], None]


class Messages(asyncio.Protocol):
    """One end. `hears` is called with every message, `ended` once, when the other end is gone."""

    def __init__(self, hears: Hears, ended: Callable[[], None]) -> None:
        self._hears = hears
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._come = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        come = self._come
        come += data
        while len(come) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(come)
            if length > _MOST_BYTES:
                self.close()
                return
            end = _LENGTH.size + length
            if len(come) < end:
                return
            head, _, rest = bytes(come[_LENGTH.size : end]).partition(b"\n")
            del come[:end]
            self._hears(orjson.loads(head), rest)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._ended()

    @property
    def waits(self) -> bool:
        """Whether something said before has not been taken by the other end's socket yet."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def say(self, what: str, rest: bytes = b"", /, **members: object) -> None:
        """Say something; lost where nobody is there any more."""
        if self._transport is None:
            return
        head = orjson.dumps({"say": what, **members})
        self._transport.write(b"".join((_LENGTH.pack(len(head) + 1 + len(rest)), head, b"\n", rest)))

    def close(self) -> None:
        """Say nothing more, and hear nothing."""
        if self._transport is not None:
            self._transport.close()
