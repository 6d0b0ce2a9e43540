"""The way upstream: connections that are reused only when nothing can go wrong, and never more than allowed."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Callable
from time import monotonic

import pytest

from gateway.proxy.deadlines import ReplyDeadlines
from tests.conftest import StartGateway
from tests.kit.asking import assert_upstream_error
from tests.kit.client import JSON, QUESTION
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import until

# Reuse.


async def test_a_connection_is_reused_while_it_is_fresh_and_not_after(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "keepalive_seconds": 0.4}
    )
    client = await gateway.connect()
    for _ in range(5):
        assert (await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)).status == 200
    assert [seen.connection for seen in upstream.requests] == [1] * 5
    assert gateway.upstream_connections("idle") == 1

    await asyncio.sleep(1.2)

    assert (await client.request("GET", "/v1/models")).status == 200
    assert upstream.requests[-1].connection == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_an_upstream_that_wants_to_close_is_not_asked_again_on_that_connection(
    answer: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer)

    upstream.plays(script)
    client = await gateway.connect()

    for _ in range(3):
        assert (await client.request("GET", "/v1/models")).body == b"{}"
    assert [seen.connection for seen in upstream.requests] == [1, 2, 3]


async def posted(gateway: Gateway, rounds: int, pause: Callable[[], float]) -> Counter[int]:
    """Post in rounds on one client connection, each with a name of its own; the statuses that came."""
    client = await gateway.connect()
    statuses: Counter[int] = Counter()
    for _ in range(rounds):
        name = f"X-Name: {id(client)}-{statuses.total()}\r\n"
        answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON + name)
        statuses[answer.status] += 1
        await asyncio.sleep(pause())
    return statuses


async def test_keep_alive_below_the_upstreams_idle_time_never_fails(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The upstream hangs up 0.3 s after each answer; the gateway never waits so long before it does."""
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "keepalive_seconds": 0.1}
    )

    latest: dict[int, Turn] = {}

    def close_if_idle(turn: Turn) -> None:
        if latest[turn.seen.connection] is turn:
            turn.close()

    async def hang_up_when_idle(turn: Turn) -> None:
        latest[turn.seen.connection] = turn
        await turn.read_body()
        await turn.send(OK)
        asyncio.get_running_loop().call_later(0.3, close_if_idle, turn)

    upstream.plays(hang_up_when_idle)

    statuses = sum(
        await asyncio.gather(*(posted(gateway, 20, lambda: random.uniform(0.0, 0.35)) for _ in range(25))),
        Counter[int](),
    )

    assert statuses == {200: 500}
    assert len({seen.get("x-name") for seen in upstream.requests}) == len(upstream.requests) == 500


async def test_a_post_is_never_sent_twice_however_the_upstream_hangs_up(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """It closes idle connections at random moments, right when the next request may be on its way."""
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "keepalive_seconds": 10}
    )

    async def hang_up_at_random(turn: Turn) -> None:
        body = await turn.read_body()
        assert body == QUESTION
        if random.random() < 0.1:
            turn.reset()
            return
        await turn.send(OK)
        end = turn.close if random.random() < 0.7 else turn.reset
        asyncio.get_running_loop().call_later(random.uniform(0, 0.01), end)

    upstream.plays(hang_up_at_random)

    statuses = sum(
        await asyncio.gather(*(posted(gateway, 60, lambda: random.uniform(0, 0.012)) for _ in range(20))),
        Counter[int](),
    )

    times_seen = Counter(seen.get("x-name") for seen in upstream.requests)
    assert max(times_seen.values()) == 1
    assert set(statuses) == {200, 502}
    assert statuses.total() == 1200
    assert statuses[200] > 600


