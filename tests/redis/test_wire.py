"""One connection, many calls: shared, never repeated, never kept waiting, never disturbed by who leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.terms import Charge, Dimension, Quota
from gateway.redis.breaker import Breaker
from gateway.redis.line import RedisUnavailable
from gateway.redis.script import Script
from gateway.redis.servers import RedisServers
from gateway.redis.wire import Wire
from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.redis import RedisServer
from tests.limits.contract import fresh_id, fresh_key

INCREMENT = Script(b"return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.fixture
async def wire(link: FaultyLink) -> AsyncIterator[Wire]:
    servers = RedisServers.parse(f"redis://127.0.0.1:{link.port}")
    wire = Wire(servers.connector(), Breaker("redis"), deadline_seconds=0.5)
    yield wire
    await wire.close()


SPARE_SECONDS = 0.5
"""What a machine that others use may take beside a deadline; tried again, a call would have several of those."""


@pytest.fixture
async def quick(link: FaultyLink) -> AsyncIterator[Wire]:
    """A connected wire with production's deadline."""
    servers = RedisServers.parse(f"redis://127.0.0.1:{link.port}")
    wire = Wire(servers.connector(), Breaker("redis"), deadline_seconds=0.08)
    while True:
        try:
            await wire.run(INCREMENT, ["warm"], [1])
            break
        except RedisUnavailable:
            await asyncio.sleep(0.05)  # a busy machine may take longer than that to connect
    yield wire
    await wire.close()


def counter(redis: RedisServer, key: str) -> int:
    reply = redis.command("GET", key).splitlines()
    return int(reply[1]) if len(reply) > 1 else 0


async def test_calls_of_one_turn_travel_in_one_write(wire: Wire, link: FaultyLink) -> None:
    await wire.run(INCREMENT, ["warm"], [1])
    link.writes.clear()
    replies = await asyncio.gather(*(wire.run(INCREMENT, ["together"], [1]) for _ in range(50)))
    assert list(replies) == list(range(1, 51))
    assert (len(link.writes), link.connections) == (1, 1)


async def test_slow_reply_holds_nobody_up(wire: Wire, link: FaultyLink) -> None:
    await wire.run(INCREMENT, ["warm"], [1])
    link.delay_seconds = 0.06
    started = time.monotonic()
    first = asyncio.create_task(wire.run(INCREMENT, ["slow"], [1]))
    await asyncio.sleep(0.03)
    second = asyncio.create_task(wire.run(INCREMENT, ["slow"], [1]))
    assert tuple(await asyncio.gather(first, second)) == (1, 2)
    assert time.monotonic() - started < 0.2


async def test_script_is_sent_as_text_only_where_it_is_unknown(
    wire: Wire, link: FaultyLink, redis: RedisServer
) -> None:
    await wire.run(INCREMENT, ["known"], [1])
    redis.command("SCRIPT", "FLUSH")
    replies = await asyncio.gather(*(wire.run(INCREMENT, ["known"], [1]) for _ in range(3)))
    assert list(replies) == [2, 3, 4]
    link.writes.clear()
    await wire.run(INCREMENT, ["known"], [1])
    assert b"EVALSHA" in link.writes[0]
    assert INCREMENT.text not in link.writes[0]


@pytest.mark.parametrize("trouble", ["deaf", "frozen"])
async def test_silent_server_costs_one_deadline_and_then_nothing(
    quick: Wire, link: FaultyLink, redis: RedisServer, trouble: str
) -> None:
    link.drop_replies = trouble == "deaf"
    if trouble == "frozen":
        redis.freeze()
    try:
        for most_seconds in (0.08 + SPARE_SECONDS, SPARE_SECONDS / 10, SPARE_SECONDS / 10):
            started = time.monotonic()
            with pytest.raises(RedisUnavailable):
                await quick.run(INCREMENT, ["silent"], [1])
            assert time.monotonic() - started < most_seconds
    finally:
        redis.thaw()


