"""Lua scripts on one Redis server, whatever becomes of its connections.

The caller only awaits a future: if it is cancelled, neither the connection nor the other calls notice.

redis-py's connections (TLS, logins) are used, its client is not: that one answers a lost reply with up to ten
repetitions, and takes a connection of its own for every batch.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import AskError

from gateway.redis.breaker import Breaker, BreakerState
from gateway.redis.line import Argument, Call, Line, RedisUnavailable, Reply, Watcher
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.script import Script
from gateway.redis.servers import Connect

_ONE_CALLS_FAULT = ("WRONGTYPE", "attempt to", "bad argument")
"""Words of errors that come from what one key holds: other calls fare well on the same server."""


class Scripts(ABC):
    """What runs scripts, on whichever server has their keys. Every failure is RedisUnavailable."""

    has_places = False
    """Whether keys are apart, so that a call may have those of one place only."""

    @abstractmethod
    def call(self, call: Call, key: Argument) -> None:
        """Make a call to the server of this key; it leaves when that is flushed. Never raises: `call` hears all."""

    @abstractmethod
    def flush(self) -> None:
        """Send the calls that have been made, in one write to each server."""

    @abstractmethod
    def flush_soon(self) -> None:
        """Send the calls that are made in this turn of the loop when it ends."""

    def place_of(self, key: str) -> int:  # noqa: ARG002 - unless there are several
        """Where a key is."""
        return 0

    @abstractmethod
    def health(self) -> Mapping[str, bool]:
        """Whether each server answers, by its name."""

    @abstractmethod
    async def close(self) -> None:
        """Hang up, and wait until nothing is left of the connections."""

    async def run(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        *,
        writes: bool = True,
    ) -> Reply:
        """Run one script and wait for its reply."""
        call = Awaited((len(keys), *keys, *arguments), script, writes=writes)
        self.call(call, keys[0])
        self.flush_soon()
        return await call.reply


class Awaited(Call):
    """A call whose maker waits for it."""

    __slots__ = ("_words", "reply")

    def __init__(
        self, words: Sequence[Argument], script: Script | None = None, *, writes: bool = True
    ) -> None:
        super().__init__(script, writes=writes)
        self._words = words
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def words(self) -> Sequence[Argument] | None:
        """Nobody wants what nobody waits for."""
        return None if self.reply.done() else self._words

    def answered(self, reply: Reply) -> None:
        """Wake who waits."""
        if not self.reply.done():
            self.reply.set_result(reply)

    def failed(self, unavailable: RedisUnavailable) -> None:
        """Wake who waits with the failure."""
        if not self.reply.done():
            self.reply.set_exception(unavailable)


class Wire(Scripts):
    """Runs commands on one server, connecting when first needed and after each fault.

    A call fails at most `deadline_seconds` after it was made; at once while the breaker is open. An attempt to
    connect may take `connect_seconds`: calls do not wait that long. With `redirects`, being sent to another server
    is no fault of this one.
    """

    def __init__(
        self,
        connect: Connect,
        breaker: Breaker,
        *,
        deadline_seconds: float = 0.1,
        connect_seconds: float = 1.0,
        redirects: bool = False,
        observer: Observer = NOBODY,
    ) -> None:
        self.breaker = breaker
        self._observed = observer.asks(breaker.server, self._is_up)
        self._redirects = redirects
        self._connect = connect
        self._deadline_seconds = deadline_seconds
        self._connect_seconds = connect_seconds
        self._reads = _Reads(self)
        self._line: Line | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._recovery: asyncio.Task[None] | None = None

    def call(self, call: Call, key: Argument) -> None:  # noqa: ARG002 - all keys are here
        """Make a call, unless the server failed a moment ago."""
        if not self.breaker.lets_through():
            call.failed(RedisUnavailable(f"{self.breaker.server} failed a moment ago", sent=False))
            return
        call.watcher = self if call.writes else self._reads
        self._put(call)

    def flush(self) -> None:
        """Send the calls that have been made, in one write."""
        if self._line:
            self._line.flush()

    def flush_soon(self) -> None:
        """Send them when this turn of the loop ends."""
        if self._line:
            self._line.flush_soon()

    async def ask(self, *words: Argument) -> Reply:
        """Run a command that changes nothing, whatever the breaker says and without telling it."""
        call = Awaited(words)
        self._put(call)
        self.flush_soon()
        return await call.reply

    def health(self) -> Mapping[str, bool]:
        """Whether the server answers, by its name."""
        return {self.breaker.server: self._is_up()}

    def _is_up(self) -> bool:
        return self.breaker.state is BreakerState.CLOSED

    async def close(self) -> None:
        """Hang up, and wait until nothing is left of the connection."""
        self.hang_up()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def hang_up(self) -> None:
        """Fail calls without a reply and stop looking after the server; `close` waits until that is done."""
        self._observed.gone()
        if self._recovery:
            self._recovery.cancel()
        if self._line:
            self._line.hang_up(ConnectionError("closed"))

    def succeeded(self) -> None:
        if self.breaker.state is not BreakerState.CLOSED:
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

    def _put(self, call: Call) -> None:
        line = self._line
        if line is None or line.dead:
            line = self._line = Line(self._connect, self._connect_seconds, self._keep, self._observed.took)
        if not call.deadline:
            call.deadline = line.loop.time() + self._deadline_seconds
        line.put(call)

    async def _recover(self) -> None:
        """Ask for a sign of life until there is one."""
        while self.breaker.state is BreakerState.OPEN:
            await asyncio.sleep(self.breaker.hold_seconds)
            try:
                await self.ask("PING")
            except RedisUnavailable as unavailable:
                self.breaker.probed(unavailable.__cause__ or unavailable)
            else:
                self.breaker.probed(None)

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
