"""What an earlier version has left in Redis is read as that version meant it, and goes on from there."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis as library

from gateway.app.redis_accounts import RedisAccounts
from gateway.credentials.principal import Principal
from gateway.credentials.redis_credentials import RedisCredentials
from gateway.credentials.revocations import RevocationList
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.terms import Charge, Dimension, Quota, binds
from gateway.operations.table import OperationTable
from gateway.policy.tenants import tenant_policies
from gateway.redis.entering import enter
from gateway.redis.servers import RedisServers
from gateway.settings.sources import load
from gateway.usage.counters import COUNTERS, HOUR_SECONDS, REQUESTS, Batch, Entry, Period, periods_since
from gateway.usage.redis_usage import RedisUsage
from gateway.usage.redis_wire import UsageWire
from gateway.usage.report import Report
from tests.kit.redis import RedisServer
from tests.limits.contract import fresh_id

FOLDER = Path(__file__).parent / "earlier_versions"
SLACK_SECONDS = 30
"""That version said of its limits how long they take to fill, a little after it was recorded."""


class Left:
    """What one version has left, put into a Redis; the time is that at which it was."""

    def __init__(self, recorded: dict[str, Any], redis: RedisServer) -> None:
        self.said = recorded
        self.now: float = recorded["recorded_at"]
        self.url = redis.url
        self.redis = redis
        self.keys: dict[str, Any] = recorded["keys"]
        settings = load(flags=tomllib.loads(recorded["settings"]), environ={})
        self.limits = tenant_policies(settings, OperationTable.load())["acme"].limits
        with library.Redis(port=redis.port) as client:
            for name, key in self.keys.items():
                restore(client, name.encode("latin-1"), **key)

    @property
    def quotas(self) -> list[Quota]:
        """Those that the version told, in its order."""
        return [*self.limits.tenant, *self.limits.of_model("gpt-4o"), *self.limits.of_subject("alice")]

    @property
    def held(self) -> str:
        """The exchange that was still running."""
        fields = {field for key in self.keys.values() if key["kind"] == "hash" for field in key["value"]}
        (exchange,) = (field[1:] for field in fields if field.startswith("@"))
        return str(exchange)

    def later(self, seconds: float) -> RedisBuckets:
        """The limits, so long after."""
        return RedisBuckets(self.url, deadline_seconds=2, clock=lambda: self.now + seconds)


def restore(client: Any, name: bytes, *, kind: str, milliseconds: int, value: Any) -> None:
    match kind:
        case "string":
            client.set(name, value.encode("latin-1"))
        case "hash":
            client.hset(
                name,
                mapping={field.encode("latin-1"): held.encode("latin-1") for field, held in value.items()},
            )
        case "zset":
            client.zadd(name, {member.encode("latin-1"): score for member, score in value})
    if milliseconds > 0:
        client.pexpire(name, milliseconds)


@pytest.fixture(params=sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def left(request: pytest.FixtureRequest, redis: RedisServer) -> Left:
    return Left(orjson.loads(request.param.read_bytes()), redis)


@pytest.fixture
async def buckets(left: Left) -> AsyncIterator[RedisBuckets]:
    store = left.later(0)
    yield store
    await store.close()


async def test_it_may_be_shared(left: Left) -> None:
    assert await enter(RedisServers.parse(left.url), "gateway:") is None


async def test_levels_are_what_they_were_debts_among_them(left: Left, buckets: RedisBuckets) -> None:
    levels = (await buckets.look([Charge(quota, 0) for quota in left.quotas])).levels
    found = [
        {
            "limit": quota.dimension.value,
            **binds(quota),
            "capacity": level.limit,
            "remaining": level.remaining,
        }
        for quota, level in zip(left.quotas, levels, strict=True)
    ]
    said = left.said["limits"]
    assert found == [{name: limit[name] for name in limit if name != "reset_seconds"} for limit in said]
    seconds = [level.reset_seconds for level in levels]
    assert seconds == pytest.approx([limit["reset_seconds"] for limit in said], abs=SLACK_SECONDS)
    tokens = next(limit for limit in said if limit["limit"] == Dimension.TOKENS_PER_DAY)
    assert tokens["reset_seconds"] > 86400, "more than all is used"


async def test_what_is_left_can_be_used_and_no_more(left: Left, buckets: RedisBuckets) -> None:
    (quota,) = left.limits.of_subject("alice")
    remaining = (await buckets.look([Charge(quota, 0)])).levels[0].remaining
    granted = [(await buckets.admit(fresh_id(), [Charge(quota, 1)])).allowed for _ in range(remaining + 2)]
    assert granted == [True] * remaining + [False] * 2


async def test_running_exchange_is_held_and_settled_by_its_successor(
    left: Left, buckets: RedisBuckets
) -> None:
    quotas = {quota.dimension: quota for quota in left.limits.tenant}
    slots, tokens = quotas[Dimension.CONCURRENT_REQUESTS], quotas[Dimension.TOKENS_PER_DAY]
    assert await buckets.renew([(left.held, slots.key)]) == []
    before = (await buckets.look([Charge(slots, 0), Charge(tokens, 0)])).levels
    assert await buckets.settle(left.held, [Charge(slots, 1), Charge(tokens, 0)])
    after = (await buckets.look([Charge(slots, 0), Charge(tokens, 0)])).levels
    assert (before[0].remaining, after[0].remaining) == (slots.capacity - 1, slots.capacity)
    assert after[1].reset_seconds < before[1].reset_seconds, "its reservation came back"
    assert not await buckets.settle(left.held, [Charge(slots, 1)]), "once"


async def test_slot_of_a_gateway_that_did_not_come_back_does(left: Left) -> None:
    slots = next(q for q in left.limits.tenant if q.dimension is Dimension.CONCURRENT_REQUESTS)
    store = left.later(16)
    assert (await store.look([Charge(slots, 0)])).levels[0].remaining == slots.capacity
    await store.close()


async def test_gateways_that_were_are_not_counted(left: Left, buckets: RedisBuckets) -> None:
    assert (await buckets.announce("worker")).workers == 1


async def test_usage_is_what_it_was_and_adds_up(left: Left) -> None:
    store = RedisUsage(UsageWire(left.url, deadline_seconds=2))
    said = left.said["usage"]
    since = datetime.fromisoformat(said["since"]).timestamp()

    async def report() -> Report:
        found = Report(["subject", "model"])
        async with aclosing(store.read("acme", periods_since(since, left.now))) as rows:
            async for some in rows:
                found.add(some)
        return found

    found = await report()
    as_said = [{name: row[name] for name in said["data"][0]} for row in found.rows()]
    assert as_said == said["data"]
    assert {name: found.total()[name] for name in said["total"]} == said["total"]
    hour = Period.around(left.now, HOUR_SECONDS)
    counts = [2 if at == REQUESTS else 0 for at in range(len(COUNTERS))]
    entry = Entry("alice", "gpt-4o", "createChatCompletion")
    await store.add(Batch("later", "acme", hour, [(entry, counts)]))
    again = await report()
    assert again.total()["requests"] == found.total()["requests"] + 2
    assert len(again.rows()) == len(found.rows())
    await store.close()


async def test_revocations_are_in_force_and_the_register_is_whole(left: Left) -> None:
    store = RedisCredentials(left.url, deadline_seconds=2, clock=lambda: left.now)
    revocations = RevocationList()
    revocations.replace(await store.changed() or (), left.now)
    issued = await store.issued()
    await store.close()
    assert {one.id for one in issued} == {line.split()[0] for line in left.said["listed"][1:]}
    assert {(one.tenant, one.subject) for one in issued} == {
        *(("acme", "alice"), ("acme", "bob"), ("acme", "carol"), ("beta", "erin"))
    }
    principals = [
        Principal(
            tenant=one.tenant,
            subject=one.subject,
            scopes=frozenset(one.scopes),
            credential_id=one.id,
            issued_at=one.issued_at,
            expires_at=one.expires_at,
        )
        for one in issued
    ]
    revoked = {principal.subject for principal in principals if revocations.check(principal)}
    assert revoked == {"carol", "erin"}


async def test_accounts_that_tenants_had_are_remembered(left: Left) -> None:
    store = RedisAccounts(left.url)
    uses = await store.changed()
    await store.close()
    assert uses is not None
    assert {tenant for tenant, _ in uses} == {"acme", "beta"}
    assert len({account for _, account in uses}) == 1
