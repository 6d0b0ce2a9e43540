"""One connection, with a client or with an upstream: its bytes are taken in bites, and neither side makes us buffer.

Everything that is said to aiohttp's parsers, or to other protocols, comes through here; what a bite is stands in
`bites.py`.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from abc import ABC, abstractmethod
from time import monotonic
from typing import Final, cast

from gateway.proxy.bites import (
    AT_ONCE_BYTES,
    BITE_SECONDS,
    FRESH_BYTES,
    LARGE_BITE_SECONDS,
    LEAST_BITE_BYTES,
    Bites,
    Turns,
)
from gateway.proxy.large_reads import FULL_READ_BYTES, SMALL_READ_BYTES, LargeReads
from gateway.wire.search import Piece

NO_LINGER = struct.pack("ii", 1, 0)
_TCP_CLOSE = 7
_INT = struct.Struct("i")


def leave_unsent(sock: socket.socket, most_bytes: int) -> None:
    """Have the kernel take no more for a connection than that beyond what is on its way.

    Set on a socket before it is a connection, or on the one that it will come from: the loop's own take far longer.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, most_bytes)
        except OSError:
            pass  # not TCP


class Held:
    """Why nothing is taken from a connection for now: bits, of which each ends by itself.

    No Flag: those take a microsecond for what happens with every piece of a body.
    """

    BY_SINK: Final = 1
    """Whoever gets what comes here does not read."""

    BY_READER: Final = 2
    """Who reads what comes here has enough of it, or has to judge first what has come."""


