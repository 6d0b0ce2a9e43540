"""What is fetched once for all workers: the keys of other issuers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.app.messages import Message
from gateway.credentials.key_sets import SharedFetch
from gateway.supervisor.worker import Worker


class Fetching:
    """Answers workers who ask for keys."""

    def __init__(self, *, fetched: Callable[[str, str], None]) -> None:
        """`fetched` counts every fetch, by issuer and result."""
        self._fetch = SharedFetch(fetched=fetched)
        self._answering: set[asyncio.Task[None]] = set()

    def answer_soon(self, worker: Worker, question: Message) -> None:
        """Answer without waiting for it."""
        task = asyncio.create_task(self._answer(worker, question))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, worker: Worker, question: Message) -> None:
        worker.answer(question, **await self._fetch.answer(question))

    async def close(self) -> None:
        """End what is under way."""
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)
        await self._fetch.close()
