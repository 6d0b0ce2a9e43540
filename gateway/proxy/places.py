"""Places, and who gets the next one: so many at once, shared fairly by the tenants that want them.

Knows nothing of what a place stands for; the pool of connections to an upstream has one for each exchange.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Places:
    """At most `most` places taken at once.

    One tenant takes more than its share only as long as a tenth of all places stays free: what lasts for hours
    cannot be taken back. Who has to wait is served in turn by tenant, and within a tenant in order.
    """

    def __init__(self, most: int, *, tenant_share: float, first: Callable[[str], None]) -> None:
        """`first` is told of a tenant that takes a place for the first time."""
        self.most = most
        self.taken = 0
        self.waiting = 0
        self._share = max(1, int(most * tenant_share))
        self._many = most - math.ceil(most / 10)
        self._first = first
        self._held: dict[str, int] = {}
        # Tenants in the order of their turns, each with its futures in the order in which they came. Whoever
        # stands here may not have a place now, so that nobody who comes meanwhile overtakes.
        self._queues: dict[str, dict[asyncio.Future[bool], None]] = {}

    def held_by(self, tenant: str) -> int:
        """How many places a tenant has."""
        return self._held.get(tenant, 0)

    def take(self, tenant: str) -> bool:
        """Take a place if there is one for this tenant now."""
        held = self._held.get(tenant)
        if held is None:
            held = self._held[tenant] = 0
            self._first(tenant)
        if self.taken >= self._many and (self.taken >= self.most or held >= self._share):
            return False
        self._held[tenant] = held + 1
        self.taken += 1
        return True

    async def wait(self, tenant: str, within_seconds: float) -> bool:
        """Take a place as soon as it is this tenant's turn; False: there was none in time.

        Who is cancelled has none, and takes no turn.
        """
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._queues.setdefault(tenant, {})[turn] = None
        self.waiting += 1
        timer = loop.call_later(within_seconds, self._give_up, tenant, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result():
                self.give_back(tenant)  # the place was handed over, and nobody came for it
            raise
        finally:
            timer.cancel()
            self._leave(tenant, turn)
            self.waiting -= 1

    def give_back(self, tenant: str) -> None:
        """Let somebody else have a place that was taken."""
        self._held[tenant] -= 1
        self.taken -= 1
        if self._queues:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give places to those who wait, as far as there are any for them."""
        while tenant := next(filter(self.take, self._queues), None):
            queue = self._queues.pop(tenant)
            turn = next(iter(queue))
            del queue[turn]
            if queue:
                self._queues[tenant] = queue  # its next turn comes after everybody else's
            if turn.done():
                self._held[tenant] -= 1  # who waited has left: the next one gets it
                self.taken -= 1
            else:
                turn.set_result(True)

    def _give_up(self, tenant: str, turn: asyncio.Future[bool]) -> None:
        self._leave(tenant, turn)
        if not turn.done():
            turn.set_result(False)

    def _leave(self, tenant: str, turn: asyncio.Future[bool]) -> None:
        queue = self._queues.get(tenant)
        if queue is not None:
            queue.pop(turn, None)
            if not queue:
                del self._queues[tenant]
