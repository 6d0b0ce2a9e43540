"""Many workers, one Redis: nothing is granted twice, nothing is lost, nothing outlives a worker that died."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.terms import TICKS_PER_PERIOD, Charge
from tests.kit.redis import RedisServer
from tests.limits.admission_worker import LEASE_SECONDS, quotas
from tests.limits.contract import fresh_key

PROCESSES = 8
ROOT = Path(__file__).parents[2]


def start_worker(redis: RedisServer, key: str, seed: int, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.limits.admission_worker", redis.unix_url, key, str(seed), mode]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


async def test_eight_processes_together_get_the_limit_and_nothing_more(redis: RedisServer) -> None:
    key = fresh_key()
    requests, tokens, slots = quotas(key)
    began = time.monotonic()
    workers = [start_worker(redis, key, seed, "load") for seed in range(PROCESSES)]
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    results = [orjson.loads(output) for output in outputs]
    granted = [exchange for result in results for exchange in result["granted"]]
    refused = {name for result in results for name in result["refused"]}

    # Every limit was reached, so each was put to the test.
    assert {"max_requests_per_1_minute", "max_concurrent_requests"} <= refused

    # Never more than the burst plus what time gave back; and the burst was not left unused.
    elapsed = time.monotonic() - began
    assert requests.capacity <= len(granted) <= requests.capacity * (1 + elapsed / 60)

    # No moment with more exchanges between their admission and their settling than there are slots.
    moments = sorted([(start, 1) for start, *_ in granted] + [(end, -1) for _, end, *_ in granted])
    running, most = 0, 0
    for _, change in moments:
        running += change
        most = max(most, running)
    assert most <= slots.capacity

    # What was used is what is missing, but for what time gave back; no slot and no exchange is left over.
    store = RedisBuckets(redis.url, deadline_seconds=2)
    used = sum(used for *_, used in granted)
    ticks = int((time.monotonic() - began) * 1_000_000 / tokens.tick_microseconds) + 1
    look = await store.look([Charge(tokens, 0)])
    taken = (tokens.capacity - look.levels[0].remaining) * TICKS_PER_PERIOD
    assert used * TICKS_PER_PERIOD - tokens.capacity * ticks <= taken < (used + 1) * TICKS_PER_PERIOD
    assert (await store.look([Charge(slots)])).levels[0].remaining == slots.capacity
    await store.close()
    assert redis.command("ZCARD", f"gateway:{key}:open") == ":0\r\n"
    assert "@" not in redis.command("HKEYS", f"gateway:{key}")


async def test_slots_of_a_killed_worker_are_free_within_its_lease(redis: RedisServer) -> None:
    key = fresh_key()
    slots = quotas(key)[2]
    store = RedisBuckets(redis.url, deadline_seconds=1)

    async def remaining() -> int:
        return (await store.look([Charge(slots, 0)])).levels[0].remaining

    worker = start_worker(redis, key, 1, "hold")
    assert worker.stdout
    try:
        assert worker.stdout.readline() == "holding\n"
        assert await remaining() == slots.capacity - 3
        await asyncio.sleep(LEASE_SECONDS * 1.5)
        assert await remaining() == slots.capacity - 3, "a living worker keeps its slots"
    finally:
        worker.kill()
        worker.communicate()
    await asyncio.sleep(LEASE_SECONDS + 0.1)
    assert await remaining() == slots.capacity
    await store.close()


@pytest.mark.parametrize("first", ["held", "for good"])
async def test_all_but_the_schema_expires_and_leases_not_before_what_they_hold(
    redis: RedisServer, first: str
) -> None:
    key = fresh_key()
    store = RedisBuckets(redis.url, deadline_seconds=1)
    requests, tokens, slots = quotas(key)
    await store.announce("worker")
    if first == "held":
        await store.admit("one", [Charge(requests), Charge(slots)])
    await store.debit("", [Charge(tokens, tokens.capacity // 4)])
    await store.admit("two", [Charge(requests), Charge(slots)])
    keys = [f"gateway:{key}", f"gateway:{key}:open", "gateway:workers"]
    lives = [int(redis.command("PTTL", name)[1:]) for name in keys]
    receipts = redis.command("KEYS", "gateway:turn:*").split()[2::2]
    assert redis.command("DBSIZE") == f":{4 + len(receipts)}\r\n"
    assert all(0 < int(redis.command("PTTL", name)[1:]) <= 30_000 for name in receipts)
    assert redis.command("PTTL", "gateway:schema") == ":-1\r\n"
    to_full_ms = 86_400_000 / 4
    assert to_full_ms < lives[0] < to_full_ms + 120_000
    assert lives[0] <= lives[1] < to_full_ms + 120_000
    assert 0 < lives[2] < 120_000
    await store.close()


async def test_leases_live_as_long_as_an_account_that_is_charged_for_long(redis: RedisServer) -> None:
    store = RedisBuckets(redis.url, deadline_seconds=1)
    key = fresh_key()
    _, tokens, slots = quotas(key)
    await store.admit("one", [Charge(slots)])
    await store.debit("", [Charge(tokens, tokens.capacity)])
    account, leases = (
        int(redis.command("PTTL", name)[1:]) for name in (f"gateway:{key}", f"gateway:{key}:open")
    )
    assert leases >= account > 80_000_000
    await store.close()
