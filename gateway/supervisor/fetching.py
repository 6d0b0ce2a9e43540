"""What is fetched once for all workers: the keys of other issuers, and what workload identities open upstreams with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.app.messages import Message
from gateway.credentials.key_sets import SharedFetch
from gateway.proxy.identity_grants import SharedGrants
from gateway.supervisor.worker import Worker

Answer = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, object]]]


class Fetching:
    """Answers workers who ask for either."""

    def __init__(
        self, *, fetched: Callable[[str, str], None], identity_asked: Callable[[str, str], None]
    ) -> None:
        """`fetched` counts every fetch of keys, by issuer and result, `identity_asked` every time that an identity's
        endpoint was asked, by upstream and result."""
        self._answers: Mapping[str, Answer] = {
            "keys": (fetch := SharedFetch(fetched=fetched)).answer,
            "identity": (grants := SharedGrants(asked=identity_asked)).answer,
        }
        self._close = (fetch.close, grants.close)
        self._answering: set[asyncio.Task[None]] = set()

    def answer_soon(self, worker: Worker, question: Message) -> None:
        """Answer without waiting for it."""
        task = asyncio.create_task(self._answer(worker, question))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, worker: Worker, question: Message) -> None:
        worker.answer(question, **await self._answers[question["say"]](question))

    async def close(self) -> None:
        """End what is under way."""
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)
        for close in self._close:
            await close()
