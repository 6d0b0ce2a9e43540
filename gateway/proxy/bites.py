"""Bytes are taken from connections in bites: whoever floods waits for the next turn, behind those who send little.

A single read brings a quarter of a megabyte, and a turn of the loop brings one from every connection that has it:
twenty fast streams would make turns of a quarter of a second, in which nobody else is served. So what one
connection brings is taken in bites, and all bites of a turn have one bound. It stands in front of every parser:
answers, uploads, pipelined requests and WebSockets alike.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import NamedTuple

from aiohttp.base_protocol import BaseProtocol

AT_ONCE_BYTES = 4 * 1024
"""What is no larger does not wait: most events, and most requests."""


FRESH_BYTES = 32 * 1024
"""The beginning of a request or an answer, which is not yet taken for a flood."""


class Bites(NamedTuple):
    """How a connection's bytes are taken."""

    most_bytes: int
    """The most at once."""

    first_bytes: int
    """The most at first, where nobody knows what they cost."""

    weight: int = 1
    """How many times what bytes of a file cost these do, when all is done that is done with them."""


REQUESTS = Bites(16 * 1024, 4 * 1024)
"""What a client sends: heads, chunks of a byte each, fields of a form."""

STATED = Bites(256 * 1024, 64 * 1024)
"""A request's body of stated length, as long as more than such a bite is to come: nothing in it is parsed here."""

ANSWERS = Bites(256 * 1024, 64 * 1024)
EVENTS = Bites(16 * 1024, 16 * 1024, weight=4)
"""A stream of events, each of which is looked at."""

PACKED = Bites(4 * 1024, 4 * 1024, weight=16)
"""What has a content coding: it may be unpacked to be looked at."""

FRAMES = Bites(4 * 1024, 512)
"""Either side of a WebSocket; a frame may have two bytes."""

UNSENT_BYTES = 256 * 1024
"""What the kernel takes from us for one connection beyond what is on its way; by itself it takes megabytes."""

# After these a turn takes no further bite: of what waits, and once more of what comes in it. It is about half a
# millisecond of work.
_TURN_BYTES = 128 * 1024
_BYTES_PER_SECOND = _TURN_BYTES / 0.0005
# A bite that took longer is followed by smaller ones.
BITE_SECONDS = 0.0005
LEAST_BITE_BYTES = 128


