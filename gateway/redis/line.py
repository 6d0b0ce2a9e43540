"""One Redis connection with many calls in flight.

Calls leave together when the line is flushed, and nobody waits for anybody else's reply. Nothing is ever sent twice,
except a script that the server said it does not know (and so did not run).

redis-py dials, speaks TLS and logs in. From then on its transport belongs to the line: replies are read where they
arrive, without a task.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from time import monotonic
from typing import Any, Protocol

import hiredis
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from gateway.redis.script import Script
from gateway.redis.servers import Connect, hand_over

Argument = str | bytes | int
Reply = Any
"""What a command may answer: an integer, bytes, None, or a list of replies."""
Keep = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task that somebody waits for in the end."""

GRACE_SECONDS = 0.005
"""How long a reply that is late may still be found to have arrived."""

_NOT_YET = object()
_ERRORS: dict[str, type[ResponseError]] = {
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "MOVED": MovedError,
    "ASK": AskError,
}


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
        """The call was never sent: nobody wanted it any more."""


class Call(ABC):
    """A command on its way. Who makes it says in a subclass what it is, and what becomes of its reply."""

    __slots__ = ("deadline", "script", "watcher", "writes")

    def __init__(self, script: Script | None = None, *, writes: bool = True) -> None:
        self.script = script
        """What is run; None: the words are a whole command."""
        self.writes = writes
        """One that only reads proves nothing to the breaker: replicas answer it too."""
        self.deadline = 0.0
        """In loop time; 0: as soon as is usual."""
        self.watcher: Watcher | None = None

    @abstractmethod
    def words(self) -> Sequence[Argument] | None:
        """Number of keys, keys and arguments as the call leaves; None if nobody wants it any more."""

    @abstractmethod
    def answered(self, reply: Reply) -> None:
        """It was done; once, or else `failed` once."""

    @abstractmethod
    def failed(self, unavailable: RedisUnavailable) -> None:
        """It was not done, or nobody knows."""

    def fail(self, error: BaseException, *, sent: bool) -> None:
        if self.watcher:
            self.watcher.failed(error)
        kind = type(error).__name__
        unavailable = RedisUnavailable(f"{kind}: {error}" if str(error) else kind, sent=sent)
        unavailable.__cause__ = error
        self.failed(unavailable)