async def test_stall_of_this_process_is_not_blamed_on_the_server(redis: RedisServer) -> None:
    direct = Wire(RedisServers.parse(redis.url).connector(), Breaker("redis"), deadline_seconds=0.1)
    busy = Script(b"for n = 1, tonumber(ARGV[1]) do end return 'done'")
    await direct.run(busy, ["k"], [0])
    call = asyncio.create_task(direct.run(busy, ["k"], [1_000_000]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not call.done()
    time.sleep(0.6)
    assert await call == b"done"
    await direct.close()


async def test_lost_reply_is_not_answered_with_a_second_charge(
    wire: Wire, link: FaultyLink, redis: RedisServer
) -> None:
    await wire.run(INCREMENT, ["lost"], [1])
    link.drop_replies = True
    with pytest.raises(RedisUnavailable) as caught:
        await wire.run(INCREMENT, ["lost"], [1])
    assert caught.value.sent
    link.drop_replies = False
    link.cut()
    await asyncio.sleep(0.5)
    assert counter(redis, "lost") == 2


async def test_call_that_meets_an_open_breaker_is_known_not_to_have_run(wire: Wire, link: FaultyLink) -> None:
    await link.close()
    for _ in range(2):
        with pytest.raises(RedisUnavailable) as caught:
            await wire.run(INCREMENT, ["unsent"], [1])
        assert not caught.value.sent


async def test_connection_that_was_closed_while_idle_is_replaced_unnoticed(
    wire: Wire, redis: RedisServer
) -> None:
    await wire.run(INCREMENT, ["idle"], [1])
    redis.command("CLIENT", "KILL", "TYPE", "normal")
    await asyncio.sleep(0.05)
    assert await wire.run(INCREMENT, ["idle"], [1]) == 2


async def test_wave_of_cancellations_costs_no_connection_and_mixes_no_replies(
    wire: Wire, link: FaultyLink
) -> None:
    await wire.run(INCREMENT, ["warm"], [1])
    link.delay_seconds = 0.002
    seen: list[int] = []

    async def one(n: int) -> None:
        assert (await wire.run(Script(b"return tonumber(ARGV[1])"), ["k"], [n])) == n
        seen.append(n)

    for wave in range(20):
        tasks = [asyncio.create_task(one(wave * 100 + n)) for n in range(100)]
        await asyncio.sleep(0.001 * (wave % 4))
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert link.connections == 1
    assert len(seen) >= 1000


async def test_fault_of_one_key_is_not_held_against_the_server(wire: Wire, redis: RedisServer) -> None:
    redis.command("LPUSH", "poisoned", "x")
    for _ in range(2):
        with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
            await wire.run(INCREMENT, ["poisoned"], [1])
        assert await wire.run(INCREMENT, ["sound"], [0]) == 0


async def test_admission_that_nobody_waits_for_any_more_is_given_back(link: FaultyLink) -> None:
    store = RedisBuckets(f"redis://127.0.0.1:{link.port}", deadline_seconds=1)
    key = fresh_key()
    quotas = [Quota(Dimension.CONCURRENT_REQUESTS, 5, key), Quota(Dimension.TOKENS_PER_DAY, 100, key)]
    requests = Quota(Dimension.REQUESTS_PER_DAY, 100, key)
    charges = [Charge(quotas[0]), Charge(quotas[1], 20), Charge(requests)]
    await store.look(charges)
    link.delay_seconds = 0.05
    admissions = [asyncio.create_task(store.admit(fresh_id(), charges)) for _ in range(4)]
    await asyncio.sleep(0.02)
    for admission in admissions:
        admission.cancel()
    await asyncio.gather(*admissions, return_exceptions=True)
    await asyncio.sleep(0.2)
    look = await store.look([Charge(quota, 0) for quota in [*quotas, requests]])
    assert [level.remaining for level in look.levels] == [5, 100, 100]
    await store.close()


async def test_admission_cancelled_in_the_turn_of_its_reply_is_given_back(redis: RedisServer) -> None:
    store = RedisBuckets(redis.unix_url, deadline_seconds=1)
    slots = Quota(Dimension.CONCURRENT_REQUESTS, 1, fresh_key())
    met = 0
    for _ in range(50):
        admission = asyncio.create_task(store.admit(fresh_id(), [Charge(slots)]))
        await asyncio.sleep(0)
        reply = getattr(admission, "_fut_waiter")  # noqa: B009 - only tests look into a task
        while not reply.done():
            await asyncio.sleep(0)
        met += not admission.done()
        admission.cancel()
        await asyncio.gather(admission, return_exceptions=True)
        if not admission.cancelled():
            await store.reset([slots.key])
            continue
        await asyncio.sleep(0.005)
        assert (await store.look([Charge(slots)])).allowed
    assert met, "no admission was cancelled between its reply and its return"
    await store.close()
