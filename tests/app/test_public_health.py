"""Health on the public listener: for anybody, at any time, for next to nothing."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.asking import ask, verdict
from tests.kit.client import RawAnswer, RawClient
from tests.kit.gateway import Gateway
from tests.kit.redis import RedisServer, free_port
from tests.kit.upstream import ScriptedUpstream

LIVEZ, READYZ = "/gateway/livez", "/gateway/readyz"


async def check(gateway: Gateway, path: str, method: str = "GET", head: str = "") -> RawAnswer:
    """Ask as a load balancer does, which has no credential."""
    async with await RawClient.connect(gateway.host, gateway.port) as client:
        await client.send(f"{method} {path} HTTP/1.1\r\nHost: 10.0.0.7\r\n{head}\r\n".encode())
        return await client.read_answer(method)


@pytest.mark.parametrize(
    ("path", "word"), [(LIVEZ, "live"), (READYZ, "ready"), (f"{READYZ}?from=lb", "ready")]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_whoever_asks_is_told_and_told_no_details(
    gateway: Gateway, path: str, word: str, method: str
) -> None:
    answer = await check(gateway, path, method)

    assert answer.status == 200
    assert answer.body == (b"" if method == "HEAD" else orjson.dumps({"status": word}) + b"\n")
    assert answer.get("content-type") == "application/json"
    assert answer.get("cache-control") == "no-store"
    assert answer.get("x-gateway-request-id") is None
    assert answer.get("connection") is None


async def test_checks_are_counted_apart_and_leave_no_line(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for path in (LIVEZ, READYZ, READYZ):
        await check(gateway, path)
    await ask(gateway, "GET", "/nowhere")

    (line,) = await gateway.lines.wait(1)
    assert line["status"] == 404
    assert gateway.metric('gateway_health_checks_total{check="livez",status="200"}') == 1
    assert gateway.metric('gateway_health_checks_total{check="readyz",status="200"}') == 2
    assert gateway.metrics().count("gateway_exchanges_total{") == 1
    assert not upstream.requests


async def test_one_connection_asks_as_often_as_it_likes_and_other_things_in_between(gateway: Gateway) -> None:
    async with await RawClient.connect(gateway.host, gateway.port, gateway.credential()) as client:
        for _ in range(3):
            assert (await client.request("GET", READYZ)).status == 200
            assert (await client.request("GET", "/gateway/me")).status == 200
            assert (await client.request("HEAD", LIVEZ)).status == 200
        await client.send(b"GET /gateway/livez HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        assert [(await client.read_answer()).status for _ in range(5)] == [200] * 5


async def test_an_old_load_balancer_is_told_too(gateway: Gateway) -> None:
    async with await RawClient.connect(gateway.host, gateway.port) as client:
        await client.send(b"GET /gateway/readyz HTTP/1.0\r\n\r\n")
        answer = await client.read_answer()
        assert (answer.status, answer.get("connection")) == (200, "close")
        assert await client.closed()


@pytest.mark.parametrize("path", [f"{LIVEZ}/", "/gateway/livez/x", "/gateway/Livez", "/gateway/%6Civez",
                                  "/gateway/readyz;x", "//gateway/readyz", "/livez", "/readyz"])  # fmt: skip
async def test_neighbouring_paths_are_exchanges_that_are_refused(gateway: Gateway, path: str) -> None:
    assert (await check(gateway, path)).status in (400, 404)
    assert len(await gateway.lines.wait(1)) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_health_is_only_read(gateway: Gateway, upstream: ScriptedUpstream, method: str) -> None:
    assert (await ask(gateway, method, READYZ, b"{}")).status in (404, 405)
    assert not upstream.requests


@pytest.mark.parametrize(
    "head",
    ["Content-Length: 60\r\n", "Transfer-Encoding: chunked\r\n", "transfer-encoding: gzip\r\n",
     "Connection: Upgrade\r\nUpgrade: websocket\r\n"],
)  # fmt: skip
async def test_nothing_can_be_hidden_behind_a_check(gateway: Gateway, head: str) -> None:
    """What follows such a head is nobody's request: the connection ends."""
    async with await RawClient.connect(gateway.host, gateway.port) as client:
        await client.send(
            f"GET {LIVEZ} HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode()
            + b"GET /gateway/me HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        answer = await client.read_answer()
        assert (answer.status, answer.get("connection")) == (200, "close")
        assert await client.closed()
    assert not gateway.lines.raw


async def test_another_version_is_refused_and_recorded(gateway: Gateway) -> None:
    async with await RawClient.connect(gateway.host, gateway.port) as client:
        await client.send(b"GET /gateway/livez HTTP/2.0\r\nHost: a\r\n\r\n")
        assert verdict(await client.read_answer())[0] in (400, 505)
    assert len(await gateway.lines.wait(1)) == 1


async def test_a_gateway_that_stops_is_not_ready_but_lives(gateway: Gateway) -> None:
    gateway.app.stop_soon()

    assert [(await check(gateway, path)).status for path in (LIVEZ, READYZ)] == [200, 503]
    assert (await check(gateway, READYZ)).body == b'{"status":"not ready"}\n'
    assert gateway.metric('gateway_health_checks_total{check="readyz",status="503"}') == 2


async def test_a_process_whose_successor_has_come_answers_ready_and_hangs_up(gateway: Gateway) -> None:
    """To the load balancer nothing has changed; its next connection is the successor's."""
    async with await RawClient.connect(gateway.host, gateway.port) as client:
        await client.send(b"GET /gateway/livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.read_answer()).get("connection") is None
        gateway.runner.leave()
        await client.send(b"GET /gateway/readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.read_answer()

    assert (answer.status, answer.get("connection")) == (200, "close")


async def test_what_ails_redis_an_upstream_or_an_issuer_makes_nobody_unready(
    start_gateway: StartGateway, redis: RedisServer
) -> None:
    gateway = await start_gateway(
        redis_url=redis.url,
        on_store_failure="closed",
        upstream={"base_url": f"http://127.0.0.1:{free_port()}/v1", "api_key": "sk-x"},
        issuers={
            "login": {
                "issuer": "https://login.example",
                "audience": "gateway",
                "jwks_url": f"http://127.0.0.1:{free_port()}/jwks",
                "tenants": ["acme"],
                "scopes": ["*"],
            }
        },
        tenants={"acme": {"scopes": ["*"], "limits": {"max_requests_per_1_minute": 100}}},
    )
    redis.stop()
    assert (await ask(gateway, "GET", "/v1/models")).status == 503

    for _ in range(3):
        assert [(await check(gateway, path)).status for path in (LIVEZ, READYZ)] == [200, 200]
        assert gateway.app.health.ready().ok
        assert gateway.app.health.live().ok
        await asyncio.sleep(0.5)