class Line(asyncio.Protocol):
    """One connection, from the attempt to make it until its first fault."""

    def __init__(
        self, connect: Connect, connect_seconds: float, keep: Keep, took: Callable[[float], None]
    ) -> None:
        """`took` is told how long round trips take."""
        self.dead = False
        self.loop = asyncio.get_running_loop()
        self._connect = connect
        self._connect_seconds = connect_seconds
        self._transport: asyncio.WriteTransport | None = None
        self._replies = hiredis.Reader(replyError=_error, notEnoughData=_NOT_YET)
        self._to_send: list[Call] = []
        self._sent: deque[Call] = deque()
        self._flushes_soon = False
        self._took = took
        self._timed: Call | None = None
        """The last call of a write, whose reply is waited for: one at a time tells how long a round trip takes."""

        self._timed_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._gone = self.loop.create_future()
        self._task = keep(self._live())

    def put(self, call: Call) -> None:
        """Let a call leave with the next flush, or as soon as there is a connection."""
        self._to_send.append(call)
        if self._watch is None:
            self._watch = self.loop.call_at(call.deadline, self._check_deadlines)

    def flush(self) -> None:
        """Send what has been put, in one write."""
        self._flushes_soon = False
        if self._transport is None or not self._to_send:
            return
        calls, self._to_send = self._to_send, []
        packed = b"".join([self._packed(call) for call in calls])
        if packed:
            if self._timed is None:
                self._timed, self._timed_at = self._sent[-1], monotonic()
            self._transport.write(packed)

    def flush_soon(self) -> None:
        """Send what is put in this turn of the loop when it ends."""
        if not self._flushes_soon:
            self._flushes_soon = True
            self.loop.call_soon(self.flush)

    def data_received(self, data: bytes) -> None:
        """Tell calls their replies."""
        self._replies.feed(data)
        try:
            while not self.dead and (reply := self._replies.gets()) is not _NOT_YET:
                self._take(reply)
        except hiredis.ProtocolError as error:
            self.hang_up(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        self.hang_up(exc or ConnectionError("Connection closed by server."))

    def hang_up(self, error: BaseException) -> None:
        """Fail every call that has no reply and let the connection go. The next call needs a new line."""
        if self.dead:
            return
        self.dead = True
        if self._watch:
            self._watch.cancel()
        if self._transport:
            self._transport.abort()
        if self._timed is not None:
            self._timed = None
            if isinstance(error, TimeoutError):  # a server that is lost at once is not a slow one
                self._took(monotonic() - self._timed_at)
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
        try:
            self._transport = await hand_over(connection, self)
            self.flush()
            await self._gone
        except (RedisError, OSError) as error:
            self.hang_up(error)
        except asyncio.CancelledError:
            self.hang_up(ConnectionError("cancelled"))
        finally:
            await connection.disconnect(nowait=True)

    def _packed(self, call: Call) -> bytes:
        words = call.words()
        if words is None:
            if call.watcher:
                call.watcher.withdrawn()
            return b""
        self._sent.append(call)
        script = call.script
        if script is None:
            return _pack(*words)
        return _pack("EVALSHA", script.sha, *words)

    def _take(self, reply: Reply) -> None:
        if not self._sent:
            self.hang_up(ConnectionError("a reply to nothing"))
            return
        call = self._sent.popleft()
        if call is self._timed:
            self._timed = None
            self._took(monotonic() - self._timed_at)
        if not isinstance(reply, RedisError):
            if call.watcher:
                call.watcher.succeeded()
            call.answered(reply)
        elif isinstance(reply, NoScriptError) and call.script is not None:
            self._send_text(call, call.script)
        else:
            # Redis refuses a script before its first write, so nothing was done.
            call.fail(reply, sent=False)
            # A master that was demoted (6.2 words it otherwise than 7): the next call should find the new one.
            if isinstance(reply, ReadOnlyError) or "READONLY" in str(reply):
                self.hang_up(reply)

    def _send_text(self, call: Call, script: Script) -> None:
        words = call.words()
        if words is None or self._transport is None:
            if call.watcher:
                call.watcher.withdrawn()
            return
        call.script = None  # the server cannot say of a text that it does not know it
        self._sent.append(call)
        self._transport.write(_pack("EVAL", script.text, *words))

    def _check_deadlines(self) -> None:
        """One timer serves all calls: the oldest is always first in line."""
        self._watch = None
        now = self.loop.time()
        if self._transport is None:
            # Who has waited long enough is told so, the attempt goes on.
            late = [call for call in self._to_send if call.deadline <= now]
            del self._to_send[: len(late)]
            _fail(late, TimeoutError("no connection in time"), sent=False)
        oldest = self._oldest()
        if oldest is None:
            return
        if oldest.deadline > now:
            self._watch = self.loop.call_at(oldest.deadline, self._check_deadlines)
        else:
            # If it was this process that slept, the reply is here and only has to be read.
            self._watch = self.loop.call_later(GRACE_SECONDS, self._give_up_on, oldest)

    def _give_up_on(self, call: Call) -> None:
        if self._oldest() is call:
            self.hang_up(TimeoutError("no reply in time"))
        else:
            self._check_deadlines()

    def _oldest(self) -> Call | None:
        waiting = self._sent or self._to_send
        return waiting[0] if waiting else None


def _pack(*words: Argument) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # any sequence will do
    return packed


def _error(text: str) -> ResponseError:
    word, _, rest = text.partition(" ")
    kind = _ERRORS.get(word)
    return ResponseError(text) if kind is None else kind(rest)


def _fail(calls: Iterable[Call], error: BaseException, *, sent: bool) -> None:
    for call in calls:
        call.fail(error, sent=sent)
