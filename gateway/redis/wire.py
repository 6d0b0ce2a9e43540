"""Lua scripts on one Redis server, whatever becomes of its connections.

The caller only awaits a future: if it is cancelled, neither the connection nor the other calls notice.

redis-py's connections (TLS, logins) are used, its client is not: that one answers a lost reply with up to ten
repetitions, and takes a connection of its own for every batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import AskError

from gateway.redis.breaker import Breaker, BreakerState
from gateway.redis.line import Argument, Call, Line, RedisUnavailable, Reply, Watcher
from gateway.redis.script import Script
from gateway.redis.servers import Connect

_ONE_CALLS_FAULT = ("WRONGTYPE", "attempt to", "bad argument")
"""Words of errors that come from what one key holds: other calls fare well on the same server."""


class Wire:
    """Runs commands on one server, connecting when first needed and after each fault.

    Every failure is RedisUnavailable, at most `deadline_seconds` after the call was made; at once while the
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
        self._reads = _Reads(self)
        self._line: Line | None = None
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
            raise RedisUnavailable(f"{self.breaker.server} failed a moment ago", sent=False)
        call = self._call(("EVALSHA", script.sha, len(keys), *keys, *arguments), deadline)
        call.script, call.abandoned = script, abandoned
        call.watcher = self if writes else self._reads
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
        return await self._call(words, None).reply

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

    def succeeded(self) -> None:
        self.breaker.succeeded()

    def failed(self, error: BaseException) -> None:
        redirected = self._redirects and isinstance(error, AskError)
        if redirected or any(word in str(error) for word in _ONE_CALLS_FAULT):
            self.breaker.succeeded()
            return
        self.breaker.failed(error)
        if self._recovery is None or self._recovery.done():
            self._recovery = self._keep(self._recover())

    def withdrawn(self) -> None:
        self.breaker.withdrawn()

    def _call(self, command: tuple[Argument, ...], deadline: float | None) -> Call:
        loop = asyncio.get_running_loop()
        if deadline is None:
            deadline = loop.time() + self._deadline_seconds
        call = Call(command, deadline, loop.create_future())
        if self._line is None or self._line.dead:
            self._line = Line(self._connect, self._connect_seconds, self._keep)
        self._line.put(call)
        return call

    async def _recover(self) -> None:
        """Ask for a sign of life until there is one."""
        while self.breaker.state is BreakerState.OPEN:
            await asyncio.sleep(self.breaker.hold_seconds)
            try:
                await self.ask("PING")
            except RedisUnavailable:
                self.breaker.probed(alive=False)
            else:
                self.breaker.probed(alive=True)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(frozen=True, slots=True)
class _Reads:
    """Passes on what a reading call says of its server: its failure, but not its success."""

    wire: Watcher

    def succeeded(self) -> None:
        self.wire.withdrawn()

    def failed(self, error: BaseException) -> None:
        self.wire.failed(error)

    def withdrawn(self) -> None:
        self.wire.withdrawn()
