"""What is reserved for an answer whose request states no maximum: as much as others of its model have had."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from gateway.limits.terms import Dimension
from gateway.usage.answer_lengths import EXPECTED_OUTPUT, LEAST_GUESS
from tests.conftest import StartGateway
from tests.kit.client import CHAT
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn
from tests.kit.waiting import until
from tests.middleware.limited import chat, left, post, remaining, tenant

LIMIT = 1_000_000


def usage_of(length: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": length, "total_tokens": 1 + length}


def answers_of(upstream: ScriptedUpstream, length: int, *, streams: bool = False) -> None:
    """Let answers be so long, each."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        body = orjson.dumps({"usage": usage_of(length)})
        if streams:
            await turn.send(SSE_HEAD)
            await turn.chunk(b"data: " + orjson.dumps({"choices": [], "usage": usage_of(length)}) + b"\n\n")
            await turn.chunk(b"data: [DONE]\n\n")
            await turn.send(b"0\r\n\r\n")
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % len(body) + body)

    upstream.plays(script)


async def reserved(gateway: Gateway, model: str = "gpt-4o", **members: Any) -> int:
    """What one more request takes while it runs."""
    before = await remaining(gateway, Dimension.TOKENS_PER_DAY)
    answer = await post(gateway, CHAT, chat(model=model, **members))
    assert answer.status == 200
    return before - left(answer, "tokens")


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
async def test_answers_are_guessed_by_what_those_before_them_had(
    start_gateway: StartGateway, upstream: ScriptedUpstream, streams: bool
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=LIMIT))
    answers_of(upstream, 8000, streams=streams)
    more: dict[str, Any] = {"stream": True} if streams else {}
    assert await reserved(gateway, **more) in range(EXPECTED_OUTPUT, EXPECTED_OUTPUT + 20)
    for _ in range(4):
        await post(gateway, CHAT, chat(**more))
    assert await reserved(gateway, **more) in range(7500, 8100)
    assert await reserved(gateway, model="o3", **more) in range(EXPECTED_OUTPUT, EXPECTED_OUTPUT + 20)
    assert await reserved(gateway, max_tokens=5, **more) in range(5, 30), "what is stated is no guess"


async def test_several_answers_are_as_long_each(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=LIMIT))
    answers_of(upstream, 16_000)
    for _ in range(5):
        await post(gateway, CHAT, chat(n=4))
    assert await reserved(gateway, n=2) in range(7400, 8200)


async def test_answers_with_a_stated_maximum_teach_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=LIMIT))
    answers_of(upstream, 3)
    for _ in range(20):
        await post(gateway, CHAT, chat(max_tokens=3))
    assert await reserved(gateway) >= EXPECTED_OUTPUT


