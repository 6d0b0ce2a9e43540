"""Plain requests: as fast as answers come, or at a fixed rate; and connections that are left idle."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic_ns

from gateway.bench.beat import Beat
from gateway.bench.client import Connection, Worker
from gateway.bench.messages import MessageReader
from gateway.bench.works import Idle, Requests, Target

_FINEST_NS = 200_000
_LEAD_NS = 5_000_000


class RequestsWorker(Worker):
    """Connections that ask again as soon as they are answered, or when it is time."""

    def __init__(self, work: Requests, target: Target) -> None:
        super().__init__(work, target)
        self._what = work
        self._messages = self.messages(work.body.encode())
        self._open = 0
        self._running = 0
        self._until_ns = 0
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._free: deque[Connection] = deque()
        self._due: deque[int] = deque()
        """When those were to be sent for which no connection was free."""

    async def run(self) -> None:
        connections = await asyncio.gather(*(self.connect() for _ in range(self._what.connections)))
        self._open = sum(connection is not None for connection in connections)
        if not self._open:
            return
        self._until_ns = monotonic_ns() + (round(self._what.seconds * 1e9) or 1 << 62)
        self.steady.set()
        if self._what.per_second:
            await self._at_a_rate([connection for connection in connections if connection])
            return
        for connection in connections:
            if connection:
                self._ask(connection)
        await self.over.wait()

    def stop(self) -> None:
        super().stop()
        self._maybe_over()

    def _ask(self, connection: Connection) -> bool:
        now = monotonic_ns()
        what = self._what
        if self.stopping or now >= self._until_ns or (what.count and self.sent >= what.count):
            self._maybe_over()
            return False
        self._running += 1
        connection.ask(next(self._messages), now)
        return True

    def answered(self, connection: Connection, answer: MessageReader) -> None:
        wanted = self._what.answer_bytes
        wrong = "wrong size" if wanted and answer.body_bytes != wanted else ""
        self.take(answer, began_ns=connection.began_ns, wrong=wrong)
        self._running -= 1
        if not answer.lasts:
            self._replace()
        elif not self._what.per_second:
            self._ask(connection)
        elif self._due:
            self._send(connection, self._due.popleft())
        else:
            self._free.append(connection)
            self._maybe_over()

    def failed(self, connection: Connection, kind: str) -> None:
        super().failed(connection, kind)
        self._running -= 1
        self._replace()

    def lost(self, connection: Connection) -> None:
        if connection in self._free:
            self._free.remove(connection)
            self._replace()

    def _replace(self) -> None:
        self._open -= 1
        if self.stopping:
            return
        task = asyncio.create_task(self._reconnect())
        self._reconnecting.add(task)
        task.add_done_callback(self._reconnecting.discard)

    async def _reconnect(self) -> None:
        connection = await self.connect()
        if connection is None:
            self._maybe_over()
            return
        self._open += 1
        if not self._what.per_second:
            self._ask(connection)
        elif self._due:
            self._send(connection, self._due.popleft())
        else:
            self._free.append(connection)

    def _maybe_over(self) -> None:
        """Nothing is on its way, and nothing more will be sent."""
        if self._running or self._due:
            return
        ended = self.stopping or monotonic_ns() >= self._until_ns
        if ended or not self._open or (self._what.count and self.sent >= self._what.count):
            self.over.set()

    async def _at_a_rate(self, connections: list[Connection]) -> None:
        self._free.extend(connections)
        self._until_ns = 1 << 62
        every_ns = round(1e9 / self._what.per_second)
        began_ns = monotonic_ns() + _LEAD_NS
        planned = 0
        most = self._what.count or round(self._what.seconds * self._what.per_second)

        def send() -> None:
            nonlocal planned
            now = monotonic_ns()
            while planned < most and (due := began_ns + planned * every_ns) <= now and not self.stopping:
                planned += 1
                self.lates.append(now - due)
                if self._free:
                    self._send(self._free.popleft(), due)
                else:
                    self._due.append(due)
            if planned >= most:
                self._until_ns = 0
                self._maybe_over()

        beat = Beat(began_ns, max(every_ns, _FINEST_NS), send)
        try:
            await self.over.wait()
        finally:
            beat.close()

    def _send(self, connection: Connection, due_ns: int) -> None:
        self._running += 1
        connection.ask(next(self._messages), due_ns)


class IdleWorker(Worker):
    """Connections that ask once and stay."""

    holds = True

    def __init__(self, work: Idle, target: Target) -> None:
        super().__init__(work, target)
        self._what = work
        self._messages = self.messages(work.body.encode())
        self._settled = 0

    async def run(self) -> None:
        began, loop = asyncio.get_running_loop().time(), asyncio.get_running_loop()
        for number in range(self._what.connections):
            await asyncio.sleep(
                began + number * self._what.ramp_seconds / self._what.connections - loop.time()
            )
            connection = await self.connect()
            if connection is None:
                self._settle()
            else:
                connection.ask(next(self._messages), monotonic_ns())
        await self.over.wait()

    def answered(self, connection: Connection, answer: MessageReader) -> None:
        self.take(answer, began_ns=connection.began_ns, wrong="" if answer.lasts else "not kept")
        self._settle()

    def failed(self, connection: Connection, kind: str) -> None:
        super().failed(connection, kind)
        self._settle()

    def _settle(self) -> None:
        """Of one more connection it is known what came of it."""
        self._settled += 1
        if self._settled == self._what.connections:
            self.steady.set()

    def lost(self, connection: Connection) -> None:  # noqa: ARG002 (it counts, whichever it was)
        if not self.stopping:
            self.errors["not kept"] += 1

    def stop(self) -> None:
        super().stop()
        self.over.set()
