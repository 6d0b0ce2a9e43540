"""How many lines somebody may have whose credentials are not accepted.

Whoever tries credentials asks as often as they like. The first of their refusals in a second have
lines of their own, and say all; the others are counted by address, in one line. What is kept is bounded whatever
addresses come.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from gateway.exchange.log_fields import COUNTED
from gateway.wire.addresses import peer_of

MOST_ADDRESSES = 256
"""Addresses that are told apart in one second; all others share one budget."""

_SECOND = 1.0


class RefusalBudget:
    """Says which refusals have lines of their own, and tells of the others once their second is over."""

    def __init__(self, per_second: int, *, tell: Callable[[dict[str, Any]], None], worker: int = 0) -> None:
        """`tell` is given a record for each address of which some had none."""
        self._per_second = per_second
        self._tell = tell
        self._worker = worker
        self._began = 0.0
        self._lines: Counter[str | None] = Counter()
        """How many lines each has had in this second."""

        self._refusals: dict[str | None, Counter[str]] = {}
        """What had none, by address and code."""

        self._second: asyncio.TimerHandle | None = None

    def has_room(self, client: str | None, code: str) -> bool:
        """Whether one more refusal of this client has a line; one that has not is counted here."""
        if self._second is None:
            self._began = time.time()
            self._second = asyncio.get_running_loop().call_later(_SECOND, self.close)
        address = None if client is None else peer_of(client)
        if address not in self._lines and len(self._lines) >= MOST_ADDRESSES:
            address = None
        if self._lines[address] < self._per_second:
            self._lines[address] += 1
            return True
        self._refusals.setdefault(address, Counter())[code] += 1
        return False

    def close(self) -> None:
        """The second is over, or everything is: tell what was counted."""
        if self._second is not None:
            self._second.cancel()
            self._second = None
        refusals, self._refusals = self._refusals, {}
        self._lines.clear()
        for address, counted in refusals.items():
            self._tell(
                {
                    "event": COUNTED,
                    "time": datetime.fromtimestamp(self._began, UTC),
                    "client": address,
                    "refusals": dict(counted),
                    "worker": self._worker,
                }
            )
