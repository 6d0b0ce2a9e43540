"""Where the bytes of a body go, in the very turn in which they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.errors import GatewayError
from gateway.wire.search import Piece


class Sink(Protocol):
    """Gets a body as it arrives. None of these may raise, wait, or keep who calls; one of the last two comes last."""

    def piece(self, body: Piece, chunks: Piece | None) -> None:
        """The next bytes of the body, never empty.

        `chunks`: the same in chunks, exactly as they came, where nothing in their framing needs to be said anew.
        """

    def end(self) -> None:
        """The body has ended, as its framing says."""

    def fail(self, error: GatewayError) -> None:
        """There is no more of it: the peer broke off, broke the framing, or took too long."""


Passes = Callable[[bytes], int]
"""Sends on of a piece, as it came over the wire, the chunks in front that are of the usual kind.

Returns how many bytes that were; the rest begins a chunk, and is to be handed over as any piece is."""


class RawSink(Sink, Protocol):
    """A sink that may have what comes over the wire instead, where nobody looks at the body and it comes in chunks."""

    takes_raw: bool
    """Whether it does; asked once."""

    def end(self, body: Piece = b"", chunks: Piece | None = None) -> None:
        """As `Sink.end`; the last bytes of the body may come with it, as to `piece`."""

    def usual(self) -> Passes | None:
        """What passes the usual piece from now on; asked behind a piece, between two chunks. None: nothing does."""

    def raw(self, data: Piece, body_bytes: int) -> None:
        """The next bytes, framing and all, of which so many are of the body. They may begin and end amid a chunk.

        After those that end amid one, the rest of that chunk comes in the same way.
        """


class Raw(Protocol):
    """Gets what comes over a connection that speaks another protocol now."""

    def feed_data(self, data: bytes) -> object:
        """Bytes as they came."""

    def feed_eof(self) -> object:
        """The connection is gone."""


class Awaited:
    """What sinks have in common whose end an exchange waits for."""

    __slots__ = ("_error", "_over", "_waiter")

    def __init__(self) -> None:
        self._over = False
        self._error: GatewayError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def fail(self, error: GatewayError) -> None:
        """There is no more of the body, for this."""
        if not self._over:
            self._error = error
            self._settle()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is taken."""
        return self._over

    def stop(self) -> None:
        """Take no more of it: nobody waits any longer."""
        self._over = True

    def _settle(self) -> None:
        self._over = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def ended(self) -> None:
        """Wait until all has come, or nothing more is taken. Raises what has broken it off."""
        if not self._over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # which knows this frame
