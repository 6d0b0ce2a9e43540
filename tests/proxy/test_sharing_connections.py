"""Connections to the upstream are shared: whoever floods it leaves room for others, and who waits is told why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
from typing import Any

from tests.conftest import StartGateway
from tests.kit.asking import ask, assert_refused, error_of
from tests.kit.client import HANDSHAKE, JSON, QUESTION, RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, SSE_HEAD, ScriptedUpstream, Turn
from tests.kit.waiting import until

TENANTS = {
    name: {"upstream": {"api_key": f"sk-{name}"}, "scopes": ["*", "realtime:mint"]}
    for name in ("acme", "crowd", "third")
}


async def starting(start_gateway: StartGateway, upstream: ScriptedUpstream, **more: Any) -> Gateway:
    """A gateway with ten connections to the upstream and three tenants."""
    settings = {"base_url": upstream.base_url, "api_key": "sk-up", "max_connections": 10, **more}
    return await start_gateway(upstream=settings, tenants=TENANTS)


async def asking(gateway: Gateway, count: int, *, tenant: str, target: str = "/v1/models") -> list[RawClient]:
    """So many requests of a tenant, each on its own connection, none of them answered yet."""
    clients = []
    for _ in range(count):
        client = await gateway.connect()
        client.credential = gateway.credential(tenant=tenant)
        await client.send(client.request_bytes("GET", target))
        clients.append(client)
    return clients


async def hold_the_crowd(turn: Turn) -> None:
    """Answers to the crowd wait at the gate `open`; everybody else's come at once."""
    await turn.read_body()
    if turn.seen.get("authorization") == "Bearer sk-crowd":
        await turn.wait_for("open")
    await turn.send(OK)


def held(gateway: Gateway, tenant: str) -> float:
    """How many connections a tenant holds."""
    return gateway.metric(f'gateway_upstream_connections_held{{tenant="{tenant}",upstream="default"}}')


