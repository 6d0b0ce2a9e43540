"""Tenants are disabled, removed, given other keys and taken back, in any order: nothing that one has stored opens."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.credentials.key_ring import ensure_ring
from tests.kit.asking import error_of, form
from tests.kit.client import FORM
from tests.kit.gateway import EVERY_SCOPE
from tests.kit.one_account import Account, one_account
from tests.kit.redis import RedisServer

MOVES: dict[str, dict[str, Any] | None] = {
    "disabled": EVERY_SCOPE | {"enabled": False},
    "removed": None,
    "re-keyed": EVERY_SCOPE | {"upstream": {"api_key": "sk-another-key-of-its-own"}},
    "taken back": EVERY_SCOPE,
}
ORDERS = list(permutations(MOVES))
OTHERS: dict[str, Any] = {"b": EVERY_SCOPE}


class Kept:
    """What A and B have stored, and whether it stays theirs."""

    def __init__(self, of_a: list[str], of_b: list[str]) -> None:
        self._of_a = of_a
        self._of_b = of_b

    @classmethod
    async def made(cls, account: Account) -> Kept:
        return cls(await _made(account, "a"), await _made(account, "b"))

    async def stays_closed(self, account: Account, *others: str) -> None:
        """Nobody but A reaches what A has stored, or is shown it."""
        for tenant in others:
            for target in self._of_a:
                for method in ("GET", "DELETE"):
                    answer = await account.ask(tenant, method, target)
                    assert answer.status in (403, 404), (tenant, method, target, answer)
            for path in ("/v1/files", "/v1/vector_stores"):
                listed = (await account.ask(tenant, "GET", path)).body
                assert not any(target.rpartition("/")[2].encode() in listed for target in self._of_a)
            body = {"model": "gpt-4o", "input": "x", "previous_response_id": self._of_a[1].rpartition("/")[2]}
            answer = await account.ask(tenant, "POST", "/v1/responses", body)
            assert answer.status in (400, 403, 404), (tenant, answer)

    async def stays_open(self, account: Account, tenant: str) -> None:
        """Whoever has stored it reaches it."""
        for target in self._of_a if tenant == "a" else self._of_b:
            answer = await account.ask(tenant, "GET", target)
            assert answer.status == 200, (tenant, target, answer)


async def _made(account: Account, tenant: str) -> list[str]:
    """The paths of a file, a response and a vector store of a tenant's."""
    file = await account.ask(tenant, "POST", "/v1/files", form(("purpose", b"batch"), ("file", b"x")), FORM)
    response = await account.ask(tenant, "POST", "/v1/responses", {"model": "gpt-4o", "input": "x"})
    store = await account.ask(tenant, "POST", "/v1/vector_stores", {})
    made = (("files", file), ("responses", response), ("vector_stores", store))
    return [f"/v1/{path}/{orjson.loads(answer.body)['id']}" for path, answer in made]


def tenants(move: str, **more: Any) -> dict[str, Any]:
    a = MOVES[move]
    return {**OTHERS, **more} if a is None else {"a": a, **OTHERS, **more}


async def test_in_every_order_of_reloads_nothing_opens(redis: RedisServer, tmp_path: Path) -> None:
    async with one_account(
        redis.url, followed=True, keys_dir=tmp_path, ring=ensure_ring(tmp_path)[0]
    ) as account:
        kept = await Kept.made(account)
        configuration = account.gateway.app.configuration
        assert configuration is not None
        for number, order in enumerate(ORDERS):
            for move in order:
                newcomer = {f"c{number}": EVERY_SCOPE} if number % 4 == 0 else {}
                account.gateway.settings["tenants"] = tenants(move, **newcomer)
                assert await configuration.reload()
                await kept.stays_closed(account, "b", *newcomer)
                await kept.stays_open(account, "b")
                if move == "taken back":
                    await kept.stays_open(account, "a")
        account.gateway.settings["tenants"] = tenants("taken back")
        assert await configuration.reload()
        await kept.stays_open(account, "a")


@pytest.mark.parametrize("order", ORDERS[::5], ids="-".join)
async def test_over_restarts_nothing_opens(
    redis: RedisServer, tmp_path: Path, order: tuple[str, ...]
) -> None:
    ring, _ = ensure_ring(tmp_path)
    async with one_account(redis.url, ring=ring, keys_dir=tmp_path) as account:
        kept = await Kept.made(account)
        upstream = account.gateway.settings["upstream"]
        for move in (*order, "taken back"):
            restarted = one_account(
                redis.url, ring=ring, keys_dir=tmp_path, upstream=upstream, tenants=tenants(move)
            )
            async with restarted as again:
                await kept.stays_closed(again, "b")
                await kept.stays_open(again, "b")
                if move == "taken back":
                    await kept.stays_open(again, "a")


async def test_who_is_given_the_name_of_one_that_is_gone_has_what_that_one_had_and_no_other_does(
    redis: RedisServer, tmp_path: Path
) -> None:
    """A name is a tenant's own for ever: `gateway objects disown` is the operator's way to end that."""
    async with one_account(
        redis.url, followed=True, keys_dir=tmp_path, ring=ensure_ring(tmp_path)[0]
    ) as account:
        kept = await Kept.made(account)
        configuration = account.gateway.app.configuration
        assert configuration is not None
        for now in ({"c": EVERY_SCOPE}, {"b": EVERY_SCOPE}, {"c": EVERY_SCOPE, "b": EVERY_SCOPE}):
            account.gateway.settings["tenants"] = now
            assert await configuration.reload()
            await kept.stays_closed(account, *now)
        account.gateway.settings["tenants"] = {"a": EVERY_SCOPE}
        assert await configuration.reload()
        await kept.stays_open(account, "a")


async def test_a_redis_that_is_taken_out_of_the_configuration_is_asked_until_a_restart(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with one_account(
        redis.url, followed=True, keys_dir=tmp_path, ring=ensure_ring(tmp_path)[0]
    ) as account:
        kept = await Kept.made(account)
        configuration = account.gateway.app.configuration
        assert configuration is not None
        account.gateway.settings.pop("redis_url")
        assert await configuration.reload()
        await kept.stays_open(account, "a")
        await kept.stays_open(account, "b")
        await kept.stays_closed(account, "b")


async def test_a_redis_that_is_written_into_the_configuration_opens_nothing_before_a_restart(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with one_account(None, followed=True, keys_dir=tmp_path, ring=ensure_ring(tmp_path)[0]) as account:
        configuration = account.gateway.app.configuration
        assert configuration is not None
        for redis_url in (None, redis.url):
            if redis_url is not None:
                account.gateway.settings["redis_url"] = redis_url
                assert await configuration.reload()
            answer = await account.ask("a", "GET", "/v1/files")
            assert (answer.status, error_of(answer)["code"]) == (403, "shared_upstream")
