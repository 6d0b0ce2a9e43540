"""What a process shows of what it does and of who waits: over real connections."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

from gateway.app.exposition import exposition_of_one
from gateway.app.health import State, WorkerState
from gateway.exchange.instruments import Registry
from tests.kit.client import CHAT, JSON, STREAMED_QUESTION
from tests.kit.gateway import Gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn, answer_ok, two_events
from tests.kit.waiting import comes_to, until
from tests.kit.workers import running_workers

OLDEST = 'gateway_oldest_exchange_seconds{transport="%s"}'
BUFFERED = 'gateway_buffered_bytes{where="%s"}'


async def test_the_oldest_exchange_is_as_old_as_it_is(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(two_events)
    assert gateway.metric(OLDEST % "http") == 0
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
    await client.read_head()
    await asyncio.sleep(0.3)
    later = await gateway.connect()
    await later.send(later.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
    await later.read_head()

    assert 0.3 <= gateway.metric(OLDEST % "http") < 5
    assert gateway.metric(OLDEST % "websocket") == 0
    upstream.gate("go on").set()
    await until(lambda: gateway.metric(OLDEST % "http") == 0)


async def test_what_waits_for_a_client_that_does_not_read_is_seen(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def floods(turn: Turn) -> None:
        await turn.send(SSE_HEAD)
        while True:
            await turn.chunk(b"data: %b\n\n" % bytes(60_000))

    upstream.plays(floods)
    assert gateway.metric(BUFFERED % "clients") == 0
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
    await client.read_head()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]

    await until(lambda: gateway.metric(BUFFERED % "clients") > 60_000)
    assert gateway.metric(BUFFERED % "upstreams") == 0
    client.writer.transport.abort()
    await until(lambda: gateway.metric(BUFFERED % "clients") == 0)


async def test_who_waits_to_be_accepted_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=3) as listening:
        exposition = exposition_of_one(
            Registry(), lambda: WorkerState(0, os.getpid(), State.READY, 0.0, ready=True), lambda: [listening]
        )

        async def queue(name: str) -> float:
            lines = (await exposition.page("", "")).body.decode().splitlines()
            return float(next(line for line in lines if line.startswith(f"{name}{{")).split()[-1])

        assert await queue("gateway_listen_queue") == 0
        waiting = [socket.create_connection(listening.getsockname()) for _ in range(4)]
        assert await queue("gateway_listen_queue") == 4
        assert await queue("gateway_listen_queue_most") == 3, "the system lets one more in"
        listening.accept()[0].close()
        assert await queue("gateway_listen_queue") == 3
        for one in waiting:
            one.close()


async def test_who_waits_for_workers_that_do_not_turn_is_seen(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    upstream.plays(answer_ok)
    async with running_workers(tmp_path, upstream.base_url, redis) as workers:
        pids = await workers.all_ready(2)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for _ in range(30):
            await workers.connect()

        async def waiting() -> float:
            return sum([await workers.metric(f'gateway_listen_queue{{worker="{at}"}}') for at in (0, 1)])

        await comes_to(30.0, waiting)
        assert await workers.metric('gateway_listen_queue_most{worker="1"}') > 100
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await comes_to(0.0, waiting)
