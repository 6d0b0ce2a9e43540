"""A tenant is gone, and what has come of its objects was in no answer that it asked for: that is not another's now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.credentials.key_ring import ensure_ring
from tests.kit.asking import form
from tests.kit.client import FORM
from tests.kit.gateway import EVERY_SCOPE
from tests.kit.one_account import ACCOUNT_KEY, Account, one_account
from tests.kit.redis import RedisServer
from tests.kit.waiting import found, until

_LINE = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[]}}\n'
BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
MOVES: dict[str, dict[str, Any]] = {
    "removed": {"b": EVERY_SCOPE},
    "moved elsewhere": {
        "a": EVERY_SCOPE | {"upstream": {"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-elsewhere"}},
        "b": EVERY_SCOPE,
    },
    "given an account of its own": {
        "a": EVERY_SCOPE | {"stored_objects": "own", "upstream": {"api_key": "sk-another-key-of-its-own"}},
        "b": EVERY_SCOPE,
    },
}


@asynccontextmanager
async def both(redis: RedisServer, keys_dir: Path, **settings: Any) -> AsyncIterator[Account]:
    async with one_account(
        redis.url, followed=True, keys_dir=keys_dir, ring=ensure_ring(keys_dir)[0], **settings
    ) as account:
        yield account


async def leaves(account: Account, tenants: dict[str, Any]) -> None:
    """The account is that of B alone from now on, and what nobody knows would be B's."""
    configuration, registry = account.gateway.app.configuration, account.gateway.app.services.registry
    assert configuration is not None and registry is not None
    account.gateway.settings["tenants"] = tenants
    assert await configuration.reload()
    scope = account.gateway.app.services.tenants.get("b").scope
    assert scope is not None and scope.others == ("a",)
    await until(lambda: not registry._presence.owes)


async def upstreams(account: Account, path: str) -> Any:
    """What the upstream itself answers."""
    key = {"Authorization": f"Bearer {ACCOUNT_KEY}"}
    base = account.simulator.base_url.removesuffix("/v1")
    async with aiohttp.ClientSession(base, headers=key) as upstream, upstream.get(path) as answer:
        assert answer.status == 200, (path, await answer.read())
        return await answer.json()


async def made(account: Account, tenant: str, path: str, body: object, headers: str | None = None) -> Any:
    answer = await account.ask(tenant, "POST", path, body, headers)
    assert answer.status == 200, answer
    return orjson.loads(answer.body)


async def output_of_a_batch(account: Account) -> str:
    """A's batch has ended, and A has not asked what became of it."""
    file = await made(account, "a", "/v1/files", form(("purpose", b"batch"), ("file", _LINE)), FORM)
    batch = await made(account, "a", "/v1/batches", BATCH | {"input_file_id": file["id"]})

    async def output() -> str:
        told = await upstreams(account, f"/v1/batches/{batch['id']}")
        return told["output_file_id"] or told["error_file_id"] or ""

    return await found(output)


async def store_made_unseen(account: Account) -> str:
    """As the upstream makes one for a message, or somebody did before there were tenants."""
    key = {"Authorization": f"Bearer {ACCOUNT_KEY}"}
    async with (
        aiohttp.ClientSession(account.simulator.base_url + "/", headers=key) as upstream,
        upstream.post("vector_stores", json={}) as answer,
    ):
        return str((await answer.json())["id"])


@pytest.mark.parametrize("move", MOVES)
async def test_what_came_of_anothers_objects_is_not_for_who_is_left(
    redis: RedisServer, tmp_path: Path, move: str
) -> None:
    async with both(redis, tmp_path) as account:
        unseen = await output_of_a_batch(account)
        await leaves(account, MOVES[move])
        listed = await account.ask("b", "GET", "/v1/files")
        assert (listed.status, unseen.encode() in listed.body) == (200, False)
        for method, target in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            answer = await account.ask("b", method, f"/v1/files/{unseen}{target}")
            assert answer.status == 404, (method, target, answer)
        await upstreams(account, f"/v1/files/{unseen}")


async def test_the_vector_store_of_anothers_thread_is_not_for_who_is_left(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with both(redis, tmp_path) as account:
        await made(account, "a", "/v1/threads", {})
        unseen = await store_made_unseen(account)
        await leaves(account, MOVES["removed"])
        listed = await account.ask("b", "GET", "/v1/vector_stores")
        assert (listed.status, unseen.encode() in listed.body) == (200, False)
        assert (await account.ask("b", "GET", f"/v1/vector_stores/{unseen}/files")).status == 404
        tool = {"type": "file_search", "vector_store_ids": [unseen]}
        answer = await account.ask(
            "b", "POST", "/v1/responses", {"model": "m", "input": "x", "tools": [tool]}
        )
        assert answer.status == 404


async def test_what_is_of_no_kind_that_another_could_leave_is_for_who_is_left(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with both(redis, tmp_path) as account:
        await made(account, "a", "/v1/conversations", {})
        before = await store_made_unseen(account)
        await leaves(account, MOVES["removed"])
        assert (await account.ask("b", "GET", f"/v1/vector_stores/{before}")).status == 200


async def test_what_one_made_alone_while_nobody_waited_for_the_record_is_not_for_who_comes_then(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with both(redis, tmp_path, tenants={"a": EVERY_SCOPE}) as account:
        seen = (await made(account, "a", "/v1/vector_stores", {}))["id"]
        unseen = await store_made_unseen(account)  # as one of A's whose answer nobody has heard
        assert (await account.ask("a", "GET", f"/v1/vector_stores/{unseen}")).status == 200
        await leaves(account, MOVES["removed"])
        listed = await account.ask("b", "GET", "/v1/vector_stores")
        assert (listed.status, orjson.loads(listed.body)["data"]) == (200, [])
        for one in (seen, unseen):
            assert (await account.ask("b", "DELETE", f"/v1/vector_stores/{one}")).status == 404
