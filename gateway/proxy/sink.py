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
