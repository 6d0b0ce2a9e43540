"""Rests between two pieces of work on the private listener's thread: the interpreter is shared with who serves."""

from __future__ import annotations

import asyncio
from time import monotonic, thread_time

_REST = 4
"""Times as long as the work has taken of a core, nothing is done."""


class Rests:
    """Sees to it that a piece of work, done in bites, takes no more than a fifth of a core, whoever asks how often."""

    def __init__(self) -> None:
        self._until = 0.0

    def worked(self, began: float) -> None:
        """A bite is done that began at this `thread_time`."""
        self._until = max(self._until, monotonic()) + _REST * (thread_time() - began)

    async def rest(self) -> None:
        """Return when there may be work again."""
        # A rest that is too short to be taken is taken with the next ones.
        if (seconds := self._until - monotonic()) > 0.001:
            await asyncio.sleep(seconds)
