"""Who is told how the registry fares."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Found(StrEnum):
    """What came of a look-up."""

    OWN = "own"
    UNKNOWN = "unknown"
    UNAVAILABLE = "unavailable"


class Became(StrEnum):
    """What became of objects."""

    RECORDED = "recorded"
    """They are the tenant's."""

    WAITING = "waiting"
    """The store could not be told; they are nobody's until it is."""

    FREED = "freed"
    """The upstream has them no longer."""

    LOST = "lost"
    """The store will not be told: there was no room for them to wait. The log has a line with each."""


class Heard(Protocol):
    """Counts."""

    def looked(self, found: Found, seconds: float) -> None:
        """A look-up took so long."""

    def became(self, what: Became, objects: int) -> None:
        """That has become of so many objects."""

    def went_unasked(self) -> None:
        """Inference went through although the store could not be asked."""


class _Nobody:
    def looked(self, found: Found, seconds: float) -> None:
        pass

    def became(self, what: Became, objects: int) -> None:
        pass

    def went_unasked(self) -> None:
        pass


NOBODY: Heard = _Nobody()
"""For who tells once, and for tests."""
