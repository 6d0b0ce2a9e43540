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

from aiohttp.base_protocol import BaseProtocol

BITE_BYTES = 32 * 1024
"""The most that one connection brings at once."""

TURN_BYTES = 64 * 1024
"""After these a turn of the loop takes no further bite: of what waits, and once more of what comes in it."""

UNSENT_BYTES = 128 * 1024
"""What the kernel takes from us for one connection beyond what is on its way; by itself it takes megabytes."""

# A bite is as many bytes as are dealt with in about a millisecond: frames of two bytes cost more than a file.
_LEAST_BITE_BYTES = 1024
_BITE_SECONDS = 0.001
_BYTES_PER_SECOND = TURN_BYTES / (2 * _BITE_SECONDS)


class Turns:
    """Shares the turns of one loop among its connections: those that waited least often come first."""

    __slots__ = ("_again", "_due", "_first", "_spent_bytes")

    def __init__(self) -> None:
        self._spent_bytes = 0.0
        self._due = False
        self._first: deque[Callable[[], None]] = deque()
        self._again: deque[Callable[[], None]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether this turn may take one more bite."""
        return self._spent_bytes < TURN_BYTES

    def spend(self, size_bytes: float) -> None:
        """A bite has been taken."""
        self._spent_bytes += size_bytes
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._begin)

    def wait(self, take: Callable[[], None], *, again: bool = False) -> None:
        """Have a bite taken when it is its turn; `again` for who has had one and has more."""
        (self._again if again else self._first).append(take)
        self.spend(0)

    async def share(self) -> None:
        """Wait until there is room for a bite that nobody has counted yet, and count it."""
        if not self.has_room:
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.wait(partial(_wake, ready))
            await ready
        self.spend(BITE_BYTES)

    def _begin(self) -> None:
        self._due = False
        self._spent_bytes = 0.0
        if not self._first and not self._again:
            return
        # Who has more is not kept waiting for ever by those who always come new.
        waiting = self._again or self._first
        try:
            while waiting and self.has_room:
                waiting.popleft()()
                waiting = self._first or self._again
        finally:
            self._spent_bytes = 0.0
            if self._first or self._again:
                self.spend(0)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class InBites(BaseProtocol):
    """A connection whose bytes are taken in bites, and whose peer cannot make the kernel hold megabytes.

    While bytes wait here nothing more is read, and while somebody else `holds` the connection nothing is taken.
    A class that is made of it calls `begin_bites` before anything comes.
    """

    def begin_bites(self, turns: Turns) -> None:
        """Nothing has come yet."""
        self._turns = turns
        self._surplus = b""
        self._at = 0
        self._bite_bytes: float = BITE_BYTES
        self._held = False
        self._queued = False
        self._taking = False

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
        if not data or self._taking:
            self._take(
                data
            )  # from aiohttp itself, which goes on where it had paused, or with what it put aside
        elif self._surplus:
            self._surplus = self._surplus[self._at :] + data
            self._at = 0
            super()._pause_transport_reading()
        elif len(data) <= self._bite_bytes and self._turns.has_room and not self._held:
            self._bite(data)
        else:
            self._surplus, self._at = data, 0
            super()._pause_transport_reading()
            self._wait()

    def take_rest(self) -> None:
        """Take what waits, all at once."""
        rest, self._surplus = self._surplus[self._at :], b""
        if rest:
            self._take(rest)

    def hold(self) -> None:
        """Take nothing until `go_on`."""
        self._pause_transport_reading()

    def go_on(self) -> None:
        """Take again, what waits first."""
        self._resume_transport_reading()

    def _pause_transport_reading(self) -> None:
        self._held = True
        super()._pause_transport_reading()

    def _resume_transport_reading(self) -> None:
        self._held = False
        if self._surplus:
            self._wait(again=True)
        else:
            super()._resume_transport_reading()

    def _wait(self, *, again: bool = False) -> None:
        if not self._queued:
            self._queued = True
            self._turns.wait(self._next, again=again)

    def _next(self) -> None:
        self._queued = False
        if self.transport is None or self._held or not self._surplus:
            return
        try:
            end = self._at + int(self._bite_bytes)
            bite = self._surplus[self._at : end]
            self._at = end
            if end >= len(self._surplus):
                self._surplus = b""
            self._bite(bite)
        except BaseException:
            if self.transport is not None:
                self.transport.abort()  # as a transport does itself when its protocol fails
            raise
        if self._held:
            return
        if self._surplus:
            self._wait(again=True)
        else:
            super()._resume_transport_reading()

    def _take(self, data: bytes) -> None:
        within, self._taking = self._taking, True
        try:
            self.take(data)
        finally:
            self._taking = within

    def _bite(self, data: bytes) -> None:
        began = monotonic()
        self._take(data)
        seconds = monotonic() - began
        self._turns.spend(max(len(data), seconds * _BYTES_PER_SECOND))
        if seconds > _BITE_SECONDS:
            self._bite_bytes = max(_LEAST_BITE_BYTES, min(BITE_BYTES, len(data)) * _BITE_SECONDS / seconds)
        elif self._bite_bytes < BITE_BYTES:
            self._bite_bytes = min(BITE_BYTES, 2 * self._bite_bytes)
