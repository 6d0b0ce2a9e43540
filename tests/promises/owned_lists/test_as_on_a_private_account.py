"""Whatever the official SDK lists on a shared account is what it lists on a private one, byte for byte."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.kit.gateway import Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.stored import FIRST_SECOND, Account, files, own, running_account, sharing


@dataclass
class Site:
    """A shared account behind a gateway, and a private account with what one tenant has in the shared one."""

    gateway: Gateway
    shared: Account
    private: Account

    def sdks(self, tenant: str = "ours") -> tuple[AsyncOpenAI, AsyncOpenAI]:
        """One that asks the gateway, and one that asks the private account."""
        key = self.gateway.credential(tenant=tenant)
        return (
            AsyncOpenAI(api_key=key, base_url=self.gateway.base_url, max_retries=0),
            AsyncOpenAI(api_key="sk-private", base_url=self.private.url, max_retries=0),
        )


@asynccontextmanager
async def site(redis: RedisServer, *tenants: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(running_account())
        private = await stack.enter_async_context(running_account())
        names = tenants or ("ours", "others")
        gateway = await stack.enter_async_context(running_gateway(**sharing(shared, names, redis.url)))
        yield Site(gateway, shared, private)


async def body_of(sdk: AsyncOpenAI, target: str) -> tuple[int, bytes]:
    answer = await sdk._client.get(
        f"{sdk.base_url}{target}", headers={"Authorization": f"Bearer {sdk.api_key}"}
    )
    return answer.status_code, answer.content


async def test_every_page_of_every_tenant_is_that_of_its_own_account(redis: RedisServer) -> None:
    names = [f"tenant-{n}" for n in range(50)]
    everything = list(files(10_000, in_a_second=4))
    chance = random.Random(15)
    whose = [chance.choice(names) for _ in everything]
    async with site(redis, *names) as here:
        here.shared.put("/v1/files", everything)
        ways = [(limit, order) for limit in (None, 60, 100, 150) for order in (None, "asc", "desc")]
        for name in names:
            mine = [one for one, owner in zip(everything, whose, strict=True) if owner == name]
            await own(here.gateway, name, "file", mine)
        for at, name in enumerate(names):
            limit, order = ways[at % len(ways)]
            mine = [one for one, owner in zip(everything, whose, strict=True) if owner == name]
            query: dict[str, Any] = {"limit": limit, "order": order}
            query = {key: value for key, value in query.items() if value is not None}
            here.private.store._collections.pop("/v1/files", None)
            here.private.put("/v1/files", mine)
            through, directly = here.sdks(name)
            assert await pages(through, query) == await pages(directly, query)
            if at % 10 == 0:
                listed = [one.id async for one in through.files.list(**query)]
                assert listed == [one["id"] for one in (mine if order == "asc" else mine[::-1])]
            await through.close()
            await directly.close()


async def pages(sdk: AsyncOpenAI, query: dict[str, Any]) -> list[bytes]:
    """The bodies of all pages, as the SDK turns them."""
    bodies: list[bytes] = []
    raw = await sdk.files.with_raw_response.list(**query)
    bodies.append(raw.content)
    page = raw.parse()
    while page.has_next_page():
        last = page.data[-1].id
        raw = await sdk.files.with_raw_response.list(**query, after=last)
        bodies.append(raw.content)
        page = raw.parse()
    return bodies


Make = Callable[[int], dict[str, Any]]

KINDS: list[tuple[str, str, str, Make]] = [
    ("batch", "/v1/batches", "batches", lambda at: {"id": f"batch_{at}", "object": "batch"}),
    (
        "vector_store",
        "/v1/vector_stores",
        "vector_stores",
        lambda at: {"id": f"vs_{at}", "object": "vector_store"},
    ),
    ("container", "/v1/containers", "containers", lambda at: {"id": f"cntr_{at}", "name": f"n{at % 3}"}),
    ("video", "/v1/videos", "videos", lambda at: {"id": f"video_{at}", "object": "video"}),
    (
        "assistant",
        "/v1/assistants",
        "beta.assistants",
        lambda at: {"id": f"asst_{at}", "object": "assistant"},
    ),
    (
        "chat_completion",
        "/v1/chat/completions",
        "chat.completions",
        lambda at: {
            "id": f"chatcmpl-{at}",
            "model": f"gpt-{at % 2}",
            "metadata": {"team": "red"} if at % 3 else {},
        },
    ),
]


@pytest.mark.parametrize("kind, path, _resource, make", KINDS, ids=[kind for kind, *_ in KINDS])
async def test_each_kind_of_list_is_that_of_a_private_account(
    redis: RedisServer, kind: str, path: str, _resource: str, make: Make
) -> None:
    member = "created" if kind == "chat_completion" else "created_at"
    everything = [make(at) | {member: FIRST_SECOND + at // 2} for at in range(600)]
    mine = [one for at, one in enumerate(everything) if at % 11 == 0]
    ids = [one["id"] for one in mine]
    queries = [
        *(
            "",
            "?limit=3",
            "?limit=100",
            "?order=asc",
            "?order=desc&limit=20",
            "?limit=0",
            "?limit=101",
            "?order=up",
        ),
        *(
            f"?after={ids[5]}",
            f"?order=asc&after={ids[5]}&limit=4",
            f"?after={ids[-1]}&order=asc",
            f"?after={ids[0]}",
        ),
        *("?after=", "?after=nobody", f"?after={everything[1]['id']}"),
    ]
    if kind in ("vector_store", "assistant"):
        queries += [
            *(f"?before={ids[7]}&limit=3", f"?before={ids[7]}&order=asc", f"?before={ids[-1]}&limit=2"),
            *(
                f"?after={ids[9]}&before={ids[2]}&limit=4",
                f"?after={ids[2]}&before={ids[9]}&limit=4&order=asc",
            ),
            *(f"?after={ids[2]}&before={ids[9]}", "?before=nobody", f"?before={ids[0]}&order=asc"),
        ]
    if kind == "chat_completion":
        queries += [
            "?model=gpt-1&limit=4",
            "?metadata%5Bteam%5D=red&limit=30",
            "?model=gpt-0&metadata[team]=red",
        ]
    if kind == "container":
        queries += ["?name=n1&limit=2", "?name=n1&limit=2&order=asc", "?name=none"]
    async with site(redis) as here:
        here.shared.put(path, everything)
        here.private.put(path, mine)
        await own(here.gateway, "ours", kind, mine)
        through, directly = here.sdks()
        for query in queries:
            asked = path.removeprefix("/v1/") + query
            assert await body_of(through, asked) == await body_of(directly, asked), query
        await through.close()
        await directly.close()


async def test_filters_show_what_a_private_account_shows(redis: RedisServer) -> None:
    everything = list(files(3_000))
    mine = everything[5::9]
    async with site(redis) as here:
        here.shared.put("/v1/files", everything)
        here.private.put("/v1/files", mine)
        await own(here.gateway, "ours", "file", mine)
        through, directly = here.sdks()
        for purpose in ("user_data", "batch", "vision"):
            for limit in (3, 60, 10_000):
                query = {"purpose": purpose, "limit": limit}
                assert await pages(through, query) == await pages(directly, query), query
        await through.close()
        await directly.close()


async def test_the_sdk_that_blocks_turns_pages_too(redis: RedisServer) -> None:
    everything = list(files(500))
    mine = everything[::20]
    async with site(redis) as here:
        here.shared.put("/v1/files", everything)
        await own(here.gateway, "ours", "file", mine)
        key = here.gateway.credential(tenant="ours")

        def listed() -> list[str]:
            with OpenAI(api_key=key, base_url=here.gateway.base_url, max_retries=0) as sdk:
                return [one.id for one in sdk.files.list(limit=4)]

        assert await asyncio.to_thread(listed) == [one["id"] for one in mine[::-1]]


async def test_head_of_a_list_tells_what_a_get_would(redis: RedisServer) -> None:
    everything = list(files(50))
    async with site(redis) as here:
        here.shared.put("/v1/files", everything)
        await own(here.gateway, "ours", "file", everything[::5])
        client = await here.gateway.connect()
        client.credential = here.gateway.credential(tenant="ours")
        whole = await client.request("GET", "/v1/files?limit=3")
        head = await client.request("HEAD", "/v1/files?limit=3")
        assert (head.status, head.body) == (200, b"")
        assert head.get("content-length") == str(len(whole.body))
        assert [one["id"] for one in orjson.loads(whole.body)["data"]] == [
            one["id"] for one in everything[::5][:-4:-1]
        ]
