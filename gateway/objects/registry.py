"""What one process asks and tells the registry of stored objects; the requests that wait for it come through here.

Asking fails where the store is away. Telling never does: what the store has not confirmed waits, and is told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gateway.limits.store import StoreUnavailable
from gateway.objects.store import Intent, Made, Named, ObjectStore, Scope

_PAUSE_SECONDS = 1.0


class Registry:
    """Ownership as one process knows and tells it."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._waiting: list[Callable[[], Awaitable[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._retrying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to tell again what waits."""
        self._retrying = asyncio.create_task(self._retry_for_ever())

    async def close(self) -> None:
        """Have what is still to be told confirmed or kept, and let go of the store."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.wait({self._retrying})
        await self._retry()
        await self.store.close()

    async def look(self, scope: Scope, named: Sequence[Named], intent: Intent | None = None) -> list[bool]:
        """Whether each may be used; notes the intent if all may. Raises StoreUnavailable."""
        return await self.store.look(scope, named, intent)

    async def record(self, scope: Scope, made: Sequence[Made], intent_id: str | None = None) -> bool:
        """Make them the tenant's; False: not confirmed yet, they wait and are nobody's meanwhile. Never raises."""
        return await self._tell(lambda: self.store.record(scope, made, intent_id))

    def record_soon(self, scope: Scope, made: Sequence[Made], intent_id: str | None = None) -> None:
        """The same, and nobody waits for it."""
        self._spawn(lambda: self.store.record(scope, made, intent_id))

    def free_soon(self, scope: Scope, named: Sequence[Named]) -> None:
        """The upstream has them no longer."""
        self._spawn(lambda: self.store.free(scope, named))

    def forget_intent_soon(self, scope: Scope, exchange_id: str) -> None:
        """Nothing was made."""
        self._spawn(lambda: self.store.forget_intent(scope, exchange_id))

    async def _tell(self, told: Callable[[], Awaitable[None]]) -> bool:
        try:
            await told()
        except StoreUnavailable:
            self._waiting.append(told)
            return False
        return True

    def _spawn(self, told: Callable[[], Awaitable[None]]) -> None:
        async def tell() -> None:
            await self._tell(told)

        task = asyncio.get_running_loop().create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retry_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            await self._retry()

    async def _retry(self) -> None:
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            await self._tell(told)
