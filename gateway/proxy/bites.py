"""Bytes are taken from connections in bites: whoever floods waits for the next turn, behind those who send little.

A single read brings a quarter of a megabyte, and a turn of the loop brings one from every connection that has it:
twenty fast streams would make turns of a quarter of a second, in which nobody else is served. So what one
connection brings is taken in bites, and all bites of a turn have one bound. It stands in front of every parser:
answers, uploads, pipelined requests and WebSockets alike.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Protocol

from gateway.proxy.large_reads import FULL_READ_BYTES, Buffers

AT_ONCE_BYTES = 4 * 1024
"""What is no larger does not wait: most events, and most requests."""


FRESH_BYTES = 32 * 1024
"""The beginning of a request or an answer, which is not yet taken for a flood."""


@dataclass(frozen=True, slots=True)
class Bites:
    """How a connection's bytes are taken."""

    most_bytes: int
    """The most at once."""

    first_bytes: int
    """The most at first, where nobody knows what they cost."""

    weight: int = 1
    """How many times what bytes of a file cost these do, when all is done that is done with them."""


HEADS = Bites(64 * 1024, 64 * 1024)
"""What a client sends that is not being asked anything: however much it is, one head of it is read."""

CHUNKED = Bites(16 * 1024, 4 * 1024)
"""A request's body in chunks, which may have a byte each."""

STATED = Bites(FULL_READ_BYTES, 64 * 1024)
"""A request's body of stated length: nothing in it is parsed here."""

ANSWERS = Bites(FULL_READ_BYTES, 64 * 1024)
EVENTS = Bites(16 * 1024, 16 * 1024, weight=4)
"""A stream of events, each of which is looked at."""

PACKED = Bites(4 * 1024, 4 * 1024, weight=16)
"""What has a content coding: it may be unpacked to be looked at."""

FRAMES = Bites(4 * 1024, 512)
"""Either side of a WebSocket; a frame may have two bytes."""

PASSED_BYTES = 1024
"""What is taken of a turn by a piece of the usual kind, which passes as it comes."""

UNSENT_BYTES = 256 * 1024
"""What the kernel takes from us for one connection beyond what is on its way; by itself it takes megabytes."""

UPSTREAM_UNSENT_BYTES = 1024 * 1024
"""The same for a connection to an upstream, which reads: a large piece goes at once."""

# After these a turn takes no further bite: of what waits, and once more of what comes in it. It is about half a
# millisecond of work.
_TURN_BYTES = 128 * 1024
_PLENTY_BYTES = _TURN_BYTES * 3 // 4
"""As long as so much is left nobody looks when the next turn begins: a turn may have that little less."""

_BYTES_PER_SECOND = _TURN_BYTES / 0.0005
# A bite that took longer is followed by smaller ones.
BITE_SECONDS = 0.0005
LARGE_BITE_SECONDS = 0.002
"""After one that took longer a connection is read as usual."""

LEAST_BITE_BYTES = 128


class Unread(Protocol):
    """A connection whose peer does not keep up with what is sent."""

    @property
    def unsent_bytes(self) -> int:
        """How much waits to be sent."""


class Turns:
    """Shares the turns of one loop among its connections: who floods comes after who does not."""

    __slots__ = ("_due", "_floods", "_loop", "_others", "buffers", "late_at", "room_bytes", "unread")

    def __init__(self) -> None:
        self.buffers = Buffers()
        """What those are read into that flood."""

        self.room_bytes: float = _TURN_BYTES
        """What is left of this turn, or of several in which nothing had to wait; little pieces may just take of it."""

        self.late_at = inf
        """When the loop is late (`time.monotonic`) unless it has said before that it turns: whoever measures that
        writes it."""

        self.unread: dict[Unread, None] = {}
        """Connections for which more waits to be sent than their peers keep up with."""

        self._due = False
        self._loop: asyncio.AbstractEventLoop | None = None
        """Asked for once: each time that Python looks which loop runs is a system call."""

        self._others: deque[Callable[[], None]] = deque()
        self._floods: deque[Callable[[], None]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether this turn may take one more bite."""
        return self.room_bytes > 0

    def spend(self, weight_bytes: int, seconds: float = 0.0) -> None:
        """A bite has been taken, in so many seconds."""
        spent_bytes = seconds * _BYTES_PER_SECOND
        if weight_bytes > spent_bytes:
            spent_bytes = weight_bytes
        self.room_bytes = room_bytes = self.room_bytes - spent_bytes
        if room_bytes < _PLENTY_BYTES and not self._due:
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
            loop = self._loop
            if loop is None:
                loop = self._loop = asyncio.get_running_loop()
            loop.call_soon(self._begin)

    def _begin(self) -> None:
        """A turn begins: take what waits, as much as there is room; what comes in the turn has as much once more."""
        self._due = False
        self.room_bytes = _TURN_BYTES
        # One of those who flood is served in any case: a long answer may look like that.
        waiting = self._floods or self._others
        try:
            while waiting and self.has_room:
                waiting.popleft()()
                waiting = self._others or self._floods
        finally:
            self.room_bytes = _TURN_BYTES
            if self._others or self._floods:
                self._come_back()
