"""A client's connection: how it ends, and what may take how long on it."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from time import monotonic
from typing import Protocol

from gateway.errors import GatewayError
from gateway.proxy.bites import HEADS
from gateway.proxy.channel import Channel, Held
from gateway.proxy.client_connections import Peer
from gateway.proxy.edge_state import EdgeState
from gateway.proxy.readable import CLOCK_SECONDS, age_seconds

_LOOK_SECONDS = 1.0
"""How often it is looked whether an answer is being read; at least four times within the deadline for that."""


class Frames(Protocol):
    """What is fed behind an upgrade."""

    def feed_data(self, data: bytes) -> object:
        """Bytes from the client."""

    def feed_eof(self) -> None:
        """The connection is gone."""


class ClientChannel(Channel):
    """A client's connection, as who answers its requests sees it."""

    __slots__ = (
        "_closes",
        "_deadline",
        "_lingers",
        "_state",
        "_unread_bytes",
        "_unread_since",
        "_waits_since",
        "client",
        "due_step",
        "is_proxy",
        "peer",
        "starved",
        "task",
        "waits_since",
    )

    def __init__(self, state: EdgeState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, state.turns, HEADS)
        self._state = state
        self._closes = False
        """Nothing is taken any more; the connection ends with what is being sent."""

        self._lingers = False
        self._deadline = math.inf
        """When what is waited for has to have come, by what that is; infinite: nothing is."""

        self._unread_bytes = 0
        self._unread_since = 0.0
        self._waits_since = 0.0
        """Since when a request waits here that has come and is still to be read; 0: none does."""

        self.due_step: int | None = None
        self.starved = False
        """Whether it was cut because there was no memory for what came over it."""

        self.peer: Peer | None = None
        self.client: str | None = None
        self.is_proxy = False
        self.waits_since = 0.0
        self.task: asyncio.Task[None] | None = None
        """What answers its requests."""

    @property
    @abstractmethod
    def is_served(self) -> bool:
        """Whether a request is being answered."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether no request is being read or answered."""

    @abstractmethod
    def refuse(self, error: GatewayError) -> None:
        """Answer what never became a request, and close."""

    @abstractmethod
    def overdue(self) -> None:
        """What is waited for has not come within its deadline."""

    @abstractmethod
    def set_parser(self, frames: Frames) -> None:
        """The request was an upgrade and has been granted: this is fed what comes."""

    @abstractmethod
    def hasten(self, later_seconds: float = 0.0) -> None:
        """The process goes: wait for a request no longer than `EdgeState` says, and so much."""

    @abstractmethod
    def close(self) -> None:
        """Answer what is being answered, and nothing more."""

    @abstractmethod
    def make_way(self) -> None:
        """Close for somebody else's sake."""

    @property
    @abstractmethod
    def ends(self) -> bool:
        """Whether it ends with the answer that is being written."""

    def lost(self, error: BaseException | None) -> None:
        self.starved = isinstance(error, MemoryError)
        self._closes = True
        self._state.leave(self)

    def _readable_since(self, now: float) -> float:
        """Since when that could have been read which has just been."""
        # Compared one by one: `min` and `max` take several times as long, and a busy loop comes by with each request.
        since = self._loop.time() + CLOCK_SECONDS
        if now < since:
            since = now
        is_new = self.task is None
        if is_new or now >= self.turns.late_at:
            sock = None if self.transport is None else self.transport.get_extra_info("socket")
            came = now - age_seconds(sock)
            if came < since:
                since = came
        if not is_new and since < self.waits_since:
            since = self.waits_since  # no request can wait for us before the one in front of it is answered
        return since

    def _put_by(self, data: bytes) -> None:
        if self.idle:
            self._waits_since = self._readable_since(monotonic())
        super()._put_by(data)

    def agrees(self, within_seconds: float) -> None:
        """Something has to be agreed on before its client may ask, and no later than that."""
        if not self._closes:
            self._deadline = min(self._deadline, self._loop.time() + within_seconds)
            self._state.wheel.ask(self, self._deadline)

    def welcome(self) -> None:
        """The connection is there, and nothing has to be agreed on it any more: its client may ask."""
        if self._closes:
            return
        state, now = self._state, self._loop.time()
        state.clients.waits(self, now)
        self.expect(state.deadlines.keepalive_seconds)
        if state.draining:
            self.hasten()

    # How it ends

    def force_close(self) -> None:
        """Close it behind what has been written, within the write idle deadline: nothing more is taken or answered."""
        transport = self.transport
        self._closes = True
        if transport is not None and not self._lingers:
            transport.close()
            self._deadline = self._loop.time()
            self._state.wheel.ask(self, self._deadline)

    def linger(self) -> None:
        """Close it behind what has been written although the client may still send, such that it can read that."""
        # Closing over unread bytes would reset the connection and take the answer away with it:
        # send our end, drop what still comes, and close when the client does or after a moment.
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._closes = self._lingers = True
        self._state.clients.leave(self)
        try:
            if transport.can_write_eof():
                transport.write_eof()
        except OSError:
            pass  # it has left before it could be told
        self.go_on(Held.BY_SINK | Held.BY_READER)  # a body may have been held back
        self._state.linger(self, self._loop.time())

    # Deadlines

    def expect(self, within_seconds: float) -> None:
        """What is waited for has to come in that time."""
        self._deadline = self._loop.time() + within_seconds
        self._state.wheel.ask(self, self._deadline)

    def pause_writing(self) -> None:
        super().pause_writing()
        transport = self.transport
        if transport is not None:
            self._unread_bytes, self._unread_since = transport.get_write_buffer_size(), self._loop.time()
            self._state.wheel.ask(self, self._unread_since + self._look_seconds)

    @property
    def _look_seconds(self) -> float:
        return min(_LOOK_SECONDS, self._state.deadlines.write_idle_seconds / 4)

    def due(self, now: float) -> float | None:
        """End what takes too long."""
        transport = self.transport
        if transport is None:
            return None
        if self._lingers:
            self._state.cut(self)
            return None
        if self.writing_paused or (now >= self._deadline and not self.is_served):
            unread = transport.get_write_buffer_size()
            if unread:
                return self._unread(unread, now)
        if now < self._deadline:
            return None if self._deadline == math.inf else self._deadline
        self._deadline = math.inf
        self.overdue()
        return None

    def _unread(self, unread_bytes: int, now: float) -> float | None:
        """Cut a connection of whose answer nothing is read: closing it would wait for that, for ever."""
        if unread_bytes != self._unread_bytes:
            self._unread_bytes, self._unread_since = unread_bytes, now
        elif now - self._unread_since >= self._state.deadlines.write_idle_seconds:
            self.abort()
            return None
        return now + self._look_seconds
