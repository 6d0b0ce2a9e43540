"""What a tenant has stored is never opened to another by a change of the configuration, nor by a restart."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.app.account_memory import AccountMemory
from gateway.credentials.key_ring import ensure_ring
from gateway.policy.accounts import account_of
from tests.kit.asking import ask, credential_of, error_of, verdict
from tests.kit.command import running_command
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import comes_to, until

OPEN: tuple[int, str | None] = (200, None)
CLOSED: tuple[int, str | None] = (403, "shared_upstream")
REGISTRY = "own objects only (registry)"
OWN = {"stored_objects": "own"}
BOTH = {"a": EVERY_SCOPE, "b": EVERY_SCOPE}
B_ALONE = {"b": EVERY_SCOPE}
WITHIN_SECONDS = 4.0


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    ensure_ring(tmp_path / "keys")
    return tmp_path / "keys"


@asynccontextmanager
async def gateway_with(
    tenants: dict[str, Any], upstream: ScriptedUpstream, keys_dir: Path | None, **settings: Any
) -> AsyncIterator[Gateway]:
    """A gateway in front of the scripted upstream, whose tenants have the common key."""
    way = {"base_url": upstream.base_url, "api_key": "sk-never-shown"}
    ring = None if keys_dir is None else ensure_ring(keys_dir)[0]
    async with running_gateway(
        ring=ring, keys_dir=keys_dir, upstream=way, tenants=tenants, **settings
    ) as gateway:
        yield gateway


async def files(gateway: Gateway, tenant: str = "b") -> tuple[int, str | None]:
    """What a tenant is answered who asks for stored objects."""
    return verdict(await ask(gateway, "GET", "/v1/files", tenant=tenant))


async def mode(gateway: Gateway, tenant: str = "b") -> str:
    """What a tenant is told of its stored objects."""
    said = orjson.loads((await ask(gateway, "GET", "/gateway/me", tenant=tenant)).body)["stored_objects"]
    assert isinstance(said, str)
    return said


async def take(gateway: Gateway, tenants: dict[str, Any]) -> bool:
    """Have a gateway take over other tenants, as SIGHUP does."""
    assert gateway.app.configuration is not None
    gateway.settings["tenants"] = tenants
    return await gateway.app.configuration.reload()


class TestRestarts:
    async def test_remember_a_tenant_that_is_gone(self, upstream: ScriptedUpstream, keys_dir: Path) -> None:
        async with gateway_with(BOTH, upstream, keys_dir) as gateway:
            assert await files(gateway) == CLOSED
        for without in (B_ALONE, {"b": EVERY_SCOPE | {"upstream": {"api_key": "sk-new"}}}):
            async with gateway_with(without, upstream, keys_dir) as gateway:
                assert await files(gateway) == CLOSED
                answer = await ask(gateway, "GET", "/gateway/me", tenant="b")
                said = orjson.loads(answer.body)["stored_objects"]
                assert said == "closed: other tenants may have had the same upstream account"
        async with gateway_with({"b": EVERY_SCOPE | OWN}, upstream, keys_dir) as gateway:
            assert await files(gateway) == OPEN
            answer = await ask(gateway, "GET", "/gateway/me", tenant="b")
            assert orjson.loads(answer.body)["stored_objects"] == "open"

    async def test_find_no_key_in_what_is_remembered_and_nobody_else_can_read_it(
        self, upstream: ScriptedUpstream, keys_dir: Path
    ) -> None:
        async with gateway_with(BOTH, upstream, keys_dir):
            pass
        file = keys_dir / "upstream-accounts.jsonl"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"never-shown" not in file.read_bytes()
        assert len(file.read_bytes().splitlines()) == 2

    async def test_after_a_kill_remember_what_was_in_force(
        self, upstream: ScriptedUpstream, keys_dir: Path, tmp_path: Path
    ) -> None:
        """It is written before anybody is served, so no moment exists at which a kill could lose it."""
        config = tmp_path / "gateway.toml"
        way = f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "sk-k"\n'
        started = ("serve", "--config", str(config), "--keys-dir", str(keys_dir), "--listen", "127.0.0.1:0",
                   "--admin-listen", "127.0.0.1:0")  # fmt: skip
        config.write_text(f"{way}[tenants.a]\n[tenants.b]\n")
        async with running_command(*started) as running:
            running.signal(signal.SIGKILL)
            await running.exit_code()
            assert any("closed to a, b" in line and "stored_objects" in line for line in running.stderr)
        config.write_text(f"{way}[tenants.b]\n")
        async with running_command(*started) as running:
            await running.says("closed to b:")
            gateway = Gateway(None, None, running.host, running.port, None, None)  # type: ignore[arg-type]
            credential = credential_of(ensure_ring(keys_dir)[0], tenant="b")
            assert verdict(await ask(gateway, "GET", "/v1/files", credential=credential)) == CLOSED

    @pytest.mark.parametrize(
        "damage", ["", "not JSON 1\n", '["b", 5, "k", null] 0\n', '["b", "p", "k", null] 7\n']
    )
    async def test_with_a_damaged_file_open_nothing_and_go_on_serving(
        self, upstream: ScriptedUpstream, keys_dir: Path, damage: str
    ) -> None:
        (keys_dir / "upstream-accounts.jsonl").write_text(damage)
        async with gateway_with(B_ALONE, upstream, keys_dir) as gateway:
            assert await files(gateway) == CLOSED
            assert verdict(await ask(gateway, "GET", "/v1/models", tenant="b")) == OPEN
            message = error_of(await ask(gateway, "GET", "/v1/files", tenant="b"))["message"]
            assert "cannot be told at the moment" in message
            assert (keys_dir / "upstream-accounts.jsonl").read_text() == damage

            (keys_dir / "upstream-accounts.jsonl").unlink()
            await comes_to(OPEN, lambda: files(gateway), WITHIN_SECONDS)

    async def test_where_nothing_can_be_kept_open_nothing_but_by_the_operators_word(
        self, upstream: ScriptedUpstream, tmp_path: Path
    ) -> None:
        ring, _ = ensure_ring(tmp_path / "keys")
        (tmp_path / "a-file").touch()
        nowhere = tmp_path / "a-file" / "keys"
        own = {"b": EVERY_SCOPE | OWN}
        way = {"base_url": upstream.base_url, "api_key": "sk-k"}
        for tenants, expected in ((B_ALONE, CLOSED), (own, OPEN)):
            async with running_gateway(ring=ring, keys_dir=nowhere, upstream=way, tenants=tenants) as gateway:
                assert await files(gateway) == expected
                assert verdict(await ask(gateway, "GET", "/v1/models", tenant="b")) == OPEN


class TestRedis:
    """Where there is Redis, the registry is asked about whatever may be another's."""

    async def test_is_where_gateways_remember_together(
        self, upstream: ScriptedUpstream, redis: RedisServer, tmp_path: Path
    ) -> None:
        async with gateway_with(BOTH, upstream, None, redis_url=redis.url) as gateway:
            assert await mode(gateway) == REGISTRY
        assert "never-shown" not in redis.command("HGETALL", "gateway:{accounts}")
        for keys_dir in (None, tmp_path / "another"):
            async with gateway_with(B_ALONE, upstream, keys_dir, redis_url=redis.url) as gateway:
                assert await mode(gateway) == REGISTRY

    async def test_tells_a_running_gateway_of_a_tenant_that_only_another_one_has(
        self, upstream: ScriptedUpstream, redis: RedisServer
    ) -> None:
        async with gateway_with(B_ALONE, upstream, None, redis_url=redis.url) as first:
            assert await mode(first) == "open"
            async with gateway_with(BOTH, upstream, None, redis_url=redis.url) as second:
                await comes_to(REGISTRY, lambda: mode(first), WITHIN_SECONDS)
                assert await mode(second) == REGISTRY

    async def test_away_at_the_start_opens_nothing_and_stops_nobody(
        self, upstream: ScriptedUpstream, redis: RedisServer
    ) -> None:
        redis.stop()
        tenants = B_ALONE | {"c": EVERY_SCOPE | OWN | {"upstream": {"api_key": "sk-c"}}}
        async with gateway_with(tenants, upstream, None, redis_url=redis.url) as gateway:
            assert await mode(gateway) == REGISTRY
            assert await mode(gateway, "c") == "open"
            assert verdict(await ask(gateway, "GET", "/v1/models", tenant="b")) == OPEN
            redis.start()
            await comes_to("open", lambda: mode(gateway), 10)

    async def test_away_later_changes_nothing_for_who_is_known_and_closes_to_who_is_new(
        self, upstream: ScriptedUpstream, redis: RedisServer
    ) -> None:
        elsewhere = upstream.base_url.replace("127.0.0.1", "localhost")
        new = {"c": EVERY_SCOPE | {"upstream": {"base_url": elsewhere, "api_key": "sk-c"}}}
        async with following(B_ALONE, upstream, redis) as gateway:
            assert await mode(gateway) == "open"
            redis.stop()
            assert await take(gateway, B_ALONE | new)
            assert await mode(gateway) == "open"
            assert await mode(gateway, "c") == REGISTRY
            assert verdict(await ask(gateway, "GET", "/v1/models", tenant="c")) == OPEN
            redis.start()
            await comes_to("open", lambda: mode(gateway, "c"), 10)
            assert "localhost" in redis.command("HGETALL", "gateway:{accounts}")

    async def test_away_later_is_said_once_and_so_is_its_return(
        self, redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        memory = AccountMemory(redis_url=redis.url, keys_dir=None)
        await memory.remember({("a", account_of("http://api.test/v1", "sk-k", None)): False})
        caplog.clear()
        redis.stop()
        for _ in range(3):
            await memory.look()
        redis.start()
        async with asyncio.timeout(10):
            while memory.trouble is not None:
                await memory.look()
                await asyncio.sleep(0.05)
        await memory.close()

        said = [record.getMessage() for record in caplog.records if record.name == "gateway.accounts"]
        assert [" again" in line for line in said] == [False, True]

    async def test_that_does_not_answer_holds_up_no_reload_that_takes_something_away(
        self, redis: RedisServer
    ) -> None:
        uses = {(name, account_of("http://api.test/v1", "sk-k", None)): False for name in "ab"}
        memory = AccountMemory(redis_url=redis.url, keys_dir=None, deadline_seconds=60)
        await memory.remember(uses)
        redis.freeze()
        looking = asyncio.create_task(memory.look())
        try:
            await asyncio.sleep(0.05)
            async with asyncio.timeout(10):
                await memory.remember(dict(reversed(uses.items())))
            assert not looking.done()
        finally:
            redis.thaw()
            await looking
            await memory.close()

    @pytest.mark.parametrize("damage", ["", "not JSON 1\n"])
    async def test_that_lost_its_data_opens_nothing_while_the_copy_cannot_be_read(
        self, upstream: ScriptedUpstream, redis: RedisServer, keys_dir: Path, damage: str
    ) -> None:
        copy = keys_dir / "upstream-accounts.jsonl"
        async with gateway_with(BOTH, upstream, keys_dir, redis_url=redis.url):
            await until(copy.exists)
        kept = copy.read_text()
        redis.command("FLUSHALL")
        copy.write_text(damage)
        for _ in range(2):  # what the first one notes is not all that was
            async with gateway_with(B_ALONE, upstream, keys_dir, redis_url=redis.url) as gateway:
                assert await mode(gateway) == REGISTRY
                assert verdict(await ask(gateway, "GET", "/v1/models", tenant="b")) == OPEN
        copy.write_text(kept)
        async with gateway_with(B_ALONE, upstream, keys_dir, redis_url=redis.url) as gateway:
            assert await mode(gateway) == REGISTRY

    async def test_is_copied_as_soon_as_there_is_a_place_for_it(
        self, redis: RedisServer, tmp_path: Path
    ) -> None:
        uses = {(name, account_of("http://api.test/v1", "sk-k", None)): False for name in "ab"}
        (tmp_path / "keys").symlink_to(tmp_path / "not yet there")
        memory = AccountMemory(redis_url=redis.url, keys_dir=tmp_path / "keys")
        try:
            await memory.remember(uses)
            assert memory.history.known
            (tmp_path / "not yet there").mkdir()
            await memory.look()
        finally:
            await memory.close()
        redis.command("FLUSHALL")

        memory = AccountMemory(redis_url=redis.url, keys_dir=tmp_path / "keys")
        try:
            assert (await memory.recall({})).uses == uses
        finally:
            await memory.close()

    @pytest.mark.parametrize("while_running", [True, False])
    async def test_that_lost_its_data_gets_it_back(
        self, upstream: ScriptedUpstream, redis: RedisServer, keys_dir: Path, while_running: bool
    ) -> None:
        async with gateway_with(BOTH, upstream, keys_dir, redis_url=redis.url):
            if while_running:
                redis.command("FLUSHALL")

                async def uses() -> str:
                    return redis.command("HLEN", "gateway:{accounts}").strip()

                await comes_to(":2", uses, WITHIN_SECONDS)
        if while_running:
            shutil.rmtree(keys_dir)
        else:
            redis.command("FLUSHALL")
        async with gateway_with(B_ALONE, upstream, keys_dir, redis_url=redis.url) as gateway:
            assert await mode(gateway) == REGISTRY


@asynccontextmanager
async def following(
    tenants: dict[str, Any], upstream: ScriptedUpstream, redis: RedisServer | None = None
) -> AsyncIterator[Gateway]:
    """A gateway whose configuration can be taken over anew."""
    settings: dict[str, Any] = {} if redis is None else {"redis_url": redis.url}
    way = {"base_url": upstream.base_url, "api_key": "sk-never-shown"}
    async with running_gateway(upstream=way, tenants=tenants, followed=True, **settings) as gateway:
        yield gateway


class TestReloads:
    STEPS: dict[str, dict[str, Any]] = {  # noqa: RUF012
        "removed": B_ALONE,
        "disabled": BOTH | {"a": EVERY_SCOPE | {"enabled": False}},
        "another key": BOTH | {"a": EVERY_SCOPE | {"upstream": {"api_key": "sk-new"}}},
        "own by another key": BOTH | {"a": EVERY_SCOPE | OWN | {"upstream": {"api_key": "sk-own"}}},
        "added again": BOTH,
        "b has another key": {"b": EVERY_SCOPE | {"upstream": {"api_key": "sk-b"}}},
    }

    async def test_open_nothing_in_whatever_order_tenants_are_removed_disabled_rekeyed_and_added(
        self, upstream: ScriptedUpstream
    ) -> None:
        async with following(BOTH, upstream) as gateway:
            for order in itertools.permutations(self.STEPS, 2):
                for step in order:
                    assert await take(gateway, self.STEPS[step])
                    assert await files(gateway) == CLOSED, order
            assert not any(b"/v1/files" in sent.raw_head for sent in upstream.requests)
            assert await take(gateway, {"b": EVERY_SCOPE | OWN})
            assert await files(gateway) == OPEN

    async def test_close_at_once_when_a_second_tenant_comes(self, upstream: ScriptedUpstream) -> None:
        async with following(B_ALONE, upstream) as gateway:
            assert await files(gateway) == OPEN
            assert await take(gateway, {"b": EVERY_SCOPE, "a": {"enabled": False}})
            assert await files(gateway) == CLOSED

    async def test_say_what_is_closed_and_what_opens_it_once(
        self, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with following(BOTH, upstream) as gateway:
            caplog.clear()
            assert await take(gateway, B_ALONE)
            assert await take(gateway, B_ALONE)
        said = [record.getMessage() for record in caplog.records if record.name == "gateway.accounts"]
        assert len(said) == 1
        assert "closed to b:" in said[0]
        assert 'stored_objects = "own" under [tenants.ID]' in said[0]

    async def test_with_a_word_that_cannot_hold_change_nothing(self, upstream: ScriptedUpstream) -> None:
        async with following(BOTH, upstream) as gateway:
            assert not await take(gateway, dict.fromkeys("ab", EVERY_SCOPE | OWN))
            assert await files(gateway, "a") == await files(gateway, "b") == CLOSED
