"""Versions whose Redis schemas are neighbours share one; those further apart never do, and say what helps."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from redis.crc import key_slot

from gateway.cli import main
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import ensure_ring
from gateway.limits.limiter import Limiter
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Dimension, Quota
from gateway.redis.schema import SCHEMA
from gateway.settings.settings import Credentials
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.faults.faulty_link import faulty_link
from tests.kit.redis import RedisServer, running_cluster
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import comes_to, stays
from tests.limits.contract import fresh_id, fresh_key

NEXT, AFTER_NEXT = SCHEMA + 1, SCHEMA + 2
A_DAY = 10


@pytest.fixture
def config(tmp_path: Path, redis: RedisServer, upstream: ScriptedUpstream) -> str:
    file = tmp_path / "gateway.toml"
    file.write_text(f"""
        listen = "127.0.0.1:0"
        admin_listen = "127.0.0.1:0"
        keys_dir = "{tmp_path}/keys"
        redis_url = "{redis.url}"
        drain_notice_seconds = 0.0
        workers = 1
        [upstream]
        base_url = "{upstream.base_url}"
        api_key = "sk-upstream"
        [tenants.acme.limits]
        max_requests_per_1_day = {A_DAY}
    """)
    return str(file)


@pytest.fixture
def credential(tmp_path: Path) -> str:
    ring, _ = ensure_ring(tmp_path / "keys")
    return issue(
        ring, Credentials(), tenant="acme", subject="s", scopes=["models:read"], ttl_seconds=600
    ).credential


@asynccontextmanager
async def version(schema: int, config: str, *, silent_seconds: int = 60) -> AsyncIterator[RunningCommand]:
    """A running gateway of that schema."""
    async with running_command(
        *("serve", "--config", config),
        module="tests.kit.another_version",
        SCHEMA=str(schema),
        SILENT_SECONDS=str(silent_seconds),
    ) as gateway:
        yield gateway


async def refusal(schema: int, config: str, *words: str, silent_seconds: int = 60) -> str:
    """What a command of that schema says, which does nothing."""
    done = await run_command(
        *words,
        *("--config", config),
        module="tests.kit.another_version",
        SCHEMA=str(schema),
        SILENT_SECONDS=str(silent_seconds),
    )
    assert done.code == 1, done
    return done.stderr


async def served(gateway: RunningCommand, credential: str) -> int:
    headers = {"Authorization": f"Bearer {credential}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{gateway.base_url}/models") as answer,
    ):
        return answer.status


async def served_of(gateways: list[RunningCommand], credential: str, requests: int) -> int:
    """How many requests are let through, made at one after another of them."""
    answers = [await served(gateways[n % len(gateways)], credential) for n in range(requests)]
    assert set(answers) <= {200, 429}
    return answers.count(200)


async def test_neighbours_share_one_limit_during_an_upgrade_and_after_it_is_taken_back(
    redis: RedisServer, config: str, credential: str
) -> None:
    async with version(SCHEMA, config) as old:
        assert await served_of([old], credential, 2) == 2
        async with version(NEXT, config) as new:
            assert await served_of([old, new], credential, 4) == 4
        async with version(SCHEMA, config) as again:
            assert await served_of([old, again], credential, A_DAY) == A_DAY - 6
    assert sorted(redis.command("ZRANGE", "gateway:schema", 0, -1).split()[2::2]) == [str(SCHEMA), str(NEXT)]


async def test_the_version_after_next_waits_until_the_first_has_gone(
    redis: RedisServer, config: str, credential: str
) -> None:
    """However far the upgrade to the one between them has come."""
    async with version(SCHEMA, config, silent_seconds=2), version(NEXT, config, silent_seconds=2):
        said = await refusal(AFTER_NEXT, config, "serve")
        assert f"of schema {SCHEMA}" in said and f"go by a version of schema {NEXT}" in said
    async with version(NEXT, config, silent_seconds=2):

        async def there() -> list[str]:
            return redis.command("ZRANGE", "gateway:schema", 0, -1).split()[2::2]

        await comes_to([str(NEXT)], there, 10)
        async with version(AFTER_NEXT, config) as gateway:
            assert await served_of([gateway], credential, 1) == 1


@pytest.mark.parametrize("far", [SCHEMA - 2, SCHEMA + 2, SCHEMA + 7])
async def test_what_is_too_far_apart_is_refused_and_not_touched(
    redis: RedisServer, config: str, far: int
) -> None:
    redis.command("ZADD", "gateway:schema", 1, far)  # long ago, and nobody has been there since
    said = await refusal(SCHEMA, config, "serve")
    assert f"redis_url: what is kept under gateway: is of schema {far}, and this version has {SCHEMA}" in said
    assert "another redis_prefix" in said
    assert_alone(redis, far)


def test_commands_of_a_version_too_far_apart_do_nothing_either(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    redis.command("ZADD", "gateway:schema", 1, AFTER_NEXT)
    for words in (
        ("usage", "--tenant", "acme"),
        ("limits", "show", "--tenant", "acme"),
        ("limits", "reset", "--tenant", "acme"),
        ("credential", "revoke", "--tenant", "acme"),
        ("credential", "list"),
    ):
        assert main([*words, "--config", config]) == 1
        assert f"is of schema {AFTER_NEXT}" in capsys.readouterr().err, words
    assert_alone(redis, AFTER_NEXT)


def assert_alone(redis: RedisServer, schema: int) -> None:
    """There is nothing else, as it was put there."""
    assert redis.command("KEYS", "*") == "*1\r\n$14\r\ngateway:schema\r\n"
    assert redis.command("ZRANGE", "gateway:schema", 0, -1, "WITHSCORES").split()[2::2] == [str(schema), "1"]


async def test_redis_that_comes_later_and_is_too_far_apart_is_never_used(
    redis: RedisServer, config: str, credential: str
) -> None:
    """The gateway serves on as while Redis is away, and uses it as soon as it can be shared."""
    redis.command("ZADD", "gateway:schema", 1, AFTER_NEXT)
    async with faulty_link(redis.port) as link:
        await link.close()
        way = ("--set", f"redis_url=redis://127.0.0.1:{link.port}")
    async with (
        running_command("serve", "--config", config, *way) as gateway,
        faulty_link(redis.port, link.port),
    ):

        async def keys() -> str:
            return redis.command("DBSIZE")

        await gateway.says(f"is of schema {AFTER_NEXT}", 10)
        assert await served(gateway, credential) == 200
        await stays(":1\r\n", keys, 2.0)
        redis.command("DEL", "gateway:schema")

        async def counted() -> bool:
            await served(gateway, credential)
            return "workers" in redis.command("KEYS", "*") and "tenant=acme" in redis.command("KEYS", "*")

        await comes_to(True, counted, 10)


async def test_a_redis_that_lost_its_data_is_told_again(redis: RedisServer, config: str) -> None:
    async with running_command("serve", "--config", config):

        async def there() -> list[str]:
            return redis.command("ZRANGE", "gateway:schema", 0, -1).split()[2::2]

        await comes_to([str(SCHEMA)], there, 1)
        redis.command("FLUSHALL")
        await comes_to([str(SCHEMA)], there, 2)


async def test_every_master_of_a_cluster_is_refused() -> None:
    """Though one of them alone has the schema."""
    with running_cluster() as nodes:
        at = key_slot(b"gateway:schema") * 3 // 16384
        nodes[at].command("ZADD", "gateway:schema", 1, AFTER_NEXT)
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        store = RedisBuckets(url, deadline_seconds=2)
        with pytest.raises(StoreUnavailable, match=f"is of schema {AFTER_NEXT}"):
            await store.admit(fresh_id(), [Charge(Quota(Dimension.REQUESTS_PER_DAY, 9, fresh_key()))])
        await store.close()
        assert [node.command("DBSIZE") for node in nodes].count(":0\r\n") == 2
        # Where that one cannot be asked, the others are not lost.
        nodes[at].stop()
        store = RedisBuckets(url, deadline_seconds=2)
        quota = next(
            quota
            for quota in (Quota(Dimension.REQUESTS_PER_DAY, 9, fresh_key()) for _ in iter(int, 1))
            if key_slot(f"gateway:{quota.key}".encode()) * 3 // 16384 != at
        )
        assert (await store.admit(fresh_id(), [Charge(quota)])).allowed
        await store.close()


async def test_redis_shows_whose_a_connection_is(redis: RedisServer, config: str) -> None:
    async with running_command("serve", "--config", config) as gateway:
        name = f"name=gateway-{socket.gethostname()}-{gateway.process.pid} "
        assert redis.command("CLIENT", "LIST").count(name) >= 3


async def test_restart_into_what_cannot_be_shared_changes_nothing(
    redis: RedisServer, config: str, credential: str
) -> None:
    redis.command("ZADD", "far:schema", 1, AFTER_NEXT)
    async with running_command("serve", "--config", config, "--workers", "2") as gateway:
        file = Path(config)
        file.write_text(f'redis_prefix = "far:"\n{file.read_text()}')
        private = ("--admin-listen", f"127.0.0.1:{gateway.admin_port}")
        done = await run_command("restart", "--config", config, *private)
        assert (done.code, f"is of schema {AFTER_NEXT}" in done.stderr) == (1, True), done.stderr
        assert await served_of([gateway], credential, 4) == 4


async def test_worker_that_only_finishes_what_it_has_still_names_its_schema(redis: RedisServer) -> None:
    """However long its streams take: what they use is settled as its version does."""
    limiter = Limiter(RedisBuckets(redis.url, deadline_seconds=2), announce_seconds=0.05)
    await limiter.start()
    limiter.leave()

    async def there() -> tuple[str, str]:
        return redis.command("ZCARD", "gateway:schema"), redis.command("EXISTS", "gateway:workers")

    await comes_to((":1\r\n", ":0\r\n"), there)
    redis.command("DEL", "gateway:schema")
    await comes_to((":1\r\n", ":0\r\n"), there)
    await limiter.close()
