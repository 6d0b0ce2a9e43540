"""What begins alike goes, and nothing else."""

from __future__ import annotations

from gateway.redis.servers import RedisServers
from gateway.redis.sweeping import sweep
from tests.kit.redis import RedisServer, running_cluster


async def test_keys_of_one_prefix_go_and_others_stay(redis: RedisServer) -> None:
    for n in range(2500):
        redis.command("SET", f"mine*:{n}", n)
    for other in ("mine", "minex:1", "gateway:{acme}", "xmine*:1"):
        redis.command("SET", other, 1)
    assert await sweep(RedisServers.parse(redis.url), "mine*:") == 2500
    assert redis.command("DBSIZE") == ":4\r\n"
    assert await sweep(RedisServers.parse(redis.unix_url), "mine*:") == 0


async def test_every_master_of_a_cluster_is_swept() -> None:
    with running_cluster() as nodes:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        for n in range(30):
            for node in nodes:
                for key in (f"mine:{{{n}}}", f"other:{{{n}}}"):
                    node.command("SET", key, n)  # two of three masters refuse it
        assert await sweep(RedisServers.parse(url), "mine:") == 30
        assert sum(int(node.command("DBSIZE")[1:]) for node in nodes) == 30
