"""Whose stored objects are, over tenants that come, go and come back: nothing opens by any of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from gateway.objects.store import Named, Scope
from tests.kit.asking import ask
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import comes_to, until
from tests.objects.stores import store_on


class Account:
    """One account of an upstream, which has whatever it is asked for, and everybody's gateways before it."""

    def __init__(self, upstream: ScriptedUpstream, redis: RedisServer, keys_dir: Path) -> None:
        self.upstream, self.redis, self.keys_dir = upstream, redis, keys_dir
        self.made = 0
        upstream.plays(self._answer)

    async def _answer(self, turn: Turn) -> None:
        await turn.read_body()
        name = turn.seen.target.rpartition("/")[2]
        if turn.seen.method == "POST":
            self.made += 1
            name = f"thread_{self.made}"
        body = orjson.dumps({"id": name, "object": "thread", "created_at": 1_700_000_000 + self.made})
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await turn.send(head.encode() + body)

    @asynccontextmanager
    async def before(self, *tenants: str, has_redis: bool = True) -> AsyncIterator[Gateway]:
        """A gateway with these tenants, which all gateways before and after it know."""
        async with running_gateway(
            upstream={"base_url": self.upstream.base_url, "api_key": "sk-of-all"},
            redis_url=self.redis.url if has_redis else None,
            keys_dir=self.keys_dir,
            tenants=dict.fromkeys(tenants, EVERY_SCOPE),
        ) as gateway:
            registry = gateway.app.services.registry
            assert (registry is not None) is has_redis
            await until(lambda: registry is None or not registry._presence.owes)
            yield gateway

    async def make(self, gateway: Gateway, tenant: str) -> str:
        answer = await ask(gateway, "POST", "/v1/threads", {}, tenant=tenant)
        assert answer.status == 200
        name = str(orjson.loads(answer.body)["id"])
        store = store_on(self.redis.url)
        scope = Scope(self.upstream.base_url.removeprefix("http://"), tenant)
        await comes_to([True], lambda: store.look(scope, [Named("thread", name)]))
        await store.close()
        return name


@pytest.fixture
def account(upstream: ScriptedUpstream, redis: RedisServer, tmp_path: Path) -> Account:
    return Account(upstream, redis, tmp_path)


async def reaches(gateway: Gateway, tenant: str, thread: str) -> bool:
    answer = await ask(gateway, "GET", f"/v1/threads/{thread}", tenant=tenant)
    assert answer.status in (200, 404)
    return answer.status == 200


async def test_what_one_made_alone_stays_its_own_when_others_come_and_go(account: Account) -> None:
    async with account.before("a") as gateway:
        of_a = await account.make(gateway, "a")
        assert await reaches(gateway, "a", "thread_before"), "alone, all is its own"
    async with account.before("a", "b") as gateway:
        assert await reaches(gateway, "a", of_a)
        assert not await reaches(gateway, "b", of_a)
        assert not await reaches(gateway, "a", "thread_before")
        of_b = await account.make(gateway, "b")
        assert await reaches(gateway, "b", of_b)
    async with account.before("a") as gateway:
        assert await reaches(gateway, "a", of_a)
        assert not await reaches(gateway, "a", of_b), "it is not opened by taking its owner away"
        assert await reaches(gateway, "a", "thread_before"), "nobody else can have made it"
    async with account.before("b") as gateway:
        assert await reaches(gateway, "b", of_b)
        assert not await reaches(gateway, "b", of_a)
    async with account.before("b", "a") as gateway:
        assert await reaches(gateway, "a", of_a)
        assert await reaches(gateway, "b", of_b)
        assert not await reaches(gateway, "a", of_b)


async def test_a_redis_that_lost_its_data_opens_nothing_to_who_is_left(account: Account) -> None:
    async with account.before("a", "b") as gateway:
        of_b = await account.make(gateway, "b")
    account.redis.command("FLUSHALL")
    async with account.before("a") as gateway:
        assert not await reaches(gateway, "a", of_b)
        assert not await reaches(gateway, "a", "thread_before")
        of_a = await account.make(gateway, "a")
        assert await reaches(gateway, "a", of_a)


async def test_what_one_made_while_redis_was_taken_away_is_not_another_ones_afterwards(
    account: Account,
) -> None:
    async with account.before("a") as gateway:
        await account.make(gateway, "a")
    async with account.before("a", has_redis=False) as gateway:
        answer = await ask(gateway, "POST", "/v1/threads", {}, tenant="a")
        unrecorded = str(orjson.loads(answer.body)["id"])
    async with account.before("b") as gateway:
        assert not await reaches(gateway, "b", unrecorded)
        of_b = await account.make(gateway, "b")
    (account.keys_dir / "objects-unrecorded.jsonl").unlink()
    async with account.before("b") as gateway:
        assert not await reaches(gateway, "b", unrecorded), "Redis knows it by now"
        assert await reaches(gateway, "b", of_b)


async def test_notes_of_who_was_unrecorded_that_cannot_be_read_open_nothing(account: Account) -> None:
    async with account.before("a") as gateway:
        await account.make(gateway, "a")
    (account.keys_dir / "objects-unrecorded.jsonl").write_bytes(b"[")
    async with account.before("b") as gateway:
        assert not await reaches(gateway, "b", "thread_before")
