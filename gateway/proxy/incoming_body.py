"""A request's body as it comes in: asked for, piece by piece or whole, or pushed on as it arrives.

Only the time in which the client is waited for counts against its deadlines: not what whoever takes the body does with
it, nor what has come and waits until this process gets round to it.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gateway.errors import BadRequest, ClientLeft, GatewayError, RequestTimeout
from gateway.proxy.channel import Channel, Held
from gateway.proxy.received_body import too_large
from gateway.proxy.sink import Sink
from gateway.proxy.wheel import Wheel
from gateway.wire.framing import Decoder, FramingBroken, is_next_to_nothing_but_framing
from gateway.wire.search import Piece

HELD_BYTES = 128 * 1024
"""After so many that nobody has asked for no more is read."""

LEAST_SECONDS = 60.0
SLOW_LINK_BYTES_PER_SECOND = 64 * 1024

_MOST_PIECES = 64
"""More of them are made one: each costs as much again as a small one has bytes."""

_LOOK_SECONDS = 1.0
"""How often it is looked whether the client is waited for; at least four times within a deadline."""


class BodyDeadlines(NamedTuple):
    """How long a client may be waited for, in seconds."""

    idle_seconds: float
    """Between two pieces."""

    most_seconds: float
    """In all; 0: a minute, and a second more for every 64 KiB that have come."""

    def allowed_seconds(self, come_bytes: int) -> float:
        """How long for a body of which so much has come."""
        return self.most_seconds or LEAST_SECONDS + come_bytes / SLOW_LINK_BYTES_PER_SECOND


class IncomingBody:
    """A body that is on its way. Its connection feeds it, by `take`."""

    __slots__ = (
        "_connection",
        "_deadlines",
        "_decoder",
        "_error",
        "_failed",
        "_held",
        "_holds",
        "_idle_seconds",
        "_lies_bytes",
        "_looked_at",
        "_looked_bytes",
        "_loop",
        "_most_bytes",
        "_sink",
        "_waited_seconds",
        "_waiter",
        "_wants_all",
        "_wheel",
        "come_bytes",
        "due_step",
        "is_eof",
    )

    def __init__(
        self,
        connection: Channel,
        decoder: Decoder,
        *,
        deadlines: BodyDeadlines,
        wheel: Wheel,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._connection = connection
        self._decoder = decoder
        self._deadlines = deadlines
        self._wheel = wheel
        self._loop = loop
        self.come_bytes = 0
        self.is_eof = False
        self.due_step: int | None = None
        self._held: list[bytes] = []
        self._lies_bytes = 0
        self._holds = False
        self._sink: Sink | None = None
        self._most_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._wants_all = False
        """Whether who waits does so for all of it."""

        self._failed = False
        self._error: GatewayError | None = None
        self._looked_at = self._idle_seconds = self._waited_seconds = 0.0
        self._looked_bytes = 0

    # What its connection says

    @property
    def is_pushed(self) -> bool:
        """Whether it goes on as it comes."""
        return self._sink is not None

    def take(self, data: Piece) -> bytes | None:
        """The next bytes behind the head; returns what stands behind the body, None while that has not ended.

        Raises FramingBroken for what cannot be read on; whoever takes the body has been told.
        """
        decoder = self._decoder
        try:
            piece = decoder.feed(data)
        except FramingBroken as broken:
            self._pass(broken.passed, None)
            self.fail(_broken_framing(broken.reason))
            raise
        if piece:
            sink, come_bytes = self._sink, self.come_bytes + len(piece)
            if sink is not None and come_bytes <= self._most_bytes:
                self.come_bytes = come_bytes
                sink.piece(piece, decoder.chunks)
            else:
                self._pass(piece, decoder.chunks)
        if decoder.ended:
            self._end()
            return decoder.rest
        if piece is not data and is_next_to_nothing_but_framing(decoder):
            self.fail(_broken_framing("next to nothing but framing has come"))
            raise FramingBroken("next to nothing but framing has come")
        return None

    def lost(self) -> None:
        """The connection is gone."""
        self.fail(ClientLeft("The client left."))

    # What whoever takes it says

    def read_nowait(self) -> bytes:
        held = self._held
        if not held:
            return b""
        piece = held[0] if len(held) == 1 else b"".join(held)
        held.clear()
        self._lies_bytes = 0
        self._go_on()
        return piece

    async def read(self) -> bytes:
        while not self._held:
            if self._failed:
                raise self._failure()
            if self.is_eof:
                return b""
            self._watch()
            await self._wait()
        return self.read_nowait()

    async def complete_within(self, seconds: float) -> bool:
        if not self.is_eof and not self._failed:
            self._wheel.ask(self, self._loop.time() + seconds)
            self._wants_all = True
            try:
                await self._wait()
            finally:
                self._wants_all = False
        if self._failed:
            raise self._failure()
        return self.is_eof

    def relay_to(self, sink: Sink, *, most_bytes: int) -> None:
        lies = self.read_nowait()
        if self.come_bytes > most_bytes:
            self.discard()
            sink.fail(too_large(most_bytes))
            return
        if lies:
            sink.piece(lies, None)
        if self._failed:
            sink.fail(self._failure())
        elif self.is_eof:
            sink.end()
        else:
            self._sink, self._most_bytes = sink, most_bytes
            self._watch()

    def discard(self) -> None:
        self._sink = _NOWHERE
        self._most_bytes = 2**63
        self._held.clear()
        self._lies_bytes = 0
        self._wheel.forget(self)
        self._go_on()

    # The deadlines

    def due(self, now: float) -> float | None:
        """Look whether the client is waited for, and for how long that has been so."""
        if self._wants_all:
            self._wake()
            return None
        connection, deadlines = self._connection, self._deadlines
        seconds, self._looked_at = now - self._looked_at, now
        if (self._sink is None and self._waiter is None) or connection.held or connection.surplus:
            self._idle_seconds = 0.0
            return now + self._look_seconds()
        self._waited_seconds += seconds
        self._idle_seconds = self._idle_seconds + seconds if self.come_bytes == self._looked_bytes else 0.0
        self._looked_bytes = self.come_bytes
        if self._idle_seconds >= deadlines.idle_seconds:
            self.fail(_idle(deadlines.idle_seconds))
            return None
        allowed_seconds = deadlines.allowed_seconds(self.come_bytes)
        if self._waited_seconds >= allowed_seconds:
            self.fail(_too_slow(self.come_bytes, allowed_seconds))
            return None
        left_seconds = min(
            deadlines.idle_seconds - self._idle_seconds, allowed_seconds - self._waited_seconds
        )
        return now + min(self._look_seconds(), left_seconds)

    def _look_seconds(self) -> float:
        deadlines = self._deadlines
        return min(_LOOK_SECONDS, deadlines.idle_seconds / 4, deadlines.allowed_seconds(0) / 4)

    def _watch(self) -> None:
        """The client is waited for from now on."""
        if self.due_step is None:
            self._looked_at, self._looked_bytes = self._loop.time(), self.come_bytes
            self._wheel.ask(self, self._looked_at + self._look_seconds())

    # Within

    def _pass(self, piece: Piece, chunks: Piece | None) -> None:
        if self._failed or not piece:
            return
        self.come_bytes += len(piece)
        sink = self._sink
        if sink is not None:
            if self.come_bytes > self._most_bytes:
                self.fail(too_large(self._most_bytes))
            else:
                sink.piece(piece, chunks)
            return
        held = self._held
        held.append(bytes(piece))
        self._lies_bytes += len(piece)
        if len(held) > _MOST_PIECES:
            held[:] = [b"".join(held)]
        if self._lies_bytes > HELD_BYTES and not self._holds:
            self._holds = True
            self._connection.hold(Held.BY_READER)
        if not self._wants_all:
            self._wake()

    def _end(self) -> None:
        self.is_eof = True
        self._wheel.forget(self)
        sink, self._sink = self._sink, None
        if self._failed:
            return
        if sink is not None:
            sink.end()
        else:
            self._wake()

    def fail(self, error: GatewayError) -> None:
        if self._failed or self.is_eof:
            return
        self._failed = True
        self._wheel.forget(self)
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.fail(error)
        else:
            self._error = error
            self._wake()

    def _failure(self) -> GatewayError:
        """Why there is no more of it: told once, for who raises it is known to it."""
        error, self._error = self._error, None
        return error or ClientLeft("The body had failed before.")

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _go_on(self) -> None:
        if self._holds:
            self._holds = False
            self._connection.go_on(Held.BY_READER)


class _Nowhere:
    """Gets what nobody wants."""

    def piece(self, body: Piece, chunks: Piece | None) -> None:
        pass

    def end(self) -> None:
        pass

    def fail(self, error: GatewayError) -> None:
        pass


_NOWHERE = _Nowhere()


def _broken_framing(reason: str) -> BadRequest:
    return BadRequest(
        "The request body's framing is broken, or many times larger than the body. Check its chunks.",
        code="bad_framing",
        detail=reason,
    )


def _idle(idle_seconds: float) -> RequestTimeout:
    return RequestTimeout(
        f"The request body stopped for more than {idle_seconds:g} seconds. Send the request again.",
        detail="edge.body_idle_timeout_seconds",
    )


def _too_slow(come_bytes: int, seconds: float) -> RequestTimeout:
    return RequestTimeout(
        f"The request body came too slowly: {come_bytes} bytes in {seconds:.0f} seconds. "
        "Send the request again over a faster connection, or in smaller parts.",
        detail="edge.body_timeout_seconds",
    )
