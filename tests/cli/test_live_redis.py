"""`gateway check --live` says of every Redis server whether it keeps what it is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.redis.schema import SCHEMA
from tests.kit.command import Completed, run_command
from tests.kit.redis import RedisServer, running_cluster, running_redis, running_sentinel
from tests.kit.upstream import ScriptedUpstream

KEPT = ("--appendonly", "yes")


class Checking:
    """The command, with a Redis."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream

    async def __call__(self, url: str, *more: str) -> Completed:
        way = ("--upstream", self._upstream.base_url)
        return await run_command("check", "--live", *way, "--set", f"redis_url={url}", *more)


@pytest.fixture
def check(upstream: ScriptedUpstream) -> Checking:
    return Checking(upstream)


async def test_server_that_keeps_everything_is_described_and_nothing_said_against_it(check: Checking) -> None:
    with running_redis(*KEPT, "--maxmemory", "100mb") as redis:
        for url in (redis.url, redis.unix_url):
            done = await check(url)
            assert (done.code, done.stderr) == (0, "")
            (line,) = (line for line in done.stdout.splitlines() if line.startswith("Redis "))
            assert re.search(
                r"^Redis \S+: version \d\S+, master, maxmemory-policy noeviction, [\d.]+ of 100 MiB used, "
                r"clock [+-]0\.\d{3} s$",
                line,
            )


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_server_that_may_forget_is_a_problem(check: Checking, policy: str) -> None:
    with running_redis(*KEPT, "--maxmemory-policy", policy) as redis:
        done = await check(redis.url)
        assert done.code == 1
        assert f"Redis 127.0.0.1:{redis.port} has maxmemory-policy {policy}" in done.stderr
        assert "set maxmemory-policy to noeviction" in done.stderr


async def test_what_is_written_to_disk_is_known(check: Checking, redis: RedisServer) -> None:
    done = await check(redis.url)
    assert done.code == 0
    assert "writes nothing to disk" in done.stderr and "appendonly" in done.stderr
    redis.command("CONFIG", "SET", "save", "3600 1")
    assert (await check(redis.url)).stderr == ""


async def test_what_a_login_may_not_see_is_said(check: Checking, redis: RedisServer) -> None:
    """As of Redis that others run: mostly CONFIG, sometimes INFO too."""
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    redis.command("ACL", "SETUSER", "some", "on", ">pw", "~gateway:*", "+@all", "-config")
    redis.command("ACL", "SETUSER", "none", "on", ">pw", "~gateway:*", "+@all", "-config", "-info")
    some = await check(f"redis://some:pw@127.0.0.1:{redis.port}")
    assert (some.code, "maxmemory-policy allkeys-lru" in some.stderr) == (1, True)
    assert "does not tell this login whether it writes to disk" in some.stderr
    none = await check(f"redis://none:pw@127.0.0.1:{redis.port}")
    assert none.code == 0
    assert "does not tell this login its version and its maxmemory-policy" in none.stderr
    assert "pw" not in (some.stdout + some.stderr + none.stdout + none.stderr)


async def test_server_that_cannot_be_asked_is_a_problem(check: Checking, redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "requirepass", "right")
    for url, why in (
        (f"redis://:wrong@127.0.0.1:{redis.port}", "invalid username-password pair"),
        (f"redis://127.0.0.1:{redis.port}", "Authentication required"),
        ("redis://127.0.0.1:1", "Connect call failed"),
        ("redis+cluster://127.0.0.1:1", "Connect call failed"),
        ("redis+sentinel://127.0.0.1:1/limits", "no Sentinel names a master"),
    ):
        done = await check(url)
        assert done.code == 1
        assert "cannot be asked" in done.stderr and why in done.stderr, done.stderr
        assert "wrong" not in done.stderr


