"""What Redis does at three in the morning: which server, and what decides meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.day.scenes import BUDGETS, Scene, played, scene
from tests.kit.faults.faulty_link import faulty_link
from tests.kit.upstream import Turn, answer_ok

LIMITED = """
on_store_failure = "{}"
[tenants.acme]
scopes = ["*"]
stored_objects = "own"
[tenants.acme.limits]
max_requests_per_1_minute = 100000
max_tokens_per_1_minute = 100000000
"""
BATCH = b'{"input_file_id":"file-1","endpoint":"/v1/responses","completion_window":"24h"}'
MADE = b'{"id":"batch_%d","object":"batch","status":"validating","usage":null}'


async def makes_batches(turn: Turn) -> None:
    """The script of an upstream that begins every batch."""
    if not turn.seen.target.endswith("/batches"):
        await answer_ok(turn)
        return
    await turn.read_body()
    body = MADE % id(turn)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    await turn.send(head.encode() + body)


@scene(
    "GatewayRedisDown",
    "GatewayLimitStoreUnavailable",
    "GatewayErrorBudgetBurnsFast",
    besides=BUDGETS | {"GatewayRevocationsStale"},
)
async def redis_is_down_and_nothing_is_granted(scene: Scene) -> None:
    redis = scene.redis()
    served = await scene.gateway(LIMITED.format("closed"), redis=redis)
    server = f"127.0.0.1:{redis.port}"
    async with served.calling("acme"):
        await asyncio.sleep(3)
        redis.stop()
        alert = await scene.fires("GatewayRedisDown", server, server=server, policy="closed")
        assert (alert.labels["fault"], alert.labels["severity"]) == ("redis", "critical")
        alert = await scene.fires("GatewayLimitStoreUnavailable", scene.job)
        assert server in alert.annotations["description"]
        alert = await scene.fires("GatewayErrorBudgetBurnsFast", "redis's fault", fault="redis")
        assert "limits_unavailable" in alert.annotations["description"]
        redis.start()
        await scene.resolves("GatewayRedisDown")


@scene(
    "GatewayRedisDown",
    "GatewayLimitsWithoutStore",
    "GatewayRevocationsStale",
    "GatewayUsageLost",
    "GatewayLateWorkLost",
)
async def redis_is_silent_for_so_long_that_something_is_lost(scene: Scene) -> None:
    redis = scene.redis()
    scene.upstream.plays(makes_batches)
    served = await scene.gateway(
        LIMITED.format("local"), redis=redis, module="tests.day.planted", MOST_WAITING="20"
    )
    server = f"127.0.0.1:{redis.port}"
    async with served.calling("acme"), served.calling("acme", "POST", "/v1/batches", BATCH, every_seconds=1):
        await asyncio.sleep(3)
        redis.freeze()  # nobody knows what it has heard
        await scene.fires("GatewayRedisDown", "local", server=server, policy="local")
        await scene.fires("GatewayLimitsWithoutStore", "local", by="local")
        await scene.fires("GatewayLateWorkLost", scene.job, 90)
        await scene.fires("GatewayRevocationsStale", served.target, 90)
        await scene.fires("GatewayUsageLost", scene.job, 120)
        redis.thaw()
        await scene.resolves("GatewayRedisDown")


@scene("GatewayRedisSlow", besides={"GatewayLimitsWithoutStore", "GatewayRedisDown"})
async def redis_is_slow(scene: Scene) -> None:
    redis = scene.redis()
    async with faulty_link(redis.port) as link:
        redis.url = f"redis://127.0.0.1:{link.port}/0"
        served = await scene.gateway(LIMITED.format("local"), redis=redis)
        async with served.calling("acme", at_once=3):
            await asyncio.sleep(2)
            link.delay_seconds = 0.055  # longer than is well, shorter than anybody waits
            server = f"127.0.0.1:{link.port}"
            alert = await scene.fires("GatewayRedisSlow", server, server=server)
            assert alert.labels["fault"] == "redis"
            link.delay_seconds = 0.0
            await scene.resolves("GatewayRedisSlow")


SCENES = (
    redis_is_down_and_nothing_is_granted,
    redis_is_silent_for_so_long_that_something_is_lost,
    redis_is_slow,
)


async def test_what_redis_does_is_told_by_server_and_over_when_it_is_over(tmp_path: Path) -> None:
    await played(tmp_path, *SCENES)
