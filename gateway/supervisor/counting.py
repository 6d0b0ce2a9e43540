"""What all workers have counted, asked of them once a second and whenever somebody wants to see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry

from gateway.app.messages import Message, OtherEndGone
from gateway.supervisor.worker import Worker

ASK_SECONDS = 1.0
ANSWER_SECONDS = 0.5
"""For workers to say what they have counted; of those that do not, what they said last counts."""


class Counting:
    """Asks, and hears."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._workers: Callable[[], Iterable[Worker]] = tuple

    def watch(self, workers: Callable[[], Iterable[Worker]]) -> None:
        """Ask these."""
        self._workers = workers

    def replaced(self, cause: str) -> None:
        """A worker needs a successor."""

    def configuration_loaded(self, well: bool) -> None:
        """One attempt to reload the configuration."""

    def hear(self, worker: Worker, message: Message, rest: bytes) -> None:
        """A worker says something."""

    async def run(self) -> None:
        """Ask once a second, until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(ASK_SECONDS)

    async def ask(self) -> None:
        """Have all workers that turn say what they have counted."""
        asked = [asyncio.create_task(_asked(worker)) for worker in self._workers() if worker.turns]
        if asked:
            _, late = await asyncio.wait(asked, timeout=ANSWER_SECONDS)
            for task in late:
                task.cancel()


async def _asked(worker: Worker) -> None:
    try:
        await worker.ask("count")
    except OtherEndGone:
        return
