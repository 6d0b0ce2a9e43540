"""The upper row of Overview says whose fault it is: what happens lights the culprit's number and no other's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from math import isnan, nan
from pathlib import Path

import orjson
import pytest

from docs.dashboards import overview
from tests.day.prometheus import Prometheus, watching
from tests.day.served import Served, gateway_of
from tests.day.shortened import shortened_query
from tests.kit.asking import running_simulator
from tests.kit.client import CHAT
from tests.kit.redis import RedisServer, free_port

CULPRITS = ("Client", "Limit", "Gateway", "Redis", "Upstream")
PATIENCE_SECONDS = 30.0

Incident = Callable[[Served, RedisServer], AbstractAsyncContextManager[None]]


def fails_by(how: str) -> Incident:
    """Everybody's upstream answers like this."""

    @asynccontextmanager
    async def incident(served: Served, redis: RedisServer) -> AsyncIterator[None]:
        async with (
            served.calling("acme", more={"x-simulate": how}),
            served.calling("blue", more={"x-simulate": how}),
        ):
            yield

    return incident


@asynccontextmanager
async def bad_requests(served: Served, redis: RedisServer) -> AsyncIterator[None]:
    async with served.calling("acme", "POST", CHAT, b"{", at_once=4), served.calling("blue"):
        yield


@asynccontextmanager
async def bad_credentials(served: Served, redis: RedisServer) -> AsyncIterator[None]:
    async with served.calling("acme", credential="sk-of-yesterday", at_once=4), served.calling("blue"):
        yield


@asynccontextmanager
async def a_limit_that_is_full(served: Served, redis: RedisServer) -> AsyncIterator[None]:
    async with served.calling("small", at_once=4), served.calling("blue"):
        yield


@asynccontextmanager
async def an_upstream_of_one_tenant_that_is_gone(served: Served, redis: RedisServer) -> AsyncIterator[None]:
    async with served.calling("lost", at_once=2), served.calling("blue"):
        yield


@asynccontextmanager
async def no_redis(served: Served, redis: RedisServer) -> AsyncIterator[None]:
    async with served.calling("acme"), served.calling("blue"):
        await asyncio.sleep(2)
        redis.stop()
        yield


@asynccontextmanager
async def no_room(served: Served, redis: RedisServer) -> AsyncIterator[None]:
    """Bodies that never come hold all room that there is for bodies."""
    body = b'{"model":"gpt-4o-mini","messages":[]}' + b" " * 800_000
    async with (
        served.withholding("acme", "blue", "acme", "blue"),
        served.calling("third", "POST", CHAT, body, at_once=4),
        served.calling("blue"),
    ):
        yield


@pytest.mark.parametrize(
    ("incident", "culprits"),
    [
        (bad_requests, {"Client"}),
        (bad_credentials, {"Client"}),
        (a_limit_that_is_full, {"Limit"}),
        (fails_by("status=400"), {"Client"}),
        (fails_by("status=401"), {"Upstream"}),
        (fails_by("status=429"), {"Upstream"}),
        (fails_by("status=503"), {"Upstream"}),
        (fails_by("drop"), {"Upstream"}),
        (an_upstream_of_one_tenant_that_is_gone, {"Upstream"}),
        (no_redis, {"Redis"}),
        (no_room, {"Gateway"}),
    ],
    ids=[
        "bad requests",
        "bad credentials",
        "a full limit",
        "upstream 400",
        "upstream 401",
        "upstream 429",
        "upstream 503",
        "upstream hangs up",
        "one upstream gone",
        "redis gone",
        "no room for bodies",
    ],
)
async def test_what_happens_lights_the_number_of_the_culprit_alone(
    tmp_path: Path, redis: RedisServer, incident: Incident, culprits: set[str]
) -> None:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(running_simulator())
        configuration = f"""
[upstream]
base_url = "{simulator.base_url}"
api_key = "sk-upstream"

[edge]
body_memory_bytes = 2000000
max_json_body_bytes = 1000000

[tenants.acme]
scopes = ["*"]

[tenants.blue]
scopes = ["*"]

[tenants.blue.limits]
max_requests_per_1_minute = 100000

[tenants.third]
scopes = ["*"]

[tenants.small]
scopes = ["*"]

[tenants.small.limits]
max_requests_per_1_minute = 1

[tenants.lost]
scopes = ["*"]

[tenants.lost.upstream]
base_url = "http://127.0.0.1:{free_port()}/v1"
api_key = "sk-lost"
"""
        served = await stack.enter_async_context(gateway_of(tmp_path / "day", configuration, redis=redis))
        prometheus = await stack.enter_async_context(
            watching(tmp_path / "prometheus", {"day": [served.target]})
        )
        await stack.enter_async_context(incident(served, redis))
        lit: dict[str, float] = {}
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                # For as long as a rate looks back, and longer: what has just begun is not all there is.
                await asyncio.sleep(6)
                while (lit := await lights(prometheus)).keys() & CULPRITS != culprits:
                    await asyncio.sleep(0.3)
        except TimeoutError:
            pass
        assert lit.keys() & CULPRITS == culprits, lit


async def lights(prometheus: Prometheus) -> dict[str, float]:
    """The numbers of the upper row that are not in the colour of what is well."""
    found = {}
    for panel in overview.WHOSE.panels:
        shown = orjson.loads(orjson.dumps(panel, default=lambda part: part.to_json()))
        (target,) = shown["targets"]
        expression = target["expr"].replace("$__rate_interval", "5m").replace("$job", "day")
        values = await prometheus.query(shortened_query(expression.replace("$instance", ".*")))
        ((_, value),) = values or [({}, nan)]
        steps = shown["fieldConfig"]["defaults"]["thresholds"]["steps"]
        colour = [step["color"] for step in steps if step.get("value") is None or value >= step["value"]][-1]
        if colour != "green" and not isnan(value):
            found[shown["title"]] = value
    return found
