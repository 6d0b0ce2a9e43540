"""A Redis that stalls, or is cut off with answers outstanding, leaves nothing behind of what nobody heard of."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from gateway.limits.charges import Charges
from gateway.limits.limiter import Limiter
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import Step, StoreUnavailable
from gateway.limits.terms import Charge, Dimension, OnStoreFailure, Quota
from gateway.limits.turn import Undoing
from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.redis import RedisServer, running_cluster
from tests.kit.waiting import comes_to, stays, until
from tests.limits.contract import fresh_id, fresh_key
from tests.limits.limiter_load import seconds_until_from_store

REQUESTS, TOKENS = Dimension.REQUESTS_PER_DAY, Dimension.TOKENS_PER_DAY
SLOTS = Dimension.CONCURRENT_REQUESTS
LEASE_SECONDS = 600
"""So that nothing comes back because a lease ends."""


@pytest.fixture
async def limiter(link: FaultyLink) -> AsyncIterator[Limiter]:
    limiter = Limiter(RedisBuckets(f"redis://127.0.0.1:{link.port}", lease_seconds=LEASE_SECONDS))
    await limiter.start()
    yield limiter
    await limiter.close()


async def missing(limiter: Limiter, *quotas: Quota) -> list[int]:
    look = await limiter.look([Charge(quota, 0) for quota in quotas])
    assert look.from_store
    return [quota.capacity - level.remaining for quota, level in zip(quotas, look.levels, strict=True)]


def quotas(policy: OnStoreFailure, *dimensions: Dimension) -> list[Quota]:
    key = fresh_key()
    return [Quota(dimension, 1000, key, policy) for dimension in dimensions]


async def asked(limiter: Limiter, limits: list[Quota], times: int) -> list[tuple[str, bool | None]]:
    """What became of so many exchanges: whether each was admitted; None: unavailable."""
    ids = [fresh_id() for _ in range(times)]
    decisions = await asyncio.gather(
        *(limiter.admit(exchange, [Charge(limit) for limit in limits]) for exchange in ids),
        return_exceptions=True,
    )
    return [
        (exchange, None if isinstance(decision, BaseException) else decision.allowed)
        for exchange, decision in zip(ids, decisions, strict=True)
    ]


@contextmanager
def troubled(redis: RedisServer, link: FaultyLink, trouble: str) -> Iterator[None]:
    """The server is frozen, or its replies are lost until their connection is cut."""
    if trouble == "frozen":
        redis.freeze()
    else:
        link.drop_replies = True
    try:
        yield
    finally:
        if trouble == "frozen":
            redis.thaw()
        else:
            link.drop_replies = False
            link.cut()


@pytest.mark.parametrize("dimensions", [(REQUESTS,), (REQUESTS, SLOTS, TOKENS)], ids=["for good", "held"])
@pytest.mark.parametrize("trouble", ["frozen", "replies lost", "connection broken"])
async def test_refusal_for_want_of_the_store_costs_nothing(
    redis: RedisServer, link: FaultyLink, limiter: Limiter, trouble: str, dimensions: tuple[Dimension, ...]
) -> None:
    limits = quotas(OnStoreFailure.CLOSED, *dimensions)
    await missing(limiter, *limits)
    with troubled(redis, link, trouble):
        first = asyncio.create_task(asked(limiter, limits, 30))
        if trouble == "connection broken":
            await asyncio.sleep(0.02)
            link.cut()
        outcomes = [*await first, *await asked(limiter, limits, 5)]
        assert [outcome for _, outcome in outcomes] == [None] * 35
        await asyncio.sleep(1.0)
    await seconds_until_from_store(limiter, limits[0])
    await comes_to([0] * len(limits), lambda: missing(limiter, *limits), within_seconds=1.0)
    await until(lambda: not limiter.state().late_settlements)
    await stays([0] * len(limits), lambda: missing(limiter, *limits), for_seconds=0.3)


@pytest.mark.parametrize("trouble", ["frozen", "replies lost"])
@pytest.mark.parametrize("dimensions", [(REQUESTS,), (REQUESTS, SLOTS, TOKENS)], ids=["for good", "held"])
async def test_what_was_decided_in_its_place_counts_once(
    redis: RedisServer, link: FaultyLink, limiter: Limiter, trouble: str, dimensions: tuple[Dimension, ...]
) -> None:
    limits = quotas(OnStoreFailure.LOCAL, *dimensions)
    await missing(limiter, *limits)
    with troubled(redis, link, trouble):
        outcomes = await asked(limiter, limits, 20)
        assert [outcome for _, outcome in outcomes] == [True] * 20
        for exchange, _ in outcomes[:10]:
            limiter.settle_soon(exchange, {TOKENS: 3})
        await asyncio.sleep(0.5)
    await seconds_until_from_store(limiter, limits[0])
    once = [20] if len(limits) == 1 else [20, 10, 10 * 3 + 10 * 1]
    await comes_to(once, lambda: missing(limiter, *limits))
    await stays(once, lambda: missing(limiter, *limits), for_seconds=1.2)
    for exchange, _ in outcomes[10:]:
        limiter.settle_soon(exchange, {TOKENS: 3})
    await comes_to([20, 0, 60][: len(limits)], lambda: missing(limiter, *limits))


@pytest.mark.parametrize("dimensions", [(REQUESTS,), (REQUESTS, SLOTS, TOKENS)], ids=["for good", "held"])
@pytest.mark.parametrize("then", ["thawed", "broken"])
async def test_who_left_meanwhile_leaves_nothing_behind(
    redis: RedisServer, link: FaultyLink, limiter: Limiter, then: str, dimensions: tuple[Dimension, ...]
) -> None:
    """Whether the store answers them in time, or their connection breaks first."""
    limits = quotas(OnStoreFailure.CLOSED, *dimensions)
    await missing(limiter, *limits)
    with troubled(redis, link, "frozen"):
        asking = [limiter.admit(fresh_id(), [Charge(limit) for limit in limits]) for _ in range(10)]
        await asyncio.sleep(0.01)
        for one in asking:
            one.cancel()
        if then == "broken":
            await asyncio.sleep(0.3)
    await seconds_until_from_store(limiter, limits[0])
    await comes_to([0] * len(limits), lambda: missing(limiter, *limits), within_seconds=1.0)
    await stays([0] * len(limits), lambda: missing(limiter, *limits), for_seconds=0.3)


async def test_what_was_charged_without_anybody_hearing_of_it_is_charged_once(
    redis: RedisServer, link: FaultyLink, limiter: Limiter
) -> None:
    limits = quotas(OnStoreFailure.LOCAL, TOKENS)
    await missing(limiter, *limits)
    with troubled(redis, link, "replies lost"):
        for _ in range(3):
            limiter.charge_soon([Charge(limits[0], 100)])
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
    await seconds_until_from_store(limiter, limits[0])
    await comes_to([300], lambda: missing(limiter, *limits))
    await stays([300], lambda: missing(limiter, *limits), for_seconds=1.2)


@pytest.mark.parametrize("exchange", ["", "held"])
async def test_step_that_comes_after_it_was_given_back_takes_nothing(
    redis: RedisServer, link: FaultyLink, exchange: str
) -> None:
    """As where a stalled server reads a new connection before an old one."""
    limits = quotas(OnStoreFailure.CLOSED, REQUESTS, *((SLOTS, TOKENS) if exchange else ()))
    store = RedisBuckets(f"redis://127.0.0.1:{link.port}", deadline_seconds=0.2)
    charges = Charges.of([Charge(limit) for limit in limits])
    exchange = exchange and fresh_id()
    await store.look(charges)
    link.writes.clear()
    redis.freeze()
    step = Step("take", exchange, charges)
    with pytest.raises(StoreUnavailable):
        await store._outcome(step)
    (late,) = link.writes
    redis.thaw()
    await comes_to(True, lambda: answered(store, charges))
    redis.command("FLUSHALL")  # as if it had not come yet
    if exchange:
        await store._outcome(Step("give back", exchange, charges, [0] * len(charges)))
    else:
        await undone_again(store, step)
    send(redis, late)
    assert list(await store.missing(limits)) == [0] * len(limits)
    await store.close()


async def answered(store: RedisBuckets, charges: Charges) -> bool:
    try:
        await store.announce("worker")
        await store.look(charges)
    except StoreUnavailable:
        return False
    return not store.doubts()


async def undone_again(store: RedisBuckets, step: Step) -> None:
    """As when nobody knew what became of the last turn."""
    number = store._receipts._last
    key = store._receipts.key(number, step.charges)
    store._doubts.append(Undoing(store._prefix, number, key, [(1, step.charges)]))
    store._undo()
    await store.quiet()


def send(redis: RedisServer, packed: bytes) -> None:
    """Have the server read this, and wait for its answer."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=2) as connection:
        connection.sendall(packed)
        assert connection.recv(65536)


async def test_stalled_master_of_a_cluster_leaves_nothing_behind_either() -> None:
    with running_cluster() as nodes:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        limiter = Limiter(RedisBuckets(url, lease_seconds=LEASE_SECONDS))
        await limiter.start()
        try:
            limits = [quotas(OnStoreFailure.CLOSED, REQUESTS, SLOTS) for _ in range(12)]
            for some in limits:
                await seconds_until_from_store(limiter, some[0])
            nodes[1].freeze()
            for some in limits:
                outcomes = [*await asked(limiter, some, 3), *await asked(limiter, some[:1], 3)]
                for exchange, granted in outcomes:
                    if granted:
                        limiter.cancel_soon(exchange)
            await asyncio.sleep(0.5)
            nodes[1].thaw()
            for some in limits:
                await seconds_until_from_store(limiter, some[0])
            await until(lambda: not limiter.state().late_settlements)
            found = [await missing(limiter, *some) for some in limits]
            assert set(map(tuple, found)) == {(0, 0), (3, 0)}, "those for good, of those who were heard"
        finally:
            await limiter.close()
