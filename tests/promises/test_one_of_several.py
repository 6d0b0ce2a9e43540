"""One of several workers: it has its part of the machine's caps, and promises nothing that only all could keep."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from gateway.app.place import Place
from gateway.credentials.key_ring import KeyRing
from gateway.settings.section import SettingsInvalid
from tests.conftest import StartGateway
from tests.kit.asking import ask, verdict
from tests.kit.client import RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import until

FIRST_OF_TWO, LAST_OF_TWO = Place(0, 2), Place(1, 2)
LIMIT = {"max_requests_per_1_minute": 60}


async def held(turn: Turn) -> None:
    await turn.read_body()
    await turn.wait_for("open")
    await turn.send(OK)


async def sent(gateway: Gateway, count: int) -> list[RawClient]:
    """Clients that have asked, each on its own connection."""
    clients = [await gateway.connect() for _ in range(count)]
    for client in clients:
        await client.send(client.request_bytes("GET", "/v1/models"))
    return clients


async def in_flight(gateway: Gateway, count: int) -> None:
    await until(lambda: gateway.metric('gateway_exchanges_in_flight{tenant="acme"}') == count)


async def test_workers_have_the_upstream_connections_of_the_machine_together(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(held)
    settings: dict[str, Any] = {
        "base_url": upstream.base_url,
        "api_key": "sk-up",
        "max_connections": 5,
        "tenant_share": 1,
    }
    first = await start_gateway(place=FIRST_OF_TWO, upstream=settings)
    last = await start_gateway(place=LAST_OF_TWO, upstream=settings)

    await sent(first, 4)
    await sent(last, 4)

    await until(
        lambda: (first.upstream_connections("waiting"), last.upstream_connections("waiting")) == (1, 2)
    )
    assert (first.upstream_connections(), last.upstream_connections()) == (3, 2)
    upstream.gate("open").set()


async def test_workers_have_the_clients_of_the_machine_together(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(held)
    for place, most in ((FIRST_OF_TWO, 3), (LAST_OF_TWO, 2)):
        gateway = await start_gateway(place=place, edge={"max_connections": 5, "peer_share": 1.0})
        await sent(gateway, most)
        await in_flight(gateway, most)
        late = await gateway.connect()
        async with asyncio.timeout(2):
            assert (await late.request("GET", "/v1/models")).status == 503
    upstream.gate("open").set()


async def test_workers_have_the_memory_for_bodies_together(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(place=LAST_OF_TWO, edge={"body_memory_bytes": 1001})
    assert gateway.metric('gateway_body_memory_bytes{state="most"}') == 500


async def test_limits_of_a_credential_are_refused_where_no_worker_could_keep_them(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(place=FIRST_OF_TWO, workers=2)

    limited = await ask(gateway, "GET", "/v1/models", limits=LIMIT)
    free = await ask(gateway, "GET", "/v1/models")

    assert verdict(limited) == (503, "limits_unavailable")
    assert b"limits of its own" in limited.body
    assert free.status == 200
    assert len(upstream.requests) == 1
    line = (await gateway.lines.wait(1))[0]
    assert "redis_url" in line["detail"]


async def test_who_am_i_states_a_limit_that_nobody_keeps_without_saying_what_is_left(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(place=FIRST_OF_TWO, workers=2)
    said = orjson.loads((await ask(gateway, "GET", "/gateway/me", limits=LIMIT)).body)
    (limit,) = said["limits"]
    assert (limit["limit"], limit["capacity"]) == ("max_requests_per_1_minute", 60)
    assert "remaining" not in limit


async def test_usage_is_not_told_where_each_worker_knows_a_part(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(place=FIRST_OF_TWO, workers=2)
    answer = await ask(gateway, "GET", "/gateway/usage")
    assert verdict(answer) == (503, "limits_unavailable")
    assert b"Try again" not in answer.body, "it would not help"


async def test_with_redis_one_of_several_keeps_limits_and_tells_usage(
    start_gateway: StartGateway, redis: RedisServer
) -> None:
    gateway = await start_gateway(place=FIRST_OF_TWO, workers=2, redis_url=redis.url)
    assert (await ask(gateway, "GET", "/v1/models", limits=LIMIT)).status == 200
    assert (await ask(gateway, "GET", "/gateway/usage")).status == 200


@pytest.mark.parametrize("how", ["leave", "stop_accepting"])
async def test_who_goes_takes_no_share_from_those_who_stay_and_keeps_the_slots_of_what_still_runs(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer, how: str
) -> None:
    upstream.plays(held)
    shared: dict[str, Any] = {
        "redis_url": redis.url,
        "tenants": {"acme": {**EVERY_SCOPE, "limits": {"max_concurrent_requests": 2}}},
    }
    ring = KeyRing.ephemeral()
    going, staying = [await start_gateway(ring=ring, **shared) for _ in range(2)]
    await until(lambda: staying.metric("gateway_limit_workers") == 2, within_seconds=3)
    (client,) = await sent(going, 1)
    await in_flight(going, 1)

    getattr(going.runner, how)()

    await until(lambda: staying.metric("gateway_limit_workers") == 1, within_seconds=3)
    (me,) = orjson.loads((await ask(staying, "GET", "/gateway/me")).body)["limits"]
    assert me["remaining"] == 1
    upstream.gate("open").set()
    assert (await client.read_answer()).status == 200


async def test_a_successor_that_would_have_lost_the_others_is_refused(start_gateway: StartGateway) -> None:
    """Redis has been taken out of the configuration, and how many workers there are was never in it."""
    with pytest.raises(SettingsInvalid, match="set redis_url"):
        await start_gateway(place=FIRST_OF_TWO, limits=LIMIT)


async def test_a_reload_that_brings_the_first_limit_is_refused(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(place=FIRST_OF_TWO, followed=True, workers=2)
    configuration = gateway.app.configuration
    assert configuration is not None
    assert await configuration.reload()

    gateway.settings["tenants"] = {"acme": {**EVERY_SCOPE, "limits": {"max_requests_per_1_minute": 1}}}
    assert not await configuration.reload()
    gateway.settings["workers"] = 1  # from the next start on: now there are two
    assert not await configuration.reload()

    for _ in range(3):
        assert (await ask(gateway, "GET", "/v1/models")).status == 200, "nothing is limited"
