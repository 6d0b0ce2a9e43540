"""Redis buckets keep the contract, compute what the memory does, and survive what Redis does to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.redis_buckets import RedisBuckets
from tests.bucket_contract import BucketContract, FakeClock
from tests.redis_server import RedisServer, running_redis


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


class TestRedisBuckets(BucketContract):
    @pytest.fixture
    async def store(self, redis: RedisServer, clock: FakeClock) -> AsyncIterator[RedisBuckets]:
        store = RedisBuckets(redis.url, lease_seconds=10, deadline_seconds=2.0, clock=clock)
        yield store
        await store.close()