async def test_login_that_may_run_no_script_or_not_below_the_prefix_is_a_problem(
    check: Checking, redis: RedisServer
) -> None:
    redis.command("ACL", "SETUSER", "mute", "on", ">pw", "~gateway:*", "+@all", "-@scripting")
    redis.command("ACL", "SETUSER", "aside", "on", ">pw", "~elsewhere:*", "+@all")
    redis.command("ACL", "SETUSER", "reader", "on", ">pw", "~gateway:*", "+@all", "-unlink")
    for user in ("mute", "aside", "reader"):
        done = await check(f"redis://{user}:pw@127.0.0.1:{redis.port}")
        assert (done.code, "does not let this login do what scripts do" in done.stderr) == (1, True)
    done = await check(f"redis://aside:pw@127.0.0.1:{redis.port}", "--set", "redis_prefix=elsewhere:")
    assert done.code == 0


async def test_server_elsewhere_that_asks_for_no_password_is_a_problem(check: Checking) -> None:
    with running_redis(*KEPT) as redis:
        done = await check(f"redis://127.1:{redis.port}")  # not spelled as this machine
        assert done.code == 1
        assert "asks for no password" in done.stderr
        redis.command("CONFIG", "SET", "requirepass", "pw")
        done = await check(f"redis://:pw@127.1:{redis.port}")
        assert (done.code, "no password" in done.stderr) == (0, False)


async def test_every_node_of_a_cluster_is_asked(check: Checking) -> None:
    with running_cluster() as nodes:
        nodes[1].command("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        done = await check(f"redis+cluster://127.0.0.1:{nodes[0].port}")
        assert done.code == 1
        assert done.stdout.count("maxmemory-policy noeviction") == 2
        (problem,) = (line for line in done.stderr.splitlines() if "allkeys-lfu" in line)
        assert f"127.0.0.1:{nodes[1].port}" in problem
        nodes[2].stop()
        done = await check(f"redis+cluster://127.0.0.1:{nodes[0].port}")
        assert f"Redis 127.0.0.1:{nodes[2].port} cannot be asked" in done.stderr


async def test_master_replicas_and_sentinels_are_asked(check: Checking) -> None:
    with running_sentinel() as (sentinel, master, replica):
        replica.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        done = await check(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/limits")
        assert done.code == 1
        assert f"Redis 127.0.0.1:{master.port}: version" in done.stdout and ", master," in done.stdout
        assert ", slave," in done.stdout
        assert f"Redis 127.0.0.1:{replica.port} has maxmemory-policy allkeys-random" in done.stderr
        assert "Sentinel 127.0.0.1:1 does not answer" in done.stderr


async def test_old_version_and_other_clock_are_found(check: Checking) -> None:
    def older(data: bytes) -> bytes:
        return re.sub(rb"redis_version:\d\.\d", b"redis_version:6.0", data)

    def later(data: bytes) -> bytes:
        return re.sub(rb"^\*2\r\n\$10\r\n\d(?=\d{9}\r\n\$)", b"*2\r\n$10\r\n5", data)

    with running_redis(*KEPT) as redis:
        async with changed(redis.port, older) as port:
            done = await check(f"redis://127.0.0.1:{port}")
            assert (done.code, "the scripts need 6.2 or later" in done.stderr) == (1, True)
        async with changed(redis.port, later) as port:
            done = await check(f"redis://127.0.0.1:{port}")
            assert (done.code, "has a clock that differs from the one here by +" in done.stderr) == (0, True)


async def test_other_schema_is_a_problem_and_ours_is_not_announced(check: Checking) -> None:
    with running_redis(*KEPT) as redis:
        assert (await check(redis.url)).code == 0
        assert redis.command("EXISTS", "gateway:schema") == ":0\r\n"
        redis.command("ZADD", "gateway:schema", 1, SCHEMA + 3)
        done = await check(redis.url)
        assert (done.code, f"is of schema {SCHEMA + 3}" in done.stderr) == (1, True)
        assert (await check(redis.url, "--set", "redis_prefix=other:")).code == 0


@asynccontextmanager
async def changed(port: int, change: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """A way to a server on which its replies are changed; yields its port."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        while piece := await reader.read(65536):
            writer.write(change(piece) if back else piece)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            pass_on(reader, server_writer, back=False), pass_on(server_reader, writer, back=True)
        )

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
