"""The limiter over a real Redis that is frozen, killed, full, demoted, slow and deaf; and over memory."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.limits.limiter import Limiter
from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import BucketStore, StoreUnavailable
from gateway.limits.terms import Charge, Dimension, OnStoreFailure, Quota
from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.faults.store_faults import FAULTS
from tests.kit.redis import RedisServer
from tests.kit.waiting import comes_to, found, stays, until
from tests.limits.contract import FakeClock, fresh_id, fresh_key
from tests.limits.limiter_load import Load, seconds_until_from_store

REQUESTS_PER_DAY = Dimension.REQUESTS_PER_DAY
TOKENS_PER_DAY = Dimension.TOKENS_PER_DAY
SLOTS = Dimension.CONCURRENT_REQUESTS


@asynccontextmanager
async def limiter_over(store: BucketStore, **options: Any) -> AsyncIterator[Limiter]:
    limiter = Limiter(store, announce_seconds=0.2, **options)
    await limiter.start()
    try:
        yield limiter
    finally:
        await limiter.close()


@pytest.fixture
async def limiter(link: FaultyLink) -> AsyncIterator[Limiter]:
    async with limiter_over(RedisBuckets(f"redis://127.0.0.1:{link.port}", lease_seconds=1.5)) as limiter:
        yield limiter


async def remaining(limiter: Limiter, *quotas: Quota) -> list[int]:
    look = await limiter.look([Charge(quota, 0) for quota in quotas])
    assert look.from_store
    return [level.remaining for level in look.levels]


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_of_the_store_fails_no_exchange_and_is_over_soon(
    redis: RedisServer, link: FaultyLink, limiter: Limiter, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = fresh_key()
    requests, tokens = Quota(REQUESTS_PER_DAY, 10_000, key), Quota(TOKENS_PER_DAY, 100_000, key)
    slots = Quota(SLOTS, 1000, key)
    load = Load(
        limiter,
        [Charge(requests), Charge(tokens, 50), Charge(slots)],
        per_second=150,
        used={TOKENS_PER_DAY: 20},
    )
    await load.run(0.3)
    assert all(load.from_store())
    begin, end = FAULTS[fault]
    begin(redis, link)
    await load.run(1.0)
    assert not load.from_store()[-1]
    assert not all(limiter.state().servers.values())
    end(redis, link)
    assert await seconds_until_from_store(limiter, requests) <= 2.0
    await load.run(0.3)
    await until(lambda: not (limiter.state().open_exchanges or limiter.state().late_settlements))

    assert load.from_store()[-1]
    assert all(limiter.state().servers.values())
    assert load.granted == len(load.outcomes)
    assert load.seconds_at(1.0) <= 0.1 + load.worst_lag_seconds
    assert load.seconds_at(0.9) <= 0.01 + load.worst_lag_seconds
    said = [re.sub(r"Redis \S+ (fails|answers again)\b.*", r"\1", message) for message in caplog.messages]
    assert said == ["fails", "answers again"]
    if fault == "killed":
        return  # its buckets were lost with it
    # What Redis granted and nobody heard of is held until its lease ends.
    await comes_to([slots.capacity], lambda: remaining(limiter, slots))
    left = await remaining(limiter, requests, tokens)
    missing_requests, missing_tokens = requests.capacity - left[0], tokens.capacity - left[1]
    # Charged once or not at all: what was under way when the fault struck may be lost, nothing counts twice.
    assert load.granted - 40 <= missing_requests <= load.granted
    assert missing_tokens <= load.granted * 20


async def test_flushed_scripts_are_not_even_noticed(redis: RedisServer, limiter: Limiter) -> None:
    requests = Quota(REQUESTS_PER_DAY, 1000, fresh_key())
    load = Load(limiter, [Charge(requests)])
    for _ in range(3):
        await load.run(0.1)
        redis.command("SCRIPT", "FLUSH")
    await load.run(0.1)
    assert all(load.from_store())
    assert await remaining(limiter, requests) == [1000 - load.granted]


async def test_limiter_starts_without_redis_and_finds_it_later(redis: RedisServer) -> None:
    redis.stop()
    requests = Quota(REQUESTS_PER_DAY, 8, fresh_key())
    async with limiter_over(RedisBuckets(redis.url), own_workers=2, expected_replicas=2) as limiter:
        granted = [(await limiter.admit(fresh_id(), [Charge(requests)])).allowed for _ in range(4)]
        assert granted == [True, True, False, False], "a quarter of the limit: 2 workers, 2 replicas"
        redis.start()
        await seconds_until_from_store(limiter, requests)
        await comes_to([6], lambda: remaining(limiter, requests))  # what was granted without it was reported


async def test_worker_that_leaves_keeps_what_it_holds_and_takes_nobodys_share(redis: RedisServer) -> None:
    slots, tokens = Quota(SLOTS, 10, fresh_key()), Quota(TOKENS_PER_DAY, 1000, fresh_key())
    lease_seconds = 1.5
    async with (
        limiter_over(RedisBuckets(redis.url, lease_seconds=lease_seconds)) as old,
        limiter_over(RedisBuckets(redis.url, lease_seconds=lease_seconds)) as new,
    ):
        await until(lambda: (old.state().workers, new.state().workers) == (2, 2))
        held = fresh_id()
        assert (await old.admit(held, [Charge(slots), Charge(tokens, 500)])).from_store

        old.leave()
        await until(lambda: new.state().workers == 1, within_seconds=1.0)
        await asyncio.sleep(2 * lease_seconds)

        assert new.state().workers == 1
        assert await remaining(new, slots, tokens) == [9, 500], "its lease was renewed"
        old.settle_soon(held, {TOKENS_PER_DAY: 20})
        await comes_to([10, 980], lambda: remaining(new, slots, tokens))

        redis.stop()
        late = [await new.admit(fresh_id(), [Charge(slots)], hold=True) for _ in range(11)]
        assert [decision.allowed for decision in late] == [True] * 10 + [False], (
            "all of it is the successor's"
        )


async def test_outage_grants_all_workers_together_at_most_one_limit_more(redis: RedisServer) -> None:
    requests = Quota(REQUESTS_PER_DAY, 30, fresh_key())
    stores = [RedisBuckets(redis.url) for _ in range(4)]
    async with limiter_over(stores[0]) as a, limiter_over(stores[1]) as b, limiter_over(stores[2]) as c:
        workers = [a, b, c]
        await until(lambda: [limiter.state().workers for limiter in workers] == [3, 3, 3])

        async def grant(times: int) -> int:
            asked = [
                limiter.admit(fresh_id(), [Charge(requests)]) for limiter in workers for _ in range(times)
            ]
            return sum(decision.allowed for decision in await asyncio.gather(*asked))

        assert await grant(20) == 30
        redis.freeze()
        for limiter in workers:
            assert not (await limiter.look([Charge(requests)])).from_store
        assert await grant(20) == 30
        assert await grant(20) == 0
        redis.thaw()
        for limiter in workers:
            await seconds_until_from_store(limiter, requests)
        assert await grant(5) == 0

        async def owes_more_than_one() -> bool:
            look = await stores[3].look([Charge(requests)])
            return (look.retry_after_seconds or 0) > 86_400 / 30

        await found(owes_more_than_one)  # the outage's grants are a debt now
        await stores[3].close()


async def test_each_limit_fails_the_way_it_was_told_to(redis: RedisServer, limiter: Limiter) -> None:
    by_policy = {policy: Quota(REQUESTS_PER_DAY, 2, fresh_key(), policy) for policy in OnStoreFailure}
    await limiter.look([Charge(by_policy[OnStoreFailure.OPEN])])
    redis.stop()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await limiter.admit(fresh_id(), [Charge(by_policy[OnStoreFailure.CLOSED])])
        with pytest.raises(StoreUnavailable):
            await limiter.look([Charge(by_policy[OnStoreFailure.CLOSED])])
    granted = {
        policy: [(await limiter.admit(fresh_id(), [Charge(by_policy[policy])])).allowed for _ in range(3)]
        for policy in (OnStoreFailure.OPEN, OnStoreFailure.LOCAL)
    }
    assert granted == {OnStoreFailure.OPEN: [True] * 3, OnStoreFailure.LOCAL: [True, True, False]}


async def test_open_exchanges_are_counted_again_at_once_after_redis_lost_them(redis: RedisServer) -> None:
    async with limiter_over(RedisBuckets(redis.url, lease_seconds=60)) as limiter:
        key = fresh_key()
        slots, tokens = Quota(SLOTS, 10, key), Quota(TOKENS_PER_DAY, 1000, key)
        before, during = fresh_id(), fresh_id()
        await limiter.admit(before, [Charge(slots), Charge(tokens, 100)])
        redis.stop()
        assert not (await limiter.admit(during, [Charge(slots), Charge(tokens, 200)])).from_store
        redis.start()
        await seconds_until_from_store(limiter, slots)
        await comes_to([8, 700], lambda: remaining(limiter, slots, tokens))
        limiter.settle_soon(before, {TOKENS_PER_DAY: 50})
        limiter.settle_soon(during, {TOKENS_PER_DAY: 60})
        await comes_to([10, 890], lambda: remaining(limiter, slots, tokens))


async def test_exchange_that_ends_while_it_is_handed_over_keeps_no_slot(
    link: FaultyLink, limiter: Limiter
) -> None:
    key, exchange = fresh_key(), fresh_id()
    slots, tokens = Quota(SLOTS, 10, key), Quota(TOKENS_PER_DAY, 1000, key)
    await link.close()
    await asyncio.sleep(0.3)
    await limiter.admit(exchange, [Charge(slots), Charge(tokens, 500)])
    link.delay_seconds = 0.02
    link.writes.clear()
    await link.open()
    await until(lambda: any(exchange.encode() in piece for piece in link.writes))
    limiter.settle_soon(exchange, {TOKENS_PER_DAY: 30})
    await asyncio.sleep(0.6)
    link.delay_seconds = 0
    assert await remaining(limiter, slots, tokens) == [10, 970]


async def test_both_steps_of_an_exchange_are_counted_again_after_redis_lost_them(redis: RedisServer) -> None:
    """It restarts between the two, so that the second is all that it knows of the exchange."""
    async with limiter_over(RedisBuckets(redis.url, lease_seconds=60)) as limiter:
        key, exchange = fresh_key(), fresh_id()
        slots, tokens = Quota(SLOTS, 10, key), Quota(TOKENS_PER_DAY, 1000, key)
        assert (await limiter.admit(exchange, [Charge(slots)], hold=True)).from_store
        redis.stop()
        await asyncio.sleep(0.3)
        redis.start()
        await until(lambda: all(limiter.state().servers.values()))
        await limiter.admit(exchange, [Charge(tokens, 100)], hold=True)
        await comes_to([9, 900], lambda: remaining(limiter, slots, tokens))
        limiter.settle_soon(exchange, {TOKENS_PER_DAY: 30})
        await comes_to([10, 970], lambda: remaining(limiter, slots, tokens))


@pytest.mark.parametrize("out_at", [1, 2])
async def test_exchange_whose_steps_were_counted_here_and_there_is_one_in_the_end(
    link: FaultyLink, limiter: Limiter, out_at: int
) -> None:
    """Redis is away at one of its two steps."""
    key, exchange = fresh_key(), fresh_id()
    requests, slots = Quota(REQUESTS_PER_DAY, 10, key), Quota(SLOTS, 10, key)
    tokens = Quota(TOKENS_PER_DAY, 1000, key)
    for number, charges in ((1, [Charge(requests), Charge(slots)]), (2, [Charge(tokens, 100)])):
        if number == out_at:
            await link.close()
            await asyncio.sleep(0.3)
        decision = await limiter.admit(exchange, charges, hold=True)
        assert decision.allowed
        assert decision.from_store == (number != out_at)
        if number == out_at:
            await link.open()
            await seconds_until_from_store(limiter, slots)
    await comes_to([9, 9, 900], lambda: remaining(limiter, requests, slots, tokens))
    limiter.settle_soon(exchange, {TOKENS_PER_DAY: 30})
    await comes_to([9, 10, 970], lambda: remaining(limiter, requests, slots, tokens))
    await stays([9, 10, 970], lambda: remaining(limiter, requests, slots, tokens), for_seconds=0.3)


async def test_second_step_that_nobody_heard_of_gives_nothing_of_the_first_back(
    link: FaultyLink, limiter: Limiter
) -> None:
    key, exchange = fresh_key(), fresh_id()
    slots, tokens = Quota(SLOTS, 10, key), Quota(TOKENS_PER_DAY, 1000, key, OnStoreFailure.CLOSED)
    await limiter.admit(exchange, [Charge(slots)], hold=True)
    link.delay_seconds = 0.15
    with pytest.raises(StoreUnavailable):
        await limiter.admit(exchange, [Charge(tokens, 100)], hold=True)
    link.delay_seconds = 0
    await seconds_until_from_store(limiter, slots)
    await stays([9], lambda: remaining(limiter, slots), for_seconds=0.3)
    limiter.cancel_soon(exchange)
    await comes_to([10], lambda: remaining(limiter, slots))
    # What Redis granted and nobody heard of is held until its lease ends.
    await comes_to([10, 1000], lambda: remaining(limiter, slots, tokens))


@pytest.mark.parametrize("policy", [OnStoreFailure.LOCAL, OnStoreFailure.CLOSED])
async def test_slot_that_was_taken_without_anybody_hearing_of_it_comes_free_with_its_exchange(
    link: FaultyLink, policy: OnStoreFailure
) -> None:
    """Not when its lease ends: that takes long, and nobody renews it."""
    store = RedisBuckets(f"redis://127.0.0.1:{link.port}", lease_seconds=600)
    async with limiter_over(store) as limiter:
        key, exchange = fresh_key(), fresh_id()
        slots, tokens = Quota(SLOTS, 10, key, policy), Quota(TOKENS_PER_DAY, 1000, key, policy)
        await remaining(limiter, slots)
        link.drop_replies = True
        try:
            await limiter.admit(exchange, [Charge(slots), Charge(tokens, 500)])
        except StoreUnavailable:
            assert policy is OnStoreFailure.CLOSED
        limiter.settle_soon(exchange, {TOKENS_PER_DAY: 30})
        link.drop_replies = False
        link.cut()
        await seconds_until_from_store(limiter, slots)
        used = 0 if policy is OnStoreFailure.CLOSED else 30
        await comes_to([10, 1000 - used], lambda: remaining(limiter, slots, tokens))


async def test_settlement_that_met_an_outage_is_made_up_for(
    redis: RedisServer, link: FaultyLink, limiter: Limiter
) -> None:
    key, exchange = fresh_key(), fresh_id()
    slots, tokens = Quota(SLOTS, 10, key), Quota(TOKENS_PER_DAY, 1000, key)
    await limiter.admit(exchange, [Charge(slots), Charge(tokens, 500)])
    await link.close()
    await asyncio.sleep(0.3)
    limiter.settle_soon(exchange, {TOKENS_PER_DAY: 30})
    await until(lambda: limiter.state().late_settlements == 1)
    await link.open()
    await seconds_until_from_store(limiter, slots)
    await comes_to([10, 970], lambda: remaining(limiter, slots, tokens))


async def test_settlement_beside_a_broken_key_counts_once_when_that_is_put_right(
    redis: RedisServer, limiter: Limiter
) -> None:
    key, exchange = fresh_key(), fresh_id()
    tokens = Quota(TOKENS_PER_DAY, 1000, key)
    broken = Quota(TOKENS_PER_DAY, 1000, f"{key}:subject=x")
    await limiter.admit(exchange, [Charge(tokens, 500), Charge(broken, 500)])
    redis.command("SET", f"gateway:{broken.key}", "x")
    limiter.settle_soon(exchange, {TOKENS_PER_DAY: 30})
    await comes_to([970], lambda: remaining(limiter, tokens))
    redis.command("DEL", f"gateway:{broken.key}")
    await stays([970], lambda: remaining(limiter, tokens), for_seconds=0.5)
    assert limiter.state().late_settlements == 0


async def test_settlement_after_the_lease_ran_out_charges_what_was_used(
    redis: RedisServer, link: FaultyLink
) -> None:
    store = RedisBuckets(f"redis://127.0.0.1:{link.port}", lease_seconds=0.5)
    async with limiter_over(store) as limiter:
        tokens, exchange = Quota(TOKENS_PER_DAY, 1000, fresh_key()), fresh_id()
        await limiter.admit(exchange, [Charge(tokens, 500)])
        await link.close()
        await asyncio.sleep(0.3)
        limiter.settle_soon(exchange, {TOKENS_PER_DAY: 30})
        await asyncio.sleep(0.6)
        await link.open()
        await seconds_until_from_store(limiter, tokens)
        await comes_to([970], lambda: remaining(limiter, tokens))


async def test_lost_settlement_is_not_charged_twice(
    redis: RedisServer, link: FaultyLink, limiter: Limiter
) -> None:
    tokens, exchange = Quota(TOKENS_PER_DAY, 1000, fresh_key()), fresh_id()
    await limiter.admit(exchange, [Charge(tokens, 500)])
    link.drop_replies = True
    limiter.settle_soon(exchange, {TOKENS_PER_DAY: 30})
    await until(lambda: limiter.state().late_settlements == 1)
    link.drop_replies = False
    link.cut()
    await seconds_until_from_store(limiter, tokens)
    await until(lambda: limiter.state().late_settlements == 0)
    await stays([970], lambda: remaining(limiter, tokens), for_seconds=0.2)


async def test_renewal_keeps_long_exchanges_alive(redis: RedisServer) -> None:
    async with limiter_over(RedisBuckets(redis.url, lease_seconds=0.6)) as limiter:
        slots, exchange = Quota(SLOTS, 1, fresh_key()), fresh_id()
        await limiter.admit(exchange, [Charge(slots)])
        for _ in range(6):
            await asyncio.sleep(0.25)
            assert await remaining(limiter, slots) == [0]
        limiter.settle_soon(exchange)
        await comes_to([1], lambda: remaining(limiter, slots))


async def test_closing_carries_out_every_settlement(redis: RedisServer) -> None:
    tokens = Quota(TOKENS_PER_DAY, 10_000, fresh_key())  # of which one comes back in nine seconds
    async with limiter_over(RedisBuckets(redis.url)) as limiter:
        exchanges = [fresh_id() for _ in range(50)]
        for exchange in exchanges:
            await limiter.admit(exchange, [Charge(tokens, 100)])
        for exchange in exchanges:
            limiter.settle_soon(exchange, {TOKENS_PER_DAY: 10})
    async with limiter_over(RedisBuckets(redis.url)) as limiter:
        assert await remaining(limiter, tokens) == [10_000 - 50 * 10]
        assert limiter.state().workers == 1, "the first worker took its leave"


class TestOverMemory:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    async def limiter(self, clock: FakeClock) -> AsyncIterator[Limiter]:
        async with limiter_over(MemoryBuckets(clock=clock)) as limiter:
            yield limiter

    async def test_settles_once_and_keeps_what_is_not_named(self, limiter: Limiter) -> None:
        key, exchange = fresh_key(), fresh_id()
        requests, tokens, slots = (
            Quota(REQUESTS_PER_DAY, 9, key),
            Quota(TOKENS_PER_DAY, 1000, key),
            Quota(SLOTS, 5, key),
        )
        await limiter.admit(exchange, [Charge(requests), Charge(tokens, 300), Charge(slots)])
        limiter.settle_soon(exchange, {TOKENS_PER_DAY: 100})
        limiter.settle_soon(exchange, {TOKENS_PER_DAY: 900})
        limiter.settle_soon("nobody")
        await asyncio.sleep(0)
        assert await remaining(limiter, requests, tokens, slots) == [8, 900, 5]

    async def test_second_step_of_an_exchange_is_settled_with_the_first(self, limiter: Limiter) -> None:
        exchange = fresh_id()
        tenant, model = Quota(TOKENS_PER_DAY, 1000, fresh_key()), Quota(TOKENS_PER_DAY, 500, fresh_key())
        await limiter.admit(exchange, [Charge(tenant, 300)])
        await limiter.admit(exchange, [Charge(model, 300)])
        limiter.settle_soon(exchange, {TOKENS_PER_DAY: 50})
        await asyncio.sleep(0)
        assert await remaining(limiter, tenant, model) == [950, 450]

    async def test_cancelled_exchange_gets_everything_back(self, limiter: Limiter) -> None:
        key, exchange = fresh_key(), fresh_id()
        requests, slots = Quota(REQUESTS_PER_DAY, 9, key), Quota(SLOTS, 5, key)
        await limiter.admit(exchange, [Charge(requests), Charge(slots)])
        limiter.cancel_soon(exchange)
        await asyncio.sleep(0)
        assert await remaining(limiter, requests, slots) == [9, 5]

    async def test_request_alone_is_given_back_if_it_was_held(self, limiter: Limiter) -> None:
        requests, exchange = Quota(REQUESTS_PER_DAY, 9, fresh_key()), fresh_id()
        await limiter.admit(exchange, [Charge(requests)], hold=True)
        limiter.cancel_soon(exchange)
        await asyncio.sleep(0)
        assert await remaining(limiter, requests) == [9]


async def test_log_stays_short_however_many_exchanges_fail(
    redis: RedisServer, limiter: Limiter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="gateway")
    redis.stop()
    load = Load(limiter, [Charge(Quota(REQUESTS_PER_DAY, 1000, fresh_key()))], per_second=1000)
    await load.run(0.5)
    assert not any(load.from_store()[10:])
    assert len(caplog.records) == 1


async def test_what_was_used_on_the_way_is_charged_at_once_or_after_the_outage(
    link: FaultyLink, limiter: Limiter
) -> None:
    tokens = Quota(TOKENS_PER_DAY, 1000, fresh_key())
    limiter.charge_soon([Charge(tokens, 100)])
    await comes_to([900], lambda: remaining(limiter, tokens))
    await link.close()
    await asyncio.sleep(0.3)
    limiter.charge_soon([Charge(tokens, 50)])
    await asyncio.sleep(0.01)
    during = await limiter.look([Charge(tokens, 951)])
    assert (during.allowed, during.from_store) == (False, False), "this worker's own share is charged too"
    await link.open()
    await seconds_until_from_store(limiter, tokens)
    await comes_to([850], lambda: remaining(limiter, tokens))
    await stays([850], lambda: remaining(limiter, tokens), for_seconds=0.2)


@pytest.mark.parametrize("reported", ["when it ends", "on the way"])
async def test_absurd_report_is_a_hundred_limits_and_is_said_to_be_one(
    caplog: pytest.LogCaptureFixture, reported: str
) -> None:
    capped: list[Quota] = []
    store = MemoryBuckets(clock=FakeClock())
    tokens, exchange = Quota(TOKENS_PER_DAY, 1000, fresh_key()), fresh_id()
    async with limiter_over(store, capped=capped.append) as limiter:
        if reported == "on the way":
            limiter.charge_soon([Charge(tokens, 100_000)])
            assert (await store.missing([tokens])) == [100_000 * 60_000]
            await store.reset([tokens.key])
            assert not capped, "that is a hundred"
            limiter.charge_soon([Charge(tokens, 10**18)])
        else:
            await limiter.admit(exchange, [Charge(tokens, 500)])
            limiter.settle_soon(exchange, {TOKENS_PER_DAY: 10**18})
        assert (await store.missing([tokens])) == [100_000 * 60_000]
        assert capped == [tokens]
        (said,) = caplog.messages
        assert re.search(
            r"tenant tenant-\d+ is said to have used 1000000000000000000 of max_tokens_per_1_day", said
        )


async def test_what_is_decided_in_the_stores_place_is_told_with_what_decided(redis: RedisServer) -> None:
    heard: list[tuple[str, bool]] = []
    limits = {policy: Quota(REQUESTS_PER_DAY, 1, fresh_key(), policy) for policy in OnStoreFailure}
    redis.stop()
    async with limiter_over(
        RedisBuckets(redis.url), decided=lambda _, by, granted: heard.append((by.value, granted))
    ) as limiter:
        for policy in ("local", "local", "open", "closed"):
            try:
                await limiter.admit(fresh_id(), [Charge(limits[OnStoreFailure(policy)])])
            except StoreUnavailable:
                assert policy == "closed"
        redis.start()
        await seconds_until_from_store(limiter, limits[OnStoreFailure.OPEN])
        await limiter.admit(fresh_id(), [Charge(limits[OnStoreFailure.OPEN])])
    assert heard == [("local", True), ("local", False), ("open", True), ("closed", False)]