class Channel(asyncio.Protocol, ABC):
    """A connection whose bytes are taken in bites, and whose peer cannot make the kernel hold megabytes.

    While bytes wait here nothing more is read, and while somebody holds the connection nothing is taken. Who makes
    a class of it says in `take` what is done with a bite, and in `lost` what is done when the connection is gone.
    """

    __slots__ = (
        "__weakref__",
        "_at",
        "_bite_bytes",
        "_bites",
        "_drain_waiter",
        "_fresh_bytes",
        "_held",
        "_loop",
        "_queued",
        "_reads_large",
        "_surplus",
        "source",
        "taken_at",
        "transport",
        "turns",
        "writing_paused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, turns: Turns, bites: Bites) -> None:
        self._loop = loop
        self.turns = turns
        """Whose turns its bites are part of."""

        self.transport: asyncio.Transport | None = None
        """None before it is made, and once it is lost."""

        self.writing_paused = False
        """The peer does not read, and enough waits for it."""

        self.source: Channel | None = None
        """Whose bytes go out here: it is held while this one's peer does not read."""

        self.taken_at = 0.0
        """When the last bite was taken, of `time.monotonic`, which a loop's time is too."""

        self._drain_waiter: asyncio.Future[None] | None = None
        self._surplus = b""
        self._at = 0
        self._held = 0
        self._queued = False
        self._bites = bites
        self._bite_bytes = bites.first_bytes
        self._fresh_bytes = FRESH_BYTES
        self._reads_large = False
        """Whether `LargeReads` stands in for this."""

    @abstractmethod
    def take(self, data: Piece) -> None:
        """Deal with a bite. It may be a piece of a buffer where that is passed on."""

    @property
    def passes_on(self) -> bool:
        """Whether what comes is passed on as it is, and kept nowhere: it may be read in larger pieces."""
        return False

    @abstractmethod
    def lost(self, error: BaseException | None) -> None:
        """The connection is gone; `error` None: the peer has ended it, or we have."""

    def take_as(self, bites: Bites) -> None:
        """What comes from now on is of this kind."""
        self._bites = bites
        self._bite_bytes = bites.first_bytes
        if self._reads_large:
            self._read_as_usual()

    def begin_anew(self, bites: Bites) -> None:
        """What comes from now on belongs to another exchange, and is of this kind."""
        self._bites = bites
        self._bite_bytes = bites.first_bytes
        self._fresh_bytes = FRESH_BYTES
        if self._reads_large:
            self._read_as_usual()

    @property
    def surplus_bytes(self) -> int:
        """How much has come that has not been taken yet."""
        return len(self._surplus) - self._at if self._surplus else 0

    @property
    def unsent_bytes(self) -> int:
        """How much waits to be sent."""
        transport = self.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    @property
    def surplus(self) -> bool:
        """Whether something has come that has not been taken yet."""
        return bool(self._surplus)

    @property
    def held(self) -> bool:
        """Whether somebody wants nothing taken for now."""
        return bool(self._held)

    @property
    def has_room(self) -> bool:
        """Whether what comes can be taken in this turn."""
        return not self._held and not self._surplus and self.turns.has_room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection begins."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by name

    def connection_lost(self, exc: BaseException | None) -> None:
        """A connection is gone, and what has not been taken with it, unless `lost` takes it."""
        self.transport = None
        self.turns.unread.pop(self, None)
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self.fed_by(None)
        self.lost(exc)
        self._surplus = b""

    # Reading

    def data_received(self, data: bytes) -> None:
        """Take what comes if it is little; let it wait for its turn if it is much."""
        size = len(data)
        if (
            size > self._bite_bytes
            or self._surplus
            or self._held
            or (size > AT_ONCE_BYTES and not self.turns.has_room)
        ):
            self._put_by(data)
        else:
            self._bite(data, size)

    def take_large(self, piece: memoryview, *, is_full: bool) -> None:
        """As `data_received`, of what `LargeReads` has read."""
        size = len(piece)
        if not self.has_room:
            self._put_by(bytes(piece))
            return
        self.taken_at = began = monotonic()
        self.take(piece)
        seconds = monotonic() - began
        self._fresh_bytes -= size
        self.turns.spend(size * self._bites.weight, seconds)
        if not self._reads_large:
            return
        if size < SMALL_READ_BYTES or seconds > LARGE_BITE_SECONDS:
            self._read_as_usual()
        elif is_full and not self._held and self.transport is not None:
            self.transport.pause_reading()  # others first
            self._wait()

    def _read_large(self) -> None:
        transport = self.transport
        if transport is not None and not self._held:
            self._reads_large = True
            transport.set_protocol(LargeReads(self, self.turns.buffers))

    def _read_as_usual(self) -> None:
        self._reads_large = False
        if self.transport is not None:
            self.transport.set_protocol(self)

    def take_rest(self, behind: bytes = b"") -> None:
        """Take all at once what waits, and what comes behind it."""
        rest, self._surplus = self._surplus[self._at :] + behind, b""
        if rest:
            self.take(rest)

    def put_back(self, data: bytes) -> None:
        """Have these bytes, the last of a bite, taken again, in front of what waits."""
        if not data:
            return
        waits = bool(self._surplus)
        self._surplus = data + self._surplus[self._at :] if waits else data
        self._at = 0
        if self.transport is not None:
            self.transport.pause_reading()
        if not self._held:
            self._wait()

    def hold(self, why: int) -> None:
        """Take nothing until `go_on` has been called for the same reason."""
        if not self._held and self.transport is not None:
            self.transport.pause_reading()
        self._held |= why

    def go_on(self, why: int) -> None:
        """Take again, what waits first, unless there is another reason not to."""
        if not self._held:
            return
        self._held &= ~why
        if self._held:
            return
        if self._surplus:
            self._wait()
        elif self.transport is not None:
            self.transport.resume_reading()

    def _put_by(self, data: bytes) -> None:
        if self._surplus:
            self._surplus = self._surplus[self._at :] + data
        else:
            self._surplus = data
            if not self._held:
                self._wait()
        self._at = 0
        if self.transport is not None:
            self.transport.pause_reading()

    def _wait(self) -> None:
        if not self._queued:
            self._queued = True
            self.turns.wait(self._next, floods=self._fresh_bytes <= 0)

    def _next(self) -> None:
        self._queued = False
        if self.transport is None or self._held:
            return
        if not self._surplus:
            self.transport.resume_reading()
            return
        try:
            end = self._at + self._bite_bytes
            bite = self._surplus[self._at : end]
            self._at = end
            if end >= len(self._surplus):
                self._surplus = b""
            self._bite(bite, len(bite))
        except BaseException:
            if self.transport is not None:
                self.transport.abort()  # as a transport does itself when its protocol fails
            raise
        if self._held:
            return
        if self._surplus:
            self._wait()
        elif self.transport is not None:
            self.transport.resume_reading()

    def _bite(self, data: bytes, size: int) -> None:
        weight = self._bites.weight
        self.taken_at = began = monotonic()
        self.take(data)
        seconds = monotonic() - began
        self._fresh_bytes -= size
        self.turns.spend(size * weight, seconds)
        if seconds > BITE_SECONDS:
            self._bite_bytes = max(LEAST_BITE_BYTES, self._bite_bytes // 4)
        elif size >= self._bite_bytes:  # a full one, and it cost little
            if size < self._bites.most_bytes:
                self._bite_bytes = min(self._bites.most_bytes, self._bite_bytes * 2)
            elif size >= FULL_READ_BYTES and not self._reads_large and self.passes_on:
                self._read_large()

    # Writing

    def fed_by(self, source: Channel | None) -> None:
        """Hold `source`, whose bytes go out here, whenever the peer does not read; None: nobody's do any more."""
        before, self.source = self.source, source
        if before is not None:
            before.go_on(Held.BY_SINK)
        if source is not None and self.writing_paused:
            source.hold(Held.BY_SINK)

    def pause_writing(self) -> None:
        """The peer does not read: hold whoever's bytes go out here."""
        self.writing_paused = True
        self.turns.unread[self] = None
        if self.source is not None:
            self.source.hold(Held.BY_SINK)

    def resume_writing(self) -> None:
        """The peer reads on."""
        self.writing_paused = False
        self.turns.unread.pop(self, None)
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.source is not None:
            self.source.go_on(Held.BY_SINK)

    async def drained(self) -> None:
        """Wait until the peer has taken what was written, but for a bounded rest. Raises ConnectionError."""
        while self.writing_paused and self.transport is not None:
            if self._drain_waiter is None:
                self._drain_waiter = self._loop.create_future()
            await asyncio.shield(self._drain_waiter)
        if self.transport is None:
            raise ConnectionError("the connection is lost")

    # What else can be done to a connection, and seen of it

    def abort(self) -> None:
        """Reset the connection: the one sign of a broken answer, or form, that nobody can take for its end."""
        transport = self.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            except OSError:
                pass  # already closed by the peer
        transport.abort()

    def has_unread(self) -> bool:
        """Whether the kernel has something for us that the loop has not read yet."""
        sock = None if self.transport is None else self.transport.get_extra_info("socket")
        if sock is None:
            return False
        try:
            (unread_bytes,) = _INT.unpack(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(_INT.size)))
        except OSError:
            return False
        return bool(unread_bytes)

    def was_reset(self) -> bool:
        """Whether the peer has reset the connection, as the kernel sees it; for when we do not read from it."""
        sock = None if self.transport is None else self.transport.get_extra_info("socket")
        if sock is None:
            return True
        try:
            return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE)
        except OSError:
            return True
