"""What Redis URLs mean, and that each kind leads to a server that keeps limits."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Dimension, Quota
from gateway.redis.schemes import Topology
from gateway.redis.servers import RedisServers
from tests.kit.redis import RedisServer
from tests.kit.tls import make_certificate, served_with
from tests.limits.contract import fresh_id, fresh_key

COMMANDS = (
    "ping eval evalsha time hget hset hmget hdel zadd zrem zrange zrangebyscore zremrangebyscore zmscore pttl "
    "pexpire unlink"
)
"""Everything the gateway's limits ask of Redis."""


@pytest.mark.parametrize(
    ("url", "topology", "addresses", "name"),
    [
        ("redis://h", Topology.SINGLE, (("h", 6379),), "h:6379"),
        ("valkey://u:p@h:1/2", Topology.SINGLE, (("h", 1),), "h:1"),
        ("rediss://h:6380", Topology.SINGLE, (("h", 6380),), "h:6380"),
        ("unix:///run/redis.sock?db=3", Topology.SINGLE, (), "/run/redis.sock"),
        ("redis+sentinel://:p@a,b:7/limits/1", Topology.SENTINEL, (("a", 26379), ("b", 7)), "limits"),
        ("valkeys+sentinel://a/limits", Topology.SENTINEL, (("a", 26379),), "limits"),
        ("redis+cluster://u:p@a:1,[::1]:2", Topology.CLUSTER, (("a", 1), ("::1", 2)), "a:1,::1:2"),
        ("rediss+cluster://a", Topology.CLUSTER, (("a", 6379),), "a:6379"),
    ],
)
def test_url_says_where_the_servers_are(
    url: str, topology: Topology, addresses: tuple[tuple[str, int], ...], name: str
) -> None:
    servers = RedisServers.parse(url)
    assert (servers.topology, servers.addresses, servers.name) == (topology, addresses, name)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://secret@h", "begins with one of"),
        ("secret", "begins with one of"),
        ("redis://secret@h:port", "port"),
        ("redis+sentinel://:secret@h", "names the service"),
        ("redis+sentinel://:secret@h:x/limits", "port"),
        ("redis+cluster://:secret@h/3", "no databases"),
        ("redis+cluster://:secret@", "names no host"),
        ("redis://:secret@h?db=x", "db"),
        ("redis://:secret@h?max_connections=20", "there is no option max_connections"),
        ("redis+sentinel://:secret@h/s?nope=1", "there is no option nope"),
        ("rediss+cluster://:secret@h?ssl_cert_reqs=nope", "Certificate Requirements"),
    ],
)
def test_bad_url_is_explained_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        RedisServers.parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://user:secret@h", "redis+sentinel://:secret@h/s?sentinel_password=secret"]
)
def test_password_is_never_shown(url: str) -> None:
    assert "secret" not in repr(RedisServers.parse(url))


async def admits(url: str) -> bool:
    store = RedisBuckets(url, deadline_seconds=1)
    try:
        return (
            await store.admit(fresh_id(), [Charge(Quota(Dimension.TOKENS_PER_DAY, 9, fresh_key()))])
        ).allowed
    finally:
        await store.close()


async def test_limits_are_kept_over_a_unix_socket(redis: RedisServer) -> None:
    assert await admits(redis.unix_url)


async def test_limits_need_these_commands_of_an_acl_user_and_no_others(redis: RedisServer) -> None:
    granted = [f"+{command}" for command in COMMANDS.split()]
    redis.command("ACL", "SETUSER", "gw", "on", ">pass word", "~gateway:*", *granted)
    url = f"redis://gw:pass%20word@127.0.0.1:{redis.port}"
    store = RedisBuckets(url, deadline_seconds=1)
    exchange, charge = fresh_id(), Charge(Quota(Dimension.TOKENS_PER_DAY, 9, fresh_key()), 3)
    assert (await store.announce("worker")).workers == 1
    assert (await store.admit(exchange, [charge])).allowed
    assert await store.renew([(exchange, charge.quota.key)]) == []
    assert await store.settle(exchange, [charge])
    await store.reset([charge.quota.key])
    await store.close()
    with pytest.raises(StoreUnavailable):
        await admits(f"redis://gw:wrong@127.0.0.1:{redis.port}")


async def test_limits_are_kept_over_tls_with_a_certificate_that_is_checked(
    redis: RedisServer, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path, "redis")
    async with tls_in_front_of(redis, served_with(certificate)) as port:
        assert await admits(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate[0]}")
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await admits(f"rediss://127.0.0.1:{port}")


@asynccontextmanager
async def tls_in_front_of(redis: RedisServer, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A TLS end before a server that may have been built without; yields its port."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", redis.port)
        await asyncio.gather(pass_on(reader, server_writer), pass_on(server_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
