"""Says when the store of limits is lost and when it is back, and by what is decided meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import assert_never

from gateway.limits.terms import OnStoreFailure

LOOK_SECONDS = 0.5

_log = logging.getLogger("gateway.limits.store")


class Outages:
    """Looks twice a second whether all servers answer, and tells of every change."""

    def __init__(
        self, health: Callable[[], Mapping[str, bool]], policy: Callable[[], OnStoreFailure]
    ) -> None:
        """`health`: by server, whether it answers; `policy`: the `on_store_failure` in force."""
        self._health = health
        self._policy = policy
        self._lost_at: dict[str, float] = {}
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look from now on."""
        self._looking = asyncio.create_task(self._look_on())

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look_on(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Tell of what has changed since the last look."""
        health = self._health()
        for server in [server for server in self._lost_at if health.get(server, True)]:
            seconds = monotonic() - self._lost_at.pop(server)
            _log.warning("limits are counted in Redis %s again, after %.1f s", server, seconds)
        for server, answers in health.items():
            if not answers and server not in self._lost_at:
                self._lost_at[server] = monotonic()
                policy = self._policy()
                _log.error(
                    "limits cannot be counted in Redis %s; on_store_failure is %s: %s",
                    *(server, policy.value, _meaning(policy)),
                )


def _meaning(policy: OnStoreFailure) -> str:
    match policy:
        case OnStoreFailure.LOCAL:
            return "each worker grants its share"
        case OnStoreFailure.OPEN:
            return "everything is granted, and counted nowhere"
        case OnStoreFailure.CLOSED:
            return "whatever a limit counts is refused, 503"
        case _:
            assert_never(policy)
