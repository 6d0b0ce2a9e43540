"""Redis buckets keep the contract, compute what the memory does, and survive what Redis does to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.limits.charges import Charges
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import Step, StoreUnavailable
from gateway.limits.terms import Charge, Dimension
from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.redis import RedisServer
from tests.limits.contract import SLOTS, TOKENS, BucketContract, FakeClock, fresh_id, fresh_key, quota


class TestRedisBuckets(BucketContract):
    @pytest.fixture
    async def store(self, redis: RedisServer, clock: FakeClock) -> AsyncIterator[RedisBuckets]:
        store = RedisBuckets(redis.url, lease_seconds=10, deadline_seconds=2.0, clock=clock)
        yield store
        await store.close()

    async def test_requests_of_who_is_gone_hide_nobody_who_holds_something(
        self, store: RedisBuckets, clock: FakeClock
    ) -> None:
        """They are known for a while after their leases have run out."""
        key = fresh_key()
        charges = [Charge(quota(key=key)), Charge(quota(SLOTS, 5, key=key))]
        for _ in range(3):
            await store.admit(fresh_id(), charges)
        clock.advance(11)
        alive = [fresh_id(), fresh_id()]
        for exchange in alive:
            await store.admit(exchange, charges)
        holdings, more = await store.held(key, 1)
        assert ([holding.exchange_id for holding in holdings], more) == (alive[:1], 1)


@pytest.fixture
async def behind(link: FaultyLink) -> AsyncIterator[RedisBuckets]:
    """A store whose connection can be hurt."""
    store = RedisBuckets(f"redis://127.0.0.1:{link.port}", deadline_seconds=0.5)
    await store.look([Charge(quota())])
    link.writes.clear()
    yield store
    await store.close()


async def test_steps_of_one_turn_leave_in_one_call_and_settlements_ride_on_it(
    behind: RedisBuckets, link: FaultyLink
) -> None:
    tokens, ended = quota(TOKENS, 1000), [fresh_id() for _ in range(5)]
    await asyncio.gather(*(behind.admit(exchange, [Charge(tokens, 10)]) for exchange in ended))
    assert (len(link.writes), b"".join(link.writes).count(b"EVALSHA")) == (1, 1)
    link.writes.clear()
    for exchange in ended:
        behind.put(Step("settle", exchange, Charges.of([Charge(tokens)]), [5]))
    decision = await behind.admit(fresh_id(), [Charge(tokens, 10)])
    assert (len(link.writes), b"".join(link.writes).count(b"EVALSHA")) == (1, 1)
    assert decision.levels[0].remaining >= 1000 - 5 * 5 - 10


async def test_settlement_without_company_leaves_in_the_same_turn(
    behind: RedisBuckets, link: FaultyLink
) -> None:
    slots, exchange = quota(SLOTS, 1), fresh_id()
    await behind.admit(exchange, [Charge(slots)])
    link.writes.clear()
    behind.put(Step("settle", exchange, Charges.of([Charge(slots)]), [0]))
    while not link.writes:
        await asyncio.sleep(0.001)
    assert exchange.encode() in link.writes[0]
    await behind.quiet()
    assert (await behind.look([Charge(slots)])).allowed


async def test_settlement_that_frees_no_slot_waits_for_company_of_a_later_turn(
    behind: RedisBuckets, link: FaultyLink
) -> None:
    tokens, exchange = quota(TOKENS, 1000), fresh_id()
    await behind.admit(exchange, [Charge(tokens, 10)])
    link.writes.clear()
    behind.put(Step("settle", exchange, Charges.of([Charge(tokens)]), [5]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    decision = await behind.admit(fresh_id(), [Charge(tokens, 10)])
    assert (len(link.writes), b"".join(link.writes).count(b"EVALSHA")) == (1, 1)
    assert decision.levels[0].remaining >= 1000 - 5 - 10


async def test_settlement_that_finds_no_company_leaves_by_itself(
    behind: RedisBuckets, redis: RedisServer
) -> None:
    tokens, exchange = quota(Dimension.TOKENS_PER_DAY, 1000), fresh_id()
    await behind.admit(exchange, [Charge(tokens, 1000)])
    behind.put(Step("settle", exchange, Charges.of([Charge(tokens)]), [400]))
    other = RedisBuckets(redis.url, deadline_seconds=2)
    try:
        async with asyncio.timeout(2):
            while not (await other.look([Charge(tokens, 600)])).allowed:
                await asyncio.sleep(0.001)
    finally:
        await other.close()


async def test_settlement_that_waits_for_company_is_carried_out_at_the_end(redis: RedisServer) -> None:
    tokens, exchange = quota(Dimension.TOKENS_PER_DAY, 1000), fresh_id()
    store, other = RedisBuckets(redis.url, deadline_seconds=2), RedisBuckets(redis.url, deadline_seconds=2)
    try:
        await store.admit(exchange, [Charge(tokens, 1000)])
        store.put(Step("settle", exchange, Charges.of([Charge(tokens)]), [400]))
        await store.close()
        assert (await other.look([Charge(tokens, 600)])).allowed
    finally:
        await other.close()


@pytest.mark.parametrize("poison", ["no hash", "no bucket", "no record", "no lease list"])
async def test_broken_key_fails_its_own_steps_alone(
    behind: RedisBuckets, redis: RedisServer, poison: str
) -> None:
    exchange, broken, sound = fresh_id(), quota(TOKENS, 100), quota(TOKENS, 100)
    beside = quota(TOKENS, 100, key=f"{broken.key}:subject=x")
    match poison:
        case "no hash":
            redis.command("LPUSH", f"gateway:{broken.key}", "x")
        case "no bucket":
            redis.command("HSET", f"gateway:{broken.key}", broken.dimension.value, "x")
        case "no record":
            redis.command("HSET", f"gateway:{broken.key}", f"@{exchange}", "\xff")
        case "no lease list":
            redis.command("SET", f"gateway:{broken.key}:open", "x")
    outcomes = await asyncio.gather(
        behind.admit(fresh_id(), [Charge(sound, 10)]),
        behind.admit(exchange, [Charge(beside, 10), Charge(broken, 10)]),
        behind.settle(exchange, [Charge(broken, 10)]),
        behind.admit(fresh_id(), [Charge(sound, 10)]),
        return_exceptions=True,
    )
    assert [isinstance(outcome, StoreUnavailable) for outcome in outcomes] == [False, True, True, False]
    assert isinstance(outcomes[1], StoreUnavailable)
    assert not outcomes[1].sent, "nothing was done, so the worker may decide by itself"
    look = await behind.look([Charge(sound, 0), Charge(beside, 0)])
    assert [level.remaining for level in look.levels] == [80, 100]
    assert all(behind.health().values()), "the server is not blamed"


async def test_settlement_frees_what_is_sound_beside_a_broken_key(
    behind: RedisBuckets, redis: RedisServer
) -> None:
    key, exchange = fresh_key(), fresh_id()
    slots, broken = quota(SLOTS, 1, key=key), quota(TOKENS, 100, key=f"{key}:subject=x")
    await behind.admit(exchange, [Charge(slots), Charge(broken, 10)])
    redis.command("SET", f"gateway:{broken.key}", "x")
    assert await behind.settle(exchange, [Charge(slots, 0), Charge(broken, 5)])
    assert (await behind.look([Charge(slots)])).allowed
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await behind.settle(exchange, [Charge(slots, 0), Charge(broken, 5)])


async def test_turn_of_which_nothing_is_known_to_the_server_is_carried_out_once(
    behind: RedisBuckets, redis: RedisServer
) -> None:
    requests = quota(Dimension.REQUESTS_PER_DAY, 100)
    redis.command("SCRIPT", "FLUSH")
    decisions = await asyncio.gather(*(behind.admit(fresh_id(), [Charge(requests)]) for _ in range(10)))
    assert all(decision.allowed for decision in decisions)
    assert decisions[-1].levels[0].remaining == 90


@pytest.mark.parametrize("trouble", ["read-only", "full"])
async def test_server_that_takes_no_writes_fails_the_whole_turn_as_not_done(
    behind: RedisBuckets, redis: RedisServer, trouble: str
) -> None:
    quotas = [quota(TOKENS, 100) for _ in range(3)]
    if trouble == "full":
        redis.command("CONFIG", "SET", "maxmemory", 1)
    else:
        redis.command("REPLICAOF", "127.0.0.1", 1)
    try:
        outcomes = await asyncio.gather(
            *(behind.admit(fresh_id(), [Charge(one, 10)]) for one in quotas), return_exceptions=True
        )
    finally:
        redis.command("CONFIG", "SET", "maxmemory", 0)
        redis.command("REPLICAOF", "NO", "ONE")
    assert [isinstance(outcome, StoreUnavailable) and not outcome.sent for outcome in outcomes] == [True] * 3
    assert not all(behind.health().values()), "it is the server that fails"


async def test_reply_that_is_lost_in_the_middle_leaves_every_step_in_doubt(
    behind: RedisBuckets, link: FaultyLink
) -> None:
    tokens = quota(TOKENS, 100)
    link.drop_replies = True
    admissions = [asyncio.create_task(behind.admit(fresh_id(), [Charge(tokens, 1)])) for _ in range(3)]
    await asyncio.sleep(0.1)
    link.cut()
    outcomes = await asyncio.gather(*admissions, return_exceptions=True)
    link.drop_replies = False
    assert [isinstance(outcome, StoreUnavailable) and outcome.sent for outcome in outcomes] == [True] * 3


async def test_step_whose_asker_leaves_before_the_turn_ends_is_never_sent(
    behind: RedisBuckets, link: FaultyLink
) -> None:
    requests = quota(Dimension.REQUESTS_PER_DAY, 100)
    left, stays = fresh_id(), fresh_id()
    leaving = asyncio.create_task(behind.admit(left, [Charge(requests)], hold=True))
    staying = asyncio.create_task(behind.admit(stays, [Charge(requests)], hold=True))
    await asyncio.sleep(0)
    leaving.cancel()
    decision = await staying
    assert decision.levels[0].remaining == 99
    assert left.encode() not in b"".join(link.writes)


async def test_step_whose_asker_leaves_after_it_was_sent_is_given_back_and_no_other(
    behind: RedisBuckets, link: FaultyLink
) -> None:
    slots = quota(SLOTS, 5)
    link.delay_seconds = 0.05
    leaving = asyncio.create_task(behind.admit(fresh_id(), [Charge(slots)]))
    staying = asyncio.create_task(behind.admit(fresh_id(), [Charge(slots)]))
    while not link.writes:
        await asyncio.sleep(0.001)
    leaving.cancel()
    assert (await staying).allowed
    link.delay_seconds = 0.0
    await behind.quiet()
    assert (await behind.look([Charge(slots, 0)])).levels[0].remaining == 4
