"""Redis buckets keep the contract, compute what the memory does, and survive what Redis does to them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.limits.redis_buckets import RedisBuckets
from tests.kit.redis import RedisServer
from tests.limits.contract import BucketContract, FakeClock


class TestRedisBuckets(BucketContract):
    @pytest.fixture
    async def store(self, redis: RedisServer, clock: FakeClock) -> AsyncIterator[RedisBuckets]:
        store = RedisBuckets(redis.url, lease_seconds=10, deadline_seconds=2.0, clock=clock)
        yield store
        await store.close()