async def test_a_tenant_that_takes_all_it_can_leaves_room_for_the_others(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await starting(start_gateway, upstream)
    upstream.plays(hold_the_crowd)
    crowd = await asking(gateway, 40, tenant="crowd")
    await until(lambda: len(upstream.requests) >= 9 and gateway.upstream_connections("waiting") >= 31)

    for _ in range(5):
        async with asyncio.timeout(2):
            assert (await ask(gateway, "GET", "/v1/models", tenant="acme")).status == 200

    assert held(gateway, "crowd") == 9, "a tenth stays free for those who are below their share"
    upstream.gate("open").set()
    assert [(await client.read_answer()).status for client in crowd] == [200] * 40
    assert held(gateway, "crowd") == held(gateway, "acme") == 0
    assert upstream.connections <= 10


async def test_who_waits_is_served_in_turn_by_tenant(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """However many one of them has waiting, the other's next request is the next but one."""
    gateway = await starting(start_gateway, upstream, max_connections=2)

    async def one_by_one(turn: Turn) -> None:
        await turn.read_body()
        await turn.wait_for(str(len(upstream.requests)))
        await turn.send(OK)

    upstream.plays(one_by_one)
    for number in range(40):
        upstream.gate(str(number + 3)).set()
    crowd = await asking(gateway, 12, tenant="crowd")
    await until(lambda: gateway.upstream_connections("waiting") == 11)
    third = await asking(gateway, 1, tenant="third")  # both connections are taken now
    await until(lambda: len(upstream.requests) == 2)
    acme = await asking(gateway, 3, tenant="acme")
    await until(lambda: gateway.upstream_connections("waiting") == 14)

    upstream.gate("1").set()
    upstream.gate("2").set()
    for client in (*crowd, *third, *acme):
        assert (await client.read_answer()).status == 200

    whose = [str(seen.get("authorization")).removeprefix("Bearer sk-") for seen in upstream.requests]
    assert sorted(whose[2:8]) == ["acme"] * 3 + ["crowd"] * 3, whose


async def test_a_connection_that_does_not_come_free_is_a_503_and_nobody_elses_fault(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await starting(start_gateway, upstream, connection_wait_seconds=0.3)
    upstream.plays(hold_the_crowd)
    crowd = await asking(gateway, 9, tenant="crowd")
    await until(lambda: len(upstream.requests) == 9)

    answer = await ask(gateway, "GET", "/v1/models", tenant="crowd")

    assert_refused(answer, 503, "overloaded")
    assert "the gateway's connections to the upstream are all in use" in error_of(answer)["message"].lower()
    assert answer.get("retry-after")
    [line] = await gateway.lines.wait(1)
    assert (line["error"], line["ending"]) == ("overloaded", "refused")
    assert line["detail"] == "9 of 10 connections to the upstream in use, 9 by this tenant"
    assert line["upstream_ms"] is None
    assert line["overhead_ms"] >= line["waited_ms"] >= 290
    assert (
        gateway.metric('gateway_upstream_waits_total{result="refused",tenant="crowd",upstream="default"}')
        == 1
    )
    assert gateway.metric('gateway_upstream_wait_seconds_count{upstream="default"}') == 1
    assert not gateway.metric('gateway_upstream_connects_total{result="failed",upstream="default"}')
    assert not gateway.metric('gateway_upstream_connects_total{result="timeout",upstream="default"}')
    upstream.gate("open").set()
    assert [(await client.read_answer()).status for client in crowd] == [200] * 9


async def test_waiting_is_the_gateways_time_and_seen_as_such(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await starting(start_gateway, upstream, max_connections=1)
    upstream.plays(hold_the_crowd)
    await asking(gateway, 1, tenant="crowd")
    await until(lambda: upstream.requests)
    [waits] = await asking(gateway, 1, tenant="acme")
    await until(lambda: gateway.upstream_connections("waiting") == 1)
    await asyncio.sleep(0.3)
    upstream.gate("open").set()

    assert (await waits.read_answer()).status == 200
    first, second = await gateway.lines.wait(2)
    assert "waited_ms" not in first
    assert second["overhead_ms"] >= second["waited_ms"] >= 290
    assert second["upstream_ms"] < 290
    assert (
        gateway.metric('gateway_upstream_waits_total{result="served",tenant="acme",upstream="default"}') == 1
    )


async def test_sessions_and_streams_count_like_anything_else(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await starting(start_gateway, upstream, connection_wait_seconds=0.2)

    async def lasting(turn: Turn) -> None:
        if turn.seen.get("upgrade"):
            await turn.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            )
        else:
            await turn.read_body()
            await turn.send(SSE_HEAD)
            await turn.chunk(b"data: 1\n\n")
        await turn.gone()

    upstream.plays(lasting)
    clients = []
    for number in range(9):
        client = await gateway.connect()
        client.credential = gateway.credential(tenant="crowd")
        if number % 2:
            await client.send(
                client.request_bytes("GET", "/v1/realtime?model=gpt-realtime", headers=HANDSHAKE)
            )
        else:
            await client.send(client.request_bytes("POST", "/v1/chat/completions", QUESTION, headers=JSON))
        assert (await client.read_head()).status in (101, 200)
        clients.append(client)

    assert held(gateway, "crowd") == 9
    assert_refused(await ask(gateway, "GET", "/v1/models", tenant="crowd"), 503, "overloaded")
    for client in clients:
        client.reset()
    await until(lambda: not held(gateway, "crowd"))


async def test_whatever_becomes_of_an_exchange_its_connection_is_given_back_once(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Answers, refusals, cuts, hang-ups at every moment and waits that run out, all at random."""
    gateway = await starting(start_gateway, upstream, max_connections=5, connection_wait_seconds=0.05)
    most = 0

    async def anything(turn: Turn) -> None:
        nonlocal most
        most = max(most, int(sum(held(gateway, tenant) for tenant in TENANTS)))
        await asyncio.sleep(random.uniform(0, 0.02))
        match random.randrange(5):
            case 0:
                turn.reset()
            case 1:
                turn.close()
            case 2:
                await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut")
                turn.close()
            case _:
                await turn.send(OK)

    upstream.plays(anything)

    async def client(tenant: str) -> None:
        for _ in range(12):
            one = await gateway.connect()
            one.credential = gateway.credential(tenant=tenant)
            await one.send(one.request_bytes("GET", "/v1/models"))
            if random.random() < 0.4:
                await asyncio.sleep(random.uniform(0, 0.06))
                one.reset()
                continue
            try:
                await one.read_answer()
            except asyncio.IncompleteReadError:
                pass
            await one.close()

    await asyncio.gather(*(client(tenant) for tenant in TENANTS for _ in range(8)))
    await until(lambda: not any(held(gateway, tenant) for tenant in TENANTS))

    assert gateway.upstream_connections("busy") == gateway.upstream_connections("waiting") == 0
    assert 3 <= most <= 5
    upstream.plays(hold_the_crowd)
    await asking(gateway, 4, tenant="crowd")
    await until(lambda: held(gateway, "crowd") == 4)
    assert (await ask(gateway, "GET", "/v1/models", tenant="acme")).status == 200


async def test_what_the_gateway_asks_for_a_tenant_takes_no_second_connection_beside_the_first(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The size of a batch's file is asked for before the batch: with one connection in all, both get through."""
    gateway = await start_gateway(
        upstream={
            "base_url": upstream.base_url,
            "api_key": "sk-up",
            "max_connections": 1,
            "connection_wait_seconds": 1,
        },
        tenants={"acme": {"limits": {"batch_1_day_max_input_tokens": 1000}}},
    )

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await asyncio.sleep(0.01)
        await turn.send(
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"bytes":40}'
            if turn.seen.method == "GET"
            else OK
        )

    upstream.plays(script)
    batch = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}

    answers = await asyncio.gather(*(ask(gateway, "POST", "/v1/batches", batch) for _ in range(5)))

    assert [answer.status for answer in answers] == [200] * 5
    assert sorted(seen.method for seen in upstream.requests) == ["GET"] * 5 + ["POST"] * 5
    assert held(gateway, "acme") == 0


async def test_idle_connections_to_one_upstream_do_not_keep_another_from_being_reached(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """When files run out those that nobody uses are closed, and connecting is tried again."""
    async with ScriptedUpstream() as other:
        gateway = await start_gateway(
            tenants={"acme": {}, "elsewhere": {"upstream": {"base_url": other.base_url, "api_key": "k"}}}
        )
        await asyncio.gather(*(ask(gateway, "GET", "/v1/models", tenant="acme") for _ in range(5)))
        assert gateway.upstream_connections("idle")
        client = await gateway.connect()
        client.credential = gateway.credential(tenant="elsewhere")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))

            answer = await client.request("GET", "/v1/models")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for file in taken:
                os.close(file)

        assert answer.status == 200
        assert gateway.metric('gateway_upstream_connects_total{result="no_files",upstream="elsewhere"}') == 1
        assert len(other.requests) == 1