class Turns:
    """Shares the turns of one loop among its connections: who floods comes after who does not."""

    __slots__ = ("_due", "_floods", "_others", "_room_bytes")

    def __init__(self) -> None:
        self._room_bytes: float = _TURN_BYTES
        self._due = False
        self._others: deque[Callable[[], None]] = deque()
        self._floods: deque[Callable[[], None]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether this turn may take one more bite."""
        return self._room_bytes > 0

    def spend(self, weight_bytes: int, seconds: float = 0.0) -> None:
        """A bite has been taken, in so many seconds."""
        timed_bytes = seconds * _BYTES_PER_SECOND
        self._room_bytes -= weight_bytes if weight_bytes > timed_bytes else timed_bytes
        if not self._due:
            self._come_back()

    def wait(self, take: Callable[[], None], *, floods: bool) -> None:
        """Have a bite taken when it is its turn; `floods`: it is one of many."""
        (self._floods if floods else self._others).append(take)
        self._come_back()

    async def share(self) -> None:
        """Wait until there is room for a bite that nobody has counted yet, and count it."""
        if self.has_room:
            self.spend(ANSWERS.first_bytes)
            return
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.wait(partial(self._wake, ready), floods=True)
        await ready

    def _wake(self, ready: asyncio.Future[None]) -> None:
        if not ready.done():
            self.spend(ANSWERS.first_bytes)
            ready.set_result(None)

    def _come_back(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """A turn begins: take what waits, as much as there is room; what comes in the turn has as much once more."""
        self._due = False
        self._room_bytes = _TURN_BYTES
        # One of those who flood is served in any case: a long answer may look like that.
        waiting = self._floods or self._others
        try:
            while waiting and self.has_room:
                waiting.popleft()()
                waiting = self._others or self._floods
        finally:
            self._room_bytes = _TURN_BYTES
            if self._others or self._floods:
                self._come_back()


class InBites(BaseProtocol):
    """A connection whose bytes are taken in bites, and whose peer cannot make the kernel hold megabytes.

    While bytes wait here nothing more is read, and while somebody else `holds` the connection nothing is taken.
    A class that is made of it calls `begin_bites` before anything comes.
    """

    def begin_bites(self, turns: Turns, bites: Bites) -> None:
        """Nothing has come yet."""
        self._turns = turns
        self._surplus = b""
        self._at = 0
        self.take_as(bites)
        self.begin_anew()
        self._held = False
        self._queued = False
        self._taking = False

    def take_as(self, bites: Bites) -> None:
        """What comes from now on is of this kind."""
        self._bites = bites
        self._bite_bytes = bites.first_bytes

    def begin_anew(self) -> None:
        """What comes from now on belongs to another exchange."""
        self._fresh_bytes = FRESH_BYTES

    def take(self, data: bytes) -> None:
        """Deal with a bite."""
        super().data_received(data)

    @property
    def turns(self) -> Turns:
        """Whose turns its bites are part of."""
        return self._turns

    @property
    def surplus_bytes(self) -> int:
        """How much has come that has not been taken yet."""
        return len(self._surplus) - self._at if self._surplus else 0

    @property
    def surplus(self) -> bool:
        """Whether something has come that has not been taken yet."""
        return bool(self._surplus)

    @property
    def held(self) -> bool:
        """Whether somebody wants nothing taken for now."""
        return self._held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection begins."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            except OSError:
                pass  # not TCP, or gone already

    def connection_lost(self, exc: BaseException | None) -> None:
        """A connection is gone, and what has not been taken with it."""
        self._surplus = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what comes if it is little; let it wait for its turn if it is much."""
        size = len(data)
        if not size or self._taking:
            self._take(data)  # from aiohttp, which goes on where it paused, or with what it put aside
        elif (
            size > self._bite_bytes
            or self._surplus
            or self._held
            or (size > AT_ONCE_BYTES and not self._turns.has_room)
        ):
            self._put_by(data)
        else:
            self._bite(data, size)

    def take_rest(self, behind: bytes = b"") -> None:
        """Take all at once what waits, and what comes behind it."""
        rest, self._surplus = self._surplus[self._at :] + behind, b""
        self._take(rest)

    def hold(self, _why: object = None) -> None:
        """Take nothing until `go_on`."""
        self._pause_transport_reading()

    def go_on(self, _why: object = None) -> None:
        """Take again, what waits first."""
        self._resume_transport_reading()

    def _pause_transport_reading(self) -> None:
        self._held = True
        super()._pause_transport_reading()

    def _resume_transport_reading(self) -> None:
        held, self._held = self._held, False
        if self._surplus:
            self._wait()
        elif held:  # aiohttp asks for every piece that is read; else nothing is paused
            super()._resume_transport_reading()

    def _put_by(self, data: bytes) -> None:
        if self._surplus:
            self._surplus = self._surplus[self._at :] + data
        else:
            self._surplus = data
            self._wait()
        self._at = 0
        super()._pause_transport_reading()

    def _wait(self) -> None:
        if not self._queued:
            self._queued = True
            self._turns.wait(self._next, floods=self._fresh_bytes <= 0)

    def _next(self) -> None:
        self._queued = False
        if self.transport is None or self._held or not self._surplus:
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
        else:
            super()._resume_transport_reading()

    def _take(self, data: bytes) -> None:
        within, self._taking = self._taking, True
        try:
            self.take(data)
        finally:
            self._taking = within

    def _bite(self, data: bytes, size: int) -> None:
        bites = self._bites
        began = monotonic()
        self._taking = True
        try:
            self.take(data)
        finally:
            self._taking = False
        seconds = monotonic() - began
        self._fresh_bytes -= size
        self._turns.spend(size * bites.weight, seconds)
        if seconds > BITE_SECONDS:
            self._bite_bytes = max(LEAST_BITE_BYTES, self._bite_bytes // 4)
        elif self._bite_bytes < bites.most_bytes:
            self._bite_bytes = min(bites.most_bytes, self._bite_bytes * 2)
