"""What is told of the registry of stored objects: that it is gone, or that it is not told what was made."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.cli import main
from tests.day.scenes import BUDGETS, Scene, played, scene
from tests.day.test_redis import BATCH, makes_batches

TWO = """
[tenants.acme]
scopes = ["*"]
[tenants.beta]
scopes = ["*"]
"""
ALONE = """
[tenants.acme]
scopes = ["*"]
"""
AWAY = BUDGETS | {"GatewayRedisDown", "GatewayRevocationsStale", "GatewayLimitsWithoutStore"}


@scene("GatewayObjectsForgotten")
async def redis_has_lost_whose_objects_are(scene: Scene) -> None:
    redis = scene.redis()
    served = await scene.gateway(TWO, redis=redis)
    async with served.calling("acme", "GET", "/v1/files/file-1", every_seconds=1):
        await scene.prometheus.has(f'gateway_objects_lost_tenants{{job="{scene.job}"}} == 0')
        await asyncio.sleep(3)
        redis.command("FLUSHALL")
        alert = await scene.fires("GatewayObjectsForgotten", scene.job)
        assert (alert.labels["fault"], alert.labels["severity"]) == ("redis", "critical")
        config = scene.directory / "acknowledging.toml"
        config.write_text(f'redis_url = "{redis.url}"\n{TWO}', "utf-8")
        arguments = ["objects", "acknowledge", "--config", str(config), "--upstream", scene.upstream.base_url]
        assert await asyncio.to_thread(main, arguments) == 0
        await scene.resolves("GatewayObjectsForgotten")


@scene("GatewayObjectsWaiting", "GatewayObjectsUnrecorded", besides=AWAY | {"GatewayLateWorkLost"})
async def redis_does_not_take_what_was_made(scene: Scene) -> None:
    redis = scene.redis()
    scene.upstream.plays(makes_batches)
    served = await scene.gateway(ALONE, redis=redis, module="tests.day.planted", MOST_OBJECTS="3")
    async with served.calling("acme", "POST", "/v1/batches", BATCH, every_seconds=0.5):
        await asyncio.sleep(3)
        redis.freeze()
        await scene.fires("GatewayObjectsWaiting", scene.job)
        await scene.fires("GatewayObjectsUnrecorded", scene.job)
        redis.thaw()
        await scene.resolves("GatewayObjectsWaiting")


SCENES = (redis_has_lost_whose_objects_are, redis_does_not_take_what_was_made)


async def test_what_the_registry_does_not_know_is_told_until_it_does(tmp_path: Path) -> None:
    await played(tmp_path, *SCENES)
