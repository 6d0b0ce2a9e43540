"""Limits over a Redis Cluster that loses a master, and over Sentinels that fail over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

from gateway.exchange.fault_metrics import FaultMetrics
from gateway.exchange.instruments import Registry
from gateway.limits.limiter import Limiter
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Dimension, Quota, account_key
from tests.kit.exposition import page_of
from tests.kit.faults.faulty_link import faulty_link
from tests.kit.redis import RedisServer, running_cluster, running_replica, running_sentinel, wait_until
from tests.limits.contract import BucketContract, FakeClock, fresh_id, fresh_key
from tests.limits.limiter_load import Load, seconds_until_from_store

REQUESTS = Dimension.REQUESTS_PER_DAY


@pytest.fixture(scope="module")
def sound_cluster() -> Iterator[list[RedisServer]]:
    with running_cluster() as nodes:
        yield nodes


class TestClusterBuckets(BucketContract):
    @pytest.fixture
    async def store(self, sound_cluster: list[RedisServer], clock: FakeClock) -> AsyncIterator[RedisBuckets]:
        store = RedisBuckets(cluster_url(sound_cluster), lease_seconds=10, deadline_seconds=2.0, clock=clock)
        yield store
        await store.close()


def cluster_url(nodes: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def quota_on(master: int, masters: int = 3) -> Quota:
    """A quota of a tenant whose slot the given master serves."""
    while True:
        key = fresh_key()
        if key_slot(f"gateway:{key}".encode()) * masters // 16384 == master:
            return Quota(REQUESTS, 10_000, key)


def test_all_accounts_of_a_tenant_are_in_one_slot() -> None:
    keys = [account_key("acme"), account_key("acme", model="gpt-4o*"), account_key("acme", subject="{b}")]
    names = [name for key in keys for name in (f"gateway:{key}", f"gateway:{key}:open")]
    assert len({key_slot(name.encode()) for name in names}) == 1


async def test_lost_master_takes_only_its_own_tenants_to_local_decisions() -> None:
    with running_cluster() as nodes:
        limiter = Limiter(RedisBuckets(cluster_url(nodes)), announce_seconds=0.2)
        await limiter.start()
        loads = [Load(limiter, [Charge(quota_on(master))], per_second=50) for master in range(3)]
        await asyncio.gather(*(load.run(0.2) for load in loads))
        assert all(all(load.from_store()) for load in loads)
        nodes[1].stop()
        await asyncio.gather(*(load.run(1.5) for load in loads))
        assert [load.granted for load in loads] == [len(load.outcomes) for load in loads]
        assert all(loads[0].from_store())
        assert all(loads[2].from_store())
        assert sum(loads[1].from_store()) == 10
        assert max(load.seconds_at(1.0) - load.worst_lag_seconds for load in loads) <= 0.1
        assert sorted(limiter.state().servers.values()) == [False, True, True]
        await limiter.close()


async def test_replica_that_takes_over_is_found_and_the_dead_master_left_alone() -> None:
    with running_cluster() as nodes, running_replica(nodes, of=1):
        limiter = Limiter(RedisBuckets(cluster_url(nodes)), announce_seconds=0.2)
        await limiter.start()
        quota = quota_on(1)
        load = Load(limiter, [Charge(quota)], per_second=50)
        await load.run(0.2)
        nodes[1].stop()
        began = time.monotonic()
        while not (await limiter.admit(fresh_id(), [Charge(quota)])).from_store:
            assert time.monotonic() - began < 20, "the store does not decide again"
            await load.run(0.1)
        await load.run(0.2)
        assert load.granted == len(load.outcomes)
        assert load.seconds_at(1.0) <= 0.1 + load.worst_lag_seconds
        assert all(limiter.state().servers.values())
        async with faulty_link(nodes[0].port, port=nodes[1].port) as revenant:
            await asyncio.sleep(1.2)
            assert revenant.connections == 0
        await limiter.close()


async def test_slots_that_moved_are_followed() -> None:
    with running_cluster(2) as nodes:
        store = RedisBuckets(cluster_url(nodes), deadline_seconds=1)
        quota = quota_on(0, 2)
        assert (await store.admit(fresh_id(), [Charge(quota)])).allowed
        slot = key_slot(f"gateway:{quota.key}".encode())
        names = [node.command("CLUSTER", "MYID").splitlines()[1] for node in nodes]
        key = f"gateway:{quota.key}"
        nodes[1].command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
        nodes[0].command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
        assert "OK" in nodes[0].command("MIGRATE", "127.0.0.1", nodes[1].port, key, 0, 1000)
        for node in reversed(nodes):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", names[1])
        decision = await store.admit(fresh_id(), [Charge(quota)])
        assert decision.levels[0].remaining == quota.capacity - 2
        await store.close()


async def test_cluster_that_is_gone_costs_one_deadline_once() -> None:
    limiter = Limiter(RedisBuckets("redis+cluster://127.0.0.1:1"), announce_seconds=0.2)
    await limiter.start()
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert not (await limiter.admit(fresh_id(), [Charge(quota_on(0))])).from_store
        took.append(time.monotonic() - began)
    assert max(took) < 0.1
    assert not all(limiter.state().servers.values())
    await limiter.close()


async def test_sentinel_failover_is_followed() -> None:
    with running_sentinel() as (sentinel, master, replica):
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/limits"
        limiter = Limiter(RedisBuckets(url), announce_seconds=0.2)
        await limiter.start()
        quota = Quota(REQUESTS, 10_000, fresh_key())
        load = Load(limiter, [Charge(quota)], per_second=50)
        await load.run(0.3)
        assert all(load.from_store())
        master.stop()
        began = time.monotonic()
        while "role:master" not in replica.command("INFO", "replication"):
            assert time.monotonic() - began < 10
            await load.run(0.1)
        assert await seconds_until_from_store(limiter, quota) <= 2.0
        await load.run(0.2)
        assert load.granted == len(load.outcomes)
        assert load.from_store()[-1]
        assert load.seconds_at(1.0) <= 0.1 + load.worst_lag_seconds
        await asyncio.sleep(0.5)
        left = (await limiter.look([Charge(quota, 0)])).levels[0].remaining
        assert load.granted - 10 <= quota.capacity - left <= load.granted
        await limiter.close()


async def test_demoted_master_is_left_for_the_new_one() -> None:
    with running_sentinel() as (sentinel, master, replica):
        limiter = Limiter(
            RedisBuckets(f"redis+sentinel://127.0.0.1:{sentinel.port}/limits"), announce_seconds=0.2
        )
        await limiter.start()
        quota = Quota(REQUESTS, 10_000, fresh_key())
        assert (await limiter.admit(fresh_id(), [Charge(quota)])).from_store
        wait_until(lambda: "OK" in sentinel.command("SENTINEL", "FAILOVER", "limits"))
        wait_until(lambda: "role:master" in replica.command("INFO", "replication"))
        # The Sentinel itself does this ten seconds later.
        master.command("REPLICAOF", "127.0.0.1", replica.port)
        assert not (await limiter.admit(fresh_id(), [Charge(quota)])).from_store
        assert await seconds_until_from_store(limiter, quota) <= 2.0
        assert (await limiter.admit(fresh_id(), [Charge(quota)])).from_store
        assert "max_requests_per_1_day" in replica.command("HKEYS", f"gateway:{quota.key}")
        await limiter.close()


async def test_a_cluster_of_which_no_node_answers_is_shown_as_down_and_each_master_by_its_address() -> None:
    registry = Registry()
    observer = FaultMetrics(registry)
    with running_cluster() as nodes:
        store = RedisBuckets(cluster_url(nodes), deadline_seconds=2.0, observer=observer)
        for master in range(3):
            await store.admit(fresh_id(), [Charge(quota_on(master))])
        whole = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        names = [whole, *(f"127.0.0.1:{node.port}" for node in nodes[:3])]
        assert all(f'gateway_redis_up{{server="{name}"}} 1' in page_of(registry) for name in names)
        await store.close()
    lost = RedisBuckets(cluster_url(nodes), deadline_seconds=0.1, observer=observer)
    with pytest.raises(StoreUnavailable):
        await lost.admit(fresh_id(), [Charge(quota_on(0))])
    assert f'gateway_redis_up{{server="{whole}"}} 0' in page_of(registry)
    await lost.close()
    assert "gateway_redis_up{" not in page_of(registry), "nobody asks them any more"
