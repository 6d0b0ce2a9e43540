"""The fault proxy does what it says, and the gateway stands what it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.client import JSON, QUESTION, RawClient
from tests.kit.faults.fault_proxy import FaultProxy
from tests.kit.gateway import Gateway
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn

EVENTS = [b'data: {"n":%d}\n\n' % number for number in range(20)]


async def stream(turn: Turn) -> None:
    """Answer twenty events in chunks."""
    await turn.read_body()
    await turn.send(SSE_HEAD)
    for event in EVENTS:
        await turn.chunk(event)
    await turn.send(b"0\r\n\r\n")


@pytest.fixture
async def proxy(upstream: ScriptedUpstream) -> AsyncIterator[FaultProxy]:
    """A fault proxy in front of an upstream that streams."""
    upstream.plays(stream)
    async with FaultProxy(upstream.port) as standing:
        yield standing


@pytest.fixture
async def behind(proxy: FaultProxy, start_gateway: StartGateway) -> Gateway:
    """A gateway that reaches its upstream through the proxy."""
    return await start_gateway(
        upstream={
            "base_url": f"http://127.0.0.1:{proxy.port}/v1",
            "api_key": "sk-up",
            "first_byte_timeout_seconds": 0.8,
            "idle_timeout_seconds": 0.8,
        }
    )


async def ask(client: RawClient) -> tuple[int, bytes, bool]:
    """One streamed answer: its status, body, and whether it was whole."""
    answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)
    return answer.status, answer.body, answer.clean_end


async def test_without_faults_everything_passes(behind: Gateway, proxy: FaultProxy) -> None:
    client = await behind.connect()

    for _ in range(3):
        assert await ask(client) == (200, b"".join(EVENTS), True)
    assert proxy.connections == 1


async def test_latency_delays_and_changes_nothing(behind: Gateway, proxy: FaultProxy) -> None:
    proxy.set("up", latency_seconds=0.2)
    proxy.set("down", latency_seconds=0.1)
    client = await behind.connect()
    began = monotonic()

    assert await ask(client) == (200, b"".join(EVENTS), True)
    assert monotonic() - began >= 0.3


async def test_single_bytes_at_a_time_change_nothing(behind: Gateway, proxy: FaultProxy) -> None:
    proxy.set("up", slice_bytes=1)
    proxy.set("down", slice_bytes=1)
    client = await behind.connect()

    assert await ask(client) == (200, b"".join(EVENTS), True)


async def test_a_slow_line_is_slow_and_changes_nothing(behind: Gateway, proxy: FaultProxy) -> None:
    proxy.set("down", bytes_per_second=2000, slice_bytes=100)
    client = await behind.connect()
    began = monotonic()

    assert await ask(client) == (200, b"".join(EVENTS), True)
    assert monotonic() - began >= 0.2


@pytest.mark.parametrize("end", ["fin", "rst", "silence"])
@pytest.mark.parametrize("after_bytes", [0, 40, 150, 300])
async def test_a_line_that_is_cut_never_yields_a_whole_answer(
    after_bytes: int, end: str, behind: Gateway, proxy: FaultProxy
) -> None:
    proxy.set("down", cut_after_bytes=after_bytes, end=end)
    client = await behind.connect()

    answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)

    if answer.status == 200:
        assert not answer.clean_end
        assert b"".join(EVENTS).startswith(answer.body)
    else:
        assert answer.status == (504 if end == "silence" else 502)
        assert orjson.loads(answer.body)["error"]["type"] == "upstream_error"
    [line] = await behind.lines.wait(1)
    assert line["ending"] == ("timed_out" if end == "silence" else "upstream_lost")


async def test_a_black_hole_is_a_504_within_the_first_byte_limit(behind: Gateway, proxy: FaultProxy) -> None:
    proxy.set("up", swallow=True)
    client = await behind.connect()
    began = monotonic()

    answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)

    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (504, "upstream_timeout")
    assert 0.7 < monotonic() - began < 2.5


async def test_an_answer_that_gets_lost_is_not_asked_for_again(
    behind: Gateway, proxy: FaultProxy, upstream: ScriptedUpstream
) -> None:
    proxy.set("down", swallow=True)
    client = await behind.connect()

    answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)

    assert answer.status == 504
    assert len(upstream.requests) == 1


async def test_a_line_that_comes_back_is_used_again(behind: Gateway, proxy: FaultProxy) -> None:
    client = await behind.connect()
    assert (await ask(client))[0] == 200
    proxy.refuse = True
    proxy.cut()
    await asyncio.sleep(0.05)

    assert (await ask(client))[0] == 502
    proxy.refuse = False

    assert await ask(client) == (200, b"".join(EVENTS), True)


async def test_a_client_behind_a_bad_line_gets_the_same_bytes_or_a_broken_end(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(stream)
    async with FaultProxy(gateway.port) as line:
        line.set("down", slice_bytes=7)
        whole = await RawClient.connect("127.0.0.1", line.port, gateway.credential())
        assert await ask(whole) == (200, b"".join(EVENTS), True)
        line.set("down", cut_after_bytes=400)
        cut = await RawClient.connect("127.0.0.1", line.port, gateway.credential())
        status, body, clean = await ask(cut)
        await whole.close()
        await cut.close()

    assert (status, clean) == (200, False)
    assert b"".join(EVENTS).startswith(body)
