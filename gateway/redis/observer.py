"""Who is told how servers fare: how long round trips take, and whether a server answers.

Apart from what asks them, so that naming an observer does not take Redis' client along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Server(Protocol):
    """What one connection's asker tells of its server."""

    def took(self, seconds: float) -> None:
        """A round trip took so long, or was given up after so long."""

    def gone(self) -> None:
        """Nobody asks it any more over this connection."""


class Observer(Protocol):
    """Knows the servers that one process asks, by name: never a URL, and never a login."""

    def asks(self, server: str, is_up: Callable[[], bool]) -> Server:
        """Somebody asks this server from now on; `is_up` says at any time whether it answers him."""


class _Nobody:
    def asks(self, server: str, is_up: Callable[[], bool]) -> Server:  # noqa: ARG002
        return self

    def took(self, seconds: float) -> None:
        pass

    def gone(self) -> None:
        pass


NOBODY: Observer = _Nobody()
"""For who asks once, and for tests."""
