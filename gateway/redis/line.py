"""One Redis connection with many calls in flight.

Calls made in one turn of the event loop leave in one write, and nobody waits for anybody else's reply. Nothing is
ever sent twice, except a script that the server said it does not know (and so did not run).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from gateway.redis.script import Script
from gateway.redis.servers import Connect

Argument = str | bytes | int
Reply = Any
"""What a command may answer: an integer, bytes, None, or a list of replies."""
Keep = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task that somebody waits for in the end."""

GRACE_SECONDS = 0.005
"""How long a reply that is late may still be found to have arrived."""


class RedisUnavailable(Exception):
    """Redis did not do what it was asked, or did not say so in time."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent
        """Whether it may have been done all the same."""


class Watcher(Protocol):
    """Who wants to know how a call fared: hears exactly one of these, however the caller fares."""

    def succeeded(self) -> None: ...
    def failed(self, error: BaseException) -> None: ...
    def withdrawn(self) -> None:
        """The call was never sent: its caller left."""


@dataclass(slots=True, eq=False)
class Call:
    """A command on its way, and the future that its caller awaits; deadline in loop time."""

    command: tuple[Argument, ...]
    deadline: float
    reply: asyncio.Future[Reply]
    watcher: Watcher | None = None
    abandoned: Callable[[Reply], None] | None = None
    """Gets the reply if the caller was cancelled after the call was sent."""
    script: Script | None = None
    """What the server may say it does not know; None once it was sent as text."""

    def succeed(self, reply: Reply) -> None:
        if self.watcher:
            self.watcher.succeeded()
        if not self.reply.done():
            self.reply.set_result(reply)
        elif self.abandoned:
            self.abandoned(reply)

    def fail(self, error: BaseException, *, sent: bool) -> None:
        if self.watcher:
            self.watcher.failed(error)
        if not self.reply.done():
            unavailable = RedisUnavailable(f"{type(error).__name__}: {error}", sent=sent)
            unavailable.__cause__ = error
            self.reply.set_exception(unavailable)

    def withdraw(self) -> None:
        if self.watcher:
            self.watcher.withdrawn()


class Line:
    """One connection, from the attempt to make it until its first fault."""

    def __init__(self, connect: Connect, connect_seconds: float, keep: Keep) -> None:
        self.dead = False
        self._connect = connect
        self._connect_seconds = connect_seconds
        self._connected = False
        self._to_send: list[Call] = []
        self._sent: deque[Call] = deque()
        self._wake = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self._keep = keep
        self._task = keep(self._live())

    def put(self, call: Call) -> None:
        self._to_send.append(call)
        self._wake.set()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_at(call.deadline, self._check_deadlines)

    def hang_up(self, error: BaseException) -> None:
        """Fail every call that has no reply and let the connection go. The next call needs a new line."""
        if self.dead:
            return
        self.dead = True
        if self._watch:
            self._watch.cancel()
        _fail(self._sent, error, sent=True)
        _fail(self._to_send, error, sent=False)
        # Those calls keep the error, whose frames know this line: neither is left to the cycle collector.
        self._sent.clear()
        self._to_send.clear()
        self._task.cancel()

    async def _live(self) -> None:
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await self._connect()
        except (RedisError, OSError, TimeoutError) as error:
            self.hang_up(error)
            return
        self._connected = True
        writer = self._keep(self._write(connection))
        try:
            while not self.dead:
                await self._read_one(connection)
        except (RedisError, OSError) as error:
            self.hang_up(error)
        except asyncio.CancelledError:
            self.hang_up(ConnectionError("cancelled"))
        finally:
            writer.cancel()
            await connection.disconnect(nowait=True)

    async def _write(self, connection: AbstractConnection) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch = self._take_batch()
                if batch:
                    self._sent.extend(batch)
                    packed = b"".join([hiredis.pack_command(call.command) for call in batch])  # type: ignore[arg-type]
                    await connection.send_packed_command(packed, check_health=False)
        except (RedisError, OSError) as error:
            self.hang_up(error)

    def _take_batch(self) -> list[Call]:
        batch = []
        for call in self._to_send:
            if call.reply.done():
                call.withdraw()
            else:
                batch.append(call)
        self._to_send.clear()
        return batch

    async def _read_one(self, connection: AbstractConnection) -> None:
        try:
            reply = await connection.read_response()
        except NoScriptError as error:
            self._send_text(self._sent.popleft(), error)
        except ResponseError as error:
            # Redis refuses a script before its first write, so nothing was done.
            self._sent.popleft().fail(error, sent=False)
            # A master that was demoted (6.2 words it otherwise than 7): the next call should find the new one.
            if isinstance(error, ReadOnlyError) or "READONLY" in str(error):
                self.hang_up(error)
        else:
            self._sent.popleft().succeed(reply)

    def _send_text(self, call: Call, error: NoScriptError) -> None:
        if call.script is None:
            call.fail(error, sent=False)
            return
        call.command = ("EVAL", call.script.text, *call.command[2:])
        call.script = None
        self._to_send.append(call)
        self._wake.set()

    def _check_deadlines(self) -> None:
        """One timer serves all calls: the oldest is always first in line."""
        self._watch = None
        now = asyncio.get_running_loop().time()
        if not self._connected:
            # Who has waited long enough is told so, the attempt goes on.
            late = [call for call in self._to_send if call.deadline <= now]
            del self._to_send[: len(late)]
            _fail(late, TimeoutError("no connection in time"), sent=False)
        oldest = self._oldest()
        if oldest is None:
            return
        if oldest.deadline > now:
            self._watch = asyncio.get_running_loop().call_at(oldest.deadline, self._check_deadlines)
        else:
            # If it was this process that slept, the reply is here and only has to be read.
            self._watch = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._give_up_on, oldest)

    def _give_up_on(self, call: Call) -> None:
        if self._oldest() is call:
            self.hang_up(TimeoutError("no reply in time"))
        else:
            self._check_deadlines()

    def _oldest(self) -> Call | None:
        waiting = self._sent or self._to_send
        return waiting[0] if waiting else None


def _fail(calls: Iterable[Call], error: BaseException, *, sent: bool) -> None:
    for call in calls:
        call.fail(error, sent=sent)
