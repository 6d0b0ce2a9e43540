"""One page of metrics for all workers, watched while they are replaced and killed: right, and never behind itself."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, answer_ok
from tests.kit.waiting import comes_to
from tests.kit.workers import AT_ONCE, Workers, running_workers

COUNTED = 'gateway_exchanges_total{ending="complete",operation="listModels",status="2xx",tenant="default"}'
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def seen(workers: Workers) -> Series:
    """The page."""
    _, page = await workers.page("/metrics")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in read_text(page)
        for sample in family.samples
        if family.type in ("counter", "histogram")
    }


async def watch(workers: Workers, looks: list[Series]) -> None:
    """Look at the page again and again."""
    while True:
        looks.append(await seen(workers))


async def ask(workers: Workers, times: int) -> None:
    for _ in range(times):
        async with await workers.connect() as client:
            assert (await client.request("GET", "/v1/models")).status == 200


async def test_no_counter_goes_back_and_none_is_lost_while_workers_are_replaced_and_killed(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    upstream.plays(answer_ok)
    looks: list[Series] = []
    async with running_workers(tmp_path, upstream.base_url, redis, *AT_ONCE) as workers:
        watching = asyncio.create_task(watch(workers, looks))
        first = await workers.all_ready(2)
        await ask(workers, 40)
        workers.signal(signal.SIGUSR2)
        await ask(workers, 20)
        second = await workers.all_ready(2, but=tuple(first))
        await ask(workers, 20)
        await comes_to(80.0, lambda: workers.metric(COUNTED))

        os.kill(second[0], signal.SIGKILL)
        await workers.all_ready(2, but=(second[0],))
        await ask(workers, 20)
        await comes_to(100.0, lambda: workers.metric(COUNTED))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        last = await seen(workers)

    assert len(looks) > 20
    for before, after in zip(looks, [*looks[1:], last], strict=True):
        assert {
            key: (value, after.get(key)) for key, value in before.items() if not after.get(key, -1) >= value
        } == {}
    lagging = {
        dict(labels)["worker"] for name, labels in last if name == "gateway_event_loop_lag_seconds_count"
    }
    assert lagging == {"0", "1"}
    processes = {dict(labels)["worker"] for name, labels in last if name == "process_cpu_seconds_total"}
    assert processes == {"0", "1", "supervisor"}
    assert last["gateway_first_byte_seconds_count", (("operation", "listModels"),)] == 100


async def test_who_finds_no_room_on_the_private_listener_is_counted(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    refused = 'gateway_refused_connections_total{reason="private"}'
    async with running_workers(tmp_path, upstream.base_url, redis) as workers:
        _, page = await workers.page("/metrics")
        assert f"{refused} 0.0\n" in page

        private = [await asyncio.open_connection("127.0.0.1", workers.command.admin_port) for _ in range(40)]
        # One that finds no room is closed at once; the others are kept waiting for their request until then.
        closing = [asyncio.create_task(reader.read()) for reader, _ in private]
        await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
        for _, writer in private:
            writer.close()
        await asyncio.gather(*closing, return_exceptions=True)

        async def counted() -> bool:
            return await workers.metric(refused) > 0

        await comes_to(True, counted)
