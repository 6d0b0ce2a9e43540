"""What bodies may occupy in memory: counted before they come, bounded for all, shared among tenants.

Who finds no room waits a moment, in turn by tenant: when room comes free, it goes to the tenant that holds least. A
tenant has a share that it never exceeds, and who holds more than a tenth gets more only while a tenth of all stays
free: so however much a few hold, the others' bodies fit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.errors import BodyTooLarge, Overloaded

PATIENCE_SECONDS = 1.0
LITTLE_BYTES = 64 * 1024
"""So much does not wait behind what is larger."""

GROWTH_BYTES = 256 * 1024
"""A body that states no size takes room in steps of this."""

STREAMED_BYTES = 384 * 1024
"""What lies here of a body that goes up while it comes: what is on its way from its connection and to the other."""

MOST_WAITING = 64
"""Bodies of one tenant that wait for room: what has come of each lies in its connection meanwhile."""

Refused = Callable[[str, str], None]
"""Counts a refusal: tenant, and `full`, `share` (the tenant's own is used up) or `never_fits`."""


class BodyMemory:
    """The room for bodies of one process."""

    def __init__(
        self,
        *,
        most_bytes: int,
        share: float,
        refused: Refused,
        first: Callable[[str], None],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """`share` is the part of `most_bytes` that one tenant may hold; `first` is told of a tenant that holds some."""
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._little = most_bytes // 10
        self.share_bytes = share_of(most_bytes, share)
        self._modest_bytes = min(self._little, self.share_bytes)
        """Who holds so much at most gets it as long as there is any."""

        self._refused = refused
        self._first = first
        self._patience_seconds = patience_seconds
        self._held_by: dict[str, int] = {}
        self._waiting: dict[str, deque[_Waiting]] = {}

    def room_for(self, tenant: str) -> BodyRoom:
        """Room for one exchange, none of it taken yet. Whoever gets it ends it, by `release`."""
        return BodyRoom(self, tenant)

    def held_by(self, tenant: str) -> int:
        """How many bytes the bodies of a tenant occupy."""
        return self._held_by.get(tenant, 0)

    @property
    def waiting(self) -> int:
        """Bodies that wait for room."""
        return sum(map(len, self._waiting.values()))

    def _fits(self, tenant: str, count: int) -> bool:
        own = self._held_by.get(tenant, 0) + count
        if own > self.share_bytes:
            return False
        return self.held_bytes + count <= self.most_bytes - (self._little if own > self._little else 0)

    def _take(self, tenant: str, count: int) -> None:
        if tenant not in self._held_by:
            self._held_by[tenant] = 0
            self._first(tenant)
        self.held_bytes += count
        self._held_by[tenant] += count

    async def _take_in_turn(self, tenant: str, count: int) -> None:
        """Raises Overloaded when no room comes free in time."""
        queue = self._waiting.get(tenant)
        if queue is not None and len(queue) >= MOST_WAITING:
            raise self._no_room(tenant, count)
        waiting = _Waiting(count, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant, deque()).append(waiting)
        try:
            async with asyncio.timeout(self._patience_seconds):
                await waiting.served
        except BaseException as ended:
            if waiting.served.done() and not waiting.served.cancelled():
                self._give_back(tenant, count)
            else:
                self._leave(tenant, waiting)
            if not isinstance(ended, TimeoutError):
                raise
        else:
            return
        raise self._no_room(tenant, count)

    def _no_room(self, tenant: str, count: int) -> Overloaded:
        if self.held_by(tenant) + count > self.share_bytes:
            self._refused(tenant, "share")
            held = f"{self.held_by(tenant)} of {self.share_bytes} bytes held by this tenant"
            return Overloaded(
                "Your other requests' bodies fill your part of this gateway's memory. Send fewer at a time, "
                "or try again in a moment.",
                detail=f"edge.body_memory_share: {held}",
            )
        self._refused(tenant, "full")
        return Overloaded(
            "The gateway holds as many request bodies as it can. Try again in a moment.",
            detail=f"edge.body_memory_bytes: {self.held_bytes} of {self.most_bytes} bytes held",
        )

    def _give_back(self, tenant: str, count: int) -> None:
        self.held_bytes -= count
        self._held_by[tenant] -= count
        if self._waiting:
            self._serve()

    def _leave(self, tenant: str, waiting: _Waiting) -> None:
        queue = self._waiting.get(tenant)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._waiting[tenant]
        self._serve()  # what stood behind it may be smaller

    def _serve(self) -> None:
        while True:
            ready = [tenant for tenant, queue in self._waiting.items() if self._fits(tenant, queue[0].count)]
            if not ready:
                return
            tenant = min(ready, key=self.held_by)
            queue = self._waiting[tenant]
            served = queue.popleft()
            if not queue:
                del self._waiting[tenant]
            if not served.served.done():  # it has just given up
                self._take(tenant, served.count)
                served.served.set_result(None)


def share_of(most_bytes: int, share: float) -> int:
    """What the bodies of one tenant may occupy, of all that there is: no body that needs more ever fits."""
    return min(int(most_bytes * share), most_bytes - most_bytes // 10)


class _Waiting:
    """One body that waits for room."""

    __slots__ = ("count", "served")

    def __init__(self, count: int, served: asyncio.Future[None]) -> None:
        self.count = count
        self.served = served


class BodyRoom:
    """What the body of one exchange occupies."""

    __slots__ = ("_memory", "_tenant", "held_bytes")

    def __init__(self, memory: BodyMemory, tenant: str) -> None:
        self._memory = memory
        self._tenant = tenant
        self.held_bytes = 0

    def take_now(self, size_bytes: int) -> bool:
        """Have room for so many bytes in all, if it can be had without waiting; whether it could."""
        more = size_bytes - self.held_bytes
        if more <= 0:
            return True
        memory, tenant = self._memory, self._tenant
        held_by, in_all = memory._held_by, memory.held_bytes + more
        held = held_by.get(tenant)
        own = more if held is None else held + more
        if more > LITTLE_BYTES and tenant in memory._waiting:
            return False
        if (own > memory._modest_bytes or in_all > memory.most_bytes) and not memory._fits(tenant, more):
            return False
        if held is None:
            memory._first(tenant)
        memory.held_bytes, held_by[tenant], self.held_bytes = in_all, own, size_bytes
        return True

    async def take(self, size_bytes: int) -> None:
        """Have room for so many bytes in all.

        Raises BodyTooLarge for what can never fit, and Overloaded when no room comes free in time.
        """
        if self.take_now(size_bytes):
            return
        memory = self._memory
        if size_bytes > memory.share_bytes:
            memory._refused(self._tenant, "never_fits")
            raise BodyTooLarge(
                f"A request body of {size_bytes} bytes exceeds the {memory.share_bytes} bytes that one tenant's "
                "bodies may occupy in this gateway. Send less at once; large files go up in parts, by /v1/uploads.",
                detail="edge.body_memory_share",
            )
        await memory._take_in_turn(self._tenant, size_bytes - self.held_bytes)
        self.held_bytes = size_bytes

    def refuse(self, size_bytes: int) -> Overloaded:
        """Count that there is no room for so many bytes in all, and say so."""
        return self._memory._no_room(self._tenant, size_bytes - self.held_bytes)

    async def take_for_stream(self, size_bytes: int | None) -> None:
        """Have room for a body that streams, of this size or an unknown one. Raises as `take` does."""
        await self.take(STREAMED_BYTES if size_bytes is None else min(size_bytes, STREAMED_BYTES))

    async def grow(self, size_bytes: int) -> None:
        """Have room for a body that states no size and has so many bytes by now. Raises as `take` does."""
        if size_bytes > self.held_bytes:
            step = -(-size_bytes // GROWTH_BYTES) * GROWTH_BYTES
            await self.take(max(size_bytes, min(step, self._memory.share_bytes)))

    def release(self) -> None:
        """Give everything back."""
        held, self.held_bytes = self.held_bytes, 0
        if held:
            self._memory._give_back(self._tenant, held)
