"""A quiet day raises nothing, and no alert is shipped that nothing ever provoked."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.day import test_objects, test_processes, test_redis, test_tenants, test_upstreams
from tests.day.prometheus import watching
from tests.day.scenes import every_alert
from tests.day.served import gateway_of
from tests.kit.client import CHAT, QUESTION, RawClient
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import found

DAY = """
[upstream]
base_url = "{}"
api_key = "sk-upstream"
[tenants.acme]
scopes = ["*"]
[tenants.beta]
scopes = ["*"]
[tenants.beta.limits]
max_requests_per_1_minute = 100
"""


async def test_a_quiet_day_with_a_restart_a_reload_and_clients_who_err_now_and_then_raises_nothing(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    configuration = DAY.format(upstream.base_url)
    async with (
        gateway_of(tmp_path / "gateway", configuration, redis=redis, workers=2) as served,
        watching(tmp_path / "prometheus", {"quiet": [served.target]}) as prometheus,
        served.calling("acme", every_seconds=0.1),
        served.calling("beta", every_seconds=0.5),
        served.calling("acme", every_seconds=4, credential="not-one"),
        served.calling("acme", "GET", "/v1/nothing", None, every_seconds=4),
    ):
        await prometheus.has("gateway:failures:ratio5m")
        before = await found(served.workers)

        async with served.calling("beta", every_seconds=0.01):
            await asyncio.sleep(1.5)  # for once it asks too much
        client = await RawClient.connect(served.command.host, served.command.port, served.credential("acme"))
        await client.send(client.request_bytes("POST", CHAT, QUESTION))
        await client.close()  # it does not wait for its answer

        served.file.write_text(configuration + '[tenants.gamma]\nscopes = ["*"]\n')
        served.command.signal(signal.SIGHUP)
        await prometheus.has('gateway_configuration_loads_total{result="loaded"} > 0')
        served.command.signal(signal.SIGUSR2)
        await prometheus.has('gateway_worker_restarts_total{cause="asked"} == 2')

        async def others() -> bool:
            now = await served.workers()
            return len(now) == 2 and not set(now) & set(before)

        await found(others, 60)
        assert await served.ask("gamma") == 200
        await asyncio.sleep(20)

        assert await prometheus.raised(job="quiet") == set()
        broken = [rule["name"] for rule in await prometheus.rules() if rule.get("lastError")]
        assert not broken
        # Every rule has data: what alerts compare is there, though nothing is above its bound.
        recorded = [rule["name"] for rule in await prometheus.rules() if rule["type"] == "recording"]
        silent = [name for name in recorded if not await prometheus.query(f"last_over_time({name}[1h])")]
        # Nothing failed, and this upstream says nothing of its limits.
        assert set(silent) == {
            "gateway:failures:rate5m",
            "gateway:upstream_failures:rate5m",
            "gateway:upstream_limit_remaining:ratio",
        }
    assert {200, 401, 404, 429} <= set(served.statuses)
    assert not {status for status in served.statuses if status >= 500 or not status}


def test_every_alert_is_provoked_in_some_scene_of_the_day() -> None:
    scenes = (
        *test_upstreams.SCENES,
        *test_redis.SCENES,
        *test_objects.SCENES,
        *test_tenants.SCENES,
        *test_processes.SCENES,
    )
    assert set().union(*(scene.alerts for scene in scenes)) == every_alert()