@pytest.mark.both_loops
async def test_a_connection_that_was_hung_up_is_not_used_even_before_the_loop_has_heard_of_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A turn of the loop may be long, and a kept connection be closed in it."""
    gateway = await start_gateway()
    turns: list[Turn] = []

    async def script(turn: Turn) -> None:
        turns.append(turn)
        await turn.send(OK)

    upstream.plays(script)
    client = await gateway.connect()
    assert (await client.request("GET", "/v1/models")).status == 200
    [pool] = gateway.app._upstreams._pools.values()
    tenant = gateway.app.services.tenants.policies["acme"]

    with socket.socket(fileno=os.dup(turns[0].writer.get_extra_info("socket").fileno())) as theirs:
        theirs.shutdown(socket.SHUT_RDWR)  # in this turn, in which nothing is read
    assert pool.places.take(tenant.id)
    reply = await pool.open(tenant.id, ReplyDeadlines(5, 5, 5))

    assert upstream.connections == 2
    reply.release()
    assert pool.places.taken == 0


# Connecting.


async def test_a_refused_connect_is_tried_again_because_nothing_was_sent(start_gateway: StartGateway) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))  # bound, not listening: connecting is refused
        port = reserved.getsockname()[1]
        gateway = await start_gateway(
            upstream={"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-up"}
        )
        client = await gateway.connect()
        asking = asyncio.create_task(client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON))
        await until(
            lambda: gateway.metric('gateway_upstream_connects_total{result="failed",upstream="default"}')
        )

        bodies: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            bodies.append(await reader.readexactly(len(QUESTION)))
            writer.write(OK)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, sock=reserved)
        async with server:
            assert (await asking).status == 200
        assert bodies == [QUESTION]


async def test_an_upstream_that_refuses_connections_is_a_502_within_a_second(
    start_gateway: StartGateway,
) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        gateway = await start_gateway(
            upstream={"base_url": f"http://127.0.0.1:{reserved.getsockname()[1]}/v1", "api_key": "sk-up"}
        )
        client = await gateway.connect()
        began = monotonic()

        answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)

        assert_upstream_error(answer, 502, "upstream_unreachable")
        assert monotonic() - began < 1.0
        assert gateway.metric('gateway_upstream_connects_total{result="failed",upstream="default"}') == 3
        assert (await gateway.lines.wait(1))[0]["ending"] == "upstream_lost"
        assert "127.0.0.1" not in answer.body.decode()


async def test_an_upstream_that_never_accepts_is_a_504_at_the_connect_limit(
    start_gateway: StartGateway,
) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:  # with the queue full, the kernel drops further handshakes
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        gateway = await start_gateway(
            upstream={
                "base_url": f"http://127.0.0.1:{full.getsockname()[1]}/v1",
                "api_key": "sk-up",
                "connect_timeout_seconds": 0.4,
            }
        )
        client = await gateway.connect()
        began = monotonic()

        answer = await client.request("GET", "/v1/models")

        assert_upstream_error(answer, 504, "upstream_timeout")
        assert 0.35 < monotonic() - began < 2.0
        assert gateway.metric('gateway_upstream_connects_total{result="timeout",upstream="default"}') >= 1
        for one in crowd:
            one.close()


async def test_the_pool_limit_holds_and_who_waits_is_seen(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "max_connections": 2, "tenant_share": 1}
    )
    most = 0

    async def gated(turn: Turn) -> None:
        nonlocal most
        await turn.read_body()
        most = max(most, upstream.open_connections)
        await turn.wait_for("open")
        await turn.send(OK)

    upstream.plays(gated)
    clients = [await gateway.connect() for _ in range(7)]
    asking = [asyncio.create_task(client.request("GET", "/v1/models")) for client in clients]
    await until(lambda: len(upstream.requests) >= 2 and gateway.upstream_connections("waiting") >= 5)

    assert gateway.upstream_connections("busy") == 2
    assert gateway.upstream_connections("waiting") == 5
    upstream.gate("open").set()
    answers = await asyncio.gather(*asking)

    assert [answer.status for answer in answers] == [200] * 7
    assert most == 2
    assert upstream.connections == 2
    assert (gateway.upstream_connections("busy"), gateway.upstream_connections("waiting")) == (0, 0)


async def test_clients_that_leave_while_they_wait_take_no_place(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "max_connections": 1}
    )

    async def gated(turn: Turn) -> None:
        await turn.wait_for("open")
        await turn.send(OK)

    upstream.plays(gated)
    first, last = await gateway.connect(), await gateway.connect()
    asking = asyncio.create_task(first.request("GET", "/v1/models"))
    waiting = [await gateway.connect() for _ in range(20)]
    for client in waiting:
        await client.send(client.request_bytes("GET", "/v1/models"))
    await until(lambda: gateway.upstream_connections("waiting") >= 20)
    for number, client in enumerate(waiting):
        client.reset() if number % 2 else await client.close()
    await asyncio.sleep(0.2)

    assert gateway.upstream_connections("waiting") == 0
    upstream.gate("open").set()
    assert (await asking).status == 200
    assert (await last.request("GET", "/v1/models")).status == 200
    assert len(upstream.requests) == 2


async def test_a_client_that_leaves_while_the_upstream_is_dialled_leaves_nothing_behind(
    start_gateway: StartGateway,
) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        gateway = await start_gateway(
            upstream={"base_url": f"http://127.0.0.1:{full.getsockname()[1]}/v1", "api_key": "sk-up"}
        )
        clients = [await gateway.connect() for _ in range(10)]
        for client in clients:
            await client.send(client.request_bytes("GET", "/v1/models"))
        await asyncio.sleep(0.2)

        for client in clients:
            client.reset()

        lines = await gateway.lines.wait(10, within_seconds=1)
        assert {line["ending"] for line in lines} == {"client_left"}
        assert not any(gateway.upstream_connections(state) for state in ("busy", "waiting"))
        for one in crowd:
            one.close()


# Where it goes.


async def test_the_base_urls_path_stands_in_for_v1(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": f"http://127.0.0.1:{upstream.port}/openai/v1/", "api_key": "k"}
    )
    client = await gateway.connect()

    await client.request("GET", "/v1/models?a=%2F&b")

    assert upstream.requests[0].target == "/openai/v1/models?a=%2F&b"
    assert upstream.requests[0].get("host") == f"127.0.0.1:{upstream.port}"
