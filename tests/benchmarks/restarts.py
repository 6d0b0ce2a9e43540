"""Restarts under load: what clients notice of them.

    python -m tests.benchmarks.restarts [--restarts 20] [--kill 3]

Two workers and a Redis serve 500 requests a second, every fifth on a connection of its own, 200 streams and 50
WebSockets of a few seconds each, while all workers are replaced again and again, and some killed. Counted is what was
refused, reset or cut; of kills what they cut beside what the killed one served. Exit code 1: a restart was noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
from collections import Counter, deque
from pathlib import Path
from time import monotonic

import orjson
import uvloop

from gateway.bench import canned
from gateway.bench.upstream import RawUpstream
from tests.kit.client import RawClient
from tests.kit.redis import running_redis
from tests.kit.websocket import frame, read_frame, shake_hands
from tests.kit.workers import Workers, running_workers

REQUESTS_PER_SECOND, STREAMS, SOCKETS = 500, 200, 50
CLOSE = 8
STREAM_SECONDS = 3.0
QUESTION = canned.chat().encode()
STREAMED = canned.chat(canned.events(int(STREAM_SECONDS * 5), 0.2)).encode()
JSON = "Content-Type: application/json\r\n"
WELL = frozenset({"request 200", "stream 200", "socket well"})
LOST = (ConnectionError, asyncio.IncompleteReadError, TimeoutError)


class Load:
    """Clients that notice what becomes of them."""

    def __init__(self, workers: Workers, share: float) -> None:
        self._share = share
        self.seen: Counter[str] = Counter()
        self._workers = workers
        self._idle: deque[RawClient] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.over = False

    def start(self) -> None:
        streams, sockets = int(STREAMS * self._share), int(SOCKETS * self._share)
        for what in (self._requests, *[self._streams] * streams, *[self._sockets] * sockets):
            self._run(what())

    async def finish(self) -> None:
        self.over = True
        await asyncio.gather(*self._tasks)
        for client in self._idle:
            await client.close()

    def _run(self, what) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> RawClient:
        command = self._workers.command
        return await RawClient.connect(command.host, command.port, self._workers.credential)

    async def _requests(self) -> None:
        began, sent = monotonic(), 0
        while not self.over:
            while sent < (monotonic() - began) * REQUESTS_PER_SECOND * self._share:
                sent += 1
                self._run(self._request(fresh=sent % 5 == 0))
            await asyncio.sleep(0.002)

    async def _request(self, *, fresh: bool) -> None:
        client = None
        while self._idle and not fresh and client is None:
            client = self._idle.popleft()
            if client.reader.at_eof():  # closed while it was idle, as any server may
                await client.close()
                client = None
        try:
            client = client or await self._connect()
            await client.send(client.request_bytes("POST", "/v1/chat/completions", QUESTION, headers=JSON))
            answer = await client.read_answer()
        except LOST as lost:
            self.seen[f"request {type(lost).__name__}{' fresh' if fresh else ''}"] += 1
            return
        self.seen[f"request {answer.status if answer.clean_end else 'cut'}"] += 1
        if fresh or answer.get("Connection") == "close":
            await client.close()
        else:
            self._idle.append(client)

    async def _streams(self) -> None:
        await asyncio.sleep(random.random() * STREAM_SECONDS)
        while not self.over:
            try:
                async with await self._connect() as client:
                    await client.send(
                        client.request_bytes("POST", "/v1/chat/completions", STREAMED, headers=JSON)
                    )
                    answer = await client.read_answer()
            except LOST as lost:
                self.seen[f"stream {type(lost).__name__}"] += 1
            else:
                self.seen[f"stream {answer.status if answer.clean_end else 'cut'}"] += 1

    async def _sockets(self) -> None:
        await asyncio.sleep(random.random() * STREAM_SECONDS)
        while not self.over:
            try:
                async with await self._connect() as client:
                    if (await shake_hands(client)).status != 101:
                        self.seen["socket refused"] += 1
                        continue
                    until = monotonic() + STREAM_SECONDS
                    while monotonic() < until:
                        await client.send(frame(1, b"hello"))
                        back = await read_frame(client.reader, 10)
                        if back.opcode == CLOSE:
                            raise ConnectionError
                        await asyncio.sleep(0.2)
            except LOST as lost:
                self.seen[f"socket {type(lost).__name__}"] += 1
            else:
                self.seen["socket well"] += 1


async def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--kill", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of that load, on a machine that is busy")
    options = parser.parse_args()
    server = await RawUpstream().listen(0)
    upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    with tempfile.TemporaryDirectory() as directory, running_redis() as redis:
        limits = ("--set", "limits.max_requests_per_1_minute=1000000", "--set", "drain_seconds=60")
        async with running_workers(Path(directory), upstream, redis, *limits) as workers:
            load = Load(workers, options.share)
            load.start()
            await asyncio.sleep(STREAM_SECONDS)
            for number in range(1, options.restarts + 1):
                before = tuple(await workers.pids())
                began = monotonic()
                workers.signal(signal.SIGUSR2)
                await workers.all_ready(2, but=before, within_seconds=60)
                took = monotonic() - began
                await asyncio.sleep(1.0)
                # A third generation of old ones would have the first cut, as promised: a client must not be blamed.
                while len(await workers.pids("leaving")) > 2:
                    await asyncio.sleep(0.1)
                print(f"restart {number}: {took:.1f} s", dict(load.seen), flush=True)
            noticed = {what: count for what, count in load.seen.items() if what not in WELL}
            for number in range(1, options.kill + 1):
                killed, *_ = await workers.pids()
                began = monotonic()
                os.kill(killed, signal.SIGKILL)
                await workers.all_ready(2, but=(killed,), within_seconds=60)
                print(f"kill {number}: replaced in {monotonic() - began:.2f} s", dict(load.seen), flush=True)
                await asyncio.sleep(STREAM_SECONDS)
            await load.finish()
            print("in all", dict(load.seen))
            lines = [orjson.loads(line) for line in workers.command.stdout]
            print(
                "by the log", Counter((line["status"], line["ending"], line.get("error")) for line in lines)
            )
            print("\n".join(line for line in workers.command.stderr if "worker" in line))
    server.close()
    print("noticed of restarts:", noticed or "nothing")
    return 1 if noticed else 0


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main()))
