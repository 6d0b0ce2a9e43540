"""What is different about a connection to an upstream by TLS, which the loop's own layer speaks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from gateway.wire.search import Piece

SEALED_BYTES = 128 * 1024
"""How much is sealed and sent at once. Of what it seals the loop's TLS makes two copies more, which of so much stay in
the processor's cache; of a megabyte they are new pages of the system each time, at half the price of an upload."""


def write(transport: asyncio.Transport, data: Sequence[Piece]) -> None:
    """Send bytes by TLS."""
    some: list[Piece] = []
    room_bytes = SEALED_BYTES
    for piece in data:
        left: Piece = piece if len(piece) <= room_bytes else memoryview(piece)
        while left:
            now, left = left[:room_bytes], left[room_bytes:]
            some.append(now)
            room_bytes -= len(now)
            if not room_bytes:
                transport.writelines(some)
                some, room_bytes = [], SEALED_BYTES
    if some:
        transport.writelines(some)


def left_in(tls: ssl.SSLObject) -> tuple[bytes, bool]:
    """What came over a connection that is gone and was not read, and whether the peer has said that this was all.

    When it hangs up while nothing is read, asyncio's TLS and uvloop's lose the one, and they never tell the other.
    """
    pieces = []
    said_end = False
    try:
        while piece := tls.read(65536):
            pieces.append(piece)
        said_end = True
    except ssl.SSLZeroReturnError:
        said_end = True
    except (ssl.SSLError, ValueError):
        pass  # there is no more, or not even a whole record
    return b"".join(pieces), said_end
