"""What wakes operators is told apart by metrics alone: whose fault it is, and nobody else's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.redis import RedisServer, free_port
from tests.kit.upstream import OK, ScriptedUpstream, Turn, silent
from tests.kit.waiting import until

TENANTS = {
    "acme": EVERY_SCOPE,
    "beta": EVERY_SCOPE,
    "keyed": {**EVERY_SCOPE, "upstream": {"api_key": "sk-keyed-upstream"}},
}


def series(gateway: Gateway, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """The series of one name: their labels, and what they are."""
    for line in gateway.metrics().splitlines():
        if match := re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line):
            yield dict(re.findall(r'(\w+)="([^"]*)"', match[1])), float(match[2])


def symptoms(gateway: Gateway) -> set[str]:
    """What metrics say is wrong, and with whom."""
    found = set()
    for labels, _ in series(gateway, "gateway_upstream_answers_total"):
        if labels["status"] in ("401", "403", "429", "timeout", "broken") or labels["status"].startswith("5"):
            found.add(f"{labels['upstream']} answers {labels['status']}")
    for labels, _ in series(gateway, "gateway_upstream_connects_total"):
        if labels["result"] != "connected":
            found.add(f"{labels['upstream']} cannot be reached")
    for labels, _ in series(gateway, "gateway_upstream_waits_total"):
        if labels["result"] == "refused":
            found.add(f"{labels['upstream']} is full")
    for labels, up in series(gateway, "gateway_redis_up"):
        if not up:
            found.add(f"Redis {labels['server']} is down")
    for labels, _ in series(gateway, "gateway_errors_total"):
        found.add(f"{labels['tenant']} is told {labels['code']}")
    return found


@pytest.fixture
async def busy(start_gateway: StartGateway) -> Gateway:
    """A gateway with three tenants, one of which has an upstream key of its own."""
    return await start_gateway(tenants=TENANTS)


async def day(gateway: Gateway, *tenants: str) -> list[int]:
    """One request of each tenant; the statuses of their answers."""
    answers = [await ask(gateway, "GET", "/v1/models", tenant=tenant) for tenant in tenants or TENANTS]
    return [answer.status for answer in answers]


def answering(status: bytes, *, to: str | None = None) -> object:
    """The script of an upstream that answers so, to everybody or to this key alone."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        if to is None or turn.seen.get("authorization") == f"Bearer {to}":
            await turn.send(
                b"HTTP/1.1 %b X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" % status
            )
        else:
            await turn.send(OK)

    return script


async def test_nothing_is_wrong_on_a_quiet_day(busy: Gateway) -> None:
    assert await day(busy) == [200, 200, 200]

    assert symptoms(busy) == set()


async def test_an_upstream_that_throttles_everybody_is_told_by_its_name(
    busy: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answering(b"429"))  # type: ignore[arg-type]
    assert await day(busy, "acme", "beta") == [429, 429]

    assert symptoms(busy) == {"default answers 429"}


async def test_a_key_that_was_revoked_is_told_by_the_way_that_uses_it(
    busy: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answering(b"401", to="sk-keyed-upstream"))  # type: ignore[arg-type]
    assert await day(busy) == [200, 200, 502]

    assert symptoms(busy) == {"keyed answers 401", "keyed is told upstream_refused_key"}


async def test_one_tenant_that_fails_wholly_is_told_by_its_name(
    busy: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answering(b"500", to="sk-keyed-upstream"))  # type: ignore[arg-type]
    assert await day(busy) == [200, 200, 500]

    assert symptoms(busy) == {"keyed answers 500"}
    failed = {
        labels["tenant"] for labels, _ in series(busy, "gateway_exchanges_total") if labels["status"] == "5xx"
    }
    assert failed == {"keyed"}


async def test_a_full_pool_does_not_look_like_an_upstream_that_cannot_be_reached(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    settings = {"base_url": upstream.base_url, "max_connections": 1, "connection_wait_seconds": 0.2}
    gateway = await start_gateway(upstream=settings, tenants=TENANTS)
    upstream.plays(silent)
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/models"))
    await upstream.passed("asked")
    assert await day(gateway, "beta") == [503]

    assert symptoms(gateway) == {"default is full", "beta is told overloaded"}


async def test_an_upstream_that_cannot_be_reached_does_not_look_full(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        upstream={"base_url": f"http://127.0.0.1:{free_port()}/v1"}, tenants=TENANTS
    )
    assert await day(gateway, "acme") == [502]

    assert symptoms(gateway) == {"default cannot be reached", "acme is told upstream_unreachable"}


@pytest.mark.parametrize(
    ("policy", "statuses", "told"),
    [
        ("open", [200, 200], set()),
        ("closed", [503, 503], {"acme is told limits_unavailable", "beta is told limits_unavailable"}),
    ],
)
async def test_redis_that_is_down_is_told_by_its_name_with_the_policy_in_force(
    start_gateway: StartGateway, redis: RedisServer, policy: str, statuses: list[int], told: set[str]
) -> None:
    gateway = await start_gateway(
        redis_url=redis.url,
        on_store_failure=policy,
        limits={"max_requests_per_1_minute": 100},
        tenants=TENANTS,
    )
    server = f"127.0.0.1:{redis.port}"
    assert await day(gateway) == [200, 200, 200]
    assert symptoms(gateway) == set()
    assert [labels["server"] for labels, _ in series(gateway, "gateway_redis_seconds_count")] == [server]
    assert list(series(gateway, "gateway_limit_store_policy")) == [({"policy": policy}, 1)]

    redis.stop()
    await until(lambda: f"Redis {server} is down" in symptoms(gateway))
    assert await day(gateway, "acme", "beta") == statuses
    assert symptoms(gateway) == {f"Redis {server} is down", *told}

    redis.start()
    await until(lambda: f"Redis {server} is down" not in symptoms(gateway), 10.0)


async def test_redis_that_does_not_answer_in_time_is_seen_as_slow(
    start_gateway: StartGateway, redis: RedisServer
) -> None:
    gateway = await start_gateway(redis_url=redis.url, limits={"max_requests_per_1_minute": 100})
    await day(gateway, "acme")

    def slow() -> float:
        fast = {
            labels["le"]: count
            for labels, count in series(gateway, "gateway_redis_seconds_bucket")
            if labels["le"] in ("0.05", "+Inf")
        }
        return fast["+Inf"] - fast["0.05"]

    assert slow() == 0
    redis.freeze()
    try:
        await day(gateway, "acme")
        await until(lambda: slow() > 0)
    finally:
        redis.thaw()


async def test_redis_is_named_without_its_login(start_gateway: StartGateway, redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "requirepass", "hunter2")
    gateway = await start_gateway(redis_url=f"redis://:hunter2@127.0.0.1:{redis.port}/0")
    await day(gateway, "acme")
    await asyncio.sleep(0)

    page = gateway.metrics()
    assert f'gateway_redis_up{{server="127.0.0.1:{redis.port}"}} 1' in page
    assert "hunter2" not in page
