"""What all workers have counted: asked of them once a second, and whenever somebody wants to see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from gateway.app.counted import Counted
from gateway.app.exposition import Exposition, exposition_of_all
from gateway.app.messages import OtherEndGone
from gateway.app.supervisor_metrics import SupervisorMetrics
from gateway.exchange.common_metrics import CommonMetrics
from gateway.supervisor.listeners import Listeners
from gateway.supervisor.worker import Worker

ASK_SECONDS = 1.0
ANSWER_SECONDS = 0.5
"""For workers to say what they have counted; of those that do not, what they said last counts."""


class Counting:
    """Has workers say what they have counted, and adds it up."""

    def __init__(self, workers: Callable[[], Iterable[Worker]], listeners: Listeners) -> None:
        """Of these, and who waits for them there. Needs a running loop."""
        self.metrics = SupervisorMetrics(
            lambda: [worker.state for worker in workers()], sockets=lambda: listeners.slots
        )
        self.common = CommonMetrics(self.metrics.registry)
        """What no worker counts, since it is done for all of them."""

        self._workers = workers
        self._counted = Counted(refused=self.metrics.refused, folded=self.metrics.folded)
        self._loop = asyncio.get_running_loop()
        self._one_at_a_time = asyncio.Lock()

    def hear(self, worker: Worker, snapshot: bytes) -> None:
        """A worker has said what it has counted."""
        self._counted.hear(worker.name, worker.place.index, snapshot)

    def gone(self, worker: Worker) -> None:
        """A worker has ended, and said all."""
        self._counted.gone(worker.name)

    def exposition(self) -> Exposition:
        """The page of metrics, for another thread."""
        return exposition_of_all(self._counted, self.metrics, self._asked_from_elsewhere)

    async def run(self) -> None:
        """Ask once a second, until cancelled: who is killed has said before what it had counted."""
        while True:
            await self.ask()
            await asyncio.sleep(ASK_SECONDS)

    async def ask(self) -> None:
        """Have all workers that turn say what they have counted by now."""
        async with self._one_at_a_time:
            await self._ask()

    async def _ask(self) -> None:
        asked = [asyncio.create_task(_asked(worker)) for worker in self._workers() if worker.turns]
        if not asked:
            return
        _, late = await asyncio.wait(asked, timeout=ANSWER_SECONDS)
        for task in late:
            task.cancel()

    async def _asked_from_elsewhere(self) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.ask(), self._loop))


async def _asked(worker: Worker) -> None:
    with suppress(OtherEndGone):
        await worker.ask("count")
