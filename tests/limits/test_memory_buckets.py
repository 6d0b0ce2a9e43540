"""Memory buckets keep the contract, and keep themselves small."""

from __future__ import annotations

import pytest

from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.terms import Charge, Dimension
from tests.limits.contract import BucketContract, FakeClock, fresh_id, quota


class TestMemoryBuckets(BucketContract):
    @pytest.fixture
    def store(self, clock: FakeClock) -> MemoryBuckets:
        return MemoryBuckets(lease_seconds=10, clock=clock)


async def test_accounts_that_are_full_again_are_dropped() -> None:
    clock = FakeClock()
    store = MemoryBuckets(clock=clock)
    for _ in range(1000):
        await store.admit(fresh_id(), [Charge(quota(capacity=1))])
        clock.advance(1)
    assert len(store) <= 130


async def test_account_with_an_open_exchange_stays_and_keeps_no_idle_one_alive() -> None:
    clock = FakeClock()
    store = MemoryBuckets(clock=clock, lease_seconds=10_000)
    slots = quota(Dimension.CONCURRENT_REQUESTS, 1)
    await store.admit(fresh_id(), [Charge(slots)])
    for _ in range(1000):
        await store.admit(fresh_id(), [Charge(quota(capacity=1))])
        clock.advance(1)
    assert not (await store.look([Charge(slots)])).allowed
    assert len(store) <= 130


async def test_number_of_accounts_is_bounded() -> None:
    store = MemoryBuckets(clock=FakeClock(), most_accounts=50)
    first = quota(capacity=1)
    await store.admit(fresh_id(), [Charge(first)])
    for _ in range(200):
        await store.admit(fresh_id(), [Charge(quota(capacity=1))])
        assert len(store) <= 50
    assert (await store.look([Charge(first)])).allowed, "the account used longest ago went first"
