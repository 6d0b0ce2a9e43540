"""A request's body, as whoever takes it sees it; and one that has come before anybody asked."""

from __future__ import annotations

from typing import Protocol

from gateway.errors import BodyTooLarge
from gateway.proxy.sink import Sink


class Body(Protocol):
    """The body of a request: one reader takes it, or one sink gets it."""

    come_bytes: int
    """How much of it has come."""

    is_eof: bool
    """Whether all of it has come."""

    def read_nowait(self) -> bytes:
        """What lies here of it; empty where nothing does."""

    async def read(self) -> bytes:
        """The next piece, empty at the end. Raises BadRequest, RequestTimeout or ClientLeft."""

    async def complete_within(self, seconds: float) -> bool:
        """Whether all of it comes in that time. Raises BadRequest or ClientLeft."""

    def relay_to(self, sink: Sink, *, most_bytes: int) -> None:
        """Push it on from now on, what lies here first; one that is larger fails with BodyTooLarge."""

    def discard(self) -> None:
        """Nobody wants the rest: drop what comes."""


class ReceivedBody:
    """A body that was there with its head, or none."""

    __slots__ = ("_body", "come_bytes")

    is_eof = True

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.come_bytes = len(body)

    def read_nowait(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def read(self) -> bytes:
        return self.read_nowait()

    async def complete_within(self, seconds: float) -> bool:  # noqa: ARG002
        return True

    def relay_to(self, sink: Sink, *, most_bytes: int) -> None:
        if self.come_bytes > most_bytes:
            sink.fail(too_large(most_bytes))
            return
        if self._body:
            sink.piece(self.read_nowait(), None)
        sink.end()

    def discard(self) -> None:
        self._body = b""


NO_BODY = ReceivedBody(b"")


def too_large(most_bytes: int, detail: str = "edge.max_body_bytes") -> BodyTooLarge:
    """The refusal of a body that exceeds what the setting says."""
    return BodyTooLarge(
        f"The request body exceeds {most_bytes} bytes. Large files go up in parts, by /v1/uploads.",
        detail=detail,
    )
