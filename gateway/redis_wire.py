"""Lua scripts over one Redis connection with many calls in flight.

Calls made in one turn of the event loop leave in one write, and nobody waits for anybody else's reply. The
caller only awaits a future: if it is cancelled, neither the connection nor the other calls notice. Nothing is
ever sent twice, except a script that the server said it does not know (and so did not run).

redis-py's connections (TLS, logins) are used, its client is not: that one answers a lost reply with up to ten
repetitions, and takes a connection of its own for every batch.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from gateway.breaker import Breaker, BreakerState
from gateway.limits import StoreUnavailable
from gateway.redis_servers import Connect

Argument = str | bytes | int
Reply = Any
"""What a Lua script may answer: an integer, bytes, None, or a list of replies."""
Keep = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task that somebody waits for in the end."""

GRACE_SECONDS = 0.005
"""How long a reply that is late may still be found to have arrived."""

_ONE_CALLS_FAULT = ("WRONGTYPE", "attempt to", "bad argument")
"""Words of errors that come from what one key holds: other calls fare well on the same server."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, run by its digest and sent as text only to servers that do not know it."""

    text: bytes
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text, usedforsecurity=False).hexdigest())


class Wire:
    """Runs commands on one server, connecting when first needed and after each fault.

    Every failure is StoreUnavailable, at most `deadline_seconds` after the call was made; at once while the
    breaker is open. An attempt to connect may take `connect_seconds`: calls do not wait that long. With
    `redirects`, being sent to another server is no fault of this one.
    """

    def __init__(
        self,
        connect: Connect,
        breaker: Breaker,
        *,
        deadline_seconds: float = 0.1,
        connect_seconds: float = 1.0,
        redirects: bool = False,
    ) -> None:
        self.breaker = breaker
        self._redirects = redirects
        self._connect = connect
        self._deadline_seconds = deadline_seconds
        self._connect_seconds = connect_seconds
        self._line: _Line | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._recovery: asyncio.Task[None] | None = None

    async def run(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        abandoned: Callable[[Reply], None] | None = None,
        *,
        writes: bool = True,
        deadline: float | None = None,
    ) -> Reply:
        """Run one script. If the caller is cancelled once it was sent, `abandoned` gets the reply instead.

        A script that only reads proves nothing to the breaker: replicas answer it too. `deadline` (loop time)
        stands in for that of the wire.
        """
        if not self.breaker.lets_through():
            raise StoreUnavailable(f"{self.breaker.server} failed a moment ago", sent=False)
        call = self._call(("EVALSHA", script.sha, len(keys), *keys, *arguments), abandoned, deadline)
        call.script, call.proves = script, writes
        try:
            return await call.reply
        except asyncio.CancelledError:
            # The reply may have come in the very turn in which the caller was cancelled.
            reply = call.reply
            if abandoned and reply.done() and not reply.cancelled() and reply.exception() is None:
                abandoned(reply.result())
            raise

    async def ask(self, *words: Argument) -> Reply:
        """Run a command that changes nothing, whatever the breaker says and without telling it."""
        call = self._call(words, None, None)
        call.counts = False
        return await call.reply

    def health(self) -> Mapping[str, bool]:
        """Whether the server answers, by its name."""
        return {self.breaker.server: self.breaker.state is BreakerState.CLOSED}

    async def close(self) -> None:
        """Hang up, and wait until nothing is left of the connection."""
        self.hang_up()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def hang_up(self) -> None:
        """Fail calls without a reply and stop looking after the server; `close` waits until that is done."""
        if self._recovery:
            self._recovery.cancel()
        if self._line:
            self._line.hang_up(ConnectionError("closed"))

    def _call(
        self,
        command: tuple[Argument, ...],
        abandoned: Callable[[Reply], None] | None,
        deadline: float | None,
    ) -> _Call:
        loop = asyncio.get_running_loop()
        if deadline is None:
            deadline = loop.time() + self._deadline_seconds
        call = _Call(command, deadline, loop.create_future(), self, abandoned)
        if self._line is None or self._line.dead:
            self._line = _Line(self._connect, self._connect_seconds, self._keep)
        self._line.put(call)
        return call

    def failed(self, error: BaseException) -> None:
        """A call that counts has failed."""
        redirected = self._redirects and isinstance(error, AskError)
        if redirected or any(word in str(error) for word in _ONE_CALLS_FAULT):
            self.breaker.succeeded()
            return
        self.breaker.failed(error)
        if self._recovery is None or self._recovery.done():
            self._recovery = self._keep(self._recover())

    async def _recover(self) -> None:
        """Ask for a sign of life until there is one."""
        while self.breaker.state is BreakerState.OPEN:
            await asyncio.sleep(self.breaker.hold_seconds)
            try:
                await self.ask("PING")
            except StoreUnavailable:
                self.breaker.probed(alive=False)
            else:
                self.breaker.probed(alive=True)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(slots=True, eq=False)
class _Call:
    command: tuple[Argument, ...]
    deadline: float
    reply: asyncio.Future[Reply]
    wire: Wire
    abandoned: Callable[[Reply], None] | None
    script: Script | None = None
    """What the server may say it does not know; None once it was sent as text."""
    counts: bool = True
    """Whether the breaker hears of the outcome."""
    proves: bool = True
    """Whether a reply shows that the server is sound."""

    def succeed(self, reply: Reply) -> None:
        if not self.proves:
            self.withdraw()
        elif self.counts:
            self.wire.breaker.succeeded()
        if not self.reply.done():
            self.reply.set_result(reply)
        elif self.abandoned:
            self.abandoned(reply)

    def fail(self, error: BaseException, *, sent: bool) -> None:
        if self.counts:
            self.wire.failed(error)
        if not self.reply.done():
            unavailable = StoreUnavailable(f"{type(error).__name__}: {error}", sent=sent)
            unavailable.__cause__ = error
            self.reply.set_exception(unavailable)

    def withdraw(self) -> None:
        if self.counts:
            self.wire.breaker.withdrawn()


class _Line:
    """One connection, from the attempt to make it until its first fault."""

    def __init__(self, connect: Connect, connect_seconds: float, keep: Keep) -> None:
        self.dead = False
        self._connect = connect
        self._connect_seconds = connect_seconds
        self._connected = False
        self._to_send: list[_Call] = []
        self._sent: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self._keep = keep
        self._task = keep(self._live())

    def put(self, call: _Call) -> None:
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

    def _take_batch(self) -> list[_Call]:
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

    def _send_text(self, call: _Call, error: NoScriptError) -> None:
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

    def _give_up_on(self, call: _Call) -> None:
        if self._oldest() is call:
            self.hang_up(TimeoutError("no reply in time"))
        else:
            self._check_deadlines()

    def _oldest(self) -> _Call | None:
        waiting = self._sent or self._to_send
        return waiting[0] if waiting else None


def _fail(calls: Iterable[_Call], error: BaseException, *, sent: bool) -> None:
    for call in calls:
        call.fail(error, sent=sent)
