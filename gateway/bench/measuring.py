"""Several works at once against one target, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from gateway.bench.client import Worker
from gateway.bench.requests import IdleWorker, RequestsWorker
from gateway.bench.sockets import SocketsWorker
from gateway.bench.streams import SilentWorker, StreamsWorker
from gateway.bench.uploads import UploadsWorker
from gateway.bench.works import Idle, Outcome, Requests, Silent, Sockets, Streams, Target, Uploads, Work


def worker_for(work: Work, target: Target) -> Worker:
    """Who does this work."""
    match work:
        case Requests():
            return RequestsWorker(work, target)
        case Streams():
            return StreamsWorker(work, target)
        case Silent():
            return SilentWorker(work, target)
        case Idle():
            return IdleWorker(work, target)
        case Uploads():
            return UploadsWorker(work, target)
        case Sockets():
            return SocketsWorker(work, target)
        case _:
            raise TypeError(f"{type(work).__name__} is no work")


class Measuring:
    """Works that run side by side, and can be ended."""

    def __init__(self, works: list[Work], target: Target) -> None:
        self._workers = [worker_for(work, target) for work in works]

    async def run(self, steady: Callable[[], None] = lambda: None) -> list[Outcome]:
        """Do all works to their end; `steady` is called once when all that is to run runs."""
        watching = asyncio.create_task(self._watch(steady))
        try:
            return await asyncio.gather(*(self._run(worker) for worker in self._workers))
        finally:
            watching.cancel()

    def stop(self) -> None:
        """Begin nothing more, and let go of what is held."""
        for worker in self._workers:
            worker.stop()

    async def _watch(self, steady: Callable[[], None]) -> None:
        for worker in self._workers:
            await worker.steady.wait()
        steady()

    async def _run(self, worker: Worker) -> Outcome:
        await asyncio.sleep(worker.work.after_seconds)
        began = monotonic()
        try:
            async with asyncio.timeout(worker.work.most_seconds):
                await worker.run()
        except TimeoutError:
            pass
        outcome = worker.outcome(monotonic() - began)
        await worker.close()
        return outcome
