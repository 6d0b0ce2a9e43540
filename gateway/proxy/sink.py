"""Where the bytes of a body go, in the very turn in which they come."""

from __future__ import annotations

from typing import Protocol

from gateway.errors import GatewayError


class Sink(Protocol):
    """Gets a body as it arrives. None of these may raise, wait, or keep who calls; one of the last two comes last."""

    def piece(self, body: bytes, chunks: bytes | None) -> None:
        """The next bytes of the body, never empty.

        `chunks`: the same in chunks, exactly as they came, where nothing in their framing needs to be said anew.
        """

    def end(self) -> None:
        """The body has ended, as its framing says."""

    def fail(self, error: GatewayError) -> None:
        """There is no more of it: the peer broke off, broke the framing, or took too long."""


class RawSink(Sink, Protocol):
    """A sink that may have what comes over the wire instead, where nobody looks at the body and it comes in chunks."""

    takes_raw: bool
    """Whether it does; asked once."""

    def raw(self, data: bytes, body_bytes: int) -> None:
        """The next bytes, framing and all, of which so many are of the body. They may begin and end amid a chunk.

        After those that end amid one, the rest of that chunk comes in the same way.
        """
