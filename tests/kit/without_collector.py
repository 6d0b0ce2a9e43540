"""The gateway's commands with Python's cycle collector switched off, and a socket that tells what is left behind.

`python -m tests.kit.without_collector SOCKET serve …` does what `gateway serve …` does. Whoever connects to the Unix
socket is told as JSON what an exchange has left behind, see `Leftovers`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import socket
import sys
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from gateway.cli import main
from gateway.exchange.exchange import Exchange
from gateway.wire.request_body import RequestBody

_LARGE_BYTES = 2**20
_LIBC = ctypes.CDLL(None)


@dataclass
class Leftovers:
    """What a process holds of exchanges that are over."""

    alive: dict[str, int]
    """Exchanges and bodies that exist, by type."""

    large: list[str]
    """Who holds a mebibyte or more in one piece."""

    cyclic: dict[str, int]
    """What only the cycle collector could have freed since it was asked last, by type; it is freed now."""


async def leftovers(place: Path) -> Leftovers:
    """Ask a process what it holds."""
    reader, writer = await asyncio.open_unix_connection(str(place))
    told = orjson.loads(await asyncio.wait_for(reader.read(), 20))
    writer.close()
    return Leftovers(**told)


def _tell(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(orjson.dumps(asdict(_found())))


def _found() -> Leftovers:
    watched = (Exchange, RequestBody)
    alive = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, watched))
    large = [
        f"{type(holder).__qualname__} {holder!r:.200}"
        for holder in gc.get_objects()
        for held in gc.get_referents(holder)
        if isinstance(held, bytes | bytearray) and len(held) >= _LARGE_BYTES
    ]
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    cyclic = Counter(type(thing).__qualname__ for thing in gc.garbage)
    gc.garbage.clear()
    gc.collect()
    _LIBC.malloc_trim(0)  # what the allocator has free is nobody's
    return Leftovers(dict(alive), large, dict(cyclic))


if __name__ == "__main__":
    gc.disable()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(sys.argv[1])
    listening.listen()
    threading.Thread(target=_tell, args=(listening,), daemon=True).start()
    sys.exit(main(sys.argv[2:]))
