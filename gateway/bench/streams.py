"""Event streams, each event of which says when it was sent; those that end, and those that fall silent."""

from __future__ import annotations

import asyncio
from time import monotonic_ns

from gateway.bench.canned import STAMP, chat, events, silence
from gateway.bench.client import Connection, Worker
from gateway.bench.messages import MessageReader
from gateway.bench.works import Silent, Streams, Target


class StreamsWorker(Worker):
    """Opens streams one after the other and looks at every event's stamp."""

    def __init__(self, work: Streams, target: Target) -> None:
        super().__init__(work, target)
        self._what = work
        self._messages = self.messages(chat(self.wish(), model=work.model).encode())
        self._every_ns = round(work.every_seconds * 1e9)
        self._ended = 0
        self._never_began = 0
        self._opening: set[asyncio.Task[None]] = set()

    def wish(self) -> str:
        """What is asked of the upstream."""
        return events(self._what.events, self._what.every_seconds)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        began, what = loop.time(), self._what
        for number in range(what.streams):
            await asyncio.sleep(began + number * what.ramp_seconds / what.streams - loop.time())
            if self.stopping:
                break
            task = asyncio.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        await self.over.wait()

    async def _open(self) -> None:
        began_ns = monotonic_ns()
        connection = await self.connect()
        if connection is None:
            self._count(0)
            return
        connection.ask(next(self._messages), began_ns)

    def came(self, connection: Connection, data: bytes) -> None:
        now = monotonic_ns()
        stamps = STAMP.findall(data)
        if b"data: [DONE]" in data:
            connection.whole = True
        if not stamps:
            return
        delays = self.delays
        for stamp in stamps:
            sent_ns = int(stamp)
            delays.append(now - sent_ns)
        if not connection.seen:
            connection.first_stamp = int(stamps[0])
            self.firsts.append(now - connection.began_ns)
            self._look_around()
        connection.last_stamp = sent_ns
        connection.seen += len(stamps)
        self.events += len(stamps)

    def answered(self, connection: Connection, answer: MessageReader) -> None:
        missing = self._what.events - connection.seen
        if answer.status == 200 and missing:
            self.errors["events missing"] += missing
        self.take(answer, began_ns=connection.began_ns, wrong="" if connection.whole else "not whole")
        if connection.seen > 1:
            planned = (self._what.events - 1) * self._every_ns
            self.slips.append(connection.last_stamp - connection.first_stamp - planned)
        connection.transport.close()
        self._count(connection.seen)

    def failed(self, connection: Connection, kind: str) -> None:
        super().failed(connection, kind)
        self.errors["events missing"] += self._what.events - connection.seen
        self._count(connection.seen)

    def _count(self, seen: int) -> None:
        """One more is over, having had so many events."""
        self._ended += 1
        self._never_began += not seen
        self._look_around()
        if self._ended == self._what.streams:
            self.over.set()

    def _look_around(self) -> None:
        if len(self.firsts) + self._never_began == self._what.streams:
            self.steady.set()


class SilentWorker(StreamsWorker):
    """Streams that have one event and go on saying nothing."""

    holds = True

    def __init__(self, work: Silent, target: Target) -> None:
        one = Streams(
            path=work.path, streams=work.streams, ramp_seconds=work.ramp_seconds, model=work.model, events=1
        )
        super().__init__(one, target)
        self.work = work

    def wish(self) -> str:
        return silence()

    def stop(self) -> None:
        super().stop()
        self.over.set()
