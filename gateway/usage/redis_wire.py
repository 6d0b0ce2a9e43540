"""The way to Redis of all that is kept there about usage: counters, how long answers are, work that reports later.

One process has one, whatever it keeps, for none of that is waited for by a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from gateway.limits.store import StoreUnavailable
from gateway.redis.cluster import open_wire
from gateway.redis.line import Argument, RedisUnavailable, Reply
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.schema import DEFAULT_PREFIX
from gateway.redis.script import Script
from gateway.redis.servers import RedisServers

DEADLINE_SECONDS = 2.0


class UsageWire:
    """Runs scripts; redis/servers.py says what `url` may be. Nothing is connected before the first.

    Each store that has it closes it when it is closed itself, and with the last of them the connections are.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        prefix: str = DEFAULT_PREFIX,
        observer: Observer = NOBODY,
    ) -> None:
        self.prefix = prefix
        self._scripts = open_wire(
            RedisServers.parse(url), prefix, deadline_seconds=deadline_seconds, observer=observer
        )
        self._stores = 0

    def for_store(self) -> Self:
        """The same, for one more store."""
        self._stores += 1
        return self

    async def run(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Reply:
        """Run one script and wait for its reply. Raises StoreUnavailable."""
        try:
            return await self._scripts.run(script, keys, arguments)
        except RedisUnavailable as error:
            raise StoreUnavailable(str(error), sent=error.sent) from error

    async def close(self) -> None:
        """One store less has it."""
        self._stores -= 1
        if not self._stores:
            await self._scripts.close()