async def test_answers_that_nobody_gave_teach_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Models are whatever clients call them: those alone are learned that the upstream has answered for."""
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=LIMIT))

    async def script(turn: Turn) -> None:
        await turn.read_body()
        body = orjson.dumps({"usage": usage_of(8000)})
        await turn.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    upstream.plays(script)
    for _ in range(5):
        assert (await post(gateway, CHAT, chat(model="made-up"))).status == 404
    answers_of(upstream, 8000)
    assert await reserved(gateway, model="made-up") in range(EXPECTED_OUTPUT, EXPECTED_OUTPUT + 20)


async def test_tiny_answers_let_more_run_at_once_and_no_tenant_by_anothers(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    table = {**EVERY_SCOPE, "limits": {"max_tokens_per_1_day": LIMIT}}
    gateway = await start_gateway(tenants={"acme": table, "beta": table})
    answers_of(upstream, 3)
    for _ in range(100):
        await post(gateway, CHAT, chat())
    assert await reserved(gateway) in range(LEAST_GUESS, LEAST_GUESS + 30)
    answer = await post(gateway, CHAT, chat(), tenant="beta")
    assert LIMIT - left(answer, "tokens") >= EXPECTED_OUTPUT


async def test_guess_that_exceeds_a_limit_is_cut_to_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    subjects = {"earlier": {"max_tokens_per_1_day": LIMIT}, "later": {"max_tokens_per_1_day": 2000}}
    gateway = await start_gateway(**tenant(subjects=subjects))
    answers_of(upstream, 8000)
    for _ in range(4):
        await post(gateway, CHAT, chat(), subject="earlier")
    answer = await post(gateway, CHAT, chat(), subject="later")
    assert (answer.status, left(answer, "tokens")) == (200, 0)


async def test_days_limit_holds_about_once_where_answers_are_long(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """With guesses of 1,000 the 49 answers of 8,000 that are asked for at once used eight times the limit."""
    limit = 50_000
    subjects = {"earlier": {"max_tokens_per_1_day": LIMIT}, "later": {"max_tokens_per_1_day": limit}}
    gateway = await start_gateway(**tenant(subjects=subjects))
    answers_of(upstream, 8000)
    for _ in range(4):
        await post(gateway, CHAT, chat(), subject="earlier")
    asked = [post(gateway, CHAT, chat(), subject="later") for _ in range(49)]
    granted = [answer for answer in await asyncio.gather(*asked) if answer.status == 200]
    assert limit * 0.8 <= len(granted) * 8001 <= limit * 1.2


async def test_metrics_and_log_show_what_was_reserved_beside_what_was_used(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=LIMIT, max_tokens_per_1_minute=2000))
    answers_of(upstream, 300)
    assert (await post(gateway, CHAT, chat(max_tokens=700))).status == 200
    assert (await post(gateway, CHAT, chat(max_tokens=3000))).status == 400
    first, second = await gateway.lines.wait(2)
    assert first["reserved"] in range(700, 730)
    assert first["usage"]["total"] == 301
    assert "reserved" not in second
    assert limited(gateway, "reserved") == first["reserved"]
    assert limited(gateway, "settled") == 301
    assert (await post(gateway, "/v1/files", b"{}")).status == 200
    assert "reserved" in (await gateway.lines.wait(3))[2], "a limit counts whatever it reports"


async def test_what_the_upstream_refused_says_nothing_of_guesses(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=LIMIT))

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")

    upstream.plays(script)
    assert (await post(gateway, CHAT, chat(max_tokens=700))).status == 429
    assert limited(gateway, "reserved") == 0
    assert limited(gateway, "settled") == 0


def limited(gateway: Gateway, moment: str) -> float:
    series = f'moment="{moment}",tenant="acme"'
    return gateway.metric(f"gateway_limited_llm_tokens_total{{{series}}}")


# Shared through Redis


async def test_gateways_learn_from_each_other_and_remember_over_restarts(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    settings = {"redis_url": redis.url, **tenant(max_tokens_per_1_day=LIMIT)}
    one, other = [await start_gateway(**settings) for _ in range(2)]
    answers_of(upstream, 8000)
    assert await reserved(other) < EXPECTED_OUTPUT + 20
    for _ in range(5):
        await post(one, CHAT, chat())

    await until(lambda: guess(other) > 7000)
    assert await reserved(other) > 7000
    await one.runner.cleanup()
    await other.runner.cleanup()
    third = await start_gateway(**settings)
    await until(lambda: guess(third) > 7000)
    assert await reserved(third) > 7000


def guess(gateway: Gateway) -> int:
    services = gateway.app.services
    return services.guesses.output(services.table.by_id("createChatCompletion"), "acme", "gpt-4o")


async def test_guessing_goes_on_while_redis_is_away(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    gateway = await start_gateway(redis_url=redis.url, **tenant(max_tokens_per_1_day=LIMIT))
    answers_of(upstream, 8000)
    redis.stop()
    for _ in range(5):
        assert (await post(gateway, CHAT, chat())).status == 200
    assert guess(gateway) > 7000
