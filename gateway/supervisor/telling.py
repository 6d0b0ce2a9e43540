"""What workers tell of themselves when somebody looks at the state: asked of all of them, from another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import cast

from gateway.app.messages import OtherEndGone
from gateway.app.state import Told
from gateway.supervisor.worker import Worker

_ANSWER_SECONDS = 1.0
"""For workers to tell; the state is shown without those that do not."""


class Telling:
    """Has workers tell it. What all of them know alike is told by one."""

    def __init__(self, workers: Callable[[], Iterable[Worker]]) -> None:
        """Of these. Needs a running loop."""
        self._workers = workers
        self._loop = asyncio.get_running_loop()

    async def ask(self, busiest: Sequence[str]) -> Mapping[int, Told]:
        """What each has told, by its process; asked from another thread."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(busiest), self._loop))

    async def _ask(self, busiest: Sequence[str]) -> Mapping[int, Told]:
        workers = [worker for worker in self._workers() if worker.turns]
        if not workers:
            return {}
        # One that serves on: what it has read of usage is read anew by every other.
        knows = next((worker for worker in workers if not worker.is_leaving), workers[0])
        told: dict[int, Told] = {}
        asked = [
            asyncio.create_task(_asked(worker, told, common=worker is knows, busiest=busiest))
            for worker in workers
        ]
        try:
            await asyncio.wait(asked, timeout=_ANSWER_SECONDS)
        finally:
            for task in asked:
                task.cancel()
        return told


async def _asked(worker: Worker, told: dict[int, Told], *, common: bool, busiest: Sequence[str]) -> None:
    with suppress(OtherEndGone):
        answer = await worker.ask("state", common=common, busiest=list(busiest) if common else [])
        told[worker.pid] = cast(Told, answer["told"])
